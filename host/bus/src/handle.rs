//! What a plugin holds of the bus: it may emit and call, within what it was granted.

use crate::bus::{Bus, Inner};
use crate::error::Error;
use crate::event::{Answer, Draft, Event, Sender, answer_of};
use crate::pattern::{self, Pattern};
use crate::rate::Bucket;
use crate::traffic::Traffic;
use serde_json::json;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

/// A plugin's way back to the bus. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    bus: Weak<Inner>,
    plugin: Arc<str>,
    emits: Arc<[Pattern]>,
    bucket: Arc<Bucket>,
    /// Its plugin was taken away.
    revoked: Arc<AtomicBool>,
}

/// What became of an emitted event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Emitted {
    /// Its id.
    pub event_id: String,
    /// Plugins in whose mailboxes it lies.
    pub queued: usize,
    /// Plugins whose mailboxes were full; they do not hear of it.
    pub refused: Vec<String>,
}

impl Emitted {
    /// As an answer on the wire.
    #[must_use]
    pub fn answer(&self) -> Answer {
        let Self { event_id, queued, refused } = self;
        answer_of(json!({ "status": "queued", "event_id": event_id, "queued": queued, "refused": refused }))
    }
}

impl Handle {
    pub(crate) fn new(bus: Weak<Inner>, plugin: &str, emits: &[Pattern], per_second: f64) -> Self {
        Self {
            bus,
            plugin: plugin.into(),
            emits: emits.into(),
            bucket: Arc::new(Bucket::new(per_second)),
            revoked: Arc::default(),
        }
    }

    /// From now on it does nothing: its plugin has ended, whatever it left running.
    pub(crate) fn revoke(&self) {
        self.revoked.store(true, Ordering::Release);
    }

    /// The plugin's name.
    #[must_use]
    pub fn plugin(&self) -> &Arc<str> {
        &self.plugin
    }

    /// Tell the bus of an event; nobody is waited for. `cause` is the event that is being handled, if one is.
    ///
    /// # Errors
    /// If it is outside the grant, too often, too deep in a chain, or its owner's mailbox is full.
    pub async fn emit(&self, cause: Option<&Event>, draft: Draft) -> Result<Emitted, Error> {
        let admitted = self.admit(cause, &draft);
        let bus = admitted.inspect_err(|why| self.count(|traffic| traffic.emitted(Some(why))))?;
        bus.emit_counted(Sender::Plugin(Arc::clone(&self.plugin)), cause, draft).await
    }

    /// Ask the bus for the answer to an event.
    ///
    /// # Errors
    /// As [`Self::emit`], and whatever the handler's side says.
    pub async fn call(&self, cause: Option<&Event>, draft: Draft) -> Result<Answer, Error> {
        let admitted = self.admit(cause, &draft);
        let bus = admitted.inspect_err(|why| self.count(|traffic| traffic.answered(Some(why))))?;
        bus.dispatch_counted(Sender::Plugin(Arc::clone(&self.plugin)), cause, draft).await.map(|reply| reply.answer)
    }

    fn count(&self, count: impl FnOnce(&Traffic)) {
        if let Some(bus) = self.bus.upgrade().map(Bus::from_inner) {
            count(bus.traffic());
        }
    }

    /// Ask a service of the host for what the plugin was granted another way, for example a namespace of the state. What
    /// it may emit is not asked; the service knows who asks, and checks what it may.
    ///
    /// # Errors
    /// As [`Self::call`], but for what it may emit.
    pub async fn ask_service(&self, cause: Option<&Event>, draft: Draft) -> Result<Answer, Error> {
        let bus = self.bounded(cause, &draft)?;
        bus.dispatch_counted(Sender::Plugin(Arc::clone(&self.plugin)), cause, draft).await.map(|reply| reply.answer)
    }

    fn admit(&self, cause: Option<&Event>, draft: &Draft) -> Result<Bus, Error> {
        if !pattern::any(&self.emits, &draft.name) {
            let granted: Vec<_> = self.emits.iter().map(Pattern::as_str).collect();
            let granted = if granted.is_empty() { "nothing".to_owned() } else { granted.join(", ") };
            let text = format!("plugin '{}' may not emit '{}': it is granted {granted}", self.plugin, draft.name);
            return Err(Error::Forbidden(text));
        }
        self.bounded(cause, draft)
    }

    /// The bus, unless the chain is too deep or the plugin asks too often.
    fn bounded(&self, cause: Option<&Event>, draft: &Draft) -> Result<Bus, Error> {
        let bus = self.bus.upgrade().map(Bus::from_inner);
        let bus = bus.ok_or_else(|| Error::Forbidden("the bus has ended".to_owned()))?;
        if self.revoked.load(Ordering::Acquire) {
            return Err(Error::Forbidden(format!("plugin '{}' has ended: it may emit nothing any more", self.plugin)));
        }
        let depth = cause.map_or(0, |cause| cause.chain.len()) + 1;
        let depth_max = bus.options().chain_depth_max;
        if depth > depth_max {
            let text = format!(
                "event '{}' would be {depth} deep in its chain, at most {depth_max} are allowed (chain_depth_max)",
                draft.name
            );
            return Err(Error::Forbidden(text));
        }
        self.within_rate(&bus)?;
        Ok(bus)
    }

    /// Count something that the plugin does beside the bus against its rate of events, so that it has one limit for both.
    ///
    /// # Errors
    /// If it does too much, or has ended.
    pub fn take(&self) -> Result<(), Error> {
        let bus = self.bus.upgrade().map(Bus::from_inner);
        let bus = bus.ok_or_else(|| Error::Forbidden("the bus has ended".to_owned()))?;
        if self.revoked.load(Ordering::Acquire) {
            return Err(Error::Forbidden(format!("plugin '{}' has ended: it may do nothing any more", self.plugin)));
        }
        self.within_rate(&bus)
    }

    fn within_rate(&self, bus: &Bus) -> Result<(), Error> {
        if !self.bucket.take() {
            let rate = bus.options().plugin_events_per_second;
            let text =
                format!("plugin '{}' emits more than {rate} events a second (plugin_events_per_second)", self.plugin);
            return Err(Error::RateLimited(text));
        }
        Ok(())
    }
}
