//! Measuring on noisy machines: CPU time instead of wall time, medians instead of means, and every
//! figure beside a reference of the same run.
#![allow(dead_code, reason = "not every benchmark uses every helper")]

use gavel_runtime::{Request, ToolCall};
use std::time::Duration;

/// Noon of a Monday.
const NOON_MS: u64 = 1_705_320_000_000;

/// A typical request, as a policy gets it.
pub(crate) fn request() -> Request {
    Request {
        id: "req-000123".into(),
        now_ms: NOON_MS,
        ts_ms: NOON_MS,
        actor: "agent-001".into(),
        intent: "Read the quarterly report and summarise it for the board".into(),
        tool_call: Some(ToolCall { name: "read_file".into(), params: r#"{"path":"reports/2025/q1.md"}"#.into() }),
        params: "{}".into(),
        evidence: Vec::new(),
        constraints: None,
    }
}

/// CPU time that the living threads of a process used so far, to the nanosecond (Linux). It shrinks when one ends.
pub(crate) fn cpu_of(process: u32) -> Duration {
    let threads = std::fs::read_dir(format!("/proc/{process}/task")).expect("the process runs");
    let spent = threads.filter_map(|thread| std::fs::read_to_string(thread.ok()?.path().join("schedstat")).ok());
    let nanos = spent.filter_map(|text| text.split(' ').next()?.parse::<u64>().ok());
    Duration::from_nanos(nanos.sum())
}

/// Microseconds of CPU for one call: the median of eleven rounds.
pub(crate) fn cpu_per_call(calls: u32, mut call: impl FnMut()) -> f64 {
    let round = calls.div_ceil(11);
    let mut rounds: Vec<f64> = (0..11)
        .map(|_| {
            let before = cpu_of(std::process::id());
            (0..round).for_each(|_| call());
            cpu_of(std::process::id()).saturating_sub(before).as_secs_f64() * 1e6 / f64::from(round)
        })
        .collect();
    percentile(&mut rounds, 0.5)
}

/// The value below which the given part of `values` lies.
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "an index of a sample"
)]
pub(crate) fn percentile(values: &mut [f64], part: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values[((values.len() - 1) as f64 * part) as usize]
}

/// Print a figure and its ratio to the reference.
pub(crate) fn row(what: &str, micros: f64, reference: f64) {
    println!("{what:<52} {micros:>10.2} us   {:>8.2} x", micros / reference);
}
