//! Time of this process, as the system counts it.

use super::Shapes;
use std::time::{Duration, Instant};

/// The rounds of one measurement.
#[derive(Debug, Clone, Default)]
pub struct Times {
    busy: Vec<f64>,
    wall: Vec<f64>,
}

impl Times {
    /// Take in a round: milliseconds for one call.
    pub fn push(&mut self, busy_ms: f64, wall_ms: f64) {
        self.busy.push(busy_ms);
        self.wall.push(wall_ms);
    }

    /// The median of the CPU time, or of the kernel's.
    #[must_use]
    pub fn busy_ms(&self) -> f64 {
        median(&self.busy)
    }

    /// The least of it.
    #[must_use]
    pub fn best_busy_ms(&self) -> f64 {
        self.busy.iter().copied().fold(f64::INFINITY, f64::min)
    }

    /// The median of the time that passed.
    #[must_use]
    pub fn wall_ms(&self) -> f64 {
        median(&self.wall)
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Measure several things in turns, so that a busy hour of the machine meets them all. `call(what, at)` does number
/// `what` once; `at` counts up, to choose the buffers by.
///
/// # Errors
/// What a call says.
pub fn alternate(
    shapes: &Shapes,
    count: usize,
    call: &mut dyn FnMut(usize, usize) -> Result<(), String>,
) -> Result<Vec<Times>, String> {
    let mut times = vec![Times::default(); count];
    let mut at = 0;
    for round in 0..=shapes.rounds {
        for (what, times) in times.iter_mut().enumerate() {
            let (cpu, begin) = (cpu_time(), Instant::now());
            let mut calls = 0_u32;
            while calls == 0 || begin.elapsed().as_secs_f64() * 1e3 < shapes.round_ms {
                call(what, at)?;
                (at, calls) = (at + 1, calls + 1);
            }
            let wall = begin.elapsed();
            let busy = cpu.zip(cpu_time()).map_or(wall, |(before, after)| after.saturating_sub(before));
            // The first round warms up.
            if round > 0 {
                let each = |time: Duration| time.as_secs_f64() * 1e3 / f64::from(calls);
                times.push(each(busy), each(wall));
            }
        }
    }
    Ok(times)
}

/// CPU time of all threads of this process (Linux; none elsewhere: wall time stands in). The system brings it up to date
/// once in some milliseconds, at a tick, so rounds must be long beside one: see [`Shapes::round_ms`].
fn cpu_time() -> Option<Duration> {
    let threads = std::fs::read_dir("/proc/self/task").ok()?;
    let spent = threads.filter_map(|thread| std::fs::read_to_string(thread.ok()?.path().join("schedstat")).ok());
    let nanos: Option<Vec<u64>> = spent.map(|text| text.split(' ').next()?.parse().ok()).collect();
    Some(Duration::from_nanos(nanos?.iter().sum()))
}
