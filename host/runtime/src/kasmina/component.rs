//! A component of one of the two worlds: loaded once, asked in a fresh instance every time.

use super::{Answer, Limits, Source};
use crate::bindings::{strategy, tamiyo};
use crate::evaluate::{Call, Guest, Terms};
use crate::limits::DESCRIBE_DEADLINE_MS;
use crate::load::{DESCRIBE_TRIES_MAX, check_configuration, digest_of, with_guest_words, wrong_types};
use crate::wait::wait;
use crate::world::{STRATEGY, TAMIYO, World};
use crate::{Error, FailedClosed, Metadata, Sandbox};
use std::sync::Arc;
use wasmtime::Store;
use wasmtime::component::InstancePre;

/// What differs from world to world.
pub(super) trait Kind: Sized + 'static {
    /// What names it may use.
    const WORLD: &'static World;
    /// A component of it, linked.
    type Pre: Clone;

    /// Whether the types are those of the world.
    fn linked(pre: InstancePre<Guest>) -> wasmtime::Result<Self::Pre>;
    /// Make an instance.
    async fn instantiate(pre: &Self::Pre, store: &mut Store<Guest>) -> wasmtime::Result<Self>;
    /// Ask it what it is.
    async fn describe(&self, store: &mut Store<Guest>) -> wasmtime::Result<Metadata>;
}

/// An instance of world `strategy`.
pub(super) type StrategyWorld = strategy::Strategy;
/// An instance of world `tamiyo`.
pub(super) type TamiyoWorld = tamiyo::Tamiyo;

impl Kind for StrategyWorld {
    const WORLD: &'static World = &STRATEGY;
    type Pre = strategy::StrategyPre<Guest>;

    fn linked(pre: InstancePre<Guest>) -> wasmtime::Result<Self::Pre> {
        strategy::StrategyPre::new(pre)
    }

    async fn instantiate(pre: &Self::Pre, store: &mut Store<Guest>) -> wasmtime::Result<Self> {
        pre.instantiate_async(store).await
    }

    async fn describe(&self, store: &mut Store<Guest>) -> wasmtime::Result<Metadata> {
        self.call_describe(store).await
    }
}

impl Kind for TamiyoWorld {
    const WORLD: &'static World = &TAMIYO;
    type Pre = tamiyo::TamiyoPre<Guest>;

    fn linked(pre: InstancePre<Guest>) -> wasmtime::Result<Self::Pre> {
        tamiyo::TamiyoPre::new(pre)
    }

    async fn instantiate(pre: &Self::Pre, store: &mut Store<Guest>) -> wasmtime::Result<Self> {
        pre.instantiate_async(store).await
    }

    async fn describe(&self, store: &mut Store<Guest>) -> wasmtime::Result<Metadata> {
        self.call_describe(store).await
    }
}

/// A component of world `K`, compiled and linked.
pub(super) struct Component<K: Kind> {
    inner: Arc<Inner<K>>,
}

struct Inner<K: Kind> {
    sandbox: Sandbox,
    pre: K::Pre,
    terms: Arc<Terms>,
    limits: Limits,
    digest: String,
    metadata: Metadata,
}

impl<K: Kind> Clone for Component<K> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

impl<K: Kind> std::fmt::Debug for Component<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct(K::WORLD.kind)
            .field("name", &self.inner.terms.name)
            .field("digest", &self.inner.digest)
            .finish_non_exhaustive()
    }
}

impl<K: Kind> Component<K> {
    /// Compile, check and describe; the ranges of its limits were checked before.
    pub(super) fn load(sandbox: &Sandbox, source: Source) -> Result<Self, Error> {
        let (component, _) = sandbox.fitting(&sandbox.inner.engine, K::WORLD, &source.name, &source.bytes)?;
        let told = |why| wrong_types(K::WORLD, &source.name, &why);
        let pre = K::linked(sandbox.inner.growth.instantiate_pre(&component).map_err(told)?).map_err(told)?;
        let limits = source.limits.of_policy();
        let metadata = Self::described(sandbox, &pre, &source)?;
        check_configuration(K::WORLD, &source.name, &source.config, metadata.config_schema.as_deref())?;
        let config = crate::policy::configuration_text(&source.config).into();
        let inner = Inner {
            sandbox: sandbox.clone(),
            pre,
            terms: Arc::new(Terms { name: source.name.into(), config, limits }),
            limits: source.limits,
            digest: digest_of(&source.bytes),
            metadata,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// What it says of itself, which must not depend on the configuration, so it is given none.
    fn described(sandbox: &Sandbox, pre: &K::Pre, source: &Source) -> Result<Metadata, Error> {
        let limits = crate::Limits { deadline_ms: DESCRIBE_DEADLINE_MS, ..source.limits.of_policy() };
        let terms = Arc::new(Terms { name: source.name.as_str().into(), config: "null".into(), limits });
        let describe = || {
            let (outcome, guest) = ask::<K, _>(sandbox, pre, &terms, async |world, store| world.describe(store).await);
            outcome.map_err(|why| (why, guest.and_then(|guest| guest.words())))
        };
        let mut described = describe();
        // As for a policy: the system may refuse the first instance for a moment.
        for _ in 1..DESCRIBE_TRIES_MAX {
            if !matches!(described, Err((FailedClosed::Instances { .. }, _))) {
                break;
            }
            described = describe();
        }
        described.map_err(|why| Error::Describe { subject: K::WORLD.subject(&source.name), why: with_guest_words(why) })
    }

    /// Ask a fresh instance.
    pub(super) fn call<T>(&self, asked: impl AsyncFnOnce(&K, &mut Store<Guest>) -> wasmtime::Result<T>) -> Answer<T> {
        let started = std::time::Instant::now();
        let inner = &self.inner;
        let (outcome, guest) = ask(&inner.sandbox, &inner.pre, &inner.terms, asked);
        let (logs, logs_dropped, memory_bytes) = guest.map(|mut guest| guest.take_notes()).unwrap_or_default();
        Answer { outcome, logs, logs_dropped, memory_bytes, elapsed: started.elapsed() }
    }

    pub(super) fn name(&self) -> &str {
        &self.inner.terms.name
    }

    pub(super) fn digest(&self) -> &str {
        &self.inner.digest
    }

    pub(super) fn metadata(&self) -> &Metadata {
        &self.inner.metadata
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.inner.limits
    }
}

/// Make an instance on `terms`, ask it, and give back what its guest used and said; no guest where there was no slot.
fn ask<K: Kind, T>(
    sandbox: &Sandbox,
    pre: &K::Pre,
    terms: &Arc<Terms>,
    asked: impl AsyncFnOnce(&K, &mut Store<Guest>) -> wasmtime::Result<T>,
) -> (Result<T, FailedClosed>, Option<Guest>) {
    let call = Call::describe(Arc::clone(terms));
    let slots = Arc::clone(&sandbox.inner.slots);
    let Some(Ok(slot)) = wait(slots.acquire_owned(), Some(call.until())) else {
        return (Err(FailedClosed::no_slot()), None);
    };
    let running = sandbox.inner.ticker.enter();
    let mut store = sandbox.store(call);
    let run = async {
        let world = K::instantiate(pre, &mut store).await?;
        asked(&world, &mut store).await
    };
    // Run to its end: the guest itself is interrupted at its deadline.
    let outcome = wait(run, None).unwrap_or_else(|| Err(wasmtime::format_err!("the call was given up")));
    drop(running);
    let outcome = outcome.map_err(|why| store.data_mut().failure(&why));
    let guest = store.into_data();
    // The slot is free only now, when the pool has the instance back.
    drop(slot);
    (outcome, Some(guest))
}
