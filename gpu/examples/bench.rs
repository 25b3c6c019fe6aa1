//! Print what a pass on the CPU costs: `cargo run --release -p kasmina --example bench -- [all] [json] [THREADS]`.
#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]

use kasmina::bench::{Shapes, cpu_rows};

fn main() -> Result<(), String> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let given = |name: &str| arguments.iter().any(|argument| argument == name);
    let shapes = if given("all") { Shapes::reference() } else { Shapes::quick() };
    let threads = arguments.iter().find_map(|it| it.parse().ok());
    let rows = cpu_rows(&shapes, threads)?;
    if given("json") {
        println!("{}", serde_json::to_string_pretty(&rows).map_err(|error| error.to_string())?);
    } else {
        for row in &rows {
            println!("{row}");
        }
    }
    Ok(())
}
