//! The guest that misbehaves (`tests/guests/hostile`) in a sandbox, for every test of this crate.
//!
//! Time is plentiful here, so that only what really hangs meets its deadline, however busy the
//! machine that runs the tests; a test of a deadline sets its own.

#![allow(dead_code, reason = "not every test uses every helper")]

use gavel_runtime::{
    Counters, Evaluation, Limits, Policy, PolicySource, Request, Sandbox, SandboxOptions, WindowedCounters,
};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

pub(crate) const HOSTILE: &[u8] = include_bytes!("../../../../tests/data/guests/hostile.wasm");

pub(crate) fn options() -> SandboxOptions {
    SandboxOptions { max_instances: 64, decision_deadline_ms: 10_000, ..SandboxOptions::default() }
}

pub(crate) fn sandbox() -> Sandbox {
    Sandbox::new(options()).unwrap()
}

/// The default limits, with time for a busy machine.
pub(crate) fn patient() -> Limits {
    Limits { deadline_ms: 5_000, ..Limits::default() }
}

pub(crate) fn request() -> Arc<Request> {
    Arc::new(Request {
        id: "r".into(),
        now_ms: 1_700_000_000_000,
        ts_ms: 5,
        actor: "a".into(),
        intent: "i".into(),
        tool_call: None,
        params: "{}".into(),
        evidence: Vec::new(),
        constraints: None,
    })
}

pub(crate) fn counters() -> Arc<dyn Counters> {
    WindowedCounters::new(100).into()
}

pub(crate) async fn load(sandbox: &Sandbox, config: Value, limits: Limits) -> Policy {
    let source = PolicySource { config, limits, ..PolicySource::new("hostile", HOSTILE.to_vec()) };
    sandbox.load(source).await.unwrap()
}

pub(crate) async fn ask(policy: &Policy) -> Evaluation {
    policy.evaluate(request(), counters(), Duration::from_secs(5)).await
}
