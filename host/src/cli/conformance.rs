//! `gavel conformance`: run recorded scenarios through the real kernel.

use super::Outcome;
use super::output::{line, print_json};
use crate::conformance::{Report, run_file};
use anyhow::Result;
use serde_json::json;
use std::path::PathBuf;

/// Run recorded scenarios of the KERNELS package through the real kernel, with the recorded clock,
/// and compare every receipt, every field of every ledger entry, and the root hash.
///
/// Exit code 0: no difference. 1: differences.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  gavel conformance tests/data/kernels/decisions.jsonl tests/data/kernels/permits.jsonl"
)]
pub(super) struct Args {
    /// Files of scenarios, one as JSON on each line.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

pub(super) fn run(args: &Args, as_json: bool) -> Result<Outcome> {
    let mut total = Report::default();
    let runtime = super::runtime()?;
    for path in &args.files {
        total.add(runtime.block_on(run_file(path))?);
    }
    if as_json {
        print_json(
            &json!({"scenarios": total.scenarios, "steps": total.steps, "differences": total.differences, "first": total.first}),
        )?;
    } else {
        if let Some(first) = &total.first {
            line(first)?;
        }
        line(&format!("{} scenarios, {} steps, {} differences", total.scenarios, total.steps, total.differences))?;
    }
    Ok(if total.differences == 0 { Outcome::Yes } else { Outcome::No })
}
