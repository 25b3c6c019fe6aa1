//! Load whose every answer is kept, and the oracle for it: what was acknowledged is never lost.

use crate::{Connection, Random, Response, Server, call, intent};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

/// What the record of a decision says whose outcome a crash took away.
pub const OUTCOME_UNKNOWN: &str = "outcome unknown: host stopped";

/// What became of a request that was sent.
#[derive(Debug)]
pub enum Fate {
    /// A receipt came back: its record must never be lost.
    Acknowledged {
        /// The request.
        id: String,
        /// What its record is found by.
        hash: String,
        /// What the caller was told.
        decision: String,
    },
    /// The server said that it does not judge it.
    Refused {
        /// What it said.
        error: String,
    },
    /// The server said that the tool was run, but what came of it could not be recorded.
    Unrecorded {
        /// The request.
        id: String,
        /// What it said.
        error: String,
    },
    /// The connection ended without an answer.
    Unanswered {
        /// The request.
        id: String,
    },
}

impl Fate {
    /// Send one request on `connection`.
    ///
    /// # Panics
    /// When the answer is neither a receipt for this request nor an error with 503 or 500.
    pub fn of(connection: &mut Connection, id: String, request: &Value) -> Self {
        let body = request.to_string();
        match connection.request("POST", "/submit", &[], Some(body.as_bytes())) {
            Ok(answer) if answer.status == 200 => Self::told(id, &answer),
            Ok(answer) if answer.status == 500 => Self::Unrecorded { id, error: answer.error(500) },
            Ok(answer) => Self::Refused { error: answer.error(503) },
            Err(_) => Self::Unanswered { id },
        }
    }

    /// What an answer says, whatever it is.
    ///
    /// # Panics
    /// When it is a receipt for another request.
    #[must_use]
    pub fn told(id: String, answer: &Response) -> Self {
        if answer.status != 200 {
            return Self::Refused { error: format!("{}: {}", answer.status, answer.text()) };
        }
        let receipt = answer.json();
        assert_eq!(receipt["request_id"], id.as_str());
        let text = |key: &str| receipt[key].as_str().expect("a judged request has it").to_owned();
        Self::Acknowledged { id, hash: text("evidence_hash"), decision: text("decision") }
    }
}

/// A request of one of all kinds, by its number: denied, allowed without a tool, or one whose tool runs.
#[must_use]
pub fn of_all_kinds(number: usize, id: &str) -> Value {
    match number % 3 {
        0 => call(id, "echo", json!({"text": id})),
        1 => intent(id),
        _ => json!({"request_id": id, "actor": "", "intent": "denied"}),
    }
}

/// Send requests of all kinds, named after `name`, for as long as `goes_on` with their fates.
fn submit_while(address: SocketAddr, name: &str, fates: &SyncSender<Fate>, goes_on: fn(&Fate) -> bool) {
    let Ok(mut connection) = Connection::open(address) else { return };
    for number in 0.. {
        let id = format!("{name}-{number}");
        let request = of_all_kinds(number, &id);
        let fate = Fate::of(&mut connection, id, &request);
        let goes_on = goes_on(&fate);
        fates.send(fate).expect("somebody counts");
        if !goes_on {
            return;
        }
    }
}

/// Start `threads` submitters, which go on until the server is gone; do `meanwhile` with what they report, and give
/// back everything that they reported. `round` keeps the names of requests apart.
///
/// # Panics
/// When a submitter was answered what it must not be.
pub fn under_load(
    server: Server,
    threads: usize,
    round: usize,
    meanwhile: impl FnOnce(Server, &Receiver<Fate>) -> Vec<Fate>,
) -> Vec<Fate> {
    let (sender, fates) = sync_channel(1 << 20);
    let address = server.address;
    thread::scope(|scope| {
        for thread in 0..threads {
            let sender = sender.clone();
            let goes_on = |fate: &Fate| !matches!(fate, Fate::Unanswered { .. });
            scope.spawn(move || submit_while(address, &format!("{round}-{thread}"), &sender, goes_on));
        }
        drop(sender);
        let mut seen = meanwhile(server, &fates);
        seen.extend(fates.iter());
        seen
    })
}

/// Load from `threads` submitters, each until it is refused; what became of all.
///
/// # Panics
/// When a submitter was answered what it must not be.
#[must_use]
pub fn until_refused(server: &Server, threads: usize, name: &str) -> Vec<Fate> {
    let (sender, fates) = sync_channel(1 << 20);
    let address = server.address;
    thread::scope(|scope| {
        for thread in 0..threads {
            let sender = sender.clone();
            let goes_on = |fate: &Fate| matches!(fate, Fate::Acknowledged { .. });
            scope.spawn(move || submit_while(address, &format!("{name}-{thread}"), &sender, goes_on));
        }
        drop(sender);
        fates.iter().collect()
    })
}

/// Load from 8 submitters until a SIGKILL at a random moment: after so many answers and a while. What became of all.
///
/// # Panics
/// When a submitter was answered what it must not be.
pub fn killed_under_load(server: Server, round: usize, random: &mut Random) -> Vec<Fate> {
    let after = usize::try_from(random.below(60)).expect("small");
    let spin = Duration::from_micros(random.below(4_000));
    under_load(server, 8, round, |server, fates| {
        let seen: Vec<Fate> = fates.iter().take(after).collect();
        let from = Instant::now();
        while from.elapsed() < spin {
            std::hint::spin_loop();
        }
        server.kill();
        seen
    })
}

/// Every acknowledged record, by hash.
#[derive(Debug, Default)]
pub struct Acknowledged(BTreeMap<String, (String, String)>);

impl Acknowledged {
    /// Remember what was acknowledged among `fates`.
    ///
    /// # Panics
    /// When two requests were given one hash.
    pub fn add(&mut self, fates: &[Fate]) {
        for fate in fates {
            if let Fate::Acknowledged { id, hash, decision } = fate {
                let before = self.0.insert(hash.clone(), (id.clone(), decision.clone()));
                assert_eq!(before, None, "one hash for two requests");
            }
        }
    }

    /// How many.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Each must be in the evidence, under its id, and say what the caller was told; and no request may have two
    /// entries.
    ///
    /// # Panics
    /// When it is not so.
    pub fn check(&self, bundle: &Value) {
        let entries = bundle["ledger_entries"].as_array().expect("entries");
        self.check_entries(entries.iter().map(|entry| (entry["entry_hash"].as_str().expect("a hash"), entry)));
    }

    /// The same for entries from anywhere, each with its hash.
    ///
    /// # Panics
    /// When it is not so.
    pub fn check_entries<'a>(&self, entries: impl Iterator<Item = (&'a str, &'a Value)>) {
        let recorded: BTreeMap<&str, &Value> = entries.collect();
        for (hash, (id, decision)) in &self.0 {
            let Some(entry) = recorded.get(hash.as_str()) else { panic!("the record of {id} is lost: {hash}") };
            assert_eq!((&entry["request_id"], &entry["decision"]), (&json!(id), &json!(decision)));
            assert_ne!(entry["error"], OUTCOME_UNKNOWN, "{id} was answered");
        }
        let ids: BTreeSet<&str> = recorded.values().filter_map(|entry| entry["request_id"].as_str()).collect();
        assert_eq!(ids.len(), recorded.len(), "a request has two entries");
    }
}
