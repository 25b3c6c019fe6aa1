//! What a pass of a Kasmina layer costs on the CPU, beside a copy of its input and a plain loop over seeds.
//!
//! `cargo bench --bench kasmina [-- THREADS] [-- --quick] [-- --json]`. How it is measured: `kasmina::bench`; what it
//! gave: `docs/kasmina-performance.md`. The run fails if a pass beats the copy, for then the measurement is wrong.

#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]

use kasmina::bench::{Shapes, cpu_rows};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let given = |name: &str| arguments.iter().any(|argument| argument == name);
    let shapes = if given("--quick") { Shapes::quick() } else { Shapes::reference() };
    let threads = arguments.iter().find_map(|argument| argument.parse().ok());
    let rows = cpu_rows(&shapes, threads).expect("an honest measurement");
    if given("--json") {
        println!("{}", serde_json::to_string_pretty(&rows).expect("rows have a JSON form"));
    } else {
        for row in &rows {
            println!("{row}");
        }
    }
}
