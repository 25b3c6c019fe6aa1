//! How a command reaches a fleet: its main API, and what that says of its kernels.

use crate::cli::client::{Answer, Client, Remote};
use crate::cli::output::{line, shown};
use anyhow::{Context, Result, bail, ensure};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::PathBuf;

/// Where the main API of a fleet is.
#[derive(Debug, Clone, clap::Args)]
pub(in crate::cli) struct Where {
    /// The main API of the fleet.
    #[arg(long, env = "GAVEL_FLEET_URL", default_value = "http://127.0.0.1:8000", value_name = "URL")]
    pub(in crate::cli) url: String,
    #[command(flatten)]
    pub(in crate::cli) how: How,
}

/// How to call it.
#[derive(Debug, Clone, clap::Args)]
pub(in crate::cli) struct How {
    /// The key, if the fleet wants one. Better given by the environment than on the command line.
    #[arg(long, env = "GAVEL_KEY", hide_env_values = true, value_name = "KEY")]
    key: Option<String>,
    /// Trust this certificate authority (PEM) instead of the public ones.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// How long to wait for an answer, in seconds.
    #[arg(long, default_value_t = 120, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout: u64,
}

impl How {
    /// The main API at `url`, called so.
    pub(in crate::cli) fn remote(&self, url: &str) -> Remote {
        let Self { key, ca, timeout } = self.clone();
        Remote { url: url.to_owned(), kernel: None, key, ca, timeout }
    }

    /// The same, but no answer is waited for longer than this.
    pub(in crate::cli) fn with_patience(&self, seconds: u64) -> Self {
        Self { timeout: self.timeout.min(seconds), ..self.clone() }
    }
}

impl Where {
    pub(in crate::cli) fn client(&self) -> Result<Client> {
        self.how.remote(&self.url).client()
    }

    /// A client for answers that do not end.
    pub(super) fn listener(&self) -> Result<Client> {
        self.how.remote(&self.url).listener()
    }

    /// The same, but no answer is waited for longer than this.
    pub(super) fn with_patience(&self, seconds: u64) -> Self {
        Self { how: self.how.with_patience(seconds), ..self.clone() }
    }
}

/// A time as RFC 3339.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(in crate::cli) struct Time(pub(in crate::cli) Timestamp);

impl TryFrom<String> for Time {
    type Error = jiff::Error;

    fn try_from(text: String) -> Result<Self, jiff::Error> {
        text.parse().map(Self)
    }
}

impl From<Time> for String {
    fn from(time: Time) -> Self {
        time.0.to_string()
    }
}

/// One kernel, as the main API describes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(in crate::cli) struct Kernel {
    pub(in crate::cli) name: String,
    pub(in crate::cli) tier: String,
    pub(in crate::cli) port: u16,
    pub(in crate::cli) pid: Option<u32>,
    pub(in crate::cli) place: String,
    pub(in crate::cli) status: String,
    pub(in crate::cli) required: bool,
    pub(in crate::cli) failures: u32,
    pub(in crate::cli) restarts: u32,
    pub(in crate::cli) since: Time,
    pub(in crate::cli) detail: String,
    pub(in crate::cli) memory_bytes: Option<u64>,
    pub(in crate::cli) cpu_seconds: Option<f64>,
}

/// What the main process itself uses.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(in crate::cli) struct Main {
    pub(in crate::cli) pid: u32,
    pub(in crate::cli) memory_bytes: Option<u64>,
    pub(in crate::cli) cpu_seconds: Option<f64>,
}

/// A fleet, at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(in crate::cli) struct Fleet {
    pub(in crate::cli) status: String,
    pub(in crate::cli) version: String,
    pub(in crate::cli) now: Time,
    pub(in crate::cli) main: Main,
    pub(in crate::cli) healing: Vec<String>,
    pub(in crate::cli) reports_waiting: u64,
    /// What is needed first.
    pub(in crate::cli) kernels: Vec<Kernel>,
}

impl Fleet {
    /// Ask for it.
    pub(in crate::cli) fn of(client: &Client) -> Result<Self> {
        let told = client.get_json("/fleet")?;
        Self::deserialize(told)
            .context("the answer describes no fleet: is it the main API of one, and of this version?")
    }

    /// Kernels that are meant to run.
    pub(in crate::cli) fn meant_to_run(&self) -> impl Iterator<Item = &Kernel> {
        self.kernels.iter().filter(|kernel| kernel.place != NOT_STARTED)
    }

    /// Check that these are kernels of it that are its own processes; without names, all of those.
    pub(super) fn chosen(&self, names: &[String], all: bool) -> Result<Vec<String>> {
        if all {
            let own = self.kernels.iter().filter(|kernel| kernel.place == "process");
            return Ok(own.map(|kernel| kernel.name.clone()).collect());
        }
        for name in names {
            let known = self.kernels.iter().any(|kernel| kernel.name == *name);
            if !known {
                let known: Vec<&str> = self.meant_to_run().map(|kernel| kernel.name.as_str()).collect();
                bail!("this fleet has no kernel `{name}`; it runs: {}", known.join(", "));
            }
        }
        Ok(names.to_vec())
    }
}

/// The place and the status of a kernel that is not meant to run.
pub(in crate::cli) const NOT_STARTED: &str = "not_started";

impl Kernel {
    /// How bad its status is; the worst is the greatest.
    pub(in crate::cli) fn badness(&self) -> usize {
        const STATUSES: [&str; 6] = [NOT_STARTED, "healthy", "starting", "stopped", "unhealthy", "failed"];
        STATUSES.iter().position(|status| *status == self.status).unwrap_or(STATUSES.len())
    }
}

/// A name as part of a path.
pub(in crate::cli) fn in_path(name: &str) -> Result<&str> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    ensure!(!name.is_empty() && name.bytes().all(plain), "`{}` is no kernel's name", shown(name, 64));
    Ok(name)
}

/// POST without a body.
pub(super) fn post(client: &Client, route: &str) -> Result<Value> {
    client.post(route, b"").and_then(Answer::accepted)
}

/// Steps that were taken, each with its time.
pub(in crate::cli) fn print_steps(steps: &Value, indent: &str) -> Result<()> {
    for step in steps.as_array().into_iter().flatten() {
        let word = if step["ok"] == true { "ok    " } else { "FAILED" };
        let took = duration_ms(step["took_ms"].as_f64().unwrap_or_default());
        let (name, detail) = (step["step"].as_str().unwrap_or("-"), step["detail"].as_str().unwrap_or_default());
        line(format!("{indent}{word}  {name:<12} {took:>9}  {}", shown(detail, 500)).trim_end())?;
    }
    Ok(())
}

/// Milliseconds in the unit that needs the fewest digits.
pub(in crate::cli) fn duration_ms(ms: f64) -> String {
    match ms {
        ms if ms < 1.0 => format!("{:.0} µs", ms * 1e3),
        ms if ms < 1_000.0 => format!("{ms:.1} ms"),
        ms => format!("{:.1} s", ms / 1e3),
    }
}

/// Bytes in the unit that needs the fewest digits.
pub(in crate::cli) fn bytes(bytes: Option<u64>) -> String {
    #[allow(clippy::cast_precision_loss, reason = "shown with one digit")]
    match bytes {
        None => "-".to_owned(),
        Some(bytes) if bytes < 1 << 10 => format!("{bytes} B"),
        Some(bytes) if bytes < 1 << 20 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        Some(bytes) if bytes < 1 << 30 => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
        Some(bytes) => format!("{:.1} GiB", bytes as f64 / 1_073_741_824.0),
    }
}

/// How long ago, in the two units that matter: `3d 4h`, `2m 5s`.
pub(super) fn age(since: Time, now: Time) -> String {
    let seconds = now.0.duration_since(since.0).as_secs().max(0);
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m {}s", seconds % 60),
        (0, ..) => format!("{hours}h {minutes}m"),
        _ => format!("{days}d {hours}h"),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn kernel(name: &str, status: &str, cpu_seconds: f64) -> Kernel {
        Kernel {
            name: name.to_owned(),
            tier: "core".to_owned(),
            port: 8100,
            pid: Some(7),
            place: "process".to_owned(),
            status: status.to_owned(),
            required: true,
            failures: 0,
            restarts: 2,
            since: Time("2026-01-01T00:00:00Z".parse().unwrap()),
            detail: String::new(),
            memory_bytes: Some(3 << 20),
            cpu_seconds: Some(cpu_seconds),
        }
    }

    pub(in super::super) fn fleet(now: &str, cpu_seconds: f64) -> Fleet {
        Fleet {
            status: "degraded".to_owned(),
            version: "1".to_owned(),
            now: Time(now.parse().unwrap()),
            main: Main { pid: 6, memory_bytes: Some(20 << 20), cpu_seconds: Some(cpu_seconds) },
            healing: Vec::new(),
            reports_waiting: 1,
            kernels: vec![kernel("message_bus", "healthy", cpu_seconds), kernel("audit_trail", "failed", 0.0)],
        }
    }

    #[test]
    fn ages_have_two_units() {
        let now = "2026-01-01T00:00:00Z".parse::<Timestamp>().unwrap();
        let told = |seconds: i64| age(Time(now - jiff::SignedDuration::from_secs(seconds)), Time(now));
        assert_eq!([5, 65, 3_660, 90_000, -3].map(told), ["5s", "1m 5s", "1h 1m", "1d 1h", "0s"]);
    }

    #[test]
    fn names_are_chosen_or_told_apart() {
        let fleet = fleet("2026-01-01T00:00:00Z", 0.0);
        assert_eq!(fleet.chosen(&[], true).unwrap(), ["message_bus", "audit_trail"]);
        let told = fleet.chosen(&["nobody".to_owned()], false).unwrap_err().to_string();
        assert_eq!(told, "this fleet has no kernel `nobody`; it runs: message_bus, audit_trail");
        assert!(in_path("a/b").is_err() && in_path("").is_err() && in_path("a_b-1.c").is_ok());
    }
}
