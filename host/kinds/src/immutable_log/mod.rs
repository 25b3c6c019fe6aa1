//! `immutable_log`: a log that can be appended to, read, and proved to others. Nothing in it can be changed or taken out
//! without that being found.
//!
//! It is a ledger (`gavel-ledger`) of its own in the kernel's folder. What an append was answered with is durable, and
//! survives a kill at any moment; many appends at once share one sync. Who appended stands in each entry, by the key that
//! was shown. A checkpoint, signed by a key that never leaves the folder, states the whole log, and with it
//! anybody can check an entry, or that the log only grew, with `gavel verify`, far from here.
//!
//! Read `entry` (what lies in a record) and `log` (how it gets there), then `prove`.
//!
//! Deliberately absent: deletion, encryption, search (`audit_trail`), and the decisions of `governance`, which has a ledger
//! of its own.

mod entry;
mod log;
mod measures;
mod memory;
mod prove;
mod routes;
mod settings;
#[cfg(test)]
mod tests;

use crate::kind::{Kernel, Kind, Opened, Seed};
use measures::Measures;
use routes::State;
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// An append-only log with proofs.
pub(crate) const KIND: Kind = Kind {
    name: "immutable_log",
    purpose: "append entries that nobody can change afterwards, and prove them to others",
    needs: &["message_bus"],
    check: settings::check,
    open,
};

fn open(seed: Seed) -> Opened {
    Box::pin(async move {
        let settings = settings::read(&seed.settings)?;
        let (opened, mut metrics) = tokio::task::spawn_blocking(move || {
            let opened = log::Log::open(&seed, settings);
            (opened, seed.metrics)
        })
        .await?;
        let log = Arc::new(opened?);
        log.keep_in_background();
        let measures = Measures::register(&mut metrics, &log);
        let (well, closing) = (Arc::clone(&log), Arc::clone(&log));
        let doors = routes::doors().with_state(State { log, measures });
        let finish = async move {
            // A panic in there is told by the panic itself; nothing that was acknowledged depends on it.
            let _ = tokio::task::spawn_blocking(move || closing.close()).await;
        };
        Ok(Kernel::new(doors, metrics).with_health(move || health(&well)).with_finish(finish))
    })
}

/// A log that stopped after an error of the disk goes on only when it is opened again.
fn health(log: &log::Log) -> Result<Map<String, Value>, String> {
    let snapshot = log.snapshot();
    match snapshot.poisoned {
        Some(why) => Err(format!("the log stopped: {why}; it goes on when the kernel is started again")),
        None => Ok(Map::from_iter([
            ("size".to_owned(), json!(snapshot.records)),
            ("root".to_owned(), json!(hex::encode(snapshot.root))),
        ])),
    }
}
