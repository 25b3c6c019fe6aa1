//! `gavel kasmina bench`: what a pass costs, each row beside a copy of the same bytes and with its error, from one run.

use super::super::Outcome;
use super::super::output::{line, note, print_json};
use super::setting::DeviceArgs;
use anyhow::{Result, anyhow, bail, ensure};
use kasmina::bench::gpu::{Bench, Row as GpuRow};
use kasmina::bench::{Row, Shape, Shapes, boundary, cpu_rows};
use kasmina::device::Preference;
use kasmina::gpu::{Gpu, Options};
use serde_json::{Value, json};

/// Measure forward passes and epoch boundaries.
///
/// Bytes are counted once from rows × columns; buffers rotate, so that no cache answers; every row carries its error
/// against the reference in f64. A pass that beats the copy of the same run is a mistake of the measurement and fails
/// it. Build with --release: an unoptimised build measures itself.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  gavel kasmina bench
  gavel kasmina bench --shape 1024x4096x1024 --shape 1024x4096x64 --rounds 11
  gavel kasmina bench --backend wgpu --json
  gavel kasmina bench --boundary 100000")]
pub(super) struct Args {
    /// Rows, columns and seeds of a layer, as `1024x4096x1024`; may be given more than once.
    #[arg(long, value_name = "BxHxS", value_parser = shape, default_value = "1024x4096x1024")]
    shape: Vec<Shape>,
    /// Rounds in which everything takes its turn; the median counts.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: u16,
    /// Measure a plain loop over seeds as well (CPU).
    #[arg(long)]
    with_loop: bool,
    /// Measure the epoch boundary of a layer with so many seeds instead.
    #[arg(long, value_name = "SEEDS", value_parser = clap::value_parser!(u32).range(1..=BOUNDARY_SEEDS_MAX))]
    #[arg(conflicts_with_all = ["shape", "with_loop", "rounds", "backend", "adapter", "threads"])]
    boundary: Option<u32>,
    #[command(flatten)]
    device: DeviceArgs,
}

/// Least milliseconds of one round of one measurement.
const ROUND_MS: f64 = 60.0;
/// Seeds of a boundary.
const BOUNDARY_SEEDS_MAX: i64 = 1_000_000;
/// Values of a batch: eight pairs of buffers must have room.
const VALUES_MAX: usize = 1 << 27;

fn shape(text: &str) -> Result<Shape, String> {
    let numbers: Vec<usize> =
        text.split('x').map(str::parse).collect::<Result<_, _>>().map_err(|why| format!("{why}"))?;
    let [rows, width, seeds] = numbers[..] else { return Err("give three numbers, as 1024x4096x1024".to_owned()) };
    if rows == 0 || seeds == 0 || seeds > width || rows.saturating_mul(width) > VALUES_MAX {
        return Err(format!("give 1 row or more, 1 to {width} seeds, and at most {VALUES_MAX} values"));
    }
    Ok(Shape { rows, width, seeds })
}

pub(super) fn run(args: &Args, as_json: bool) -> Result<Outcome> {
    if cfg!(debug_assertions) {
        note("this build is not optimised: the figures say nothing about a release");
    }
    if let Some(seeds) = args.boundary {
        return measure_boundary(seeds, as_json);
    }
    let rows: Vec<Value> = match gpu(&args.device.preference()?)? {
        Some(_) if args.with_loop || args.device.threads().is_some() => {
            bail!("--with-loop and --threads are for the cpu: give --backend cpu")
        }
        Some(mut gpu) => on_gpu(args, &mut gpu, as_json)?,
        None => on_cpu(args, as_json)?,
    };
    if as_json {
        print_json(&json!({"rows": rows}))?;
    }
    Ok(Outcome::Yes)
}

/// The GPU that is to be measured, if one is.
fn gpu(preference: &Preference) -> Result<Option<Gpu>> {
    match preference {
        Preference::Cpu => Ok(None),
        Preference::Gpu { adapter } => {
            Ok(Some(Gpu::new(Options { adapter: adapter.clone(), software: true, ..Options::default() })?))
        }
        Preference::Auto => Ok(Gpu::new(Options::default()).ok()),
    }
}

fn on_cpu(args: &Args, as_json: bool) -> Result<Vec<Value>> {
    let shapes = Shapes {
        shapes: args.shape.clone(),
        rounds: usize::from(args.rounds),
        round_ms: ROUND_MS,
        with_loop: args.with_loop,
    };
    let rows: Vec<Row> = cpu_rows(&shapes, args.device.threads()).map_err(|why| anyhow!(why))?;
    if !as_json {
        rows.iter().try_for_each(|row| line(&row.to_string()))?;
    }
    Ok(rows.iter().map(|row| json!(row)).collect())
}

fn on_gpu(args: &Args, gpu: &mut Gpu, as_json: bool) -> Result<Vec<Value>> {
    let hardware = gpu.adapter().hardware;
    let mut rows = Vec::new();
    for shape in &args.shape {
        ensure!(shape.width.is_multiple_of(shape.seeds), "on a gpu, give seeds that divide the columns: {shape:?}");
        let bench = Bench {
            rows: shape.rows,
            width: shape.width,
            chunks: vec![shape.width / shape.seeds],
            rounds: usize::from(args.rounds),
            ..Bench::default()
        };
        let mut printed = Ok(());
        rows.extend(bench.run(gpu, &mut |row| {
            if !as_json && printed.is_ok() {
                printed = print_gpu(row);
            }
        })?);
        printed?;
    }
    if let Some(row) = rows.iter().find(|row| row.implausible && hardware) {
        bail!(
            "a pass of {:.1} us beats the copy, {:.1} us: the measurement is wrong, run it again",
            row.pass_us,
            row.copy_us
        );
    }
    Ok(rows.iter().map(|row| json!(row)).collect())
}

fn print_gpu(row: &GpuRow) -> Result<()> {
    let [rows, width, seeds] = row.shape;
    let telemetry = if row.telemetry { " + telemetry" } else { "" };
    line(&format!(
        "wgpu B{rows} H{width} S{seeds} {:>3} % computing {:<20} {:>9.1} us {:>6.1} GB/s {:>5.2} of copy  host p99 {:.1} us  memory +{:.1} %  y {:.1e}  telemetry {:.1e}",
        row.computing_percent,
        format!("{}{telemetry}", row.kernel),
        row.pass_us,
        row.gigabytes_per_second,
        row.of_copy,
        row.host_us_p99,
        row.extra_memory_percent,
        row.error_y,
        row.error_telemetry,
    ))
}

fn measure_boundary(seeds: u32, as_json: bool) -> Result<Outcome> {
    let found = boundary(seeds as usize)?;
    if as_json {
        print_json(&found)?;
    } else {
        line(&format!(
            "boundary of {} seeds, {} growing, {} transitions: observe {:.2} ms, end {:.2} ms, both {:.2} ms of wall time (median)",
            found.seeds, found.growing, found.transitions, found.observe_ms, found.end_epoch_ms, found.wall_ms
        ))?;
    }
    Ok(Outcome::Yes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_three_numbers_that_tile() {
        assert_eq!(shape("8x16x4").unwrap(), Shape { rows: 8, width: 16, seeds: 4 });
        for wrong in ["8x16", "8x16x32", "0x16x4", "8x16x0", "axbxc", "1000000x1000000x4"] {
            assert!(shape(wrong).is_err(), "{wrong}");
        }
    }
}
