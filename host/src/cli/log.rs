//! The log of a command: to standard error, as text or as JSON.

use crate::config::LogLevel;
use std::io::IsTerminal;
use std::sync::OnceLock;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

/// Changes the filter while the log runs; absent where the log, or its filter, is another's.
static FILTER: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// Start the log. What is said on the command line counts before the environment (`GAVEL_LOG`, and the older daemon's
/// `KSI_LOG_LEVEL`), the environment before a configuration.
pub(super) fn start(filter: Option<&str>, json: bool) {
    let level = || std::env::var("KSI_LOG_LEVEL").ok().and_then(|level| LogLevel::named(&level));
    let said = filter.map(str::to_owned).or_else(|| std::env::var("GAVEL_LOG").ok());
    let said = said.or_else(|| Some(level()?.filter().to_owned()));
    let fixed = said.is_some();
    let filter = EnvFilter::new(said.as_deref().unwrap_or(LogLevel::Info.filter()));
    let (filter, handle) = reload::Layer::new(filter);
    let lines = fmt::layer().with_ansi(std::io::stderr().is_terminal()).with_writer(std::io::stderr);
    // A kernel whose fleet was killed has nobody who reads: to complain of that where it cannot be read either would panic,
    // in the middle of its orderly end.
    let lines = lines.log_internal_errors(false);
    let lines = if json { lines.json().boxed() } else { lines.with_target(false).boxed() };
    // A host application that embeds this may have set up a log of its own.
    if tracing_subscriber::registry().with(filter).with(lines).try_init().is_ok() && !fixed {
        drop(FILTER.set(handle));
    }
}

/// Log as a configuration says, where neither the command line nor the environment said how.
pub(super) fn follow(level: Option<LogLevel>) {
    let (Some(level), Some(filter)) = (level, FILTER.get()) else { return };
    if let Err(why) = filter.reload(EnvFilter::new(level.filter())) {
        tracing::warn!("the log goes on as it is: {why}");
    }
}
