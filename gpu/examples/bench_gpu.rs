//! Prints the GPU's rows of the bench: `cargo run --release -p kasmina --example bench_gpu [ROWS [ROUNDS]]`.
//!
//! ROWS are 1024 and then 8192 if not given. It takes hardware before software. The last column tells which goals a row
//! misses, on hardware. It fails if a pass is said to be faster than a copy of the same bytes.
#![allow(clippy::print_stdout, reason = "it prints a table")]

use kasmina::bench::gpu::{Bench, Row};
use kasmina::gpu::{Gpu, Options};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut bench = Bench::default();
    let mut arguments = std::env::args().skip(1);
    let batches = match arguments.next() {
        Some(rows) => vec![rows.parse()?],
        None => vec![1024, 8192],
    };
    if let Some(rounds) = arguments.next() {
        bench.rounds = rounds.parse()?;
    }
    let mut gpu = Gpu::new(Options { software: true, ..Options::default() })?;
    println!("{} ({})\n", gpu.adapter().name, gpu.adapter().detail);
    println!(
        "| rows | width | seeds | computing | kernel | telemetry | pass µs | copy µs | of copy | GB/s | merge µs | telemetry % | host µs p50 / p99 | with wait p99 | extra memory | error y | error telemetry | goals |"
    );
    println!("|--:|--:|--:|--:|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|---|");
    let hardware = gpu.adapter().hardware;
    let mut rows = Vec::new();
    for batch in batches {
        bench.rows = batch;
        rows.extend(bench.run(&mut gpu, &mut |row| print(row, hardware))?);
    }
    match rows.iter().find(|row| row.implausible && hardware) {
        Some(row) => Err(format!("faster than a copy, so the measurement is wrong: {row:?}").into()),
        None => Ok(()),
    }
}

fn print(row: &Row, hardware: bool) {
    let [rows, width, seeds] = row.shape;
    let goals = match row.missed() {
        _ if !hardware => "not of software".to_owned(),
        missed if missed.is_empty() => "met".to_owned(),
        missed => format!("missed: {}", missed.join("; ")),
    };
    let figure = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), |value| format!("{value:.1}"));
    println!(
        "| {rows} | {width} | {seeds} | {} % | {} | {} | {:.1} | {:.1} | {:.2} | {:.1} | {} | {} | {:.1} / {:.1} | {:.1} | {:.1} % | {:.1e} | {:.1e} | {goals} |",
        row.computing_percent,
        row.kernel,
        if row.telemetry { "on" } else { "off" },
        row.pass_us,
        row.copy_us,
        row.of_copy,
        row.gigabytes_per_second,
        figure(row.merge_us),
        figure(row.telemetry_percent),
        row.host_us_p50,
        row.host_us_p99,
        row.host_wait_us_p99,
        row.extra_memory_percent,
        row.error_y,
        row.error_telemetry,
    );
}
