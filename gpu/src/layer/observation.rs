//! What the layer tells of itself, and what it is told of its seeds.

use crate::Error;
use crate::layer::{Layer, lock};
use crate::lifecycle::{self, Facts};
use crate::observe::{Evaluation, Observation, SeedView, TaskSignals};
use crate::state::Lifecycle;
use crate::strategy::Strategies;
use std::cmp::Ordering;

impl Layer {
    /// Keep what the host network measured of a seed.
    ///
    /// # Errors
    /// If there is no such seed, it is neither in EVALUATING nor in `FINE_TUNING`, or a value is not finite.
    pub fn evaluate(&mut self, seed: usize, evaluation: Evaluation) -> Result<(), Error> {
        self.check_evaluation(seed, evaluation)?;
        if let Some(trail) = &mut self.store.trails[seed] {
            trail.evaluation = Some(evaluation);
        }
        #[allow(clippy::cast_possible_truncation, reason = "the state tensor keeps the score as f32")]
        self.store.state[seed].set_evaluation_score(evaluation.delta as f32);
        Ok(())
    }

    /// Whether [`Self::evaluate`] would take this.
    ///
    /// # Errors
    /// As there.
    pub fn check_evaluation(&self, seed: usize, evaluation: Evaluation) -> Result<(), Error> {
        self.check_seed(seed)?;
        let refuse = |problem: String| Err(Error::Signal { signal: format!("evaluation of seed {seed}"), problem });
        let stage = self.store.stage(seed);
        if !matches!(stage, Lifecycle::Evaluating | Lifecycle::FineTuning) {
            return refuse(format!("it is in {stage}; only EVALUATING and FINE_TUNING seeds are evaluated"));
        }
        let Evaluation { delta, improvement, error_rate } = evaluation;
        if ![delta, improvement, error_rate].iter().all(|value| value.is_finite()) {
            return refuse(format!("{evaluation:?}: every value must be finite"));
        }
        Ok(())
    }

    /// The layer at the end of an epoch, before [`Self::end_epoch`] closes it.
    #[must_use]
    pub fn observe(&self, task: TaskSignals) -> Observation {
        let slots = self.training_slots_free();
        let library = lock(&self.library);
        let seeds = &self.store.active;
        Observation {
            layer_id: self.config.id.clone(),
            epoch: self.epoch,
            task,
            seed_count: self.store.chunks.seeds(),
            width: self.store.chunks.width(),
            seed_weights_max: self.config.seed_weights_max,
            weights_free: self.weights_free(),
            training_slots_free: slots,
            candidates: self.candidates(),
            seeds: seeds.iter().map(|&seed| self.seed_view(seed, slots > 0, &library.strategies)).collect(),
        }
    }

    /// One seed as [`Self::observe`] shows it; nothing of one that is not there, is dormant or has ended.
    #[must_use]
    pub fn observe_seed(&self, seed: usize) -> Option<SeedView> {
        let slot_free = self.training_slots_free() > 0;
        let known = self.store.active.contains(&seed);
        known.then(|| self.seed_view(seed, slot_free, &lock(&self.library).strategies))
    }

    fn seed_view(&self, seed: usize, slot_free: bool, strategies: &Strategies) -> SeedView {
        let state = &self.store.state[seed];
        let facts = self.facts(seed, slot_free);
        let trail = self.store.trails[seed].as_deref();
        SeedView {
            seed,
            stage: facts.stage,
            epochs_in_state: facts.epochs_in_state,
            blueprint_id: self.store.blueprint_id(seed).map(str::to_owned),
            strategy: self.store.strategy(seed).and_then(|at| strategies.name(at)).map(str::to_owned),
            alpha: self.store.alpha[seed],
            gate: lifecycle::gate(self.mode(), &self.config.gates, &facts),
            telemetry: self.telemetry().seeds.get(seed).copied().unwrap_or_default(),
            gradient_norm: trail.map_or(0.0, |trail| trail.gradient_norm),
            denoising_loss: facts.denoising_loss,
            evaluation: facts.evaluation,
            stability: facts.stability,
            errors: u32::try_from(state.errors).unwrap_or(0),
        }
    }

    /// What the gates look at. The epoch that runs counts as one in the stage, for whatever is asked lands at its end.
    pub(super) fn facts(&self, seed: usize, slot_free: bool) -> Facts<'_> {
        let state = &self.store.state[seed];
        let trail = self.store.trails[seed].as_deref();
        Facts {
            stage: state.lifecycle(),
            epochs_in_state: u32::try_from(state.epochs_in_state).unwrap_or(0).saturating_add(1),
            slot_free,
            progress: trail.map_or(0.0, |trail| trail.progress),
            drifts: trail.map_or(&[], |trail| &trail.drifts),
            denoising_loss: trail.and_then(|trail| trail.denoising_loss),
            evaluation: trail.and_then(|trail| trail.evaluation),
            stability: trail.map_or(0.0, |trail| lifecycle::stability(&trail.losses)),
            errors: u32::try_from(state.errors).unwrap_or(0),
            unstable: trail.and_then(|trail| trail.unstable.as_deref()),
            withdrawing: trail.is_some_and(|trail| trail.withdrawal.is_some()),
        }
    }

    /// Dormant seeds that no command waits for, by the variance of their chunk, greatest first.
    fn candidates(&self) -> Vec<usize> {
        let most = self.config.candidates_max;
        if most == 0 {
            return Vec::new();
        }
        let mut best = Vec::with_capacity((2 * most).min(self.store.chunks.seeds()));
        let measured = &self.telemetry().seeds;
        // One pass over all seeds; the list is cut down to the best whenever it is twice as long.
        let mut floor = None;
        for (seed, _) in
            self.store.state.iter().enumerate().filter(|(_, state)| state.lifecycle() == Lifecycle::Dormant)
        {
            let found = (measured.get(seed).map_or(0.0, |found| found.variance), seed);
            if floor.is_some_and(|floor| greatest_first(&floor, &found).is_le()) || self.pending.get(seed).is_some() {
                continue;
            }
            if best.len() == 2 * most {
                let (_, worst, _) = best.select_nth_unstable_by(most - 1, greatest_first);
                floor = Some(*worst);
                best.truncate(most);
            }
            best.push(found);
        }
        best.sort_unstable_by(greatest_first);
        best.truncate(most);
        best.into_iter().map(|(_, seed)| seed).collect()
    }
}

/// By variance, greatest first, then by number.
fn greatest_first(a: &(f32, usize), b: &(f32, usize)) -> Ordering {
    b.0.total_cmp(&a.0).then(a.1.cmp(&b.1))
}
