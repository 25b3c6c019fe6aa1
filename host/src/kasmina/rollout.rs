//! Which layer serves which model: the rollout of this host, its changes governed and recorded.
//!
//! A model is named by its caller; `kasmina::rollout` says whether the incumbent or the candidate serves it. Every change
//! that somebody asks for, and every step of the schedule, is a request to the kernel (tool `kasmina.rollout`); what is
//! allowed takes effect by one assignment, and is on disk before it is answered.
//!
//! A candidate that fails a gate is reverted at once, by the pass that showed it: nothing stands in the way of that. It
//! is put on record right after, as an event. So a denial can keep a candidate from growing, never from going. A pass
//! that ends in no answer, whatever the reason, counts as failed: a candidate that hangs goes too.
//!
//! A file that cannot be read puts the rollout out of service, and nothing else: no model has a layer then.

use super::error::KasminaError;
use super::governor::shortened;
use super::store::Store;
use super::{Done, Kasmina, Values};
use crate::clock::Clock;
use crate::decide::{Effect, Principal};
use crate::fleet::Slot;
use crate::operations::event::Operator;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use gavel_kernel::{Decision, Request, Status};
use kasmina::rollout::{Change, Entry, Gates, Rollout, Sample, Schedule};
use serde::Deserialize;
use serde_json::{Value, json};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use tokio_util::task::TaskTracker;

/// The tool that a change of the rollout calls.
pub const ROLLOUT: &str = "kasmina.rollout";
/// Who makes the steps of the schedule, and reverts by a gate.
pub const SCHEDULER: &str = "kasmina";

/// The greatest magnitude of a metric: sums and differences of such are finite.
const METRIC_MAX: f64 = 1e100;
/// Bytes of a model's name.
const MODEL_BYTES_MAX: usize = 256;

/// What an operator asks the rollout to become.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    /// The layer that serves what the candidate does not; needed once, to begin with.
    #[serde(default)]
    pub incumbent: Option<String>,
    /// The layer to be tried.
    #[serde(default)]
    pub candidate: Option<String>,
    /// How its share grows.
    #[serde(default)]
    pub schedule: Schedule,
    /// What ends it.
    #[serde(default)]
    pub gates: Gates,
    /// Why, for the record.
    #[serde(default)]
    pub why: String,
}

/// A change that was not made yet.
#[derive(Debug, Clone)]
enum Planned {
    /// The first incumbent.
    Assign(String),
    /// Of a rollout that is there.
    Change(Change),
}

/// The rollout of a host.
#[derive(Debug)]
pub(super) struct Rollouts {
    current: Mutex<Option<Rollout>>,
    /// Why there is none that can be used.
    failed: Option<String>,
    slot: Arc<Slot>,
    store: Store,
    clock: Clock,
    /// Held while a change is judged, so that there is one at a time.
    changing: tokio::sync::Mutex<()>,
    /// Held while the file is written, so that the newest is what stays.
    keeping: tokio::sync::Mutex<()>,
    /// Whether the file says what is.
    is_kept: AtomicBool,
    /// What follows from passes, and must not be lost when the host stops.
    tasks: TaskTracker,
    runtime: tokio::runtime::Handle,
    /// Before then no step of the schedule is asked for: the last one was denied.
    not_before_ms: AtomicU64,
}

impl Rollouts {
    /// The rollout as it was kept; one that cannot be read is out of service. To be called in a runtime.
    pub(super) fn open(slot: Arc<Slot>, store: Store, clock: Clock) -> Arc<Self> {
        let read = store.rollout();
        let failed = read.as_ref().err().map(|why| {
            tracing::error!(%why, "the rollout is out of service: it cannot be read");
            "the rollout is out of service: its file cannot be read, the log says why; mend or remove it and start again"
                .to_owned()
        });
        Arc::new(Self {
            current: Mutex::new(read.ok().flatten()),
            failed,
            slot,
            store,
            clock,
            changing: tokio::sync::Mutex::default(),
            keeping: tokio::sync::Mutex::default(),
            is_kept: AtomicBool::new(true),
            tasks: TaskTracker::new(),
            runtime: tokio::runtime::Handle::current(),
            not_before_ms: AtomicU64::default(),
        })
    }

    /// Wait until what follows from the passes so far is kept and recorded.
    pub(super) async fn finish(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// # Errors
    /// When the rollout is out of service.
    fn usable(&self) -> Done<()> {
        self.failed.as_ref().map_or(Ok(()), |why| Err(KasminaError::Conflict(why.clone())))
    }

    fn current(&self) -> MutexGuard<'_, Option<Rollout>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The layer that serves a model.
    fn layer(&self, model: &str) -> Done<String> {
        if model.is_empty() || model.len() > MODEL_BYTES_MAX {
            let found = model.len();
            return Err(KasminaError::Invalid(format!("a model's name has 1 to {MODEL_BYTES_MAX} bytes, not {found}")));
        }
        self.usable()?;
        let current = self.current();
        current.as_ref().map(|rollout| rollout.layer(model).to_owned()).ok_or_else(|| KasminaError::Absent(NONE.into()))
    }

    /// Count what became of a pass or a measurement; revert if that shows the candidate to be too bad.
    fn count(self: &Arc<Self>, count: impl FnOnce(&mut Rollout)) {
        let now_ms = self.clock.now_ms();
        let due = {
            let mut current = self.current();
            let Some(rollout) = current.as_mut() else { return };
            count(rollout);
            match rollout.due(now_ms) {
                Some((Change::Revert, why)) => {
                    let reverted = rollout.apply(&Change::Revert, SCHEDULER, &why, now_ms).cloned();
                    reverted.ok().map(|entry| (Some(entry), why))
                }
                Some((_, why)) => Some((None, why)),
                None => None,
            }
        };
        match due {
            Some((Some(entry), _)) => {
                drop(self.tasks.spawn_on(Arc::clone(self).reverted(entry), &self.runtime));
            }
            Some((None, why)) if now_ms >= self.not_before_ms.load(Ordering::Relaxed) => {
                drop(self.tasks.spawn_on(Arc::clone(self).grow(why), &self.runtime));
            }
            _ => {}
        }
    }

    /// Keep and record a reversion that took effect.
    async fn reverted(self: Arc<Self>, entry: Entry) {
        tracing::warn!(candidate = entry.candidate, why = entry.why, "the candidate is reverted");
        if let Err(why) = self.keep().await {
            tracing::error!(%why, "the reversion is not on disk: after a restart the candidate would be tried again");
        }
        let operator = Operator { who: SCHEDULER.to_owned(), why: entry.why.clone() };
        let recorded = self.slot.kernel().record_operator("ROLLOUT_REVERTED", &operator, json!(entry)).await;
        if let Err(why) = recorded {
            tracing::error!(%why, "the reversion is not on record");
        }
    }

    /// Ask for a step of the schedule. Another that is being asked for is enough.
    async fn grow(self: Arc<Self>, why: String) {
        let Ok(_changing) = self.changing.try_lock() else { return };
        let now_ms = self.clock.now_ms();
        let due = self.current().as_ref().and_then(|rollout| rollout.due(now_ms));
        let Some((Change::Grow, _)) = due else { return };
        let principal = Principal { name: SCHEDULER.into(), actor: Some(SCHEDULER.into()) };
        if let Err(refused) = self.ask(Planned::Change(Change::Grow), principal, why).await {
            let every_ms = self.current().as_ref().and_then(Rollout::trial).map_or(0, |trial| trial.schedule.every_ms);
            self.not_before_ms.store(now_ms.saturating_add(every_ms), Ordering::Relaxed);
            tracing::warn!(%refused, "the candidate's share does not grow; it is asked for again at the next step");
        }
    }

    /// Make a change that somebody asks for.
    async fn change(self: &Arc<Self>, planned: Planned, principal: Principal, why: &str) -> Done<()> {
        self.usable()?;
        let _changing = self.changing.lock().await;
        self.ask(planned, principal, why.to_owned()).await
    }

    /// Have the kernel judge a change; what it allows is made. The caller holds `changing`.
    async fn ask(self: &Arc<Self>, planned: Planned, principal: Principal, why: String) -> Done<()> {
        let who = principal.actor.clone().unwrap_or_else(|| principal.name.clone());
        let now_ms = self.clock.now_ms();
        let before = self.current().clone();
        // What cannot be made is not asked for.
        let after = planned.after(before.as_ref(), &who, &why, now_ms)?;
        let request = request(&planned, before.as_ref(), &after, &who, &why, now_ms);
        let request = Request::from_value(request, now_ms).map_err(|why| KasminaError::Invalid(why.to_string()))?;
        let making = Making { rollouts: Arc::clone(self), planned, who, why };
        let receipt = self.slot.submit_with(request, principal, Arc::new(making)).await?;
        let error = receipt.error.unwrap_or_else(|| "no reason was given".into());
        match (receipt.decision, receipt.status) {
            (_, Status::Accepted) => Ok(()),
            (Decision::Deny, _) => Err(KasminaError::Denied(error)),
            _ => Err(KasminaError::Conflict(error)),
        }
    }

    /// Make a change that was allowed. It takes effect by one assignment; the file follows. A reversion whose file cannot
    /// be written took effect all the same, and says so.
    async fn make(&self, planned: &Planned, who: &str, why: &str) -> Done<Value> {
        let now_ms = self.clock.now_ms();
        let (before, after) = {
            let mut current = self.current();
            let before = current.clone();
            let after = planned.after(before.as_ref(), who, why, now_ms)?;
            *current = Some(after.clone());
            (before, after)
        };
        let was_kept = self.is_kept.load(Ordering::SeqCst);
        let Err(lost) = self.keep().await else { return Ok(self.told(&after)) };
        if matches!(planned, Planned::Change(Change::Revert)) {
            tracing::error!(%lost, "the reversion is not on disk: after a restart the rollout would be as before it");
            return Ok(self.told(&after));
        }
        let mut current = self.current();
        // Unless a gate was quicker.
        if current.as_ref().is_some_and(|now| now.history().last() == after.history().last()) {
            *current = before;
            self.is_kept.store(was_kept, Ordering::SeqCst);
        }
        Err(KasminaError::Conflict(format!("the rollout could not be kept on disk: {lost}")))
    }

    async fn keep(&self) -> io::Result<()> {
        // The rollout is read when the file is free: what is written last is what was last.
        let _keeping = self.keeping.lock().await;
        let (store, kept) = (self.store.clone(), self.current().clone());
        let Some(rollout) = kept else { return Ok(()) };
        let written = tokio::task::spawn_blocking(move || store.keep_rollout(&rollout)).await;
        let written = written.map_err(io::Error::other).flatten();
        self.is_kept.store(written.is_ok(), Ordering::SeqCst);
        written
    }

    fn told(&self, rollout: &Rollout) -> Value {
        let mut told = json!(rollout);
        told["share"] = json!(rollout.share());
        told["kept"] = json!(self.is_kept.load(Ordering::SeqCst));
        told
    }
}

/// A pass under way. Dropped before it was told what came of it, it failed.
struct Watched<'a> {
    rollouts: &'a Arc<Rollouts>,
    layer: &'a str,
    begun: Instant,
    outcome: Outcome,
}

/// What came of a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Passed,
    Failed,
    /// The caller's own mistake says nothing of the layer.
    Unasked,
}

impl Outcome {
    fn of(done: &Done<Vec<f32>>) -> Self {
        use kasmina::Error as Of;
        match done {
            Ok(y) if y.iter().all(|value| value.is_finite()) => Self::Passed,
            Err(KasminaError::Limit(_) | KasminaError::Layer(Of::Shape { .. } | Of::NotFinite { .. })) => Self::Unasked,
            _ => Self::Failed,
        }
    }
}

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        if self.outcome != Outcome::Unasked {
            let latency_us = self.begun.elapsed().as_secs_f64() * 1e6;
            let sample = Sample { failed: self.outcome == Outcome::Failed, latency_us };
            self.rollouts.count(|rollout| rollout.observe(self.layer, &sample));
        }
    }
}

const NONE: &str = "there is no rollout: PUT /kasmina/rollout with an incumbent begins one";

impl Planned {
    /// What the rollout would be.
    fn after(&self, before: Option<&Rollout>, who: &str, why: &str, now_ms: u64) -> Done<Rollout> {
        match (self, before) {
            (Self::Assign(incumbent), None) => Ok(Rollout::new(incumbent)),
            (Self::Assign(incumbent), Some(before)) if before.incumbent() == incumbent => Ok(before.clone()),
            (Self::Assign(_), Some(before)) => Err(KasminaError::Conflict(format!(
                "layer '{}' is the incumbent: another becomes it as a candidate that is promoted",
                before.incumbent()
            ))),
            (Self::Change(_), None) => Err(KasminaError::Absent(NONE.into())),
            (Self::Change(change), Some(before)) => {
                let mut after = before.clone();
                after.apply(change, who, why, now_ms).map_err(|why| KasminaError::Conflict(why.to_string()))?;
                Ok(after)
            }
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Assign(_) => "assign",
            Self::Change(Change::Start { .. }) => "start",
            Self::Change(Change::Grow) => "grow",
            Self::Change(Change::Promote) => "promote",
            Self::Change(Change::Revert) => "revert",
        }
    }
}

/// A change that the kernel allowed.
#[derive(Debug)]
struct Making {
    rollouts: Arc<Rollouts>,
    planned: Planned,
    who: String,
    why: String,
}

impl Effect for Making {
    fn happen(&self) -> BoxFuture<'_, Result<Value, String>> {
        async move { self.rollouts.make(&self.planned, &self.who, &self.why).await.map_err(|why| why.to_string()) }
            .boxed()
    }
}

/// The request of a change.
fn request(planned: &Planned, before: Option<&Rollout>, after: &Rollout, who: &str, why: &str, now_ms: u64) -> Value {
    let (act, why) = (planned.name(), shortened(why));
    let share = |rollout: Option<&Rollout>| rollout.map_or(0.0, Rollout::share);
    let trial = after.trial().or_else(|| before.and_then(Rollout::trial));
    let candidate = trial.map(|trial| trial.candidate.as_str());
    let named = candidate.map_or_else(|| "no candidate".to_owned(), |id| format!("candidate '{id}'"));
    let (from, to) = (share(before), share(Some(after)));
    json!({
        "request_id": format!("kasmina.rollout.{now_ms}.{act}"),
        "actor": who,
        "intent": format!("{act}: {named}, share {from:.2} to {to:.2}, incumbent '{}': {why}", after.incumbent()),
        "tool_call": {"name": ROLLOUT, "params": {
            "change": act,
            "incumbent_before": before.map(Rollout::incumbent),
            "incumbent": after.incumbent(),
            "candidate": candidate,
            "share_before": from,
            "share": to,
            "schedule": trial.map(|trial| trial.schedule),
            "gates": trial.map(|trial| trial.gates),
            "reason": why,
        }},
        "evidence": trial.map_or_else(
            || "no trial".to_owned(),
            |trial| format!("candidate {}; incumbent {}", json!(trial.candidate_health), json!(trial.incumbent_health)),
        ),
        "constraints": {
            "scope": "which layer serves which model",
            "non_goals": "no layer changes by it",
            "success_criteria": format!("the candidate's share is {to:.2}"),
        },
    })
}

impl Kasmina {
    /// The rollout, with what was measured and what was changed, and whether that is on disk (`kept`); null without one.
    ///
    /// # Errors
    /// When it is out of service.
    pub fn rollout(&self) -> Done<Value> {
        self.rollouts.usable()?;
        Ok(self.rollouts.current().as_ref().map_or(Value::Null, |rollout| self.rollouts.told(rollout)))
    }

    /// Begin a rollout, or try a candidate.
    ///
    /// # Errors
    /// When a layer is not there or not as wide as the other, another is being tried, or the kernel says no; nothing
    /// has changed then. To be carried to its end: the layers that it names are held only as long.
    pub async fn roll_out(&self, asked: Asked, principal: Principal) -> Done<Value> {
        let Asked { incumbent, candidate, schedule, gates, why } = asked;
        self.rollouts.usable()?;
        // No layer that is named goes before the rollout says that it is needed.
        let _staying = self.changing.lock().await;
        if incumbent.is_none() && candidate.is_none() {
            return Err(KasminaError::Invalid("give `incumbent`, to begin with, or `candidate`, or both".into()));
        }
        let known = self.rollouts.current().as_ref().map(|rollout| rollout.incumbent().to_owned());
        let serving = incumbent.clone().or(known.clone()).ok_or_else(|| KasminaError::Absent(NONE.into()))?;
        let width = self.width(&serving)?;
        if let Some(candidate) = &candidate {
            let other = self.width(candidate)?;
            if other != width {
                let why = format!("layer '{candidate}' is {other} wide and '{serving}' {width}: a model has one width");
                return Err(KasminaError::Invalid(why));
            }
            schedule.check()?;
            gates.check()?;
        }
        if incumbent.is_some() && known != incumbent {
            self.rollouts.change(Planned::Assign(serving), principal.clone(), &why).await?;
        }
        if let Some(candidate) = candidate {
            let start = Change::Start { candidate, schedule, gates };
            self.rollouts.change(Planned::Change(start), principal, &why).await?;
        }
        self.rollout()
    }

    /// Make the candidate the incumbent, once it has all models.
    ///
    /// # Errors
    /// When it has not, or the kernel says no.
    pub async fn promote(&self, why: &str, principal: Principal) -> Done<Value> {
        self.rollouts.change(Planned::Change(Change::Promote), principal, why).await?;
        self.rollout()
    }

    /// Back to the incumbent; without a trial, to the layer before the incumbent.
    ///
    /// # Errors
    /// When there is nothing to go back to, or the kernel says no.
    pub async fn revert(&self, why: &str, principal: Principal) -> Done<Value> {
        self.rollouts.change(Planned::Change(Change::Revert), principal, why).await?;
        self.rollout()
    }

    /// The layer that serves a model.
    ///
    /// # Errors
    /// When there is no rollout.
    pub fn layer_of(&self, model: &str) -> Done<String> {
        self.rollouts.layer(model)
    }

    /// The width of the layer that serves a model. That there is none counts as a pass that failed.
    ///
    /// # Errors
    /// As [`Self::width`].
    pub fn width_for_model(&self, layer: &str) -> Done<usize> {
        self.width(layer).inspect_err(|_| {
            let failed = Sample { failed: true, latency_us: 0.0 };
            self.rollouts.count(|rollout| rollout.observe(layer, &failed));
        })
    }

    /// One pass of a model, by the layer that serves it. What becomes of it counts for the rollout, unless the caller
    /// was at fault; a pass that is given up before it ended, or finds no layer or no room in its queue, failed.
    ///
    /// # Errors
    /// As [`Self::forward`].
    pub async fn forward_of(&self, layer: &str, x: Values, count: bool) -> Done<Vec<f32>> {
        let begun = Instant::now();
        let mut watched = Watched { rollouts: &self.rollouts, layer, begun, outcome: Outcome::Failed };
        let done = self.forward(layer, x, count, false).await;
        watched.outcome = Outcome::of(&done);
        done
    }

    /// Count a measurement of a model's metric; greater is better. The layer that serves it.
    ///
    /// # Errors
    /// When there is no rollout, or the metric is no number of at most 1e100.
    pub fn measure(&self, model: &str, metric: f64) -> Done<String> {
        let layer = self.rollouts.layer(model)?;
        if metric.is_nan() || metric.abs() > METRIC_MAX {
            let why = format!("metric is {metric:e}: give a number from {:e} to {METRIC_MAX:e}", -METRIC_MAX);
            return Err(KasminaError::Invalid(why));
        }
        self.rollouts.count(|rollout| rollout.measure(&layer, metric));
        Ok(layer)
    }

    /// Why a layer must stay, if the rollout needs it.
    pub(super) fn needed_by_rollout(&self, layer: &str) -> Option<String> {
        let current = self.rollouts.current();
        let rollout = current.as_ref()?;
        let tried = rollout.trial().map(|trial| trial.candidate.as_str());
        let roles = [
            ("incumbent", Some(rollout.incumbent())),
            ("candidate", tried),
            ("previous incumbent", rollout.previous()),
        ];
        let (role, _) = roles.into_iter().find(|(_, id)| *id == Some(layer))?;
        Some(format!("layer '{layer}' is the rollout's {role}: it can be removed when it is no longer"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kasmina::standalone::Standalone;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_pass_that_is_given_up_failed_and_its_reversion_is_kept() {
        let data = tempfile::tempdir().unwrap();
        let standalone = Standalone::open(None, data.path()).await.unwrap();
        let store = Store::open(Some(data.path())).unwrap();
        let rollouts = Rollouts::open(standalone.slot(), store.clone(), Clock::manual(7));
        let mut rollout = Rollout::new("old");
        let gates = Gates { passes_min: 1, ..Gates::default() };
        let start = Change::Start { candidate: "new".to_owned(), schedule: Schedule::default(), gates };
        rollout.apply(&start, "a test", "to see", 7).unwrap();
        *rollouts.current() = Some(rollout);
        let end = |outcome| {
            drop(Watched { rollouts: &rollouts, layer: "new", begun: Instant::now(), outcome });
            rollouts.current().as_ref().and_then(Rollout::trial).map(|trial| trial.candidate_health.passes)
        };
        assert_eq!(end(Outcome::Unasked), Some(0.0));
        assert_eq!(end(Outcome::Passed), Some(1.0));
        assert_eq!(end(Outcome::Failed), None, "one of two is too many");
        rollouts.finish().await;
        let kept: Rollout = store.rollout().unwrap().unwrap();
        assert!(kept.trial().is_none(), "nobody stops before it is on disk");
        standalone.finish().await;
    }
}
