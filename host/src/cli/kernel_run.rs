//! `gavel kernel run`: one kernel of a fleet, as this process.

use super::{Outcome, log};
use crate::config;
use crate::host;
use crate::http::Server;
use crate::kinds::{self, process};
use anyhow::{Context, Result, ensure};
use rustix::process::{Signal, getppid, set_parent_process_death_signal};
use std::net::SocketAddr;
use std::path::PathBuf;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Serve one kernel of a fleet: on the socket that its fleet hands it, or with --listen on one of its own.
///
/// `gavel fleet up` starts these. By hand, or as a container, one is started where a fleet elsewhere reaches it by its URL.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  gavel kernel run message_bus --listen 127.0.0.1:8100
  gavel kernel run governance --config gavel.yaml --data /var/lib/gavel --listen 0.0.0.0:8110")]
pub(super) struct RunArgs {
    /// Which, as the configuration's section `fleet` or the table names it.
    name: String,
    /// The configuration (YAML).
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where to listen, if no fleet hands a socket over.
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Option<SocketAddr>,
    /// Where everything lies. Wins over the file.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

/// Threads of a kernel that has no sandbox.
const WORKERS: usize = 2;

pub(super) fn run(args: &RunArgs) -> Result<Outcome> {
    let handed = if args.listen.is_none() { process::inherited_socket() } else { None };
    if handed.is_some() {
        end_with_parent()?;
    }
    let file = config::read_or_default(args.config.as_deref())?;
    let kind = file.fleet.kind(&args.name).map_err(anyhow::Error::msg)?;
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if !kinds::needs_all_cores(kind.name) {
        runtime.worker_threads(WORKERS);
    }
    let runtime = runtime.enable_all().build().context("no threads can be had")?;
    let data = match args.data.as_ref().or(file.data.as_ref()) {
        Some(data) => data.clone(),
        None => host::default_data_dir()?,
    };
    runtime.block_on(async {
        let server = match (handed, args.listen) {
            (Some(socket), _) => {
                let server = Server::on(socket)?;
                let (address, keys) = (server.address, file.auth.keys.len());
                ensure!(
                    address.ip().is_loopback() || keys > 0,
                    "the socket that was handed over is on {address}, not on loopback: configure keys first (`gavel key --help`)"
                );
                server
            }
            (None, Some(listen)) => Server::bind(listen, file.tls.as_ref(), !file.auth.keys.is_empty()).await?,
            (None, None) => anyhow::bail!(
                "standard input is no listening socket: `gavel fleet up` starts kernels; by hand, say where with --listen"
            ),
        };
        log::follow(file.bus.as_ref().and_then(|bus| bus.daemon.log_level));
        let stop = CancellationToken::new();
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let told = stop.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            told.cancel();
        });
        process::serve(&args.name, server, file, &data, stop).await?;
        Ok(Outcome::Yes)
    })
}

/// A kernel ends with its fleet, also when that is killed: nobody would heal it, and the next fleet wants its folder.
fn end_with_parent() -> Result<()> {
    set_parent_process_death_signal(Some(Signal::TERM)).context("the end of the fleet cannot be watched for")?;
    // It may have ended before.
    let fleet = std::env::var(process::PID_VARIABLE).ok().and_then(|pid| pid.parse().ok());
    let parent = getppid().map(|parent| parent.as_raw_nonzero().get());
    ensure!(fleet.is_none() || fleet == parent, "the fleet that started this kernel has gone");
    Ok(())
}
