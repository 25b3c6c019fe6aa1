//! Print what a pass on the CPU costs: `cargo run --release -p kasmina --example bench [-- all] [THREADS]`.
#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]

use kasmina::bench::{Shapes, cpu_rows};

fn main() -> Result<(), String> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let shapes = if arguments.iter().any(|it| it == "all") { Shapes::reference() } else { Shapes::quick() };
    let threads = arguments.iter().find_map(|it| it.parse().ok());
    for row in cpu_rows(&shapes, threads)? {
        println!("{row}");
    }
    Ok(())
}
