//! What an epoch boundary costs on the host: the observation, the commands, and [`Layer::end_epoch`] with its rolling
//! checkpoint, in a layer of many seeds of which one in a hundred grows.
//!
//! The growing seeds are in TRAINING and learn between the boundaries, so that every checkpoint copies their weights
//! and optimisers anew. At every boundary a few other seeds germinate, are cancelled, and are released. Passes are not
//! counted: they run between the boundaries. One thread; times are wall time.

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
const BOUNDARIES: usize = 25;
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
    /// Median milliseconds of the observation and the commands.
    pub observe_ms: f64,
    /// Median milliseconds of the boundary itself.
    pub end_epoch_ms: f64,
    /// The longest of all three together.
    pub longest_ms: f64,
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
    let mut times = Vec::new();
    for round in 0..warm + BOUNDARIES {
        course.learn()?;
        let (took, transitions) = course.boundary(round)?;
        if round >= warm {
            times.push((took, transitions));
        }
    }
    let median = |pick: fn(&((f64, f64), usize)) -> f64| {
        let mut all: Vec<f64> = times.iter().map(pick).collect();
        all.sort_unstable_by(f64::total_cmp);
        all[all.len() / 2]
    };
    Ok(Boundary {
        seeds,
        growing: course.growing,
        transitions: times.last().map_or(0, |(_, transitions)| *transitions),
        boundaries: times.len(),
        observe_ms: median(|((observe, _), _)| *observe),
        end_epoch_ms: median(|((_, end), _)| *end),
        longest_ms: times.iter().map(|((observe, end), _)| observe + end).fold(0.0, f64::max),
    })
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

    /// One boundary: milliseconds of observation with commands, and of the end of the epoch; how much landed.
    fn boundary(&mut self, round: usize) -> Result<((f64, f64), usize), Error> {
        let begun = Instant::now();
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
        let observed = begun.elapsed();
        let report = self.layer.end_epoch(TaskSignals::default(), &mut AllowAll)?;
        let ended = begun.elapsed();
        let ms = |time: std::time::Duration| time.as_secs_f64() * 1e3;
        Ok(((ms(observed), ms(ended - observed)), report.landed.len()))
    }
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
        assert!(found.end_epoch_ms > 0.0 && found.longest_ms >= found.end_epoch_ms);
        assert!(boundary(999).is_err());
    }
}
