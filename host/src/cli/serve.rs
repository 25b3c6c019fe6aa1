//! `gavel serve`: the server.

use super::{Outcome, log};
use crate::clock::Clock;
use crate::config::{self, File};
use crate::host::{self, Host, Storage};
use crate::http::{self, App, Server};
use crate::kasmina::standalone;
use crate::service;
use anyhow::{Context, Result};
use serde_json::json;
use std::ffi::OsString;
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Serve kernels over HTTP until SIGTERM or Ctrl-C.
///
/// SIGHUP reads the configuration's policies again. Under systemd it tells of its state
/// (`NOTIFY_SOCKET`) and its life (`WATCHDOG_USEC`).
///
/// With no configuration: one strict kernel on 127.0.0.1:8080 with a default policy set, its data
/// under the user's data directory.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:
  gavel serve
  gavel serve --config gavel.yaml --listen 127.0.0.1:0 --data /var/lib/gavel
  gavel serve --config policy.yaml     (the KERNELS policy file as it stands)")]
pub(super) struct Args {
    /// The configuration (YAML).
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where to listen; port 0 takes a free one, which is printed. Wins over the file.
    #[arg(long, value_name = "ADDR:PORT", overrides_with = "listen")]
    listen: Option<SocketAddr>,
    /// Where ledgers and workspace lie. Wins over the file.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// A kernel whose checkpoint key is lost: it gets a new one, and its ledger says for ever that the old one did not
    /// introduce it. May be given more than once.
    #[arg(long = "key-lost", value_name = "KERNEL")]
    key_lost: Vec<String>,
    /// What is served where no file is given.
    #[arg(skip)]
    ready_made: ReadyMade,
}

/// A configuration that is built in.
#[derive(Debug, Clone, Copy, Default)]
enum ReadyMade {
    /// One kernel with a default policy set.
    #[default]
    Kernel,
    /// Layers, and a kernel that governs them.
    Kasmina,
}

impl Args {
    /// The same, for a host of layers.
    pub(super) fn with_layers(self) -> Self {
        Self { ready_made: ReadyMade::Kasmina, ..self }
    }

    fn configuration(&self) -> Result<File> {
        match (self.ready_made, &self.config) {
            (ReadyMade::Kernel, path) => Ok(config::read_or_default(path.as_deref())?),
            (ReadyMade::Kasmina, None) => Ok(standalone::configuration()?),
            (ReadyMade::Kasmina, Some(path)) => {
                let mut file = config::read(path)?;
                file.kasmina.get_or_insert_default();
                Ok(file)
            }
        }
    }
}

pub(super) fn run(args: &Args, as_json: bool) -> Result<Outcome> {
    // Asked for now: after an update the system would call it deleted.
    let program = std::env::current_exe().context("the path of this program is not known")?;
    let runtime = super::runtime()?;
    let ended = runtime.block_on(serve(args, as_json))?;
    drop(runtime);
    match ended {
        Ended::Stopped => Ok(Outcome::Yes),
        Ended::Restart(listen) => Err(begin_anew(&program, listen)),
    }
}

/// Why a server came to its end.
#[derive(Clone, Copy)]
enum Ended {
    /// It was told to stop.
    Stopped,
    /// It was told to begin anew, listening where it did.
    Restart(SocketAddr),
}

/// Become the program that this one was called as, or if that is gone the one at `path`, with this
/// process's id, arguments and environment. Only fails.
fn begin_anew(path: &Path, listen: SocketAddr) -> anyhow::Error {
    // The last `--listen` counts; a port that was taken freely is kept.
    let args: Vec<OsString> =
        std::env::args_os().skip(1).chain(["--listen".into(), listen.to_string().into()]).collect();
    // An update may have led the link by which it was called elsewhere.
    if let Some(called) = std::env::args_os().next() {
        let why = std::process::Command::new(&called).args(&args).exec();
        tracing::warn!(called = %called.display(), %why, "cannot be started again as it was called");
    }
    let why = std::process::Command::new(path).args(&args).exec();
    anyhow::Error::from(why).context(format!("{} cannot be started again", path.display()))
}

async fn serve(args: &Args, as_json: bool) -> Result<Ended> {
    let mut file = args.configuration()?;
    file.listen = args.listen.unwrap_or(file.listen);
    file.lost_keys.clone_from(&args.key_lost);
    let data = match args.data.as_ref().or(file.data.as_ref()) {
        Some(data) => data.clone(),
        None => host::default_data_dir()?,
    };
    // Bound before anything else, so that an address in use is told at once.
    let server = http::Server::bind(file.listen, file.tls.as_ref(), !file.auth.keys.is_empty()).await?;
    let listen = server.address;
    let signals = Signals::new().context("signals cannot be received")?;
    log::follow(file.bus.as_ref().and_then(|bus| bus.daemon.log_level));
    let host = Host::open(file, &Storage::Folder(data.clone()), Clock::System).await?;
    host.watch();
    let host = Arc::new(host);
    let base = format!("{}://{listen}", server.scheme());
    let app = host.app();
    let watchdog = tokio::spawn(service::watchdog(Arc::clone(&host), http::router(app.clone())));
    announce(&host, &base, &data, as_json);
    let ended = Box::pin(until_the_end(&host, server, app, signals, args)).await;
    host.finish().await;
    watchdog.abort();
    tracing::info!("stopped; every acknowledged record is on disk");
    Ok(ended)
}

/// Serve until told otherwise, and until what was in flight is finished.
async fn until_the_end(host: &Arc<Host>, server: Server, app: App, signals: Signals, args: &Args) -> Ended {
    let Signals { mut terminate, mut interrupt, mut reread } = signals;
    let listen = server.address;
    let (stop, restart) = (CancellationToken::new(), app.restartable());
    // A task of its own: connections are accepted while a configuration is read again.
    let mut serving = tokio::spawn(http::serve(server, app, stop.clone().cancelled_owned()));
    service::ready();
    let mut ended = Ended::Stopped;
    let mut deadline = None;
    loop {
        tokio::select! {
            _ = &mut serving => return ended,
            () = passed(deadline), if deadline.is_some() => {
                tracing::warn!("requests were still in flight when the grace of the shutdown ended");
                serving.abort();
                return ended;
            }
            // Also while it stops in order to begin anew: then it only stops.
            () = first(&mut terminate, &mut interrupt) => {
                tracing::info!("stopping: finishing what is in flight");
                service::stopping();
                ended = Ended::Stopped;
                stop.cancel();
                close_sockets(host);
            }
            grace = asked_to_end(host), if !stop.is_cancelled() => {
                tracing::info!("stopping within {grace:?}: finishing what is in flight");
                service::stopping();
                deadline = Some(Instant::now() + grace);
                host.bus().into_iter().zip(deadline).for_each(|(bus, deadline)| bus.end_by(deadline));
                stop.cancel();
                close_sockets(host);
            }
            () = restart.cancelled(), if !stop.is_cancelled() => {
                tracing::info!("restarting: finishing what is in flight");
                service::beginning_anew();
                ended = Ended::Restart(listen);
                stop.cancel();
                close_sockets(host);
            }
            _ = reread.recv() => {
                service::reloading();
                Box::pin(reconfigure(host, args)).await;
                service::ready();
            }
        }
    }
}

/// The signals that a server obeys.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    reread: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            reread: signal(SignalKind::hangup())?,
        })
    }
}

/// Completes at the first of two signals.
async fn first(one: &mut Signal, other: &mut Signal) {
    tokio::select! {
        _ = one.recv() => {}
        _ = other.recv() => {}
    }
}

/// Completes when a client of the bus asks the host to end; gives how long it may take.
async fn asked_to_end(host: &Host) -> Duration {
    match host.bus() {
        Some(bus) => bus.wishes().shutdown_wished().await.grace(),
        None => std::future::pending().await,
    }
}

/// Completes at the deadline.
async fn passed(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// The sockets take nobody any more while HTTP finishes what is in flight. Their end is awaited with that of the bus.
fn close_sockets(host: &Host) {
    if let Some(bus) = host.bus().cloned() {
        tokio::spawn(async move { bus.close_sockets().await });
    }
}

/// What SIGHUP asks for. A configuration that is not accepted changes nothing.
async fn reconfigure(host: &Host, args: &Args) {
    let taken = match args.configuration() {
        Ok(file) => host.reconfigure(&file).await,
        Err(why) => Err(why),
    };
    match taken {
        Ok(()) => tracing::info!("the policies of the configuration are in service"),
        Err(why) => tracing::error!("the configuration is not taken: {why:#}"),
    }
}

/// Say where it serves. A server that begins anew may have nobody left who reads that.
fn announce(host: &Host, base: &str, data: &Path, as_json: bool) {
    let slots = host.fleet.slots();
    let kernels: Vec<&str> = slots.iter().map(|slot| slot.name()).collect();
    let told = json!({"url": base, "data": data, "kernels": kernels});
    let text = if as_json { format!("{told:#}") } else { announcement(host, base, data) };
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

fn announcement(host: &Host, base: &str, data: &Path) -> String {
    let file = host.file();
    let mut lines = vec![format!("gavel {} serves {base}  (data in {})", env!("CARGO_PKG_VERSION"), data.display())];
    lines.extend(host.fleet.slots().iter().map(|slot| {
        let kernel = slot.kernel();
        let rules = kernel.policies();
        let rules: Vec<&str> = rules.serving.set.policies().iter().map(gavel_runtime::Policy::name).collect();
        let rules = if rules.is_empty() { "none".to_owned() } else { rules.join(", ") };
        let serving = if kernel.id() == slot.name() { String::new() } else { format!(" (served by {})", kernel.id()) };
        format!("  kernel {}{serving}  {}, {}, policies: {rules}", slot.name(), kernel.variant(), kernel.state())
    }));
    if let Some(dir) = host.bus().and_then(|bus| bus.socket_dir()) {
        lines.push(format!("  event bus on {}", dir.join("*.sock").display()));
    }
    if file.auth.keys.is_empty() {
        lines.push("  no keys are configured: loopback only, and every caller has every role".into());
    }
    let (actor, header) = example_caller(file);
    lines.push("try:".into());
    if file.kasmina.is_some() {
        lines.push(format!("  curl -s {base}/kasmina/layers {header}-d '{{\"config\": {{\"id\": \"first\"}}}}'"));
        return lines.join("\n");
    }
    lines.push(format!(
        "  curl -s {base}/submit {header}-d '{{\"request_id\": \"r1\", \"actor\": \"{actor}\", \"intent\": \"Say hello\", \"tool_call\": {{\"name\": \"echo\", \"params\": {{\"text\": \"hello\"}}}}}}'"
    ));
    lines.join("\n")
}

/// An actor that the first kernel knows, for the line to try, and the header it needs.
fn example_caller(file: &File) -> (String, &'static str) {
    let named = file.kernels[0].policy.iter().flat_map(|policy| &policy.allowed_actors).find(|actor| *actor != "*");
    let actor = named.cloned().unwrap_or_else(|| "agent-001".into());
    (actor, if file.auth.keys.is_empty() { "" } else { "-H \"Authorization: Bearer $GAVEL_KEY\" " })
}
