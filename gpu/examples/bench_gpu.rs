//! Prints the GPU's rows of the bench: `cargo run --release -p kasmina --example bench_gpu [ROWS [ROUNDS]]`.
//!
//! It takes hardware before software. It fails if a pass is said to be faster than a copy of the same bytes.
#![allow(clippy::print_stdout, reason = "it prints a table")]

use kasmina::bench::gpu::{Bench, Row};
use kasmina::gpu::{Gpu, Options};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut bench = Bench::default();
    let mut arguments = std::env::args().skip(1);
    if let Some(rows) = arguments.next() {
        bench.rows = rows.parse()?;
    }
    if let Some(rounds) = arguments.next() {
        bench.rounds = rounds.parse()?;
    }
    let mut gpu = Gpu::new(Options { software: true, ..Options::default() })?;
    println!("{} ({})\n", gpu.adapter().name, gpu.adapter().detail);
    println!(
        "| rows | width | seeds | computing | kernel | telemetry | pass µs | copy µs | of copy | GB/s | merge µs | host µs p50 / p99 | extra memory | error y | error telemetry |"
    );
    println!("|--:|--:|--:|--:|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|");
    let rows = bench.run(&mut gpu, &mut print)?;
    let hardware = gpu.adapter().hardware;
    match rows.iter().find(|row| row.implausible && hardware) {
        Some(row) => Err(format!("faster than a copy, so the measurement is wrong: {row:?}").into()),
        None => Ok(()),
    }
}

fn print(row: &Row) {
    let [rows, width, seeds] = row.shape;
    println!(
        "| {rows} | {width} | {seeds} | {} % | {} | {} | {:.1} | {:.1} | {:.2} | {:.1} | {:.1} | {:.1} / {:.1} | {:.1} % | {:.1e} | {:.1e} |",
        row.computing_percent,
        row.kernel,
        if row.telemetry { "on" } else { "off" },
        row.pass_us,
        row.copy_us,
        row.of_copy,
        row.gigabytes_per_second,
        row.merge_us,
        row.host_us_p50,
        row.host_us_p99,
        row.extra_memory_percent,
        row.error_y,
        row.error_telemetry,
    );
}
