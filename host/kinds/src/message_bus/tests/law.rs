//! The law of topics and groups, over anything that may happen in any order: an offset is given once, a message is in one
//! pair of hands at a time, what was acknowledged never comes back, and none is lost while the topic keeps it.

use crate::message_bus::book::{Desk, Draft};
use crate::message_bus::groups::{Settled, Wish};
use crate::message_bus::settings::Settings;
use crate::message_bus::shared::Shared;
use crate::trial::Hands;
use crate::writer::{Book, Stop};
use proptest::prelude::*;
use redb::{Database, WriteTransaction};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

#[derive(Debug, Clone)]
enum Deed {
    Publish,
    Lease { who: u8, max: usize },
    Ack { who: u8, offset: u64 },
    Nack { who: u8, offset: u64 },
    Pass { ms: u64 },
    Reopen,
}

fn deeds() -> impl Strategy<Value = Vec<Deed>> {
    let who = 0..3_u8;
    let deed = prop_oneof![
        4 => Just(Deed::Publish),
        4 => (who.clone(), 1..4_usize).prop_map(|(who, max)| Deed::Lease { who, max }),
        3 => (who.clone(), 0..20_u64).prop_map(|(who, offset)| Deed::Ack { who, offset }),
        2 => (who, 0..20_u64).prop_map(|(who, offset)| Deed::Nack { who, offset }),
        2 => (1..150_u64).prop_map(|ms| Deed::Pass { ms }),
        1 => Just(Deed::Reopen),
    ];
    proptest::collection::vec(deed, 1..60)
}

/// A store in memory, and what must be true of it.
struct World {
    database: Database,
    desk: Desk,
    hands: Hands,
    now_ms: u64,
    next: u64,
    /// Who holds what, until when, and how often it was given.
    held: BTreeMap<u64, (u8, u64, u32)>,
    acked: BTreeSet<u64>,
    dead: BTreeSet<u64>,
}

const LEASE_MS: u64 = 100;
const DELIVERIES_MAX: u32 = 3;

fn settings() -> Arc<Settings> {
    let settings = json!({"deliveries_max": DELIVERIES_MAX, "in_flight_max": 6});
    Arc::new(Settings::read(&settings).unwrap())
}

fn desk(database: &Database, hands: &Hands) -> Desk {
    Desk::open(database, settings(), hands.clock(), Arc::new(Shared::default())).unwrap()
}

impl World {
    fn new() -> Self {
        let database = Database::builder().create_with_backend(redb::backends::InMemoryBackend::new()).unwrap();
        let hands = Hands::at(1_000);
        let desk = desk(&database, &hands);
        let (held, acked, dead) = (BTreeMap::new(), BTreeSet::new(), BTreeSet::new());
        Self { database, desk, hands, now_ms: 1_000, next: 0, held, acked, dead }
    }

    fn change<T>(&mut self, deed: impl FnOnce(&mut Desk, &WriteTransaction) -> Result<T, Stop>) -> Option<T> {
        let write = self.database.begin_write().unwrap();
        let made = match deed(&mut self.desk, &write) {
            Ok(made) => Some(made),
            Err(Stop::Refused(_)) => None,
            Err(Stop::Failed(why)) => panic!("{why}"),
        };
        self.desk.flush(&write).unwrap();
        write.commit().unwrap();
        self.desk.committed();
        made
    }

    fn lease(&mut self, who: u8, max: usize) {
        let wish = Wish { who: who.to_string(), max, lease_ms: LEASE_MS, from: None };
        let Some(lease) = self.change(|desk, write| desk.lease(write, "t", "g", &wish)) else { return };
        assert!(lease.messages.len() <= max);
        for message in lease.messages {
            let offset = message.offset;
            assert!(offset < self.next, "{offset} was never published");
            assert!(!self.acked.contains(&offset), "{offset} was acknowledged");
            let before = self.held.get(&offset).copied();
            assert!(before.is_none_or(|(_, until, _)| until <= self.now_ms), "{offset} is in other hands: {before:?}");
            let times = before.map_or(0, |(_, _, times)| times) + 1;
            assert_eq!(message.deliveries, times);
            assert!(times <= DELIVERIES_MAX, "{offset} was given {times} times");
            self.held.insert(offset, (who, self.now_ms + LEASE_MS, times));
        }
    }

    fn settled(who: u8, offset: u64) -> Settled {
        Settled { who: who.to_string(), operates: false, offsets: vec![offset], lease: None }
    }

    fn ack(&mut self, who: u8, offset: u64) {
        let settled = Self::settled(who, offset);
        let Some(outcome) = self.change(|desk, write| desk.ack(write, "t", "g", &settled)) else { return };
        if outcome.done == [offset] {
            assert!(self.held.remove(&offset).is_some_and(|(holder, _, _)| holder == who), "{offset} was not {who}'s");
            self.acked.insert(offset);
        }
    }

    fn nack(&mut self, who: u8, offset: u64) {
        let settled = Self::settled(who, offset);
        let Some(outcome) = self.change(|desk, write| desk.nack(write, "t", "g", &settled, (0, None))) else { return };
        if outcome.done == [offset] {
            let held = self.held.get_mut(&offset).unwrap();
            assert_eq!(held.0, who);
            held.1 = self.now_ms;
            if outcome.dead == [offset] {
                assert_eq!(held.2, DELIVERIES_MAX);
                self.held.remove(&offset);
                self.dead.insert(offset);
            }
        }
    }

    fn publish(&mut self) {
        let data: Value = json!(self.next);
        let draft = Draft { sender: "p".into(), of_the_fleet: false, event: "e".into(), data, key: None };
        let receipt = self.change(|desk, write| desk.publish(write, "t", draft)).unwrap();
        assert_eq!(receipt.offset, self.next);
        self.next += 1;
    }

    fn carry_out(&mut self, deed: &Deed) {
        match *deed {
            Deed::Publish => self.publish(),
            Deed::Lease { who, max } => self.lease(who, max),
            Deed::Ack { who, offset } => self.ack(who, offset),
            Deed::Nack { who, offset } => self.nack(who, offset),
            Deed::Pass { ms } => {
                self.now_ms += ms;
                self.hands.forward(ms);
            }
            Deed::Reopen => self.desk = desk(&self.database, &self.hands),
        }
    }

    /// Somebody patient takes all that is left: every message was acknowledged, or had its deliveries.
    fn drain(&mut self) {
        for _ in 0..self.next + 10 {
            self.now_ms += LEASE_MS;
            self.hands.forward(LEASE_MS);
            self.lease(9, 10);
            let mine: Vec<u64> = self
                .held
                .iter()
                .filter(|(_, (who, until, _))| *who == 9 && *until > self.now_ms)
                .map(|(o, _)| *o)
                .collect();
            for offset in mine {
                self.ack(9, offset);
            }
        }
        for offset in 0..self.next {
            let times = self.held.get(&offset).map_or(0, |(_, _, times)| *times);
            let done = self.acked.contains(&offset) || self.dead.contains(&offset) || times == DELIVERIES_MAX;
            assert!(done, "{offset} was lost");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_message_is_with_one_at_a_time_until_it_is_done(deeds in deeds()) {
        let mut world = World::new();
        for deed in &deeds {
            world.carry_out(deed);
        }
        world.drain();
    }
}
