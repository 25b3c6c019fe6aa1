//! One layer at work, on its own thread: passes, commands, epoch boundaries.
//!
//! The way of a boundary: Tamiyo reads what was observed and orders; the layer takes the orders on; the kernel judges
//! every transition and records it; what is allowed lands; the layer is saved; only then is it recorded that it landed;
//! then everybody is told. Whatever fails before the layer is saved puts it back to what it was.

use super::definition::Definition;
use super::error::KasminaError;
use super::governor::{Change, KernelGovernor, RESTORE};
use super::library::SharedLibrary;
use super::message::news;
use super::message::{
    CommandResponse, EpochEvent, Judged, KasminaCommand, LayerHealthReport, RollbackEvent, SeedStage,
};
use super::metrics::{LayerLabels, LayerMetrics, TransitionLabels};
use super::store::{LayerFolder, Unkept};
use crate::clock::Clock;
use crate::news::{Bus, topic};
use gavel_kernel::json::sha256_hex;
use kasmina::govern::{Command, Order, Ruling, Tamiyo, Transition};
use kasmina::layer::Layer;
use kasmina::observe::{Evaluation, TaskSignals};
use kasmina::report::{EpochReport, FieldReport, Rollback};
use kasmina::state::Lifecycle;
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

/// What a layer works with.
pub(super) struct Worker {
    pub(super) layer: Layer,
    pub(super) definition: Definition,
    pub(super) tamiyo: Box<dyn Tamiyo + Send>,
    pub(super) governor: KernelGovernor,
    pub(super) folder: LayerFolder,
    pub(super) library: SharedLibrary,
    pub(super) bus: Bus,
    pub(super) clock: Clock,
    pub(super) metrics: LayerMetrics,
    /// SHA-256 of the layer as it was saved last.
    pub(super) boundary: Option<String>,
    /// The last health report, as JSON.
    pub(super) health: Option<Arc<str>>,
    /// Rollbacks that were told when they happened: a boundary reports them once more.
    pub(super) told: Vec<Rollback>,
}

/// What the host network says at the end of an epoch.
#[derive(Debug, Clone, Default)]
pub struct EpochSignals {
    /// How the task fares.
    pub task: TaskSignals,
    /// What was measured of seeds.
    pub evaluations: BTreeMap<usize, Evaluation>,
}

/// What an epoch boundary did.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Boundary {
    /// Which layer.
    pub layer_id: String,
    /// The epoch that ended.
    pub epoch: u64,
    /// What was asked to change, and the rulings.
    pub transitions: Vec<Judged>,
    /// Commands that the layer did not take on, or that lapsed.
    pub refused: Vec<Value>,
    /// Why Tamiyo ordered nothing, if it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tamiyo_error: Option<String>,
    /// How seeds fared that ended.
    pub field_reports: Vec<FieldReport>,
    /// Seeds that were put back since the last boundary.
    pub rollbacks: Vec<Rollback>,
    /// SHA-256 of the layer as it was saved.
    pub boundary_sha256: String,
}

type Done<T> = Result<T, KasminaError>;

impl Worker {
    fn id(&self) -> &str {
        &self.definition.config.id
    }

    /// One pass; its output. Counts for the epoch's telemetry.
    pub(super) fn forward(&mut self, x: &[f32], rows: usize) -> Done<Vec<f32>> {
        let mut y = vec![0.0; x.len()];
        let begun = Instant::now();
        self.layer.forward(x, rows, &mut y)?;
        let labels = LayerLabels { layer: self.id().to_owned() };
        self.metrics.forward_seconds.get_or_create(&labels).observe(begun.elapsed().as_secs_f64());
        Ok(y)
    }

    /// One pass that leaves no trace.
    pub(super) fn infer(&mut self, x: &[f32], rows: usize) -> Done<Vec<f32>> {
        let mut y = vec![0.0; x.len()];
        self.layer.infer(x, rows, &mut y)?;
        Ok(y)
    }

    /// The gradient of the input; those of the weights are kept for the step that may follow.
    pub(super) fn backward(&mut self, x: &[f32], rows: usize, dy: &[f32], step: bool) -> Done<Vec<f32>> {
        let mut dx = vec![0.0; x.len()];
        self.layer.backward(x, rows, dy, &mut dx)?;
        if step {
            self.layer.step().map_err(|why| self.half("the backward pass", why))?;
        }
        Ok(dx)
    }

    /// One step of training apart, on a clean input; after a pass on it that may have `counted`.
    pub(super) fn nourish(&mut self, x: &[f32], rows: usize, counted: bool) -> Done<()> {
        let fed = self.layer.nourish(x, rows);
        if counted { fed.map_err(|why| self.half("the forward pass", why)) } else { Ok(fed?) }
    }

    fn half(&self, done: &'static str, why: kasmina::Error) -> KasminaError {
        KasminaError::Half { layer: self.id().to_owned(), done, why }
    }

    /// End the epoch.
    pub(super) fn end_epoch(&mut self, signals: &EpochSignals) -> Done<Boundary> {
        // What is refused changes nothing: all of it is checked before any of it is taken.
        for (&seed, evaluation) in &signals.evaluations {
            self.layer.check_evaluation(seed, *evaluation)?;
        }
        let mut before = self.layer.save();
        let done = self.try_epoch(signals, &mut before);
        if done.is_err() {
            self.put_back(&before);
        }
        done
    }

    /// `before` becomes the layer after a rollback on the way: that is on disk and on record, and is not undone.
    fn try_epoch(&mut self, signals: &EpochSignals, before: &mut Vec<u8>) -> Done<Boundary> {
        for (&seed, evaluation) in &signals.evaluations {
            self.layer.evaluate(seed, *evaluation)?;
        }
        let observation = self.layer.observe(signals.task);
        let (orders, tamiyo_error) = match self.tamiyo.decide(&observation) {
            Ok(orders) => (orders, None),
            Err(why) => {
                tracing::error!(layer = self.id(), why, "tamiyo cannot say what to do: nothing is ordered");
                (Vec::new(), Some(why))
            }
        };
        let mut refused = Vec::new();
        for order in orders {
            let (id, seed) = (order.id.clone(), order.seed);
            let message = KasminaCommand::of(self.id(), &order);
            self.tell(topic::COMMANDS, "tamiyo", Some(&id), &with_id(&message, &id));
            match self.take_on(order, &id) {
                Ok(Some(settled)) => *before = settled,
                Ok(None) => {}
                Err(why) => refused.push(json!({"command_id": id, "seed": seed, "reason": why.to_string()})),
            }
        }
        let health = self.health_report();
        let report = self.layer.end_epoch(signals.task, &mut self.governor);
        let report = report.inspect_err(|why| drop(self.governor.settle(Err(why.to_string()))))?;
        let (boundary_sha256, _) = self.settle(before)?;
        refused.extend(
            report
                .lapsed
                .iter()
                .map(|lapsed| json!({"command_id": lapsed.command_id, "seed": lapsed.seed, "reason": lapsed.reason})),
        );
        let transitions: Vec<Judged> = report.transitions.iter().map(|(what, ruling)| judged(what, ruling)).collect();
        self.tell_epoch(signals.task, &report, &transitions, &health);
        Ok(Boundary {
            layer_id: self.id().to_owned(),
            epoch: report.epoch,
            transitions,
            refused,
            tamiyo_error,
            field_reports: report.field_reports,
            rollbacks: report.rollbacks,
            boundary_sha256,
        })
    }

    /// Save the layer, then have it recorded that what was allowed has landed; what was saved, and its digest. Where that
    /// fails, the disk has the layer as it was `before`, or the layer's thread ends.
    fn settle(&mut self, before: &[u8]) -> Done<(String, Vec<u8>)> {
        let now = self.layer.save();
        let library = self.library.keep().map_err(|why| Unkept::AsBefore { why, written: None });
        match library.and_then(|()| self.folder.keep(&now, before)) {
            Ok(digest) => {
                self.boundary = Some(digest.clone());
                // What is not on record as told is in the log; the layer has changed all the same.
                self.governor.settle(Ok(()));
                Ok((digest, now))
            }
            Err(Unkept::AsBefore { why, written }) => {
                let why = why.to_string();
                self.boundary = written.or(self.boundary.take());
                self.governor.settle(Err(format!("the layer could not be saved: {why}")));
                Err(KasminaError::NotKept { layer: self.id().to_owned(), why })
            }
            Err(Unkept::Unknown(why)) => {
                // Neither can be told: the next start takes up what lies there, and says what that is.
                tracing::error!(layer = self.id(), %why, "it is not known which boundary of the layer is on disk");
                self.governor.abandon();
                panic!("layer {}: it is not known which boundary is on disk: {why}", self.id());
            }
        }
    }

    fn put_back(&mut self, before: &[u8]) {
        if let Err(why) = self.layer.restore(before) {
            // A layer that is not what it should be must not go on.
            tracing::error!(layer = self.id(), %why, "the layer cannot be put back to what it was");
            panic!("layer {} cannot be put back to what it was: {why}", self.id());
        }
    }

    /// Take a command on, or carry a rollback out; then tell what came of it.
    pub(super) fn command(&mut self, command: &KasminaCommand, id: &str, unique: &str, trace: &str) {
        let order = command.order(unique);
        let taken = self.take_on(order, id);
        let (success, error) = (taken.is_ok(), taken.err().map(|why| why.to_string()));
        let response = CommandResponse { command_id: id.to_owned(), success, timestamp: self.clock.now_ms(), error };
        self.tell(topic::RESPONSES, &format!("layer {}", self.id()), Some(trace), &json!(response));
    }

    /// For a rollback, the layer as it was saved after it.
    fn take_on(&mut self, mut order: Command, id: &str) -> Done<Option<Vec<u8>>> {
        if order.order != Order::Rollback {
            // The library's limit holds for blueprints that come this way too. The layer registers one when it lands.
            if let Some(blueprint) = &order.blueprint_ir {
                self.library.check(blueprint)?;
            }
            order.strategy = self.definition.flags.strategy(order.strategy);
            self.layer.command(order)?;
            return Ok(None);
        }
        self.roll_back(order.seed, &order.reason, id).map(Some)
    }

    /// Put a seed back at once; the layer as it then was saved. What is refused or denied changes nothing, not even what
    /// was measured of the running epoch.
    fn roll_back(&mut self, seed: usize, reason: &str, trace: &str) -> Done<Vec<u8>> {
        let before = self.layer.save();
        let (epoch, from) = (self.layer.epoch(), self.layer.state().get(seed).copied());
        let ruling = self.layer.rollback(seed, Some(trace), reason, &mut self.governor);
        let ruling = ruling.inspect_err(|why| drop(self.governor.settle(Err(why.to_string()))))?;
        let denied = denial(&ruling);
        let settled = match denied {
            None => self.settle(&before).inspect_err(|_| self.put_back(&before))?.1,
            Some(_) => before,
        };
        self.count(Lifecycle::RolledBack, &ruling);
        self.observe();
        if let (None, Some(from)) = (&denied, from) {
            let (from, checkpoint) = (from.lifecycle(), from.checkpoint);
            self.told.push(Rollback { seed, epoch, from, checkpoint, reason: reason.to_owned() });
        }
        let allowed = denied.is_none();
        let event = RollbackEvent {
            layer_id: self.id().to_owned(),
            seed,
            epoch,
            reason: reason.to_owned(),
            allowed,
            denied: denied.clone(),
        };
        self.tell(topic::ROLLBACK, &format!("layer {}", self.id()), Some(trace), &json!(event));
        denied.map_or(Ok(settled), |why| Err(KasminaError::Denied(why)))
    }

    /// Take the place of the layer by a checkpoint of it, if the kernel allows.
    pub(super) fn restore(&mut self, checkpoint: &[u8], who: &str) -> Done<Value> {
        let to = self.layer.check_saved(checkpoint)?;
        let (epoch, digest) = (self.layer.epoch(), sha256_hex(checkpoint));
        let ruled = self.governor.rule(vec![restoring(self.id(), epoch, to, &digest, who)]);
        match ruled.first() {
            Some(Ruling::Allowed) => {}
            Some(Ruling::Denied(why)) => return Err(KasminaError::Denied(why.clone())),
            None => return Err(KasminaError::Denied("no ruling was given".into())),
        }
        let before = self.layer.save();
        self.layer.restore(checkpoint).inspect_err(|why| drop(self.governor.settle(Err(why.to_string()))))?;
        let (digest, _) = self.settle(&before).inspect_err(|_| self.put_back(&before))?;
        self.observe();
        Ok(json!({"layer_id": self.id(), "epoch": to, "epoch_before": epoch, "boundary_sha256": digest}))
    }

    /// What the layer is.
    pub(super) fn status(&self) -> Value {
        let stages = Lifecycle::ALL.into_iter().zip(self.counts());
        let stages: BTreeMap<&str, usize> =
            stages.filter(|(_, count)| *count > 0).map(|(stage, count)| (stage.name(), count)).collect();
        json!({
            "layer_id": self.id(),
            "epoch": self.layer.epoch(),
            "boundary_sha256": self.boundary,
            "device": self.layer.device(),
            "seeds_by_stage": stages,
            "config": self.layer.config(),
            "tamiyo": self.definition.tamiyo,
        })
    }

    fn counts(&self) -> [usize; 11] {
        let mut counts = [0; 11];
        for state in self.layer.state() {
            counts[state.lifecycle() as usize] += 1;
        }
        counts
    }

    /// So many seeds of `stage`, or of all, from one number on; and the number where the next page begins.
    pub(super) fn seeds(&self, stage: Option<Lifecycle>, from: usize, limit: usize) -> Value {
        let all: Range<usize> = 0..self.layer.state().len();
        let wanted = |seed: &usize| stage.is_none_or(|stage| self.layer.state()[*seed].lifecycle() == stage);
        let mut found = all.skip(from).filter(wanted);
        let seeds: Vec<Value> = found.by_ref().take(limit).map(|seed| self.seed(seed)).collect();
        json!({"seeds": seeds, "next": found.next()})
    }

    /// One seed, with what its gate says.
    pub(super) fn one_seed(&self, seed: usize) -> Done<Value> {
        let count = self.layer.state().len();
        if seed >= count {
            return Err(kasmina::Error::NoSeed { layer: self.id().to_owned(), seed, last: count - 1 }.into());
        }
        let mut told = self.seed(seed);
        let view = self.layer.observe_seed(seed);
        told["gate"] = json!(view.as_ref().map(|view| &view.gate));
        told["telemetry"] = json!(view.as_ref().map(|view| &view.telemetry));
        told["evaluation"] = json!(view.as_ref().and_then(|view| view.evaluation));
        told["row"] = json!(self.layer.state()[seed].row());
        Ok(told)
    }

    fn seed(&self, seed: usize) -> Value {
        let state = &self.layer.state()[seed];
        let blueprint = usize::try_from(state.blueprint).ok();
        let blueprint = blueprint.and_then(|at| Some(self.layer.view().blueprints.get(at)?.id()));
        json!({
            "seed": seed,
            "stage": state.lifecycle(),
            "previous_stage": state.parent(),
            "epochs_in_state": state.epochs_in_state,
            "blueprint_id": blueprint,
            "strategy": self.library.strategy(state.strategy),
            "alpha": self.layer.alpha()[seed],
            "evaluation_score": state.evaluation_score(),
            "errors": state.errors,
            "weights": self.layer.weights(seed).len(),
        })
    }

    fn health_report(&self) -> LayerHealthReport {
        let stages = self.layer.state().iter().enumerate();
        let telemetry = self.layer.telemetry();
        // Without a pass there is nothing to tell of any seed.
        let measured = telemetry.seeds.iter().copied().enumerate().filter(|_| telemetry.rows > 0);
        LayerHealthReport {
            layer_id: self.id().to_owned(),
            epoch: self.layer.epoch(),
            rows: telemetry.rows,
            health_metrics_by_seed: measured.collect(),
            seed_states: stages
                .map(|(seed, state)| SeedStage {
                    seed,
                    stage: state.lifecycle(),
                    epochs_in_state: state.epochs_in_state,
                    alpha: self.layer.alpha()[seed],
                })
                .collect(),
        }
    }

    fn tell_epoch(
        &mut self,
        task: TaskSignals,
        report: &EpochReport,
        transitions: &[Judged],
        health: &LayerHealthReport,
    ) {
        let sender = format!("layer {}", self.id());
        for (transition, ruling) in &report.transitions {
            self.count(transition.to, ruling);
        }
        self.observe();
        // Numbers, stages and their names: they have a JSON form.
        let health: Arc<str> = serde_json::to_string(health).unwrap_or_default().into();
        self.health = Some(Arc::clone(&health));
        let TaskSignals { loss, metric } = task;
        let (layer_id, epoch) = (self.id().to_owned(), report.epoch);
        let trace = format!("{layer_id}.{epoch}");
        for rollback in &report.rollbacks {
            if self.told.contains(rollback) {
                continue;
            }
            let Rollback { seed, epoch, reason, .. } = rollback.clone();
            let event = RollbackEvent { layer_id: layer_id.clone(), seed, epoch, reason, allowed: true, denied: None };
            self.tell(topic::ROLLBACK, &sender, Some(&trace), &json!(event));
        }
        self.told.clear();
        self.tell_fields(report, &sender, &trace);
        self.tell_text(topic::SEED_HEALTH, &sender, Some(&trace), health.to_string());
        let event = EpochEvent { layer_id, epoch, loss, metric, transitions: transitions.to_vec() };
        self.tell(topic::EPOCH, &sender, Some(&trace), &json!(event));
    }

    /// Tell the field reports, and have Karn learn from the boundary.
    fn tell_fields(&self, report: &EpochReport, sender: &str, trace: &str) {
        for field in &report.field_reports {
            if self.definition.flags.messages
                && let Err(why) = self.bus.publish(news(sender, topic::FIELD_REPORTS, Some(trace)), field)
            {
                tracing::error!(layer = self.id(), blueprint = field.blueprint_id, %why, "a field report is lost");
            }
        }
        if let Err(why) = self.library.learn(&self.bus.fresh_id(), report) {
            tracing::error!(layer = self.id(), %why, "Karn learns nothing from a boundary");
        }
        let learnt = !report.field_reports.is_empty() || !report.landed.is_empty();
        if learnt && let Err(why) = self.library.keep() {
            tracing::error!(layer = self.id(), %why, "the records of the blueprints are not kept before the next boundary");
        }
    }

    /// News are not worth stopping a layer for: the ledger has what must not be lost.
    fn tell(&self, topic: &'static str, sender: &str, trace: Option<&str>, data: &Value) {
        self.tell_text(topic, sender, trace, data.to_string());
    }

    fn tell_text(&self, topic: &'static str, sender: &str, trace: Option<&str>, data: String) {
        // Whoever sent a command hears what came of it, with or without messages.
        if !self.definition.flags.messages && topic != topic::RESPONSES {
            return;
        }
        if let Err(why) = self.bus.publish_text(news(sender, topic, trace), data) {
            tracing::error!(layer = self.id(), topic, %why, "an event is lost");
        }
    }

    /// How many seeds are in each stage, for the metrics.
    pub(super) fn observe(&self) {
        self.metrics.observe(self.id(), &self.counts());
    }

    fn count(&self, to: Lifecycle, ruling: &Ruling) {
        let ruling = if denial(ruling).is_none() { "allowed" } else { "denied" };
        let labels = TransitionLabels { layer: self.id().to_owned(), to: to.name(), ruling };
        self.metrics.transitions.get_or_create(&labels).inc();
    }
}

fn restoring(layer: &str, epoch: u64, to: u64, digest: &str, who: &str) -> Change {
    Change {
        id: format!("kasmina.{layer}.{epoch}.restore.{}", &digest[..16]),
        tool: RESTORE,
        intent: format!("Restore layer '{layer}' from epoch {epoch} to a checkpoint of epoch {to}"),
        params: json!({
            "layer_id": layer,
            "epoch": epoch,
            "to_epoch": to,
            "checkpoint_sha256": digest,
            "ordered_by": who,
        }),
        evidence: format!("checkpoint sha256:{digest}"),
        constraints: [
            format!("all seeds of layer '{layer}'"),
            "no other layer changes by it".into(),
            "the layer is the checkpoint's, bit for bit".into(),
        ],
    }
}

/// A command's message with the id that its response will carry.
pub(super) fn with_id(message: &KasminaCommand, id: &str) -> Value {
    let mut told = json!(message);
    told["command_id"] = json!(id);
    told
}

fn judged(transition: &Transition, ruling: &Ruling) -> Judged {
    let denied = denial(ruling);
    Judged {
        command_id: transition.command_id.clone(),
        seed: transition.seed,
        from: transition.from,
        to: transition.to,
        allowed: denied.is_none(),
        denied,
    }
}

fn denial(ruling: &Ruling) -> Option<String> {
    match ruling {
        Ruling::Allowed => None,
        Ruling::Denied(why) => Some(why.clone()),
    }
}
