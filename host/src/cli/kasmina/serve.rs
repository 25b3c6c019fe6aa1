//! `gavel kasmina serve`: `gavel serve` with layers.

use crate::cli::{Outcome, serve};
use anyhow::Result;

/// Serve layers over HTTP, and the kernel that governs them, until SIGTERM or Ctrl-C.
///
/// With no configuration: one kernel in which Tamiyo may change seeds, on 127.0.0.1:8080, its data under the user's data
/// directory. With a configuration: what it says, and layers even if it has no section `kasmina`.
#[derive(Debug, clap::Args)]
#[group(id = "kasmina-serve")]
#[command(after_help = "Examples:
  gavel kasmina serve
  gavel kasmina serve --config gavel.yaml --listen 127.0.0.1:0 --data /var/lib/gavel
  curl -s http://127.0.0.1:8080/kasmina/layers -d '{\"config\": {\"id\": \"first\", \"width\": 64, \"seeds\": 16}}'")]
pub(super) struct Args {
    #[command(flatten)]
    serve: serve::Args,
}

pub(super) fn run(args: &Args, as_json: bool) -> Result<Outcome> {
    serve::run(&args.serve.clone().with_layers(), as_json)
}
