//! `gavel serve`: the server.

use super::Outcome;
use super::output::{line, print_json};
use crate::clock::Clock;
use crate::config::{self, File};
use crate::host::{self, Host, Storage};
use crate::http;
use anyhow::{Context, Result};
use serde_json::json;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use tokio::signal::unix::{SignalKind, signal};

/// Serve kernels over HTTP until SIGTERM or Ctrl-C.
///
/// With no configuration: one strict kernel on 127.0.0.1:8080 with a default policy set, its data
/// under the user's data directory.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  gavel serve
  gavel serve --config gavel.yaml --listen 127.0.0.1:0 --data /var/lib/gavel
  gavel serve --config policy.yaml     (the KERNELS policy file as it stands)")]
pub(super) struct Args {
    /// The configuration (YAML).
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where to listen; port 0 takes a free one, which is printed. Wins over the file.
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Option<SocketAddr>,
    /// Where ledgers and workspace lie. Wins over the file.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

pub(super) fn run(args: &Args, as_json: bool) -> Result<Outcome> {
    super::runtime()?.block_on(serve(args, as_json))?;
    Ok(Outcome::Yes)
}

async fn serve(args: &Args, as_json: bool) -> Result<()> {
    let mut file = config::read_or_default(args.config.as_deref())?;
    file.listen = args.listen.unwrap_or(file.listen);
    let data = match args.data.as_ref().or(file.data.as_ref()) {
        Some(data) => data.clone(),
        None => host::default_data_dir()?,
    };
    // Bound before anything else, so that an address in use is told at once.
    let server = http::Server::bind(file.listen, file.tls.as_ref(), !file.auth.keys.is_empty()).await?;
    let stop = stopped().context("signals cannot be received")?;
    let mut reread = signal(SignalKind::hangup()).context("signals cannot be received")?;
    let host = Host::open(file, &Storage::Folder(data.clone()), Clock::System).await?;
    host.watch();
    let base = format!("{}://{}", server.scheme(), server.address);
    announce(&host, &base, &data, as_json)?;
    let serving = http::serve(server, host.app(), stop);
    tokio::pin!(serving);
    loop {
        tokio::select! {
            () = &mut serving => break,
            _ = reread.recv() => reconfigure(&host, args.config.as_deref()).await,
        }
    }
    host.finish().await;
    tracing::info!("stopped; every acknowledged record is on disk");
    Ok(())
}

/// What SIGHUP asks for. A configuration that is not accepted changes nothing.
async fn reconfigure(host: &Host, path: Option<&Path>) {
    let file = config::read_or_default(path).map_err(anyhow::Error::from);
    let taken = match file {
        Ok(file) => host.reconfigure(&file).await,
        Err(why) => Err(why),
    };
    match taken {
        Ok(()) => tracing::info!("the policies of the configuration are in service"),
        Err(why) => tracing::error!("the configuration is not taken: {why:#}"),
    }
}

/// Completes at the first SIGTERM or SIGINT.
fn stopped() -> std::io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping: finishing what is in flight");
    })
}

fn announce(host: &Host, base: &str, data: &Path, as_json: bool) -> Result<()> {
    let file = host.file();
    if as_json {
        let slots = host.fleet.slots();
        let kernels: Vec<&str> = slots.iter().map(|slot| slot.name()).collect();
        return print_json(&json!({"url": base, "data": data, "kernels": kernels}));
    }
    line(&format!("gavel {} serves {base}  (data in {})", env!("CARGO_PKG_VERSION"), data.display()))?;
    for slot in host.fleet.slots() {
        let kernel = slot.kernel();
        let rules = kernel.policies();
        let rules: Vec<&str> = rules.serving.set.policies().iter().map(gavel_runtime::Policy::name).collect();
        let rules = if rules.is_empty() { "none".to_owned() } else { rules.join(", ") };
        let serving = if kernel.id() == slot.name() { String::new() } else { format!(" (served by {})", kernel.id()) };
        let (variant, state) = (kernel.variant(), kernel.state());
        line(&format!("  kernel {}{serving}  {variant}, {state}, policies: {rules}", slot.name()))?;
    }
    if file.auth.keys.is_empty() {
        line("  no keys are configured: loopback only, and every caller has every role")?;
    }
    let (actor, header) = example_caller(file);
    line("try:")?;
    line(&format!(
        "  curl -s {base}/submit {header}-d '{{\"request_id\": \"r1\", \"actor\": \"{actor}\", \"intent\": \"Say hello\", \"tool_call\": {{\"name\": \"echo\", \"params\": {{\"text\": \"hello\"}}}}}}'"
    ))
}

/// An actor that the first kernel knows, for the line to try, and the header it needs.
fn example_caller(file: &File) -> (String, &'static str) {
    let named = file.kernels[0].policy.iter().flat_map(|policy| &policy.allowed_actors).find(|actor| *actor != "*");
    let actor = named.cloned().unwrap_or_else(|| "agent-001".into());
    (actor, if file.auth.keys.is_empty() { "" } else { "-H \"Authorization: Bearer $GAVEL_KEY\" " })
}
