//! What a change of stage does to a seed. By now it was checked and allowed.

use crate::adam::Adam;
use crate::blueprint::Outcome;
use crate::checkpoint::Snapshot;
use crate::layer::commands::Pending;
use crate::layer::trail::{Moments, Trail, Withdrawal};
use crate::layer::{Layer, lock};
use crate::report::{FieldEvaluation, FieldReport, Landed, Lapsed, Rollback};
use crate::state::Lifecycle;

/// Bytes of a weight, of its gradient, and of its two moments.
const BYTES_PER_WEIGHT: usize = 4;
const BYTES_PER_MOMENTS: usize = 8;

impl Layer {
    /// Do what a command asks; what landed, if anything did yet.
    pub(super) fn land(&mut self, seed: usize, pending: Pending) -> Option<Landed> {
        let (from, to) = (self.store.stage(seed), pending.to);
        match to {
            Lifecycle::Germinated => self.germinate(seed, pending)?,
            Lifecycle::Grafting => self.graft(seed, pending.strategy),
            Lifecycle::Stabilization => self.enter_fresh(seed, Lifecycle::Stabilization),
            Lifecycle::Evaluating => self.enter_fresh(seed, Lifecycle::Evaluating),
            Lifecycle::FineTuning => self.enter_fresh(seed, Lifecycle::FineTuning),
            Lifecycle::Fossilized => self.fossilize(seed),
            Lifecycle::Culled if from.contributes() && self.store.alpha[seed] > 0.0 => {
                self.begin_withdrawal(seed);
                return None;
            }
            Lifecycle::Culled => self.cull(seed),
            Lifecycle::Cancelled => self.take_out(seed, Lifecycle::Cancelled),
            Lifecycle::Dormant => self.release(seed),
            Lifecycle::RolledBack => self.put_back(seed, pending.reason),
            Lifecycle::Training => self.store.enter(seed, Lifecycle::Training),
        }
        self.changes.mark(seed);
        Some(Landed { seed, from, to })
    }

    /// A blueprint with fresh weights. It is registered now, and not before: a germination that is denied leaves the
    /// library as it was.
    fn germinate(&mut self, seed: usize, pending: Pending) -> Option<()> {
        let (id, blueprint) = pending.blueprint?;
        if let Err(why) = lock(&self.library).blueprints.add(blueprint.as_ref().clone()) {
            // Between the ruling and this, another layer gave the name away.
            let (command_id, reason) = (pending.command_id, why.to_string());
            self.remembered.forget(std::iter::once(command_id.as_str()));
            self.news.lapsed.push(Lapsed { command_id, seed, to: pending.to, reason });
            return None;
        }
        let held = self.store.blueprints.len();
        let number = self.store.number_blueprint(&id, &blueprint, self.config.blueprints_max)?;
        if self.store.blueprints.len() > held || self.config.blueprints_max == held {
            self.changes.mark_all();
        }
        let width = self.store.chunks.width_of(seed);
        let weights = blueprint.fresh_weights(width, mixed(self.config.random_seed, self.epoch, seed));
        self.store.optimisers[seed] = Adam::new(weights.len());
        self.store.put_weights(seed, weights);
        self.store.trails[seed] = Some(Box::new(Trail { germinated: self.epoch, ..Trail::default() }));
        self.store.alpha[seed] = 0.0;
        self.slowest_ms[seed] = 0.0;
        let row = &mut self.store.state[seed];
        row.blueprint = number_of(number);
        row.strategy = pending.strategy.map_or(-1, number_of);
        self.store.enter(seed, Lifecycle::Germinated);
        Some(())
    }

    /// The ramp begins at alpha 0, and the optimiser anew: the task is another teacher than the noise was.
    fn graft(&mut self, seed: usize, strategy: Option<usize>) {
        if let Some(strategy) = strategy {
            self.store.state[seed].strategy = number_of(strategy);
        }
        self.store.alpha[seed] = 0.0;
        self.store.optimisers[seed] = Adam::new(self.store.weights[seed].len());
        self.store.worn[seed] = true;
        let metric = self.task.metric;
        if let Some(trail) = &mut self.store.trails[seed] {
            trail.progress = 0.0;
            trail.pause_left = 0;
            trail.baseline_loss = None;
            trail.pre_metric = Some(metric);
            trail.gradient_norm = 0.0;
            trail.gradient_norms = Moments::default();
        }
        self.enter_fresh(seed, Lifecycle::Grafting);
    }

    /// Enter a stage whose gate asks for measurements that are made in it.
    fn enter_fresh(&mut self, seed: usize, stage: Lifecycle) {
        if let Some(trail) = &mut self.store.trails[seed] {
            trail.drifts.clear();
            trail.evaluation = None;
        }
        self.store.enter(seed, stage);
    }

    /// Part of the network for good: what it would learn with is not needed any more.
    fn fossilize(&mut self, seed: usize) {
        self.report(seed, Outcome::Fossilized);
        self.store.trails[seed] = None;
        self.store.optimisers[seed] = Adam::default();
        self.store.enter(seed, Lifecycle::Fossilized);
    }

    fn begin_withdrawal(&mut self, seed: usize) {
        let steps = self.config.gates.withdrawal_epochs;
        let (from, metric) = (self.store.alpha[seed], self.task.metric);
        if let Some(trail) = &mut self.store.trails[seed] {
            trail.withdrawal = Some(Withdrawal { from, left: steps, steps, metric });
        }
    }

    /// Bring alpha down by one step; with the last one the seed is culled.
    pub(super) fn withdraw(&mut self, seed: usize) -> Option<Landed> {
        let withdrawal = self.store.trails[seed].as_mut().and_then(|trail| trail.withdrawal.as_mut())?;
        withdrawal.left = withdrawal.left.saturating_sub(1);
        let Withdrawal { from, left, steps, .. } = *withdrawal;
        #[allow(clippy::cast_precision_loss, reason = "at most a thousand steps")]
        let alpha = from * (left as f32 / steps as f32);
        self.store.alpha[seed] = alpha;
        self.changes.mark(seed);
        if left > 0 {
            return None;
        }
        let stage = self.store.stage(seed);
        self.cull(seed);
        Some(Landed { seed, from: stage, to: Lifecycle::Culled })
    }

    fn cull(&mut self, seed: usize) {
        self.report(seed, Outcome::Culled);
        self.take_out(seed, Lifecycle::Culled);
    }

    /// To CULLED or CANCELLED. Its weights are kept until the embargo is over, for whoever wants to look.
    fn take_out(&mut self, seed: usize, stage: Lifecycle) {
        self.store.alpha[seed] = 0.0;
        if let Some(trail) = &mut self.store.trails[seed] {
            trail.withdrawal = None;
            trail.progress = 0.0;
        }
        self.store.enter(seed, stage);
    }

    /// The embargo is over: nothing is left but the stage it came from.
    fn release(&mut self, seed: usize) {
        self.store.enter(seed, Lifecycle::Dormant);
        let mut row = self.store.state[seed];
        (row.blueprint, row.strategy, row.checkpoint, row.errors) = (-1, -1, -1, 0);
        row.set_evaluation_score(0.0);
        self.store.state[seed] = row;
        self.store.put_weights(seed, Vec::new());
        self.store.optimisers[seed] = Adam::default();
        self.store.trails[seed] = None;
    }

    /// To `ROLLED_BACK`: everything as in the last checkpoint, bit for bit, save the stage and its epochs. The parent
    /// is the stage at the checkpoint.
    pub(super) fn put_back(&mut self, seed: usize, reason: String) {
        let from = self.store.stage(seed);
        self.report(seed, Outcome::RolledBack);
        let life = self.store.trails[seed].as_ref().map_or(0, |trail| trail.germinated);
        if let Some(last) = self.ring.last(seed, life) {
            let Snapshot { row, alpha, weights, optimiser, trail, .. } = last;
            self.store.put_row(seed, *row);
            self.store.alpha[seed] = *alpha;
            self.store.put_weights(seed, weights.as_ref().clone());
            self.store.optimisers[seed].clone_from(optimiser);
            self.store.trails[seed] = Some(Box::new(trail.clone()));
        }
        self.trials.remove(&seed);
        if let Some(gradients) = self.running.gradients.get_mut(seed) {
            gradients.clear();
        }
        self.store.enter(seed, Lifecycle::RolledBack);
        let checkpoint = self.store.state[seed].checkpoint;
        self.news.rollbacks.push(Rollback { seed, epoch: self.epoch, from, checkpoint, reason });
        self.changes.mark(seed);
    }

    /// Write the field report of a seed that ends. The blueprint's record is [`crate::karn::Karn`]'s to write, who takes each
    /// report once however often it is delivered.
    fn report(&mut self, seed: usize, outcome: Outcome) {
        let (Some(id), Some(trail)) = (self.store.blueprint_id(seed), self.store.trails[seed].as_deref()) else {
            return;
        };
        // A withdrawal takes the seed's part out of the network: what it did was measured when the cull was ruled.
        let post_metric = trail.withdrawal.map_or(self.task.metric, |withdrawal| withdrawal.metric);
        let report = FieldReport {
            blueprint_id: id.to_owned(),
            seed_id: seed,
            pre_metric: trail.pre_metric.unwrap_or(post_metric),
            post_metric,
            outcome,
            eval: FieldEvaluation {
                max_latency_ms: f64::from(self.slowest_ms[seed]),
                avg_memory_mb: trail.memory.mean().unwrap_or(0.0) / 1e6,
                gradient_norm_variance: trail.gradient_norms.variance(),
            },
        };
        self.news.field_reports.push(report);
    }

    /// Bytes that a seed holds on the host for weights, gradients and optimiser.
    pub(super) fn bytes_held(&self, seed: usize) -> usize {
        let gradients = self.running.gradients.get(seed).map_or(0, Vec::len);
        (self.store.weights[seed].len() + gradients) * BYTES_PER_WEIGHT
            + self.store.optimisers[seed].len() * BYTES_PER_MOMENTS
    }
}

fn number_of(place: usize) -> i32 {
    i32::try_from(place).unwrap_or(-1)
}

/// One number of three, every bit of each felt by every bit of it (the finaliser of splitmix64).
fn mixed(random_seed: u64, epoch: u64, seed: usize) -> u64 {
    [random_seed, epoch, seed as u64].into_iter().fold(0, |state: u64, part| {
        let mut z = state.wrapping_add(part).wrapping_add(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    })
}
