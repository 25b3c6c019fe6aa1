//! A plugin's component, linked, and the instances that are made of it.

use super::guest::{Guest, Imports, Nothing, Terms, Turns};
use super::home::{FIRST_SLICE_TICKS, Home};
use super::{Before, Event, Refusal};
use crate::bindings::plugin::gavel::plugin::types;
use crate::bindings::plugin::{Plugin as World, PluginPre};
use crate::epoch::Running;
use crate::limits::DESCRIBE_DEADLINE_MS;
use crate::load::DESCRIBE_TRIES_MAX;
use crate::wait::wait;
use crate::world::PLUGIN;
use crate::{Error, FailedClosed};
use std::sync::Arc;
use wasmtime::Store;

/// A plugin's component, compiled and linked, with its configuration and limits. Cheap to clone. It has no instance until
/// one is made.
#[derive(Clone)]
pub struct Component {
    inner: Arc<Inner>,
}

struct Inner {
    home: Arc<Home>,
    pre: PluginPre<Guest>,
    terms: Arc<Terms>,
    digest: String,
}

impl std::fmt::Debug for Component {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Component")
            .field("name", &self.name())
            .field("digest", &self.inner.digest)
            .finish_non_exhaustive()
    }
}

impl Component {
    pub(super) fn new(home: Arc<Home>, pre: PluginPre<Guest>, terms: Terms, digest: String) -> Self {
        Self { inner: Arc::new(Inner { home, pre, terms: Arc::new(terms), digest }) }
    }

    /// Its name, as it was given with the source.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.inner.terms.name
    }

    /// `sha256:` and the hex digest of the component.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.inner.digest
    }

    /// Make an instance, whose imports go to `imports`. It has not been started yet.
    ///
    /// Instances share nothing. Must be called within a tokio runtime, as must the instance's functions.
    ///
    /// # Errors
    /// What the component broke while its memory was set up: a cap, the deadline of 2,000 ms at least, a trap.
    pub async fn instantiate(&self, imports: Arc<dyn Imports>) -> Result<Instance, FailedClosed> {
        let Inner { home, pre, terms, .. } = &*self.inner;
        Instance::make(home, pre, terms, &imports, Turns::Taken).await
    }
}

/// Ask a component what it is, in an instance that is granted nothing, on this thread.
pub(super) fn describe(
    home: &Arc<Home>,
    pre: &PluginPre<Guest>,
    terms: &Arc<Terms>,
) -> Result<(types::Metadata, types::Capabilities), Error> {
    let granted: Arc<dyn Imports> = Arc::new(Nothing);
    let described = async {
        let mut instance = Instance::make(home, pre, terms, &granted, Turns::Alone).await?;
        let running = instance.begin(terms.limits.deadline_ms.max(DESCRIBE_DEADLINE_MS))?;
        let described = instance.world.call_describe(&mut instance.store).await;
        // What it says is measured field by field afterwards.
        instance.end(running, described, |_| 0)
    };
    // Run to its end: the guest itself is interrupted at its deadline, and what it asks for is refused at once.
    let described = wait(described, None).unwrap_or(Err(FailedClosed::Spent));
    described.map_err(|why| Error::Describe { subject: PLUGIN.subject(&terms.name), why })
}

/// A living plugin. It is asked one thing at a time, and keeps what it remembers from one to the next.
///
/// A call's future may be dropped half way; like any failure this ends the instance.
pub struct Instance {
    store: Store<Guest>,
    world: World,
    /// Whether a call is under way or went wrong.
    spent: bool,
}

impl std::fmt::Debug for Instance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Instance")
            .field("memory_bytes", &self.memory_bytes())
            .field("spent", &self.spent)
            .finish_non_exhaustive()
    }
}

impl Instance {
    async fn make(
        home: &Arc<Home>,
        pre: &PluginPre<Guest>,
        terms: &Arc<Terms>,
        imports: &Arc<dyn Imports>,
        turns: Turns,
    ) -> Result<Self, FailedClosed> {
        let mut made = Self::make_once(home, pre, terms, imports, turns).await;
        // As for a policy: the system may refuse the first instance for a moment.
        for _ in 1..DESCRIBE_TRIES_MAX {
            if !matches!(made, Err(FailedClosed::Instances { .. })) {
                break;
            }
            made = Self::make_once(home, pre, terms, imports, turns).await;
        }
        made
    }

    async fn make_once(
        home: &Arc<Home>,
        pre: &PluginPre<Guest>,
        terms: &Arc<Terms>,
        imports: &Arc<dyn Imports>,
        turns: Turns,
    ) -> Result<Self, FailedClosed> {
        let mut store = home.store(Guest::new(Arc::clone(home), Arc::clone(terms), Arc::clone(imports), turns));
        store.data_mut().begin(terms.limits.deadline_ms.max(DESCRIBE_DEADLINE_MS));
        let running = home.ticker.enter();
        let made = pre.instantiate_async(&mut store).await;
        drop(running);
        store.data_mut().end();
        match made {
            Ok(world) => Ok(Self { store, world, spent: false }),
            Err(why) => Err(store.data_mut().failure(&why)),
        }
    }

    /// Begin. To be called once, before anything else; it has 2,000 ms at least. The inner error is the plugin's own
    /// reason why it cannot.
    ///
    /// # Errors
    /// What ended the instance.
    pub async fn startup(&mut self) -> Result<Result<(), String>, FailedClosed> {
        let running = self.begin(self.deadline_ms().max(DESCRIBE_DEADLINE_MS))?;
        let started = self.world.call_startup(&mut self.store).await;
        self.end(running, started, reason_bytes)
    }

    /// Show it an event before its handler.
    ///
    /// # Errors
    /// What ended the instance.
    pub async fn pre_event(&mut self, event: &Event) -> Result<Before, FailedClosed> {
        let running = self.begin(self.deadline_ms())?;
        let before = self.world.call_pre_event(&mut self.store, event).await;
        self.end(running, before, |before| match before {
            Before::Pass => 0,
            Before::Replace(text) | Before::Cancel(text) => text.len(),
        })
    }

    /// Have it answer an event: the answer as JSON text, or `None` when it does not know the event.
    ///
    /// # Errors
    /// What ended the instance.
    pub async fn handle_event(&mut self, event: &Event) -> Result<Result<Option<String>, Refusal>, FailedClosed> {
        let running = self.begin(self.deadline_ms())?;
        let answer = self.world.call_handle_event(&mut self.store, event).await;
        self.end(running, answer, |answer| match answer {
            Ok(answer) => answer.as_ref().map_or(0, String::len),
            Err(refusal) => refusal_bytes(refusal),
        })
    }

    /// Tell it of an event that was answered.
    ///
    /// # Errors
    /// What ended the instance.
    pub async fn hear_event(&mut self, event: &Event) -> Result<Result<(), Refusal>, FailedClosed> {
        let running = self.begin(self.deadline_ms())?;
        let heard = self.world.call_hear_event(&mut self.store, event).await;
        self.end(running, heard, |heard| heard.as_ref().err().map_or(0, refusal_bytes))
    }

    /// Show it the answer, JSON text, to an event.
    ///
    /// # Errors
    /// What ended the instance.
    pub async fn post_event(&mut self, event: &Event, answer: &str) -> Result<Result<(), Refusal>, FailedClosed> {
        let running = self.begin(self.deadline_ms())?;
        let seen = self.world.call_post_event(&mut self.store, event, answer).await;
        self.end(running, seen, |seen| seen.as_ref().err().map_or(0, refusal_bytes))
    }

    /// End. To be called once, after everything else. The inner error is the plugin's own.
    ///
    /// # Errors
    /// What ended the instance before it had ended by itself.
    pub async fn shutdown(&mut self) -> Result<Result<(), String>, FailedClosed> {
        let running = self.begin(self.deadline_ms())?;
        let ended = self.world.call_shutdown(&mut self.store).await;
        self.end(running, ended, reason_bytes)
    }

    /// Linear memory that it has, in bytes, over all its memories. It never shrinks.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        self.store.data().memory_bytes()
    }

    fn deadline_ms(&self) -> u64 {
        self.store.data().limits().deadline_ms
    }

    /// Ready it for a call. Until [`end`](Self::end) finds that all went well, it counts as broken: so it does, too, when
    /// the call is given up in between.
    fn begin(&mut self, deadline_ms: u64) -> Result<Running, FailedClosed> {
        if std::mem::replace(&mut self.spent, true) {
            return Err(FailedClosed::Spent);
        }
        self.store.data_mut().begin(deadline_ms);
        self.store.set_epoch_deadline(FIRST_SLICE_TICKS);
        Ok(self.store.data().home().ticker.enter())
    }

    /// Conclude a call; `bytes` are those of the text in an answer.
    fn end<T>(
        &mut self,
        running: Running,
        answer: wasmtime::Result<T>,
        bytes: impl FnOnce(&T) -> usize,
    ) -> Result<T, FailedClosed> {
        drop(running);
        let guest = self.store.data_mut();
        guest.end();
        let answer = answer.map_err(|why| guest.failure(&why))?;
        let limit = guest.max_output_bytes();
        if bytes(&answer) as u64 > limit {
            return Err(FailedClosed::Output { limit });
        }
        self.spent = false;
        Ok(answer)
    }
}

fn reason_bytes(ended: &Result<(), String>) -> usize {
    ended.as_ref().err().map_or(0, String::len)
}

fn refusal_bytes(refusal: &Refusal) -> usize {
    refusal.message.len() + refusal.code.as_ref().map_or(0, String::len)
}
