//! Tests of the whole judgement, on the machine itself: configuration and tool call in, verdict out.

mod documents;
mod judgement;
mod kinds;
mod properties;
mod recorded;
mod suites;

use gavel_policy::{ToolCall, read_configuration};
use serde_json::Value;

use super::*;

/// 2026-01-05T10:00:00Z, a Monday.
const NOW_MS: u64 = 1_767_607_200_000;

fn config(config: &Value) -> Config {
    read_configuration(&config.to_string(), Config::read).unwrap_or_else(|wrong| panic!("{config}: {wrong}"))
}

/// The configuration's first complaint.
fn refusal(config: &Value) -> String {
    read_configuration(&config.to_string(), Config::read).expect_err(&config.to_string()).to_string()
}

fn request(intent: &str, tool: &str, params: &str) -> Request {
    Request {
        id: "r-1".into(),
        now_ms: NOW_MS,
        ts_ms: NOW_MS,
        actor: "agent-001".into(),
        intent: intent.into(),
        tool_call: Some(ToolCall { name: tool.into(), params: params.into() }),
        params: "{}".into(),
        evidence: Vec::new(),
        constraints: None,
    }
}

fn yaml(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap_or_else(|wrong| panic!("{wrong}:\n{text}"))
}
