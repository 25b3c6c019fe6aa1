//! Counts by name. What was answered is on disk.

use anyhow::Context;
use axum::Json;
use axum::extract::{Path, State};
use gavel_kinds::{ANY, Body, Door, Doors, Fault, Kernel, Kind, Opened, Seed, SettingsError, settings};
use redb::{Database, ReadableTable, TableDefinition};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

/// The counts, by name.
const COUNTS: TableDefinition<&str, u64> = TableDefinition::new("counts");

/// Counts by name.
pub(crate) const KIND: Kind =
    Kind { name: "tally", purpose: "counts by name", needs: &["message_bus", "immutable_log"], check, open };

/// What a tally may be told.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Settings {
    /// Bytes of a name. Default 64.
    name_bytes_max: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { name_bytes_max: 64 }
    }
}

struct Tally {
    settings: Settings,
    database: Database,
}

/// How much more.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Add {
    amount: u64,
}

fn check(value: &Value) -> Result<(), SettingsError> {
    let read: Settings = settings(value)?;
    match read.name_bytes_max {
        1..=1_000 => Ok(()),
        other => Err(SettingsError(format!("name_bytes_max is {other}, it must lie in 1 to 1000"))),
    }
}

fn open(seed: Seed) -> Opened {
    Box::pin(async move {
        let path = seed.folder.join("counts.redb");
        let database = Database::create(&path).with_context(|| format!("{} cannot be opened", path.display()))?;
        let tally = Arc::new(Tally { settings: settings(&seed.settings)?, database });
        let door = Door {
            roles: ANY,
            summary: "Count more of something",
            query: &[],
            body: r#"{"amount": 1}"#,
            answer: r#"{"name": "apples", "count": 3}"#,
        };
        let doors = Doors::new().post("/counts/{name}", door, add).with_state(tally);
        Ok(Kernel::new(doors, seed.metrics))
    })
}

async fn add(
    State(tally): State<Arc<Tally>>,
    Path(name): Path<String>,
    Body(more): Body<Add>,
) -> Result<Json<Value>, Fault> {
    if name.len() > tally.settings.name_bytes_max {
        let most = tally.settings.name_bytes_max;
        return Err(Fault::not_accepted(format!("the name has {} bytes, at most {most}", name.len())));
    }
    let (counted, shown) = (Arc::clone(&tally), name.clone());
    // A commit waits for the disk: not on a thread that serves.
    let done = tokio::task::spawn_blocking(move || counted.add(&name, more.amount)).await;
    let done = done.map_err(|why| Fault::broken(format!("the count broke off: {why}")))?;
    let count = done.map_err(|why| Fault::unavailable(format!("`{shown}` was not counted: {why}")))?;
    Ok(Json(json!({"name": shown, "count": count})))
}

impl Tally {
    /// Durable when it returns.
    fn add(&self, name: &str, amount: u64) -> Result<u64, redb::Error> {
        let change = self.database.begin_write()?;
        let count = {
            let mut counts = change.open_table(COUNTS)?;
            let before = counts.get(name)?.map_or(0, |count| count.value());
            let count = before.saturating_add(amount);
            counts.insert(name, count)?;
            count
        };
        change.commit()?;
        Ok(count)
    }
}
