//! What was done, what it did, what is watched for, and what is still to be told: one redb file.

use crate::redb_file::{begin, corrupt};
use redb::{Database, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

use super::playbooks::Choice;
use super::watch::Rule;

const HEALINGS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("healings");
/// By playbook, component and issue.
const EFFECTS: TableDefinition<'_, (&str, &str, &str), &[u8]> = TableDefinition::new("effects");
const RULES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("rules");
/// Alerts that the alert service has not taken yet.
const ALERTS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("alerts");
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");

/// What a playbook did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Effect {
    pub(super) tried: u64,
    /// How often the component was seen to be well after it.
    pub(super) verified: u64,
    pub(super) took_ms: u64,
    pub(super) last_ms: u64,
}

/// How a healing stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Status {
    /// It goes on.
    Running,
    /// The component was seen to be well, again and again, after a playbook.
    Verified,
    /// All that was planned was tried, and it was not.
    NotVerified,
    /// It was well before anything was done.
    Needless,
    /// This kernel ended before it did. What Guardian did then is in Guardian's own history.
    Interrupted,
}

/// What was seen when a component's health was asked, again and again.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Seen {
    /// Whether it was well so many times in a row, as one and the same process.
    pub(super) well: bool,
    pub(super) asked: u32,
    pub(super) answered_well: u32,
    /// Its process, as Guardian's registry knows it.
    pub(super) pid: Option<u64>,
    /// Whether the process is known: of another one it cannot be said whether it was the same each time.
    #[serde(default)]
    pub(super) compared: bool,
    /// Why it was not well when it last was not.
    pub(super) why: Option<String>,
    pub(super) took_ms: u64,
}

/// A playbook that Guardian was asked to carry out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Ordered {
    pub(super) playbook: String,
    /// What Guardian said came of it; none if it did not answer.
    pub(super) claimed: Option<bool>,
    pub(super) error: Option<String>,
    pub(super) took_ms: u64,
    /// What was seen afterwards; none after a playbook that only looks.
    pub(super) seen: Option<Seen>,
}

/// A healing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Healing {
    pub(super) id: u64,
    pub(super) component: String,
    pub(super) issue_type: String,
    /// Why it is taken for that issue.
    pub(super) because: String,
    pub(super) by: String,
    pub(super) force: bool,
    pub(super) status: Status,
    pub(super) verified: bool,
    pub(super) plan: Vec<Choice>,
    pub(super) before: Option<Seen>,
    pub(super) orders: Vec<Ordered>,
    pub(super) began_ms: u64,
    pub(super) ended_ms: Option<u64>,
}

/// By playbook, component and issue.
pub(super) type Effects = BTreeMap<(String, String, String), Effect>;

pub(super) struct Store {
    database: Database,
    healings_max: u64,
}

impl Store {
    /// Open it, and close what was under way when it was last open.
    pub(super) fn open(database: Database, healings_max: u64, now_ms: u64) -> Result<Self, redb::Error> {
        let write = begin(&database)?;
        {
            let mut table = write.open_table(HEALINGS)?;
            let mut open = Vec::new();
            for entry in table.iter()? {
                let healing: Healing = read(entry?.1.value(), "a healing")?;
                if healing.status == Status::Running {
                    open.push(healing);
                }
            }
            for mut healing in open {
                healing.status = Status::Interrupted;
                healing.ended_ms = Some(now_ms);
                table.insert(healing.id, json(&healing)?.as_slice())?;
            }
            write.open_table(EFFECTS)?;
            write.open_table(RULES)?;
            write.open_table(ALERTS)?;
            write.open_table(META)?;
        }
        write.commit()?;
        Ok(Self { database, healings_max })
    }

    /// Keep a new healing. Gives its id.
    pub(super) fn begin_healing(&self, healing: &mut Healing) -> Result<(), redb::Error> {
        let write = begin(&self.database)?;
        {
            let mut meta = write.open_table(META)?;
            healing.id = meta.get("healings")?.map_or(1, |last| last.value() + 1);
            meta.insert("healings", healing.id)?;
            let mut table = write.open_table(HEALINGS)?;
            table.insert(healing.id, json(healing)?.as_slice())?;
            while table.len()? > self.healings_max {
                table.pop_first()?;
            }
        }
        write.commit()?;
        Ok(())
    }

    /// Keep how a healing stands, and what its last playbook did if it acted.
    pub(super) fn keep(&self, healing: &Healing, effect: Option<(&str, Effect)>) -> Result<(), redb::Error> {
        let write = begin(&self.database)?;
        {
            write.open_table(HEALINGS)?.insert(healing.id, json(healing)?.as_slice())?;
            if let Some((playbook, effect)) = effect {
                let key = (playbook, healing.component.as_str(), healing.issue_type.as_str());
                write.open_table(EFFECTS)?.insert(key, json(&effect)?.as_slice())?;
            }
        }
        write.commit()?;
        Ok(())
    }

    /// Healings, the latest first, below `before`.
    pub(super) fn healings(
        &self,
        component: Option<&str>,
        before: u64,
        limit: usize,
    ) -> Result<Vec<Healing>, redb::Error> {
        let mut found = Vec::new();
        for entry in self.database.begin_read()?.open_table(HEALINGS)?.range(..before)?.rev() {
            let healing: Healing = read(entry?.1.value(), "a healing")?;
            if component.is_none_or(|component| component == healing.component) {
                found.push(healing);
            }
            if found.len() >= limit {
                break;
            }
        }
        Ok(found)
    }

    pub(super) fn healing(&self, id: u64) -> Result<Option<Healing>, redb::Error> {
        let found = self.database.begin_read()?.open_table(HEALINGS)?.get(id)?;
        found.map(|value| read(value.value(), "a healing")).transpose()
    }

    /// When healings of a component began that did something, since a time.
    pub(super) fn begun_since(&self, component: &str, since_ms: u64) -> Result<usize, redb::Error> {
        let mut count = 0;
        for entry in self.database.begin_read()?.open_table(HEALINGS)?.iter()?.rev() {
            let healing: Healing = read(entry?.1.value(), "a healing")?;
            if healing.began_ms < since_ms {
                break;
            }
            count += usize::from(healing.component == component && healing.status != Status::Needless);
        }
        Ok(count)
    }

    pub(super) fn effects(&self) -> Result<Effects, redb::Error> {
        let mut all = BTreeMap::new();
        for entry in self.database.begin_read()?.open_table(EFFECTS)?.iter()? {
            let (key, value) = entry?;
            let (playbook, component, issue) = key.value();
            let key = (playbook.to_owned(), component.to_owned(), issue.to_owned());
            all.insert(key, read(value.value(), "an effect")?);
        }
        Ok(all)
    }

    pub(super) fn effect(&self, playbook: &str, component: &str, issue: &str) -> Result<Effect, redb::Error> {
        let found = self.database.begin_read()?.open_table(EFFECTS)?.get((playbook, component, issue))?;
        found.map_or(Ok(Effect::default()), |value| read(value.value(), "an effect"))
    }

    pub(super) fn rules(&self) -> Result<BTreeMap<String, Rule>, redb::Error> {
        let mut all = BTreeMap::new();
        for entry in self.database.begin_read()?.open_table(RULES)?.iter()? {
            let (name, value) = entry?;
            all.insert(name.value().to_owned(), read(value.value(), "a rule")?);
        }
        Ok(all)
    }

    /// Put a rule in, or take it out. Gives whether it was there.
    pub(super) fn set_rule(&self, name: &str, rule: Option<&Rule>) -> Result<bool, redb::Error> {
        let write = begin(&self.database)?;
        let was = {
            let mut table = write.open_table(RULES)?;
            match rule {
                Some(rule) => table.insert(name, json(rule)?.as_slice())?.is_some(),
                None => table.remove(name)?.is_some(),
            }
        };
        write.commit()?;
        Ok(was)
    }

    /// How far the events of the fleet were read.
    pub(super) fn offset(&self) -> Result<u64, redb::Error> {
        Ok(self.database.begin_read()?.open_table(META)?.get("offset")?.map_or(0, |offset| offset.value()))
    }

    /// In one commit: how far events were read, the rules as they made them, and the alerts that came of them.
    pub(super) fn advance(&self, offset: u64, rules: &[Rule], alerts: &[Value]) -> Result<(), redb::Error> {
        let write = begin(&self.database)?;
        {
            write.open_table(META)?.insert("offset", offset)?;
            let mut table = write.open_table(RULES)?;
            for rule in rules {
                // One that was taken out or set anew meanwhile stays as it is.
                let now = table.get(rule.name.as_str())?.map(|now| read::<Rule>(now.value(), "a rule")).transpose()?;
                if now.is_some_and(|now| now.created_ms == rule.created_ms) {
                    table.insert(rule.name.as_str(), json(rule)?.as_slice())?;
                }
            }
            let mut waiting = write.open_table(ALERTS)?;
            for alert in alerts {
                let next = waiting.last()?.map_or(0, |(last, _)| last.value() + 1);
                waiting.insert(next, json(alert)?.as_slice())?;
                while waiting.len()? > ALERTS_MAX {
                    waiting.pop_first()?;
                }
            }
        }
        write.commit()?;
        Ok(())
    }

    /// The oldest alert that was not taken yet.
    pub(super) fn next_alert(&self) -> Result<Option<(u64, Value)>, redb::Error> {
        let read_only = self.database.begin_read()?.open_table(ALERTS)?;
        let found = read_only.first()?;
        found.map(|(number, value)| Ok((number.value(), read(value.value(), "an alert")?))).transpose()
    }

    pub(super) fn alert_taken(&self, number: u64) -> Result<(), redb::Error> {
        let write = begin(&self.database)?;
        write.open_table(ALERTS)?.remove(number)?;
        write.commit()?;
        Ok(())
    }
}

/// Alerts that wait for the alert service; the oldest goes first.
const ALERTS_MAX: u64 = 1_000;

fn json<T: Serialize>(thing: &T) -> Result<Vec<u8>, redb::Error> {
    serde_json::to_vec(thing).map_err(|why| corrupt("a thing", &why))
}

fn read<T: DeserializeOwned>(bytes: &[u8], what: &str) -> Result<T, redb::Error> {
    serde_json::from_slice(bytes).map_err(|why| corrupt(what, &why))
}
