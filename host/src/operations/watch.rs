//! The host's own eye on what must be alerted at once: a ledger that takes no more records, a policy in
//! quarantine, a disk that fills. It reads no ledger; that is the health check's.

use super::Operations;
use super::health::Check;
use crate::fleet::Fleet;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::MissedTickBehavior;

/// Look again and again, until the task is aborted.
pub(super) async fn watch(operations: Operations, fleet: Arc<Fleet>) {
    let mut ticks = tokio::time::interval(Duration::from_millis(operations.inner.limits.watch_every_ms));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        for slot in fleet.slots() {
            let (operations, kernel) = (operations.clone(), slot.kernel());
            // A disk that hangs must not hang a worker with it.
            let looked = tokio::task::spawn_blocking(move || {
                let mut checks = operations.inner.quick_checks(&kernel);
                checks.push(Check::of("enhanced_monitoring", json!({}), slot.alarm()));
                operations.alert_changes(&kernel, &checks);
            });
            if let Err(why) = looked.await {
                tracing::error!(%why, "a look at a kernel broke off");
            }
        }
    }
}
