//! `gavel fleet up`: the main process of a fleet.

use crate::cli::Outcome;
use crate::config;
use crate::front::{self, Calls, Front};
use crate::host;
use crate::http::{self, Server};
use crate::service;
use anyhow::{Context, Result};
use gavel_fleet::Status;
use serde_json::json;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Start the whole fleet and serve its main API until SIGTERM or Ctrl-C.
///
/// Every kernel is a process of its own on its tier's port. Guardian watches them, heals them, and puts on record what it
/// did. With no configuration: the kernels of the table, one strict governance kernel, the main API on 127.0.0.1:8000.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:
  gavel fleet up
  gavel fleet up --config gavel.yaml --listen 127.0.0.1:0 --data /var/lib/gavel
  gavel fleet up --first-port 0     (every kernel takes a free port)")]
pub(super) struct Args {
    /// The configuration (YAML); its section `fleet` says what runs where.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where the main API listens; port 0 takes a free one, which is printed. Wins over the file.
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Option<SocketAddr>,
    /// The first port of the first tier; 0: every kernel takes a free one. Wins over the file.
    #[arg(long, value_name = "PORT")]
    first_port: Option<u16>,
    /// Where everything lies. Wins over the file.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

pub(super) fn run(args: &Args, as_json: bool, log: Option<&str>) -> Result<Outcome> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .enable_all()
        .build()
        .context("no threads can be had")?;
    runtime.block_on(up(args, as_json, log))
}

/// Threads of the main process: it passes bytes on, and waits.
const WORKERS: usize = 2;

async fn up(args: &Args, as_json: bool, log: Option<&str>) -> Result<Outcome> {
    let mut file = config::read_or_default(args.config.as_deref())?;
    file.fleet.listen = args.listen.unwrap_or(file.fleet.listen);
    file.fleet.first_port = args.first_port.unwrap_or(file.fleet.first_port);
    let file = config::checked(file)?;
    let data = match args.data.as_ref().or(file.data.as_ref()) {
        Some(data) => data.clone(),
        None => host::default_data_dir()?,
    };
    let listen = file.fleet.listen;
    let server = Server::bind(listen, file.tls.as_ref(), !file.auth.keys.is_empty()).await;
    let server = server.map_err(|why| held(why, listen))?;
    let base = format!("{}://{}", server.scheme(), server.address);
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let program = std::env::current_exe().context("the path of this program is not known")?;
    let calls = Calls { program, config: args.config.clone(), log: log.map(str::to_owned) };
    let inner_door = Server::bind(SocketAddr::from(([127, 0, 0, 1], 0)), None, true).await?;
    let (front, guardian) = Front::open(&file, &data, &inner_door, calls)?;
    let stop = CancellationToken::new();
    let limits = file.limits.clone();
    let (router, told) = (front::router(front.clone()), stop.clone());
    let mut serving = tokio::spawn(async move {
        let outer = http::serve_router(server, router.clone(), &limits, told.clone().cancelled_owned());
        let inner = http::serve_router(inner_door, router, &limits, told.cancelled_owned());
        futures_util::future::join(outer, inner).await
    });
    let booted = tokio::select! {
        booted = front.boot(guardian) => Some(booted),
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
    };
    if let Some(booted) = booted {
        announce(&front, &base, &data, &booted, as_json);
        service::ready();
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = &mut serving => {}
        }
    }
    service::stopping();
    // What ends from here on ends because it is stopped, by us or by whoever stops us.
    front.fleet().quiesce();
    tracing::info!("stopping: finishing what is in flight");
    stop.cancel();
    // Requests in flight are their kernels' to finish, so the door closes first.
    let grace = Duration::from_millis(file.limits.shutdown_grace_ms);
    let _ = tokio::time::timeout(grace, serving).await;
    front.finish().await;
    tracing::info!("stopped; what every kernel acknowledged is on disk");
    Ok(Outcome::Yes)
}

/// Why the main API's address cannot be had, with who has it.
fn held(why: anyhow::Error, listen: SocketAddr) -> anyhow::Error {
    let holders: Vec<String> = gavel_fleet::of_port(listen.port()).iter().map(ToString::to_string).collect();
    match holders.as_slice() {
        [] => why,
        holders => anyhow::anyhow!(
            "{why:#}: port {} is held by {}; it is left alone: end it, or give this fleet another address (--listen)",
            listen.port(),
            holders.join(" and ")
        ),
    }
}

fn announce(front: &Front, base: &str, data: &Path, booted: &[(String, Status)], as_json: bool) {
    let entries = front.fleet().entries();
    let text = if as_json {
        let kernels: Vec<_> = entries.iter().filter(|entry| entry.status != Status::NotStarted).collect();
        format!("{:#}", json!({"url": base, "data": data, "kernels": kernels}))
    } else {
        let mut lines =
            vec![format!("gavel {} fleet on {base}  (data in {})", env!("CARGO_PKG_VERSION"), data.display())];
        for entry in entries.iter().filter(|entry| booted.iter().any(|(name, _)| *name == entry.name)) {
            let detail = if entry.detail.is_empty() { String::new() } else { format!("  {}", entry.detail) };
            lines.push(format!("  {:<20} {:>5}  {}{detail}", entry.name, entry.port, entry.status));
        }
        lines.push(format!("try:\n  curl -s {base}/health\n  gavel fleet status --url {base}"));
        lines.join("\n")
    };
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}
