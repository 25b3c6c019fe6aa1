//! `crypto_kernel`: named keys that sign, verify and rotate. A private key never leaves the kernel's folder: no route, log line,
//! metric or message shows one, and who may read the folder holds them all.
//!
//! A key is Ed25519, has a name, a list of senders that may sign with it, and versions. Who may sign is decided by the key that
//! the caller showed (`Caller`), for operators as for agents. What is signed is never a caller's bytes but an [`envelope`]
//! around their digest, so that a signature of this kernel is good for nothing else.
//!
//! Read `envelope` (what is signed) and `vault` (how keys survive a kill), then `routes`.
//!
//! Deliberately absent: encryption, importing and exporting of private keys, other algorithms, and hardware modules.

mod envelope;
mod register;
mod reporting;
mod routes;
mod settings;
#[cfg(test)]
mod tests;
mod vault;

use crate::kind::{Kernel, Kind, Opened, Seed};
use routes::{Measures, State};
use serde_json::{Map, Value, json};
use std::sync::Arc;
use vault::Vault;

/// Keys that sign and never leave.
pub(crate) const KIND: Kind = Kind {
    name: "crypto_kernel",
    purpose: "sign and verify with named keys, and rotate them; private keys never leave",
    needs: &["message_bus", "immutable_log"],
    check: settings::check,
    open,
};

fn open(seed: Seed) -> Opened {
    Box::pin(async move {
        let settings = settings::read(&seed.settings)?;
        let (opened, seed) = tokio::task::spawn_blocking(move || (Vault::open(&seed, settings), seed)).await?;
        let vault = Arc::new(opened?);
        if seed.peers.are_there() {
            reporting::start(&vault, seed.peers, seed.stop);
        }
        let mut metrics = seed.metrics;
        let measures = Measures::register(&mut metrics);
        let well = Arc::clone(&vault);
        let doors = routes::doors().with_state(State { vault, measures });
        Ok(Kernel::new(doors, metrics).with_health(move || health(&well)))
    })
}

fn health(vault: &Vault) -> Result<Map<String, Value>, String> {
    if let Some(why) = vault.stopped() {
        return Err(format!("{why}; what holds is known when the kernel is started again"));
    }
    let held = vault.held();
    let unusable: Vec<&String> = held.unusable.keys().collect();
    Ok(Map::from_iter([
        ("keys".to_owned(), json!(held.register.keys.len())),
        ("unusable_keys".to_owned(), json!(unusable)),
        ("unreported_changes".to_owned(), json!(held.register.reports.len())),
    ]))
}
