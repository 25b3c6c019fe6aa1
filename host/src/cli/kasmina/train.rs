//! `gavel kasmina train`: a network that is too small for its task, and a layer that grows inside it.
//!
//! The run itself is `kasmina::experiment`; here it is given its plan, its device, its governor and its Tamiyo, watched,
//! told and drawn. Two plans are compared on the same data, one after the other.

use super::super::Outcome;
use super::super::output::{note, print_json};
use super::plot::{self, Drawn};
use super::setting::{self, Setting};
use super::told;
use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};
use kasmina::experiment::{self, EpochLine, Plan, Report};
use kasmina::state::Lifecycle;
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Grow a layer inside a network that is too small for its task, and see what it is worth.
///
/// The task is handwritten digits (scikit-learn's, built in). A small network is trained and frozen; then seeds are
/// germinated in it, trained apart, blended in, measured, and kept or taken out again. Every transition is judged and
/// recorded by a kernel. Exit code 1: the network is worse than before, or a bad blueprint left something behind.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  gavel kasmina train
  gavel kasmina train --plot growth.svg --data ./growth
  gavel kasmina train --bad-blueprint
  gavel kasmina train --plan a.yaml --compare b.yaml --plot both.svg
  gavel kasmina train --strategy strategy.wasm --tamiyo tamiyo.wasm")]
pub(super) struct Args {
    /// The plan (YAML or JSON), as --show-plan prints one. Default: the built-in one.
    #[arg(long, value_name = "FILE")]
    plan: Option<PathBuf>,
    /// Print the plan and stop.
    #[arg(long)]
    show_plan: bool,
    /// Run this plan as well, on the same data, and put both side by side.
    #[arg(long, value_name = "FILE")]
    compare: Option<PathBuf>,
    /// Epochs, instead of the plan's.
    #[arg(long, value_name = "N")]
    epochs: Option<u64>,
    /// Give the seeds a blueprint that harms, and see that nothing of it is left.
    #[arg(long, conflicts_with_all = ["compare", "plan"])]
    bad_blueprint: bool,
    /// Draw accuracy, blend and stages into this SVG file.
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// Save the grown layer into this file; `gavel kasmina inspect` shows it.
    #[arg(long, value_name = "FILE", conflicts_with = "compare")]
    save: Option<PathBuf>,
    #[command(flatten)]
    setting: setting::Args,
}

/// Characters of a progress line's losses and stages.
const BAR: &str = "{bar:30} {pos}/{len}  {msg}";
