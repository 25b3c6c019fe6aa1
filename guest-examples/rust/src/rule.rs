//! The rule. This is the file to edit.
//!
//! Whatever goes wrong in here denies the request: an error of the configuration because it says so below, a panic
//! because Gavel takes it so.

use crate::gavel::policy::{config, log};
use crate::{Metadata, Request, Verdict};
use serde::Deserialize;

const INJECTED: &str = "ignore all previous instructions";
const APPROVAL: &str = "approved-by:";

/// What the operator configures. `config.schema.json` says the same to those who write it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    /// Patterns of tools' names, where `*` stands for any text.
    guarded: Vec<String>,
    /// Who may approve, for example `human:alice`.
    approvers: Vec<String>,
}

pub fn describe() -> Metadata {
    Metadata {
        name: "guarded-tools".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        description: "Lets guarded tools run only with the approval of a human.".into(),
        config_schema: Some(include_str!("../config.schema.json").into()),
    }
}

pub fn evaluate(request: Request) -> Verdict {
    if request.intent.to_ascii_lowercase().contains(INJECTED) {
        return Verdict::Deny("the intent reads like an injected instruction".into());
    }
    let config = match Config::read(&config::get()) {
        Ok(config) => config,
        Err(why) => return Verdict::Deny(format!("the configuration cannot be read: {why}")),
    };
    let Some(call) = request.tool_call else {
        return Verdict::Abstain;
    };
    if !config.guarded.iter().any(|pattern| fits(pattern, &call.name)) {
        return Verdict::Allow;
    }
    let mut approvals = request.evidence.iter().filter_map(|entry| entry.strip_prefix(APPROVAL));
    if let Some(approver) = approvals.find(|name| config.approvers.iter().any(|approver| approver == name)) {
        log::write(log::Level::Info, &format!("tool '{}' passes: {approver} approved", call.name));
        return Verdict::Allow;
    }
    Verdict::Escalate(format!(
        "tool '{}' is guarded: evidence 'approved-by:...' of one of {} is needed",
        call.name,
        config.approvers.join(", ")
    ))
}

impl Config {
    fn read(json: &str) -> Result<Self, String> {
        let config: Self = serde_json::from_str(json).map_err(|why| why.to_string())?;
        for (key, texts) in [("guarded", &config.guarded), ("approvers", &config.approvers)] {
            if let Some(index) = texts.iter().position(String::is_empty) {
                return Err(format!("{key}[{index}] is empty"));
            }
        }
        Ok(config)
    }
}

/// Whether `name` fits `pattern`, where `*` stands for any text.
fn fits(pattern: &str, name: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else {
        return name == pattern;
    };
    let (middle, last) = rest.rsplit_once('*').unwrap_or(("", rest));
    let Some(mut name) = name.strip_prefix(first) else {
        return false;
    };
    for part in middle.split('*') {
        match name.split_once(part) {
            Some((_, after)) => name = after,
            None => return false,
        }
    }
    name.ends_with(last)
}
