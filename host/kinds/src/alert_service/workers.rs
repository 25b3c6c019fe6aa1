//! Those who work while nobody asks: one for each receiver, and one who looks after the steps that are due.
//!
//! Each sleeps until there is something to do. While something waits for a time to come, it looks at the clock at most once
//! a second, for clocks may be set.

use super::Service;
use super::desk::Desk;
use super::notify::After;
use super::record::{Delivery, PENDING, Pending};
use crate::fault::Fault;
use crate::webhook::{Sent, Webhook};
use crate::writer::{decoded, reading};
use redb::ReadableDatabase;
use std::sync::Arc;
use std::time::Duration;

/// How often the clock is looked at, at most.
const LOOK_EVERY_MS: u64 = 1_000;
/// After a store that cannot be written, nothing is sent for so long: what is sent and not written down is sent again.
const REST: Duration = Duration::from_secs(5);

/// Takes what is to be told.
pub(super) enum Teller {
    Log,
    Webhook(Box<Webhook>),
}

/// What a receiver waits for.
enum Next {
    Now(u64, Pending),
    At(u64),
    Nothing,
}

/// Tell a receiver what is for it, one after the other, until the kernel ends.
pub(super) async fn tell(service: Arc<Service>, receiver: String, teller: Teller) {
    let mut bell = service.shared.bell();
    while !service.stop.is_cancelled() {
        bell.mark_unchanged();
        let done = match service.next(&receiver).await {
            Ok(Next::Now(number, pending)) => {
                tokio::select! {
                    // What is cut off here is told again after the next start.
                    () = service.stop.cancelled() => return,
                    sent = send(&teller, &pending) => service.settled(&receiver, number, &pending, sent).await,
                }
            }
            Ok(Next::At(next_ms)) => {
                tokio::select! {
                    _ = bell.changed() => {}
                    () = tokio::time::sleep(service.until(next_ms)) => {}
                    () = service.stop.cancelled() => {}
                }
                Ok(())
            }
            Ok(Next::Nothing) => {
                tokio::select! {
                    _ = bell.changed() => {}
                    () = service.stop.cancelled() => {}
                }
                Ok(())
            }
            Err(fault) => Err(fault),
        };
        if done.is_err() {
            tokio::select! {
                () = tokio::time::sleep(REST) => {}
                () = service.stop.cancelled() => {}
            }
        }
    }
}

async fn send(teller: &Teller, pending: &Pending) -> Sent {
    match teller {
        Teller::Webhook(webhook) => webhook.deliver(pending.body.clone().into_bytes()).await,
        Teller::Log => {
            tracing::warn!(id = pending.id, "alert: {}", pending.body);
            Sent::Delivered
        }
    }
}

/// Take the steps that are due, until the kernel ends.
pub(super) async fn escalate(service: Arc<Service>) {
    let mut soonest = service.shared.soonest();
    while !service.stop.is_cancelled() {
        let due_ms = *soonest.borrow_and_update();
        let wait = async {
            match due_ms {
                Some(due_ms) => tokio::time::sleep(service.until(due_ms)).await,
                None => std::future::pending().await,
            }
        };
        if due_ms.is_some_and(|due_ms| due_ms <= (service.clock)()) {
            if service.writer.change(0, Desk::escalate).await.is_err() {
                tokio::select! {
                    () = tokio::time::sleep(REST) => {}
                    () = service.stop.cancelled() => {}
                }
            }
            continue;
        }
        tokio::select! {
            _ = soonest.changed() => {}
            () = wait => {}
            () = service.stop.cancelled() => {}
        }
    }
}

impl Service {
    fn until(&self, ms: u64) -> Duration {
        Duration::from_millis(ms.saturating_sub((self.clock)()).clamp(1, LOOK_EVERY_MS))
    }

    /// What waits longest of what may be sent now, or when something may.
    async fn next(&self, receiver: &str) -> Result<Next, Fault> {
        if self.shared.counts().waiting.get(receiver).copied().unwrap_or(0) == 0 {
            return Ok(Next::Nothing);
        }
        let (database, receiver, now_ms) = (Arc::clone(&self.database), receiver.to_owned(), (self.clock)());
        reading(move || {
            let rows = database.begin_read()?.open_table(PENDING)?;
            let mut next = Next::Nothing;
            for row in rows.range((receiver.as_str(), 0)..=(receiver.as_str(), u64::MAX))? {
                let (place, text) = row?;
                let pending: Pending = decoded("notification", text.value())?;
                if pending.next_ms <= now_ms {
                    return Ok(Next::Now(place.value().1, pending));
                }
                next = match next {
                    Next::At(soonest) => Next::At(soonest.min(pending.next_ms)),
                    _ => Next::At(pending.next_ms),
                };
            }
            Ok(next)
        })
        .await
    }

    async fn settled(&self, receiver: &str, number: u64, pending: &Pending, sent: Sent) -> Result<(), Fault> {
        match &sent {
            Sent::Delivered => {}
            Sent::Again(why) => tracing::warn!(receiver, id = pending.id, why, "a notification was not taken"),
            Sent::Never(why) => tracing::error!(receiver, id = pending.id, why, "a notification was refused"),
        }
        let name = receiver.to_owned();
        let after = self.writer.change(0, move |desk, write| desk.settle(write, &name, number, &sent)).await?;
        match after {
            After::Done(Delivery::Delivered) => drop(self.counts.delivered.inc()),
            After::Done(_) => {
                self.counts.given_up.inc();
                tracing::error!(receiver, id = pending.id, "a notification is given up");
            }
            After::Again => drop(self.counts.retried.inc()),
        }
        Ok(())
    }
}
