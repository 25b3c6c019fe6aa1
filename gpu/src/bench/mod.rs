//! What a pass costs, measured honestly.
//!
//! - Bytes are counted once, from rows × width: x read, y written. Nothing else counts, whatever a pass touches.
//! - At least eight pairs of buffers are used in turn, so that no cache answers for memory.
//! - Every row stands beside a copy of x to y on as many threads, measured in turns with it; a pass that beats the best
//!   copy is a mistake of the measurement and fails the run.
//! - Every row carries its error against the reference in f64, of the very buffers of the run.
//! - Time is CPU time of all threads (on a GPU, of the kernel); wall time stands beside it.

mod boundary;
pub mod gpu;
mod measure;
mod naive;

use crate::backend::{Backend, Changed};
use crate::blueprint::Function;
use crate::check::{Case, Mix, Sample};
use crate::cpu::Cpu;
use crate::reference;
use crate::telemetry::Telemetry;
pub use boundary::{Boundary, boundary};
pub use measure::{Times, alternate};
use naive::Loop;
use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};
use serde::Serialize;

/// How many pairs of buffers are used in turn, at least.
pub const PAIRS: usize = 8;
/// How far beyond the best copy a pass may be before the run fails: what a noisy machine does.
const COPY_SLACK: f64 = 1.05;

/// What is measured.
#[derive(Debug, Clone)]
pub struct Shapes {
    /// The layers.
    pub shapes: Vec<Shape>,
    /// Rounds of all measurements in turn; the median counts.
    pub rounds: usize,
    /// Least milliseconds of a round for each measurement. CPU time is counted in ticks of some milliseconds.
    pub round_ms: f64,
    /// Whether the plain loop over seeds is measured too. It is slow.
    pub with_loop: bool,
}

/// A layer with its batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Shape {
    /// Rows of the batch.
    pub rows: usize,
    /// Columns of the layer.
    pub width: usize,
    /// Its seeds.
    pub seeds: usize,
}

impl Shapes {
    /// The shapes of the specification: B1024 H4096 with chunks of 4, B8192, and chunks of 64.
    #[must_use]
    pub fn reference() -> Self {
        let shape = |rows, seeds| Shape { rows, width: 4096, seeds };
        Self {
            shapes: vec![shape(1024, 1024), shape(8192, 1024), shape(1024, 64)],
            rounds: 11,
            round_ms: 400.0,
            with_loop: true,
        }
    }

    /// The first of them, in fewer rounds.
    #[must_use]
    pub fn quick() -> Self {
        let all = Self::reference();
        Self { shapes: all.shapes[..1].to_vec(), rounds: 5, ..all }
    }
}

impl Shape {
    /// Bytes of x and y together, each counted once.
    #[must_use]
    pub fn bytes(&self) -> usize {
        2 * 4 * self.rows * self.width
    }
}

/// A goal of the specification, and whether this row reaches it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Goal {
    /// What is demanded: `copy / pass >= 0.7`.
    pub demand: String,
    /// What was measured.
    pub found: f64,
    /// Whether it is reached.
    pub reached: bool,
}

/// One measurement.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// The backend: `cpu` or `wgpu`.
    pub backend: &'static str,
    /// What was run: `pass`, or what it is compared with.
    pub what: String,
    /// The layer.
    pub shape: Shape,
    /// Which seeds compute: `dormant`, `30 %`, `all`.
    pub mix: &'static str,
    /// Whether statistics were gathered.
    pub telemetry: bool,
    /// Threads it ran on; 0 on a GPU.
    pub threads: usize,
    /// Milliseconds of CPU, over all threads; on a GPU, of the kernel. The median.
    pub busy_ms: f64,
    /// Milliseconds that passed. The median.
    pub wall_ms: f64,
    /// Bytes of x and y over wall time.
    pub gigabytes_per_second: f64,
    /// `busy_ms` of the copy in the same run, over `busy_ms`.
    pub of_copy: f64,
    /// `wall_ms` of the copy over `wall_ms`.
    pub of_copy_wall: f64,
    /// Greatest error of y, as [`crate::check`] counts it.
    pub error_y: Option<f64>,
    /// Greatest error of the statistics.
    pub error_telemetry: Option<f64>,
    /// Memory that a pass takes beyond x, y and the weights, at most, over x + y: see [`Cpu::pass_bytes`].
    pub extra_memory: Option<f64>,
    /// Its goals.
    pub goals: Vec<Goal>,
}

impl std::fmt::Display for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Shape { rows, width, seeds } = self.shape;
        let what = format!("{}{}", self.what, if self.telemetry { " + telemetry" } else { "" });
        write!(
            f,
            "{} B{rows} H{width} S{seeds} {:<8} {what:<28} {:>8.2} ms {:>8.2} ms wall {:>6.1} GB/s {:>5.2} of copy ({:.2} wall)",
            self.backend,
            self.mix,
            self.busy_ms,
            self.wall_ms,
            self.gigabytes_per_second,
            self.of_copy,
            self.of_copy_wall
        )?;
        for (name, error) in [("y", self.error_y), ("telemetry", self.error_telemetry)] {
            if let Some(error) = error {
                write!(f, "  {name} {error:.1e}")?;
            }
        }
        if let Some(extra) = self.extra_memory {
            write!(f, "  memory +{:.1} %", 100.0 * extra)?;
        }
        for goal in &self.goals {
            write!(f, "  [{}: {:.2}{}]", goal.demand, goal.found, if goal.reached { "" } else { ", MISSED" })?;
        }
        Ok(())
    }
}

/// A layer of a bench with its buffers.
pub struct Bench {
    /// The layer and its first batch.
    pub sample: Sample,
    /// The shape.
    pub shape: Shape,
    /// Inputs, all with the same values.
    pub inputs: Vec<Vec<f32>>,
    /// Outputs.
    pub outputs: Vec<Vec<f32>>,
}

/// The mixes that are measured, and the share of the copy that the CPU is to reach with them.
pub const MIXES: [(&str, f32, f64); 3] = [("dormant", 0.0, 0.7), ("30 %", 0.3, 0.3), ("all", 1.0, 0.15)];

impl Bench {
    /// Make the layer: adapters of rank 16 on this share of the seeds.
    ///
    /// # Errors
    /// If the chunks do not tile the layer exactly.
    pub fn new(shape: Shape, part: f32) -> Result<Self, String> {
        let mix = if part == 0.0 { Mix::Dormant } else { Mix::Share(part, Function::Adapter { rank: 16 }) };
        let case = Case { width: shape.width, seeds: shape.seeds, rows: shape.rows, mix, offset: 0.0, random_seed: 1 };
        let sample = case.make();
        let tiled: usize = (0..shape.seeds).map(|seed| sample.chunks.width_of(seed)).sum();
        if tiled != shape.width {
            return Err(format!("the chunks cover {tiled} of {} columns", shape.width));
        }
        let inputs = vec![sample.x.clone(); PAIRS];
        let outputs = vec![vec![1.0; sample.x.len()]; PAIRS];
        Ok(Self { sample, shape, inputs, outputs })
    }

    /// The error of an output: of 64 rows from its beginning and 64 from its end, which are rows as any other.
    #[must_use]
    pub fn error_y(&self, y: &[f32]) -> f64 {
        let (rows, width) = (self.shape.rows, self.shape.width);
        let part = rows.min(64);
        let of = |first: usize| {
            let range = first * width..(first + part) * width;
            let part =
                Sample { rows: part, x: self.sample.x[range.clone()].to_vec(), dy: Vec::new(), ..self.sample.clone() };
            part.off(&y[range], &reference::forward(&part.view(), &part.x, part.rows))
        };
        of(0).max(of(rows - part))
    }
}

/// Measure the CPU backend.
///
/// # Errors
/// If a pass fails, if it is wrong, or if it beats the copy, which it cannot.
pub fn cpu_rows(shapes: &Shapes, threads: Option<usize>) -> Result<Vec<Row>, String> {
    let mut rows = Vec::new();
    for &shape in &shapes.shapes {
        for (mix, part, goal) in MIXES {
            rows.extend(cpu_mix(shapes, shape, mix, part, goal, threads)?);
        }
    }
    Ok(rows)
}

fn cpu_mix(
    shapes: &Shapes,
    shape: Shape,
    mix: &'static str,
    part: f32,
    goal: f64,
    threads: Option<usize>,
) -> Result<Vec<Row>, String> {
    let text = |error: crate::Error| error.to_string();
    let mut bench = Bench::new(shape, part)?;
    let mut cpu = Cpu::new(threads);
    let threads = cpu.threads();
    let pool = ThreadPoolBuilder::new().num_threads(threads).build().map_err(|error| error.to_string())?;
    let mut telemetry = Telemetry::default();
    cpu.load(&bench.sample.view(), Changed::All).map_err(text)?;
    cpu.forward(&bench.inputs[0], shape.rows, &mut bench.outputs[0], Some(&mut telemetry)).map_err(text)?;
    let extra = cpu.pass_bytes();
    let plain = Loop::new(&bench.sample);
    let (inputs, outputs) = (&bench.inputs, &mut bench.outputs);
    let times = alternate(shapes, if shapes.with_loop { 4 } else { 3 }, &mut |what, at| {
        let (x, y) = (&inputs[at % PAIRS], &mut outputs[at % PAIRS]);
        match what {
            COPY => copy(&pool, threads, x, y),
            PLAIN => drop(cpu.forward(x, shape.rows, y, None).map_err(text)?),
            WATCHED => drop(cpu.forward(x, shape.rows, y, Some(&mut telemetry)).map_err(text)?),
            _ => pool.install(|| plain.run(x, y, threads)),
        }
        Ok(())
    })?;
    let y = &mut bench.outputs[0];
    y.fill(f32::NAN);
    cpu.forward(&bench.inputs[0], shape.rows, y, Some(&mut telemetry)).map_err(text)?;
    let error_telemetry = bench.sample.telemetry_off(&bench.outputs[0], &telemetry)?;
    let error_y = bench.error_y(&bench.outputs[0]);
    let mut rows = Vec::new();
    for (what, name) in [(COPY, "copy"), (PLAIN, "pass"), (WATCHED, "pass"), (LOOP, "loop over seeds")] {
        let Some(time) = times.get(what) else { continue };
        let mut row = Row::of("cpu", name, shape, mix, threads, time, &times[COPY]);
        row.telemetry = what == WATCHED;
        if what == PLAIN || what == WATCHED {
            row.check_copy(&times[COPY])?;
            row.error_y = Some(error_y);
            row.demand("copy / pass >=", row.of_copy, goal);
        }
        if what == WATCHED {
            row.error_telemetry = Some(error_telemetry);
            let extra = ratio(extra, shape.bytes());
            row.extra_memory = Some(extra);
            row.goals.push(Goal { demand: "memory < 0.05".to_owned(), found: extra, reached: extra < 0.05 });
            let more = row.busy_ms / times[PLAIN].busy_ms() - 1.0;
            row.goals.push(Goal { demand: "telemetry <= 0.03".to_owned(), found: more, reached: more <= 0.03 });
        }
        if what == PLAIN && part > 0.0 && shapes.with_loop {
            row.demand("loop / pass >=", times[LOOP].busy_ms() / row.busy_ms, 10.0);
        }
        rows.push(row);
    }
    Ok(rows)
}

/// What is measured in turns, by number.
const COPY: usize = 0;
const PLAIN: usize = 1;
const WATCHED: usize = 2;
const LOOP: usize = 3;

#[allow(clippy::cast_precision_loss, reason = "bytes of buffers, far below 2^52")]
fn ratio(part: usize, whole: usize) -> f64 {
    part as f64 / whole as f64
}

impl Row {
    /// A row without errors and goals.
    #[must_use]
    pub fn of(
        backend: &'static str,
        what: &str,
        shape: Shape,
        mix: &'static str,
        threads: usize,
        times: &Times,
        copy: &Times,
    ) -> Self {
        Self {
            backend,
            what: what.to_owned(),
            shape,
            mix,
            telemetry: false,
            threads,
            busy_ms: times.busy_ms(),
            wall_ms: times.wall_ms(),
            gigabytes_per_second: ratio(shape.bytes(), 1_000_000) / times.wall_ms(),
            of_copy: copy.busy_ms() / times.busy_ms(),
            of_copy_wall: copy.wall_ms() / times.wall_ms(),
            error_y: None,
            error_telemetry: None,
            extra_memory: None,
            goals: Vec::new(),
        }
    }

    /// Demand at least this much.
    pub fn demand(&mut self, what: &str, found: f64, least: f64) {
        self.goals.push(Goal { demand: format!("{what} {least}"), found, reached: found >= least });
    }

    /// Fail if this is faster than the best copy of the same run.
    ///
    /// # Errors
    /// Then the measurement is wrong, and every figure of it.
    pub fn check_copy(&self, copy: &Times) -> Result<(), String> {
        let best = copy.best_busy_ms();
        if self.busy_ms * COPY_SLACK < best {
            return Err(format!(
                "{self}: faster than the best copy of this run, {best:.2} ms: the measurement is wrong, run it again"
            ));
        }
        Ok(())
    }
}

/// Copy x to y, in equal parts on all threads.
fn copy(pool: &ThreadPool, threads: usize, x: &[f32], y: &mut [f32]) {
    let part = x.len().div_ceil(threads).max(1);
    if threads == 1 {
        y.copy_from_slice(x);
    } else {
        pool.install(|| y.par_chunks_mut(part).zip(x.par_chunks(part)).for_each(|(y, x)| y.copy_from_slice(x)));
    }
}
