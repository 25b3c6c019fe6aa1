//! What an epoch boundary costs on the host: the observation, the commands, and [`Layer::end_epoch`] with its rolling
//! checkpoint, in a layer of many seeds of which one in a hundred grows.
//!
//! The growing seeds are in TRAINING and learn between the boundaries, so that every checkpoint copies their weights
//! and optimisers anew. At every boundary a few other seeds germinate, are cancelled, and are released. Passes are not
//! counted: they run between the boundaries. All of it runs on one thread. Where the system tells (Linux), the means are
//! of the time that this thread had a processor, so that other work on the machine does not count; the system counts
//! that in ticks of some milliseconds, so only a mean over many boundaries says anything. Wall time stands beside it.

use crate::Error;
use crate::cpu::Cpu;
use crate::govern::{AllowAll, Command, Order};
use crate::layer::{Config, Layer, Library};
use crate::lifecycle::Gates;
use crate::observe::TaskSignals;
use serde::Serialize;
use std::time::Instant;

/// Columns of each chunk.
const CHUNK: usize = 4;
/// One seed in so many grows.
const GROWING_SHARE: usize = 100;
/// Seeds that change their stage at one boundary, in each of three ways.
const CHANGING: usize = 16;
/// Boundaries that are measured, after as many to warm up as checkpoints are kept.
const BOUNDARIES: usize = 50;
/// Rows of the batch between two boundaries.
const ROWS: usize = 2;

/// What a boundary costs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Boundary {
    /// Seeds of the layer.
    pub seeds: usize,
    /// Of these, in TRAINING.
    pub growing: usize,
    /// Transitions at each boundary.
    pub transitions: usize,
    /// Boundaries measured.
    pub boundaries: usize,
    /// Mean milliseconds of the observation and the commands.
    pub observe_ms: f64,
    /// Mean milliseconds of the boundary itself.
    pub end_epoch_ms: f64,
    /// Median milliseconds of both, of wall time.
    pub wall_ms: f64,
}

/// Measure the boundary of a layer with this many seeds (from 1,000 on, that some grow and others change).
///
/// # Errors
/// If there are too few seeds, or the layer fails.
pub fn boundary(seeds: usize) -> Result<Boundary, Error> {
    if seeds < GROWING_SHARE * 10 {
        let problem = format!("measure {} seeds at least", GROWING_SHARE * 10);
        return Err(Error::Config { key: "seeds", value: seeds.to_string(), problem });
    }
    let mut course = Course::new(seeds)?;
    let warm = course.layer.config().checkpoints_kept;
    let (mut observe_ms, mut end_epoch_ms, mut transitions) = (0.0, 0.0, 0);
    let mut walls = Vec::new();
    for round in 0..warm + BOUNDARIES {
        course.learn()?;
        let begun = Instant::now();
        let took = course.boundary(round)?;
        if round >= warm {
            observe_ms += took.observe_ms;
            end_epoch_ms += took.end_epoch_ms;
            transitions = took.transitions;
            walls.push(begun.elapsed().as_secs_f64() * 1e3);
        }
    }
    walls.sort_unstable_by(f64::total_cmp);
    #[allow(clippy::cast_precision_loss, reason = "a small count")]
    let count = BOUNDARIES as f64;
    Ok(Boundary {
        seeds,
        growing: course.growing,
        transitions,
        boundaries: BOUNDARIES,
        observe_ms: observe_ms / count,
        end_epoch_ms: end_epoch_ms / count,
        wall_ms: walls[BOUNDARIES / 2],
    })
}

/// What one boundary took.
struct Took {
    observe_ms: f64,
    end_epoch_ms: f64,
    transitions: usize,
}

/// A layer, and what is ordered of it boundary by boundary.
struct Course {
    layer: Layer,
    growing: usize,
    x: Vec<f32>,
    y: Vec<f32>,
}

impl Course {
    fn new(seeds: usize) -> Result<Self, Error> {
        let growing = seeds / GROWING_SHARE;
        let gates = Gates { training_epochs_max: u32::MAX, embargo_epochs: 1, ..Gates::default() };
        let config = Config {
            id: "measured".to_owned(),
            width: CHUNK * seeds,
            seeds,
            gates,
            training_slots: growing,
            ..Config::default()
        };
        let (backend, nursery) = (Cpu::new(Some(1)), Cpu::new(Some(1)));
        let layer = Layer::new(config, Library::standard().shared(), Box::new(backend), Box::new(nursery))?;
        let mut course = Self { layer, growing, x: batch(ROWS * CHUNK * seeds), y: vec![0.0; ROWS * CHUNK * seeds] };
        for order in [Order::Germinate, Order::Train] {
            for at in 0..growing {
                course.order(at * GROWING_SHARE, order, "begin")?;
            }
            course.layer.end_epoch(TaskSignals::default(), &mut AllowAll)?;
        }
        Ok(course)
    }

    fn order(&mut self, seed: usize, order: Order, round: &str) -> Result<(), Error> {
        self.layer.command(Command {
            id: format!("{round}-{order:?}-{seed}"),
            seed,
            order,
            blueprint: (order == Order::Germinate).then(|| "adapter".to_owned()),
            blueprint_ir: None,
            strategy: None,
            reason: String::new(),
        })
    }

    /// What happens between two boundaries.
    fn learn(&mut self) -> Result<(), Error> {
        self.layer.forward(&self.x, ROWS, &mut self.y)?;
        self.layer.nourish(&self.x, ROWS)
    }

    /// One boundary: observation and commands, and the end of the epoch.
    fn boundary(&mut self, round: usize) -> Result<Took, Error> {
        let begun = Watch::start();
        let seen = self.layer.observe(TaskSignals::default());
        let name = round.to_string();
        for seed in seen.candidates.iter().take(CHANGING) {
            self.order(*seed, Order::Germinate, &name)?;
        }
        for seed in &seen.seeds {
            let order = match seed.stage {
                crate::state::Lifecycle::Germinated => Order::Cancel,
                crate::state::Lifecycle::Cancelled if seed.epochs_in_state > 0 => Order::Release,
                _ => continue,
            };
            self.order(seed.seed, order, &name)?;
        }
        let observe_ms = begun.ms();
        let report = self.layer.end_epoch(TaskSignals::default(), &mut AllowAll)?;
        let end_epoch_ms = begun.ms() - observe_ms;
        Ok(Took { observe_ms, end_epoch_ms, transitions: report.landed.len() })
    }
}

/// The time of this thread.
struct Watch {
    begun: Instant,
    busy_ns: Option<u64>,
}

impl Watch {
    fn start() -> Self {
        Self { begun: Instant::now(), busy_ns: busy_ns() }
    }

    #[allow(clippy::cast_precision_loss, reason = "nanoseconds of a moment")]
    fn ms(&self) -> f64 {
        match (self.busy_ns, busy_ns()) {
            (Some(begun), Some(now)) => now.saturating_sub(begun) as f64 / 1e6,
            _ => self.begun.elapsed().as_secs_f64() * 1e3,
        }
    }
}

/// Nanoseconds that this thread has had a processor. Linux tells.
fn busy_ns() -> Option<u64> {
    std::fs::read_to_string("/proc/thread-self/schedstat").ok()?.split_whitespace().next()?.parse().ok()
}

/// Values that vary.
fn batch(length: usize) -> Vec<f32> {
    (0..length)
        .map(|at| {
            #[allow(clippy::cast_precision_loss, reason = "a wave need not be exact")]
            let place = (at % 10_007) as f32;
            (place * 0.37).sin()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_measured_is_what_is_said() {
        let found = boundary(1_000).unwrap();
        assert_eq!((found.seeds, found.growing, found.boundaries), (1_000, 10, BOUNDARIES));
        assert_eq!(found.transitions, 3 * CHANGING, "germinated, cancelled, released");
        assert!(found.wall_ms > 0.0 && found.end_epoch_ms >= 0.0 && found.observe_ms >= 0.0);
        assert!(boundary(999).is_err());
    }
}
