//! What nobody waits for: put into mailboxes, and told to their plugins.

use super::{Bus, Inner, ask};
use crate::error::Error;
use crate::event::{Event, Root};
use crate::mail::{Letter, Mail, Put};
use crate::options::Options;
use crate::routes::{Moment, Plan};
use crate::slot::Slot;
use serde_json::Value;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::time::Instant;

/// After so long a plugin that is told of a letter makes place for another: one that hangs holds nobody up.
const TURN: Duration = Duration::from_millis(50);

impl Bus {
    pub(super) fn show_after(&self, plan: &Plan, event: &Arc<Event>, answer: &Value) {
        if plan.after.is_empty() {
            return;
        }
        let answer = Arc::new(answer.clone());
        for slot in &plan.after {
            self.post(slot, Letter::After(Arc::clone(event), Arc::clone(&answer)));
        }
    }

    /// Put a letter into a plugin's mailbox, or into that of the one in its place; `false`, and counted, if it is full.
    pub(super) fn post(&self, slot: &Arc<Slot>, mut letter: Letter) -> bool {
        let mut slot = Arc::clone(slot);
        loop {
            match slot.mail.put(letter, self.options()) {
                Put::In { first } => {
                    if first {
                        self.begin_delivery(&slot);
                    }
                    return true;
                }
                Put::Full { news } => {
                    slot.stats.turned_away();
                    if news {
                        tracing::warn!(plugin = %slot.name, "its queue is full (event_queue_size): it misses events");
                    }
                    return false;
                }
                Put::Closed(back) => letter = back,
            }
            let routes = self.inner.routes.load();
            let next = routes.successor(&slot, &letter.event().name, Moment::of(&letter));
            // Nobody takes that part any more: then nobody misses it.
            let Some(next) = next else { return true };
            slot = next;
        }
    }

    pub(super) fn begin_delivery(&self, slot: &Arc<Slot>) {
        let bus = Arc::downgrade(&self.inner);
        tokio::spawn(deliver(bus, Arc::downgrade(slot), Arc::clone(&slot.mail), Arc::clone(&self.inner.options)));
    }

    /// Tell a plugin of one letter.
    async fn deliver(&self, slot: &Arc<Slot>, letter: &Letter) -> Result<(), Error> {
        // A letter has its time from when it is taken out: that it waited is not its plugin's fault. And it is a chain of
        // its own: whoever sent it does not wait, nor does another who is told of the same event.
        let until = Instant::now() + self.options().event_timeout;
        let root = Root(self.inner.numbers.fetch_add(1, Ordering::Relaxed));
        let event = Arc::new(letter.event().apart(until, root));
        let told = Arc::clone(&event);
        let inside = slot.enter_with_letter();
        match letter {
            Letter::Handle(_) => {
                let answer = ask(inside, &event).await?;
                self.show_after(&self.plan(&event.name), &event, &answer);
                Ok(())
            }
            Letter::Hear(_) => inside.ask(&event, |plugin| Box::pin(async move { plugin.hear(told).await })).await,
            Letter::After(_, answer) => {
                let answer = Arc::clone(answer);
                inside.ask(&event, |plugin| Box::pin(async move { plugin.after(told, answer).await })).await
            }
        }
    }
}

/// Empty a mailbox, until its plugin is gone.
async fn deliver(bus: Weak<Inner>, slot: Weak<Slot>, mail: Arc<Mail>, options: Arc<Options>) {
    while mail.wait(&options).await {
        let Some(slot) = slot.upgrade() else { return };
        // What comes while it rests after a failure is not lost; only one whose circuit is open misses it.
        slot.rested().await;
        let Some(bus) = bus.upgrade().map(Bus::from_inner) else { return };
        // It may have been given to a successor meanwhile.
        let Some(letter) = mail.take() else { continue };
        let Ok(turn) = bus.inner.turns.acquire().await else { return };
        let mut telling = std::pin::pin!(bus.deliver(&slot, &letter));
        let told = if let Ok(told) = tokio::time::timeout(TURN, telling.as_mut()).await {
            told
        } else {
            drop(turn);
            telling.await
        };
        if let Err(why) = told {
            let event = &letter.event().name;
            tracing::debug!(plugin = %slot.name, event = %event, "nobody waited for this failure: {why}");
        }
        slot.letter_done();
    }
}
