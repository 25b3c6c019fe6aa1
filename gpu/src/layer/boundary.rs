//! The epoch boundary, where everything lands, and the rollback, which does not wait for it.

use crate::Error;
use crate::govern::{Governor, Ruling, Transition};
use crate::layer::commands::{Pending, check_texts};
use crate::layer::trail::push_recent;
use crate::layer::{Layer, lock};
use crate::lifecycle;
use crate::observe::TaskSignals;
use crate::report::{EpochReport, Landed, Lapsed};
use crate::state::Lifecycle;
use crate::strategy::{DRIFTS_SHOWN, StrategyInput, StrategyStep};

/// A ramp this close to its end has ended: thirty thirtieths are not quite 1 in f32.
const RAMP_SLACK: f32 = 1e-5;

impl Layer {
    /// Close the epoch. In this order: trials end; waiting commands whose gate is still open go to the governor, all in
    /// one call; what the epoch measured goes to the seeds' trails; what is allowed lands; the strategies move the
    /// ramps of the seeds that were and stay in GRAFTING; alphas of culled seeds come down; a rolling checkpoint is
    /// taken.
    ///
    /// # Errors
    /// If the task's loss or metric is not finite; the layer is then as before.
    pub fn end_epoch(&mut self, task: TaskSignals, governor: &mut dyn Governor) -> Result<EpochReport, Error> {
        if !task.loss.is_finite() || !task.metric.is_finite() {
            let signal = format!("task signals of epoch {}", self.epoch);
            return Err(Error::Signal { signal, problem: format!("{task:?}: loss and metric must be finite") });
        }
        self.end_trials();
        let commands = self.still_open();
        let transitions: Vec<_> = commands.iter().map(|(seed, pending)| self.transition(*seed, pending)).collect();
        let rulings = judge(governor, &transitions);
        let denied = commands.iter().zip(&rulings).filter(|(_, ruling)| **ruling != Ruling::Allowed);
        self.remembered.forget(denied.map(|((_, pending), _)| pending.command_id.as_str()));
        self.task = task;
        self.remember_epoch();
        let ramping: Vec<usize> = self.in_stage(Lifecycle::Grafting);
        let mut landed = Vec::new();
        for ((seed, pending), ruling) in commands.into_iter().zip(&rulings) {
            if *ruling == Ruling::Allowed {
                landed.extend(self.land(seed, pending));
            }
        }
        self.ramp(&ramping);
        let active: Vec<usize> = self.store.active.iter().copied().collect();
        landed.extend(active.into_iter().filter_map(|seed| self.withdraw(seed)));
        self.close(&landed);
        let news = std::mem::take(&mut self.news);
        Ok(EpochReport {
            epoch: self.epoch - 1,
            transitions: transitions.into_iter().zip(rulings).collect(),
            landed,
            lapsed: news.lapsed,
            field_reports: news.field_reports,
            rollbacks: news.rollbacks,
        })
    }

    /// Put a seed back to its last checkpoint at once, whatever the minima say: weights, alpha, state and optimiser bit
    /// for bit. It no longer touches the output. A command that waits for it lapses. The field report comes with the
    /// next boundary. The governor is shown `command_id`, the id of the command that asks for it; one is made up where
    /// no command did.
    ///
    /// # Errors
    /// If there is no such seed, it is not in one of the stages from TRAINING to `FINE_TUNING`, or a text is too long.
    pub fn rollback(
        &mut self,
        seed: usize,
        command_id: Option<&str>,
        reason: &str,
        governor: &mut dyn Governor,
    ) -> Result<Ruling, Error> {
        self.check_seed(seed)?;
        let command_id = command_id.map_or_else(|| format!("rollback-{}-{seed}", self.epoch), str::to_owned);
        check_texts(&command_id, reason)?;
        self.check_transition(seed, Lifecycle::RolledBack, true)?;
        let pending = Pending {
            command_id,
            to: Lifecycle::RolledBack,
            blueprint: None,
            weights: 0,
            strategy: None,
            reason: reason.to_owned(),
        };
        let mut rulings = judge(governor, &[self.transition(seed, &pending)]);
        let ruling = rulings.swap_remove(0);
        if ruling == Ruling::Allowed {
            if let Some(waiting) = self.pending.remove(seed) {
                let reason = "the seed was rolled back".to_owned();
                self.remembered.forget(std::iter::once(waiting.command_id.as_str()));
                self.news.lapsed.push(Lapsed { command_id: waiting.command_id, seed, to: waiting.to, reason });
            }
            self.put_back(seed, pending.reason);
        }
        Ok(ruling)
    }

    /// The waiting commands, by seed; those whose gate has shut since lapse, and those whose blueprint has a name that
    /// was given away since. Slots and weights were reserved when they came.
    fn still_open(&mut self) -> Vec<(usize, Pending)> {
        let mut open = Vec::new();
        for (seed, pending) in self.pending.take() {
            let facts = self.facts(seed, true);
            let known = || match &pending.blueprint {
                Some((_, blueprint)) => lock(&self.library).blueprints.check_new(blueprint).map(drop),
                None => Ok(()),
            };
            let gate = lifecycle::check(self.mode(), &self.config.gates, &facts, pending.to);
            match gate.and_then(|()| known().map_err(|why| why.to_string())) {
                Ok(()) => open.push((seed, pending)),
                Err(reason) => {
                    self.remembered.forget(std::iter::once(pending.command_id.as_str()));
                    let lapsed = Lapsed { command_id: pending.command_id, seed, to: pending.to, reason };
                    self.news.lapsed.push(lapsed);
                }
            }
        }
        open
    }

    /// What a governor is shown of a command.
    fn transition(&self, seed: usize, pending: &Pending) -> Transition {
        let state = &self.store.state[seed];
        let strategy = pending.strategy.or(self.store.strategy(seed));
        let (id, weights) = match &pending.blueprint {
            Some((id, blueprint)) => (Some(id.as_str()), blueprint.function.weights(self.store.chunks.width_of(seed))),
            None => (self.store.blueprint_id(seed), self.store.weights[seed].len()),
        };
        Transition {
            command_id: pending.command_id.clone(),
            layer_id: self.config.id.clone(),
            seed,
            epoch: self.epoch,
            from: state.lifecycle(),
            to: pending.to,
            blueprint_id: id.map(str::to_owned),
            strategy: strategy.and_then(|at| lock(&self.library).strategies.name(at).map(str::to_owned)),
            alpha: self.trials.get(&seed).copied().unwrap_or(self.store.alpha[seed]),
            weights,
            evaluation_score: state.evaluation_score(),
            reason: pending.reason.clone(),
        }
    }

    /// Write what the epoch measured into the trails.
    fn remember_epoch(&mut self) {
        let slowest_ms = std::mem::take(&mut self.running.slowest_ms);
        let measured = self.running.telemetry.rows > 0;
        let gates = &self.config.gates;
        let (drifts, losses) = ((gates.drift_window as usize).max(DRIFTS_SHOWN), gates.stability_window as usize);
        for &seed in &self.store.active {
            let bytes = self.bytes_held(seed);
            let contributes = self.store.stage(seed).contributes();
            let Some(trail) = &mut self.store.trails[seed] else { continue };
            #[allow(clippy::cast_precision_loss, reason = "bytes of one seed")]
            trail.memory.push(bytes as f64);
            if let Some(loss) = std::mem::take(&mut trail.denoising).mean() {
                trail.denoising_loss = Some(loss);
            }
            trail.unstable = None;
            if contributes {
                self.slowest_ms[seed] = self.slowest_ms[seed].max(slowest_ms);
                push_recent(&mut trail.losses, self.task.loss, losses);
                if let Some(found) = self.running.telemetry.seeds.get(seed).filter(|_| measured) {
                    push_recent(&mut trail.drifts, found.drift, drifts);
                }
            }
        }
    }

    pub(super) fn in_stage(&self, stage: Lifecycle) -> Vec<usize> {
        self.store.active.iter().copied().filter(|&seed| self.store.stage(seed) == stage).collect()
    }

    /// Ask the strategies, and move the ramps that did not end. The library is not held while a strategy is asked.
    fn ramp(&mut self, seeds: &[usize]) {
        for &seed in seeds {
            if self.store.stage(seed) != Lifecycle::Grafting {
                continue;
            }
            let Some(input) = self.strategy_input(seed) else { continue };
            let strategy = self.store.strategy(seed).and_then(|at| lock(&self.library).strategies.get(at));
            let answer = strategy.map_or(StrategyStep::HOLD, |strategy| strategy.step(&input));
            let gates = &self.config.gates;
            let Some(trail) = &mut self.store.trails[seed] else { continue };
            trail.baseline_loss.get_or_insert(self.task.loss);
            let paused = trail.pause_left > 0;
            trail.pause_left = trail.pause_left.saturating_sub(1).max(answer.pause);
            if paused {
                continue;
            }
            // What is no number adds nothing: `max` takes the other one.
            let raised = trail.progress + answer.add.max(0.0).min(input.unit() * gates.ramp_step_max);
            trail.progress = if raised >= 1.0 - RAMP_SLACK { 1.0 } else { raised };
            self.store.alpha[seed] = self.config.easing.alpha(trail.progress);
            self.changes.mark(seed);
        }
    }

    /// What a strategy is shown; nothing where the ramp is complete.
    fn strategy_input(&self, seed: usize) -> Option<StrategyInput> {
        let trail = self.store.trails[seed].as_deref().filter(|trail| trail.progress < 1.0)?;
        let shown = trail.drifts.len().saturating_sub(DRIFTS_SHOWN);
        Some(StrategyInput {
            seed,
            alpha: trail.progress,
            steps: self.config.gates.ramp_steps,
            epochs_in_state: u32::try_from(self.store.state[seed].epochs_in_state).unwrap_or(0),
            task_loss: self.task.loss,
            drifts: trail.drifts[shown..].to_vec(),
            gradient_norm: trail.gradient_norm,
            baseline_loss: trail.baseline_loss,
            pause_left: trail.pause_left,
        })
    }

    /// Count the epoch, and take its checkpoint.
    fn close(&mut self, landed: &[Landed]) {
        for state in &mut self.store.state {
            state.epochs_in_state = state.epochs_in_state.saturating_add(1);
        }
        for landed in landed {
            self.store.state[landed.seed].epochs_in_state = 0;
        }
        for gradients in &mut self.running.gradients {
            gradients.clear();
        }
        self.running.lesson = 0;
        std::mem::swap(&mut self.running.telemetry, &mut self.running.last);
        self.running.telemetry.rows = 0;
        let number = i32::try_from(self.epoch).unwrap_or(i32::MAX);
        let growing: Vec<usize> = self.growing().collect();
        self.ring.take(number, &mut self.store, growing.into_iter());
        self.epoch += 1;
    }

    /// The seeds that could be rolled back.
    fn growing(&self) -> impl Iterator<Item = usize> {
        self.store.active.iter().copied().filter(|&seed| self.grows(seed))
    }

    pub(super) fn grows(&self, seed: usize) -> bool {
        lifecycle::targets(self.config.mode, self.store.stage(seed)).contains(&Lifecycle::RolledBack)
    }
}

/// One ruling for each transition: a missing one is a denial. Where there is nothing to judge nobody is asked.
fn judge(governor: &mut dyn Governor, transitions: &[Transition]) -> Vec<Ruling> {
    if transitions.is_empty() {
        return Vec::new();
    }
    let mut rulings = governor.judge(transitions);
    rulings.resize(transitions.len(), Ruling::Denied("the governor gave no ruling".to_owned()));
    rulings
}
