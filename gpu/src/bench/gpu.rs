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
    /// Microseconds of one pass.
    pub pass_us: f64,
    /// Microseconds of one copy of x into y, in the same rounds.
    pub copy_us: f64,
    /// Speed against the copy: 1 is as fast.
    pub of_copy: f64,
    /// 10⁹ bytes of x and y, each counted once, for each second.
    pub gigabytes_per_second: f64,
    /// Microseconds of bringing the telemetry together when it is read: not part of the pass. 0 without telemetry.
    pub merge_us: f64,
    /// Microseconds of the host for one pass, encoding and submission: half of them took at most this.
    pub host_us_p50: f64,
    /// Likewise 99 of 100.
    pub host_us_p99: f64,
    /// Memory of the layer beside x and y, in hundredths of both.
    pub extra_memory_percent: f64,
    /// How far y is off the reference in f64, as [`crate::check`] counts it.
    pub error_y: f64,
    /// How far the telemetry is off.
    pub error_telemetry: f64,
    /// Faster than the copy by more than the clock's noise: then the measurement is wrong.
    pub implausible: bool,
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
        let merge_us = if telemetry { self.clocked(gpu, Work::Merge, pairs)? } else { 0.0 };
        let (host_us_p50, host_us_p99) = self.overhead(gpu, pairs, telemetry)?;
        let (error_y, error_telemetry) = errors(gpu, sample, pairs[0], right, telemetry)?;
        #[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
        let bytes = (2 * 4 * self.rows * self.width) as f64;
        #[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
        let extra = gpu.layer_bytes() as f64;
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
            host_us_p50,
            host_us_p99,
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

    fn clocked(&self, gpu: &mut Gpu, work: Work, pairs: &[(&Tensor, &Tensor)]) -> Result<f64, Error> {
        let mut times = Vec::new();
        for _ in 0..self.rounds {
            times.push(gpu.time(work, pairs)?.unwrap_or(0.0) / count(pairs) * 1e6);
        }
        Ok(quantile(&mut times, 0.5))
    }

    /// Microseconds of the host for encoding and submission, the device being idle.
    fn overhead(&self, gpu: &mut Gpu, pairs: &[(&Tensor, &Tensor)], telemetry: bool) -> Result<(f64, f64), Error> {
        let mut times = Vec::new();
        for (x, y) in pairs.iter().cycle().take(self.submissions) {
            let start = Instant::now();
            gpu.forward_on(x, y, telemetry)?;
            times.push(start.elapsed().as_secs_f64() * 1e6);
            gpu.wait()?;
        }
        Ok((quantile(&mut times, 0.5), quantile(&mut times, 0.99)))
    }
}

/// Microseconds for one pair, by the device's clock or else by the host's.
fn one(gpu: &mut Gpu, work: Work, pairs: &[(&Tensor, &Tensor)], clock: &mut &'static str) -> Result<f64, Error> {
    if let Some(seconds) = gpu.time(work, pairs)? {
        return Ok(seconds / count(pairs) * 1e6);
    }
    *clock = "host";
    let start = Instant::now();
    for (x, y) in pairs {
        match work {
            Work::Copy => gpu.copy_on(x, y)?,
            Work::Forward { telemetry } => gpu.forward_on(x, y, telemetry)?,
            Work::Merge => {}
        }
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
            assert!(row.pass_us > 0.0 && row.copy_us > 0.0 && row.host_us_p99 >= row.host_us_p50, "{row:?}");
        }
    }
}
