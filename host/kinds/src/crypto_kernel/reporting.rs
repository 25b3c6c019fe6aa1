//! Tells the immutable log of every change of keys, once each, however often either kernel is killed.
//!
//! A report is durable together with its change and goes only when the log has confirmed it; its idempotency key makes a
//! repetition harmless. Nothing is done while there is nothing to report.

use super::vault::Vault;
use crate::peers::{PeerError, Peers};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How long after a first failure it is tried again; twice as long after each further one.
const RETRY_AFTER: Duration = Duration::from_secs(1);
const RETRY_AFTER_MAX: Duration = Duration::from_mins(1);

/// Reports until the kernel ends.
pub(super) fn start(vault: &Arc<Vault>, peers: Peers, stop: CancellationToken) {
    let vault = Arc::clone(vault);
    tokio::spawn(async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = report(&vault, &peers) => {}
        }
    });
}

async fn report(vault: &Arc<Vault>, peers: &Peers) {
    let mut retry_after = RETRY_AFTER;
    loop {
        let Some(next) = vault.next_report() else {
            vault.news.notified().await;
            continue;
        };
        let body = json!({"kind": next.kind, "data": next.data, "key": next.id});
        let taken = match peers.post("/immutable_log/append", &body).await {
            Ok(_) => forget(vault, next.id).await,
            // It will say the same of it for ever.
            Err(why @ PeerError::Refused { status: 409 | 413 | 422, .. }) => {
                tracing::error!(report = next.id, %why, "the immutable log does not take a change of keys");
                forget(vault, next.id).await
            }
            Err(why) => {
                tracing::warn!(report = next.id, %why, "a change of keys was not reported yet");
                false
            }
        };
        if taken {
            retry_after = RETRY_AFTER;
        } else {
            tokio::time::sleep(retry_after).await;
            retry_after = (retry_after * 2).min(RETRY_AFTER_MAX);
        }
    }
}

async fn forget(vault: &Arc<Vault>, id: String) -> bool {
    let vault = Arc::clone(vault);
    let forgotten = tokio::task::spawn_blocking(move || vault.reported(&id)).await;
    matches!(forgotten, Ok(Ok(())))
}
