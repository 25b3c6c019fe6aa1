//! The layer as a whole, on the reference as its backend. Here: the rig that drives a seed through its life; below,
//! one file for each thing that must hold.

mod boundary;
mod commands;
mod continuity;
mod model;
mod passes;
mod rollback;
mod saved;

use super::*;
use crate::govern::{AllowAll, Command, Governor, Order, Ruling, Transition};
use crate::lifecycle::Gates;
use crate::observe::Evaluation;
use crate::reference::Plain;
use crate::report::EpochReport;
use crate::state::Lifecycle;

/// A lifecycle short enough for a test: every minimum, window and time-out is small and different.
fn quick() -> Config {
    let gates = Gates {
        training_epochs_min: 2,
        grafting_epochs_min: 3,
        stabilization_epochs_min: 1,
        evaluating_epochs_min: 2,
        fine_tuning_epochs_min: 3,
        embargo_epochs: 2,
        training_epochs_max: 6,
        grafting_epochs_max: 12,
        stabilization_epochs_max: 10,
        evaluating_epochs_max: 7,
        fine_tuning_epochs_max: 8,
        ramp_steps: 4,
        drift_window: 2,
        stability_window: 3,
        withdrawal_epochs: 4,
        ..Gates::default()
    };
    Config { id: "tested".to_owned(), width: 23, seeds: 5, gates, training_slots: 2, ..Config::default() }
}

/// Says no to everything.
struct DenyAll;

impl Governor for DenyAll {
    fn judge(&mut self, transitions: &[Transition]) -> Vec<Ruling> {
        vec![Ruling::Denied("no".to_owned()); transitions.len()]
    }
}

/// A layer with hands to drive it.
struct Rig {
    layer: Layer,
    commands: u32,
    task: TaskSignals,
}

impl Rig {
    fn new(config: Config) -> Self {
        Self::with(config, Library::standard().shared())
    }

    fn with(config: Config, library: Arc<Mutex<Library>>) -> Self {
        let layer = Layer::new(config, library, Box::new(Plain::default()), Box::new(Plain::default())).unwrap();
        Self { layer, commands: 0, task: TaskSignals { loss: 1.0, metric: 0.5 } }
    }

    fn command(&mut self, seed: usize, order: Order) -> Command {
        self.commands += 1;
        Command {
            id: format!("command-{}", self.commands),
            seed,
            order,
            blueprint: (order == Order::Germinate).then(|| "residual_scale".to_owned()),
            blueprint_ir: None,
            strategy: None,
            reason: "tried".to_owned(),
        }
    }

    fn order(&mut self, seed: usize, order: Order) -> Result<(), Error> {
        let command = self.command(seed, order);
        self.layer.command(command)
    }

    fn epoch(&mut self) -> EpochReport {
        self.layer.end_epoch(self.task, &mut AllowAll).unwrap()
    }

    fn stage(&self, seed: usize) -> Lifecycle {
        self.layer.state()[seed].lifecycle()
    }

    fn trail(&mut self, seed: usize) -> &mut trail::Trail {
        self.layer.store.trails[seed].as_mut().unwrap()
    }

    /// Give a seed all signals that its gate waits for.
    fn satisfy(&mut self, seed: usize) {
        if let Some(trail) = &mut self.layer.store.trails[seed] {
            trail.denoising_loss = Some(0.001);
            trail.drifts = vec![0.1, 0.1];
        }
        let good = Evaluation { delta: 0.1, improvement: 0.5, error_rate: 0.0 };
        drop(self.layer.evaluate(seed, good));
    }

    /// Order it again and again, epoch by epoch, until it is there.
    fn go(&mut self, seed: usize, to: Lifecycle) {
        for _ in 0..60 {
            drop(self.order(seed, Order::to(to)));
            self.epoch();
            if self.stage(seed) == to {
                return;
            }
            if !matches!(to, Lifecycle::Culled) {
                self.satisfy(seed);
            }
        }
        panic!("seed {seed} is in {} and does not get to {to}", self.stage(seed));
    }

    /// Bring a dormant seed to a stage on its usual way.
    fn drive(&mut self, seed: usize, to: Lifecycle) {
        use Lifecycle as L;
        let way: &[L] = match to {
            L::Dormant => &[],
            L::Cancelled => &[L::Germinated, L::Cancelled],
            L::Culled => &[L::Germinated, L::Training, L::Culled],
            L::RolledBack => &[L::Germinated, L::Training, L::RolledBack],
            _ => &L::ALL[1..=usize::try_from(to.number()).unwrap()],
        };
        for &stage in way {
            if stage == L::Culled {
                self.trail(seed).denoising_loss = None;
            }
            self.go(seed, stage);
        }
    }

    /// Weights that do something.
    fn wake(&mut self, seed: usize) {
        for (at, weight) in (0_u8..).zip(&mut self.layer.store.weights[seed]) {
            *weight = 0.3 + 0.05 * f32::from(at % 11);
        }
        self.layer.store.worn[seed] = true;
        self.layer.changes.mark(seed);
    }

    /// Some rows that no two of which are alike.
    fn rows(&self, rows: usize) -> Vec<f32> {
        let width = self.layer.chunks().width();
        (0..u16::try_from(rows * width).unwrap()).map(|at| (f32::from(at) * 0.7).sin() * 2.0).collect()
    }

    fn output(&mut self, x: &[f32]) -> Vec<f32> {
        let mut y = vec![0.0; x.len()];
        let rows = x.len() / self.layer.chunks().width();
        self.layer.infer(x, rows, &mut y).unwrap();
        y
    }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// All of the layer that a refused call must leave alone.
fn fingerprint(layer: &Layer) -> (Vec<u8>, String, Vec<u32>) {
    let measured = format!("{:?} {:?}", layer.running.telemetry, layer.running.last);
    (layer.save(), measured, bits(layer.alpha()))
}
