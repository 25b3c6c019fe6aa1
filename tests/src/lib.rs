//! The harness of the outside-in tests: the real binary, real sockets, real processes killed.
//!
//! What belongs here is what several areas need: building and running `gavel` ([`Gavel`]), a server
//! in a folder of its own ([`Site`], [`Server`]), a configuration ([`Config`]), an HTTP client that
//! can also misbehave ([`Connection`]). What a test expects stands in the test. The areas are the
//! files of `tests/tests/`; each says at its head what belongs there.
//!
//! What always holds:
//! - Nothing here sleeps to wait: it reads a pipe, a socket or a process's end, and what does not
//!   come within [`PATIENCE`] fails the test.
//! - Every process is gone when its handle is; none sees the home directory of who runs the tests.
//! - A server that panicked fails the test that dropped it, whatever that test was about.
#![allow(clippy::needless_pass_by_value, reason = "a `json!` is written where it is used")]
#![allow(clippy::print_stderr, reason = "a test that fails shows the log of its server")]
#![allow(clippy::missing_panics_doc, reason = "a harness fails by panicking")]

mod binary;
mod client;
mod config;
mod documents;
mod fake;
pub mod fleet;
mod metrics;
pub mod promql;
mod random;
pub mod receipts;
mod server;
mod volume;
mod webhook;

pub use binary::{Gavel, Output, example, gavel, path as gavel_path, repository, scratch};
pub use client::{Connection, Request, Response, read_request, read_response};
pub use config::{Config, Key};
pub use documents::blocks;
pub use fake::{FakeServer, Script};
pub use metrics::Samples;
pub use random::Random;
pub use server::{Server, Site};
pub use volume::Volume;
pub use webhook::Webhook;

use serde_json::{Value, json};
use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long anything may take before the test that waits for it fails.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// A request that calls no tool.
#[must_use]
pub fn intent(id: &str) -> Value {
    json!({"request_id": id, "actor": "agent-001", "intent": "Look around"})
}

/// A request that calls a tool.
#[must_use]
pub fn call(id: &str, tool: &str, params: Value) -> Value {
    let mut request = intent(id);
    request["tool_call"] = json!({"name": tool, "params": params});
    request
}

/// A path as an argument.
///
/// # Panics
/// When it is not UTF-8.
#[must_use]
pub fn path(path: &Path) -> &str {
    path.to_str().expect("temporary folders have UTF-8 names")
}

/// A file with this content in a folder of its own, which lasts as long as its guard.
///
/// # Panics
/// When there is no room for it.
pub fn file(content: impl AsRef<[u8]>) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("file");
    std::fs::write(&path, content).expect("written");
    (folder, path)
}

/// Do something again until no policy was late for it. By default a policy has 10 ms of wall time,
/// in which a machine that runs many tests may not get to it; what the policy says in time is taken
/// as it is.
pub fn in_time<T: Debug>(mut ask: impl FnMut() -> T) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        let told = ask();
        if !format!("{told:?}").contains("failed closed: deadline of") {
            return told;
        }
        assert!(Instant::now() < until, "a policy is late for {PATIENCE:?}: {told:?}");
    }
}

/// A value as indented text in which everything that differs from run to run is replaced: hashes,
/// times, and what is in `also`.
#[must_use]
pub fn redacted(value: &Value, also: &[(&str, &str)]) -> String {
    let text = serde_json::to_string_pretty(&mask(value.clone())).expect("a value is JSON");
    also.iter().fold(text, |text, (found, shown)| text.replace(found, shown))
}

fn mask(value: Value) -> Value {
    let is_hash = |text: &str| text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    match value {
        Value::String(text) if is_hash(&text) && text.bytes().any(|byte| byte != b'0') => json!("<hash>"),
        Value::String(text) if text.strip_prefix("sha256:").is_some_and(is_hash) => json!("sha256:<hash>"),
        Value::Number(number) if number.as_u64().is_some_and(|number| number > 1_000_000_000_000) => json!("<ms>"),
        Value::Array(items) => items.into_iter().map(mask).collect(),
        Value::Object(fields) => fields.into_iter().map(|(name, value)| (name, mask(value))).collect(),
        other => other,
    }
}
