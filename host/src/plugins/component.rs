//! A component as a plugin of the bus.
//!
//! Its factory compiles it when the first event needs it, once, away from the runtime's workers, and keeps what it
//! compiled: an instance that is made anew after a failure is made of that. An idle plugin has neither.
//!
//! What must always hold: an instance that failed is never called again; what goes wrong inside is a fault of the plugin,
//! and names the limit.

use super::admit::Candidate;
use super::imports::{Desk, Surroundings};
use futures_util::future::BoxFuture;
use gavel_bus::{Before, Event, Factory, Fault, Handle, Plugin};
use gavel_runtime::FailedClosed;
use gavel_runtime::plugin::{Before as Seen, Component, Event as Told, Instance, Refusal, Source};
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// What is compiled, once it is.
type Compiled = Arc<tokio::sync::Mutex<Option<Arc<Component>>>>;

/// Makes the instances of one version of a plugin.
pub(super) struct ComponentFactory {
    candidate: Arc<Candidate>,
    surroundings: Arc<Surroundings>,
    compiled: Compiled,
}

impl ComponentFactory {
    pub(super) fn new(candidate: Arc<Candidate>, surroundings: Arc<Surroundings>) -> Self {
        Self { candidate, surroundings, compiled: Compiled::default() }
    }

    /// The component, compiled if it is not yet. Whoever gives up waiting does not stop the compiler: the next one finds
    /// its work done.
    async fn component(&self) -> Result<Arc<Component>, Fault> {
        let (candidate, surroundings) = (Arc::clone(&self.candidate), Arc::clone(&self.surroundings));
        let compiled = Arc::clone(&self.compiled);
        let work = async move {
            let mut compiled = compiled.lock().await;
            if let Some(component) = &*compiled {
                return Ok(Arc::clone(component));
            }
            let made = tokio::task::spawn_blocking(move || compile(&candidate, &surroundings)).await;
            let made = made.map_err(|_| broken("the compiler panicked"))??;
            Ok(Arc::clone(compiled.insert(Arc::new(made))))
        };
        tokio::spawn(work).await.map_err(|_| broken("the compiler panicked"))?
    }
}

fn compile(candidate: &Candidate, surroundings: &Surroundings) -> Result<Component, Fault> {
    let begun = Instant::now();
    let bytes = surroundings.admission.shelf.component(&candidate.digest, &candidate.component);
    let source = Source {
        name: candidate.name().to_owned(),
        bytes: bytes.map_err(|why| broken(&format!("its component cannot be read: {why:#}")))?,
        config: candidate.config.clone(),
        limits: candidate.granted.limits.clone(),
    };
    let loaded = surroundings.admission.sandbox.load_plugin(source, &candidate.described);
    let component = loaded.map_err(|why| broken(&format!("it cannot be loaded: {why}")))?;
    tracing::info!(plugin = candidate.name(), ms = begun.elapsed().as_millis(), "loaded: its first event has come");
    Ok(component)
}

impl Factory for ComponentFactory {
    fn make(&self) -> BoxFuture<'_, Result<Arc<dyn Plugin>, Fault>> {
        Box::pin(async move {
            let component = self.component().await?;
            let desk = Arc::new(Desk::new(&self.candidate, Arc::clone(&self.surroundings)));
            let plugin = ComponentPlugin {
                component,
                desk,
                instance: tokio::sync::Mutex::new(None),
                memory_bytes: AtomicU64::new(0),
            };
            Ok(Arc::new(plugin) as Arc<dyn Plugin>)
        })
    }
}

/// One instance of a component.
struct ComponentPlugin {
    component: Arc<Component>,
    /// Where the guest's calls come out.
    desk: Arc<Desk>,
    /// Gone when it has failed.
    instance: tokio::sync::Mutex<Option<Instance>>,
    memory_bytes: AtomicU64,
}

impl ComponentPlugin {
    /// Call the instance about an event. One that fails, or whose call is given up half way, is dropped.
    async fn ask<T>(
        &self,
        event: Option<&Arc<Event>>,
        question: impl AsyncFnOnce(&mut Instance) -> Result<T, FailedClosed>,
    ) -> Result<T, Fault> {
        let mut held = self.instance.lock().await;
        let mut instance = held.take().ok_or_else(|| broken("its instance has failed"))?;
        let _at_work = self.desk.work_on(event);
        let answered = question(&mut instance).await;
        self.memory_bytes.store(instance.memory_bytes(), Ordering::Relaxed);
        match answered {
            Ok(answer) => {
                *held = Some(instance);
                Ok(answer)
            }
            Err(why) => Err(broken(&why.to_string())),
        }
    }
}

impl Plugin for ComponentPlugin {
    /// The configuration is the candidate's: the component was loaded with it.
    fn startup(&self, _config: Value, handle: Handle) -> BoxFuture<'_, Result<(), Fault>> {
        Box::pin(async move {
            self.desk.open(handle);
            let made = self.component.instantiate(Arc::clone(&self.desk) as _).await;
            *self.instance.lock().await = Some(made.map_err(|why| broken(&why.to_string()))?);
            self.ask(None, async |instance| instance.startup().await).await?.map_err(Fault::refused)
        })
    }

    fn handle(&self, event: Arc<Event>) -> BoxFuture<'_, Result<Value, Fault>> {
        Box::pin(async move {
            let told = told(&event);
            match self.ask(Some(&event), async |instance| instance.handle_event(&told).await).await? {
                Ok(Some(answer)) => parsed(&answer, "its answer"),
                Ok(None) => Err(Fault::Unhandled),
                Err(refusal) => Err(refused(refusal)),
            }
        })
    }

    fn before(&self, event: Arc<Event>) -> BoxFuture<'_, Result<Before, Fault>> {
        Box::pin(async move {
            let told = told(&event);
            Ok(match self.ask(Some(&event), async |instance| instance.pre_event(&told).await).await? {
                Seen::Pass => Before::Pass,
                Seen::Replace(data) => Before::Replace(parsed(&data, "what it puts in an event's place")?),
                Seen::Cancel(why) => Before::Cancel(why),
            })
        })
    }

    fn hear(&self, event: Arc<Event>) -> BoxFuture<'_, Result<(), Fault>> {
        Box::pin(async move {
            let told = told(&event);
            self.ask(Some(&event), async |instance| instance.hear_event(&told).await).await?.map_err(refused)
        })
    }

    fn after(&self, event: Arc<Event>, answer: Arc<Value>) -> BoxFuture<'_, Result<(), Fault>> {
        Box::pin(async move {
            let (told, answer) = (told(&event), answer.to_string());
            self.ask(Some(&event), async |instance| instance.post_event(&told, &answer).await).await?.map_err(refused)
        })
    }

    fn shutdown(&self) -> BoxFuture<'_, Result<(), Fault>> {
        Box::pin(async move {
            if self.instance.lock().await.is_none() {
                return Ok(());
            }
            let ended = self.ask(None, async |instance| instance.shutdown().await).await?;
            *self.instance.lock().await = None;
            ended.map_err(Fault::refused)
        })
    }

    fn memory_bytes(&self) -> u64 {
        self.memory_bytes.load(Ordering::Relaxed)
    }
}

fn told(event: &Event) -> Told {
    Told {
        id: event.event_id.clone(),
        name: event.name.clone(),
        data: event.data.to_string(),
        sender: event.sender.to_string(),
        timestamp_ms: event.timestamp_ms,
        correlation_id: event.correlation_id.clone(),
        client_id: event.client_id.clone(),
    }
}

fn parsed(text: &str, what: &str) -> Result<Value, Fault> {
    serde_json::from_str(text).map_err(|why| broken(&format!("{what} is no JSON: {why}")))
}

fn refused(refusal: Refusal) -> Fault {
    Fault::Refused { message: refusal.message, code: refusal.code }
}

fn broken(why: &str) -> Fault {
    Fault::Broken(why.to_owned())
}
