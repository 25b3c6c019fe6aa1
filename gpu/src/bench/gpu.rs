//! The GPU's rows: forward passes over tensors that stay on the device, against a copy of the same tensors by quads.
//!
//! How it is measured: pairs of x and y are used in rotation, so that caches do not answer; copy and pass take turns, and
//! each figure is the median of its rounds; time is the device's own where it has a clock, else the host's from submission
//! to completion. Every byte of x and y is counted once, from rows × width. The error is of the same run's y and telemetry.

use crate::Error;
use crate::backend::{Backend, Changed};
use crate::blueprint::Function;
use crate::check::{Case, Mix, Sample};
use crate::gpu::{Gpu, Tensor, Work};
use crate::reference;
use crate::telemetry::Telemetry;
use std::time::Instant;

/// What is measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bench {
    /// Rows of the batch.
    pub rows: usize,
    /// Columns of the layer.
    pub width: usize,
    /// Columns of each chunk, one after the other.
    pub chunks: Vec<usize>,
    /// Hidden values of the adapter that computing seeds have.
    pub rank: usize,
    /// Pairs of tensors in rotation.
    pub pairs: usize,
    /// Rounds of which the median is taken.
    pub rounds: usize,
    /// Submissions whose cost to the host is measured.
    pub submissions: usize,
}

impl Default for Bench {
    /// The reference shape.
    fn default() -> Self {
        Self { rows: 1024, width: 4096, chunks: vec![4, 64], rank: 16, pairs: 8, rounds: 21, submissions: 300 }
    }
}

/// One line of the result.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Row {
    /// The adapter.
    pub adapter: String,
    /// Rows, columns, seeds.
    pub shape: [usize; 3],
    /// The share of seeds that compute, in hundredths.
    pub computing_percent: u32,
    /// The kernel that served.
    pub kernel: String,
    /// Whether telemetry was gathered.
    pub telemetry: bool,
    /// Whose clock: `device` or `host`.
    pub clock: &'static str,
    /// Microseconds of one pass: with the marks cleared before, and with telemetry brought together after.
    pub pass_us: f64,
    /// Microseconds of one copy of x into y, in the same rounds.
    pub copy_us: f64,
    /// Speed against the copy: 1 is as fast.
    pub of_copy: f64,
    /// 10⁹ bytes of x and y, each counted once, for each second.
    pub gigabytes_per_second: f64,
    /// Of [`Self::pass_us`], what bringing the telemetry together takes. Nothing without telemetry, or without a clock of
    /// the device.
    pub merge_us: Option<f64>,
    /// With telemetry: how much longer the pass takes than without, in hundredths.
    pub telemetry_percent: Option<f64>,
    /// Microseconds of the host for one pass, encoding and submission: half of them took at most this.
    pub host_us_p50: f64,
    /// Likewise 99 of 100.
    pub host_us_p99: f64,
    /// From the start of encoding to the end of the wait, less [`Self::pass_us`]: 99 of 100 took at most this.
    pub host_wait_us_p99: f64,
    /// All memory on the device beside the tensors, in hundredths of x and y: table, weights, telemetry, scratch of steps
    /// and what findings are read through. Gradients are not among it: they take memory from the first backward pass on.
    pub extra_memory_percent: f64,
    /// How far y is off the reference in f64, as [`crate::check`] counts it.
    pub error_y: f64,
    /// How far the telemetry is off.
    pub error_telemetry: f64,
    /// Faster than the copy by more than the clock's noise: then the measurement is wrong.
    pub implausible: bool,
}

/// The goals, by share of the copy's speed: where at most 30 % of the seeds compute; where all do in chunks narrower than
/// [`WIDE_CHUNK`]; where all do in wider ones.
const OF_COPY_MIN: [f64; 3] = [0.85, 0.6, 0.8];
/// Columns from which a chunk is wide.
const WIDE_CHUNK: usize = 16;
/// Hundredths that telemetry may add.
const TELEMETRY_PERCENT_MAX: f64 = 3.0;
/// Microseconds of the host for one pass.
const HOST_US_MAX: f64 = 30.0;
/// The same with the wait.
const HOST_WAIT_US_MAX: f64 = 100.0;
/// Hundredths of x and y.
const EXTRA_MEMORY_PERCENT_MAX: f64 = 5.0;

impl Row {
    /// The goals that this row misses, each with its figure. They are of a GPU made of hardware.
    #[must_use]
    pub fn missed(&self) -> Vec<String> {
        let [_, width, seeds] = self.shape;
        let of_copy = OF_COPY_MIN[match self.computing_percent {
            0..=30 => 0,
            _ if width / seeds < WIDE_CHUNK => 1,
            _ => 2,
        }];
        let mut missed = Vec::new();
        if self.of_copy < of_copy {
            missed.push(format!("{:.2} of copy, at least {of_copy}", self.of_copy));
        }
        let limits = [
            ("telemetry %", self.telemetry_percent.unwrap_or(0.0), TELEMETRY_PERCENT_MAX),
            ("host µs", self.host_us_p99, HOST_US_MAX),
            ("host µs with the wait", self.host_wait_us_p99, HOST_WAIT_US_MAX),
            ("extra memory %", self.extra_memory_percent, EXTRA_MEMORY_PERCENT_MAX),
        ];
        let above = limits.iter().filter(|(_, found, most)| found > most);
        missed.extend(above.map(|(what, found, most)| format!("{found:.1} {what}, at most {most}")));
        missed
    }
}

/// A pass that beats the copy by more than this is no measurement.
const NOISE: f64 = 1.05;

impl Bench {
    /// Measure all rows; `observer` sees each as it comes.
    ///
    /// # Errors
    /// If the device fails, or the chunks do not tile the layer.
    pub fn run(&self, gpu: &mut Gpu, observer: &mut dyn FnMut(&Row)) -> Result<Vec<Row>, Error> {
        let mut rows = Vec::new();
        for &chunk in &self.chunks {
            if chunk == 0 || !self.width.is_multiple_of(chunk) {
                return Err(Error::Tiling { width: self.width, seeds: self.width / chunk.max(1), least: 1 });
            }
            let adapter = Function::Adapter { rank: self.rank };
            for (percent, mix) in [(0, Mix::Dormant), (30, Mix::Share(0.3, adapter)), (100, Mix::All(adapter))] {
                let seeds = self.width / chunk;
                let case = Case { width: self.width, seeds, rows: self.rows, mix, offset: 0.0, random_seed: 1 };
                for row in self.measure(gpu, &case, percent)? {
                    observer(&row);
                    rows.push(row);
                }
            }
        }
        Ok(rows)
    }

    fn measure(&self, gpu: &mut Gpu, case: &Case, percent: u32) -> Result<Vec<Row>, Error> {
        let sample = case.make();
        let columns: usize = (0..case.seeds).map(|seed| sample.chunks.width_of(seed)).sum();
        assert_eq!(columns, self.width, "the chunks tile the layer");
        gpu.load(&sample.view(), Changed::All)?;
        let mut tensors = Vec::new();
        for _ in 0..self.pairs {
            tensors.push((gpu.tensor(self.rows)?, gpu.tensor(self.rows)?));
        }
        for (x, _) in &tensors {
            gpu.upload(x, &sample.x)?;
        }
        let pairs: Vec<_> = tensors.iter().map(|(x, y)| (x, y)).collect();
        let right = reference::forward(&sample.view(), &sample.x, self.rows);
        let mut rows = Vec::new();
        for telemetry in [false, true] {
            rows.push(self.row(gpu, &sample, &pairs, &right, percent, telemetry)?);
        }
        rows[1].telemetry_percent = Some(100.0 * (rows[1].pass_us / rows[0].pass_us - 1.0));
        tensors.into_iter().flat_map(|(x, y)| [x, y]).for_each(|tensor| gpu.recycle(tensor));
        Ok(rows)
    }

    fn row(
        &self,
        gpu: &mut Gpu,
        sample: &Sample,
        pairs: &[(&Tensor, &Tensor)],
        right: &[f64],
        percent: u32,
        telemetry: bool,
    ) -> Result<Row, Error> {
        let (clock, pass_us, copy_us) = self.speed(gpu, pairs, telemetry)?;
        let merge_us = if telemetry { self.clocked(gpu, Work::Merge, pairs)? } else { None };
        let [host_us_p50, host_us_p99, waited_us] = self.overhead(gpu, pairs, telemetry)?;
        // Before y is read, which the bench alone does.
        let tensors: u64 = pairs.iter().map(|(x, y)| x.bytes() + y.bytes()).sum();
        let extra = gpu.memory_bytes() - tensors;
        let (error_y, error_telemetry) = errors(gpu, sample, pairs[0], right, telemetry)?;
        #[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
        let bytes = (2 * 4 * self.rows * self.width) as f64;
        #[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
        let extra = extra as f64;
        Ok(Row {
            adapter: gpu.adapter().name.clone(),
            shape: [self.rows, self.width, sample.chunks.seeds()],
            computing_percent: percent,
            kernel: gpu.kernel().unwrap_or_default().to_owned(),
            telemetry,
            clock,
            pass_us,
            copy_us,
            of_copy: copy_us / pass_us,
            gigabytes_per_second: bytes / pass_us * 1e-3,
            merge_us,
            telemetry_percent: None,
            host_us_p50,
            host_us_p99,
            host_wait_us_p99: (waited_us - pass_us).max(0.0),
            extra_memory_percent: 100.0 * extra / bytes,
            error_y,
            error_telemetry,
            implausible: copy_us / pass_us > NOISE,
        })
    }

    /// The clock, and the microseconds of one pass and of one copy: medians of rounds in turn.
    fn speed(
        &self,
        gpu: &mut Gpu,
        pairs: &[(&Tensor, &Tensor)],
        telemetry: bool,
    ) -> Result<(&'static str, f64, f64), Error> {
        let (mut passes, mut copies) = (Vec::new(), Vec::new());
        let mut clock = "device";
        for round in 0..=self.rounds {
            let copy = one(gpu, Work::Copy, pairs, &mut clock)?;
            let pass = one(gpu, Work::Forward { telemetry }, pairs, &mut clock)?;
            // The first round warms up.
            if round > 0 {
                copies.push(copy);
                passes.push(pass);
            }
        }
        Ok((clock, quantile(&mut passes, 0.5), quantile(&mut copies, 0.5)))
    }

    fn clocked(&self, gpu: &mut Gpu, work: Work, pairs: &[(&Tensor, &Tensor)]) -> Result<Option<f64>, Error> {
        let mut times = Vec::new();
        for _ in 0..self.rounds {
            let Some(seconds) = gpu.time(work, pairs)? else { return Ok(None) };
            times.push(seconds / count(pairs) * 1e6);
        }
        Ok(Some(quantile(&mut times, 0.5)))
    }

    /// Microseconds of the host for encoding and submission, the device being idle: half and 99 of 100; and 99 of 100
    /// with the wait.
    fn overhead(&self, gpu: &mut Gpu, pairs: &[(&Tensor, &Tensor)], telemetry: bool) -> Result<[f64; 3], Error> {
        let (mut times, mut waited) = (Vec::new(), Vec::new());
        for (x, y) in pairs.iter().cycle().take(self.submissions) {
            let start = Instant::now();
            gpu.forward_on(x, y, telemetry)?;
            times.push(start.elapsed().as_secs_f64() * 1e6);
            gpu.wait()?;
            waited.push(start.elapsed().as_secs_f64() * 1e6);
        }
        Ok([quantile(&mut times, 0.5), quantile(&mut times, 0.99), quantile(&mut waited, 0.99)])
    }
}

/// Microseconds for one pair, by the device's clock or else by the host's.
fn one(gpu: &mut Gpu, work: Work, pairs: &[(&Tensor, &Tensor)], clock: &mut &'static str) -> Result<f64, Error> {
    if let Some(seconds) = gpu.time(work, pairs)? {
        return Ok(seconds / count(pairs) * 1e6);
    }
    *clock = "host";
    let start = Instant::now();
    for pair in pairs {
        gpu.submit(work, *pair)?;
    }
    gpu.wait()?;
    Ok(start.elapsed().as_secs_f64() / count(pairs) * 1e6)
}

fn errors(
    gpu: &mut Gpu,
    sample: &Sample,
    (x, y): (&Tensor, &Tensor),
    right: &[f64],
    telemetry: bool,
) -> Result<(f64, f64), Error> {
    // So that nothing of an earlier pass is taken for this one's.
    gpu.upload(y, &vec![f32::NAN; sample.x.len()])?;
    gpu.forward_on(x, y, telemetry)?;
    let found: Telemetry = gpu.result()?.1.unwrap_or_default();
    let mut values = vec![0.0; sample.x.len()];
    gpu.download(y, &mut values)?;
    let error_telemetry = if telemetry { sample.telemetry_off(&values, &found).unwrap_or(f64::INFINITY) } else { 0.0 };
    Ok((sample.off(&values, right), error_telemetry))
}

#[allow(clippy::cast_precision_loss, reason = "a handful")]
fn count(pairs: &[(&Tensor, &Tensor)]) -> f64 {
    pairs.len() as f64
}

/// The value below which this share of all lies.
#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a short list")]
fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = (share * values.len() as f64).ceil() as usize;
    values.get(at.saturating_sub(1)).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::Options;

    #[test]
    fn quantiles_are_values_of_the_list() {
        let mut values: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        let found = [quantile(&mut values, 0.5), quantile(&mut values, 0.99), quantile(&mut [], 0.5)];
        assert_eq!(found.map(f64::to_bits), [50.0_f64, 99.0, 0.0].map(f64::to_bits));
    }

    #[test]
    fn a_small_bench_gives_every_row_with_its_error() {
        let Ok(mut gpu) = Gpu::new(Options { software: true, ..Options::default() }) else {
            println!("NOT TESTED: no Vulkan adapter");
            return;
        };
        let bench = Bench { rows: 33, width: 64, chunks: vec![4, 16], pairs: 8, rounds: 1, submissions: 3, rank: 16 };
        let rows = bench.run(&mut gpu, &mut |_| {}).unwrap();
        assert_eq!(rows.len(), 2 * 3 * 2);
        for row in rows {
            assert!(row.error_y <= 1e-6 && row.error_telemetry <= 1e-5, "{row:?}");
            assert_eq!(row.telemetry_percent.is_some(), row.telemetry);
            let of_copy = row.missed().iter().any(|goal| goal.contains("of copy"));
            assert!(!of_copy || row.of_copy < 0.85, "{row:?}");
            assert!(row.pass_us > 0.0 && row.copy_us > 0.0 && row.host_us_p99 >= row.host_us_p50, "{row:?}");
        }
    }
}
