//! The policy `two-person`: some tools only with the approvals of several people, none of them the actor.
//!
//! Approvals are entries of the request's evidence. How one is written, and what binds it to this very request, is a
//! template ([`entry`]); who is who is compared so that one person cannot pass for two ([`people`]).
//!
//! It does not know who wrote the evidence. Unless the host or the operator's gateway vouches for it, evidence is what
//! the caller claims, and this policy makes a caller say something false rather than keep it from acting.

mod config;
mod entry;
mod people;

use gavel_policy::json::Json;
use gavel_policy::text::shown;
use gavel_policy::{Configuration, Metadata, Policy, Request, Verdict, export_policy};

use config::{Config, OnMissing, OnSelf, Rule};
use entry::Bound;
use people::{Approver, ApproverPattern};

/// Approvals that do not count and are shown with the reason why, at most.
const DISCOUNTED_MAX: usize = 3;

/// The policy, for [`export_policy!`].
pub struct TwoPerson;

export_policy!(TwoPerson);

static CONFIG: Configuration<Config> = Configuration::new();

impl Policy for TwoPerson {
    fn describe() -> Metadata {
        Metadata {
            name: env!("CARGO_PKG_NAME").into(),
            version: env!("CARGO_PKG_VERSION").into(),
            description: env!("CARGO_PKG_DESCRIPTION").into(),
            config_schema: Some(include_str!("../config.schema.json").into()),
        }
    }

    fn evaluate(request: Request) -> Verdict {
        match CONFIG.get(Config::read) {
            Ok(config) => judge(config, &request),
            Err(broken) => broken.clone().into(),
        }
    }
}

fn judge(config: &Config, request: &Request) -> Verdict {
    let Some(call) = &request.tool_call else { return Verdict::Abstain };
    let mut rules = config.rules.iter().filter(|rule| rule.is_about(&call.name)).peekable();
    if rules.peek().is_none() {
        return Verdict::Abstain;
    }
    let tool = shown(&call.name);
    let params = match Json::parse(&call.params) {
        Ok(params) => params,
        Err(wrong) => return Verdict::Deny(format!("the parameters of tool '{tool}' cannot be read: {wrong}")),
    };
    let mut verdict = Verdict::Allow;
    for rule in rules {
        match apply(rule, request, &tool, &params) {
            // A later rule may still deny.
            Verdict::Escalate(why) if verdict == Verdict::Allow => verdict = Verdict::Escalate(why),
            Verdict::Allow | Verdict::Escalate(_) => {}
            denial => return denial,
        }
    }
    verdict
}

fn apply(rule: &Rule, request: &Request, tool: &str, params: &Json) -> Verdict {
    let bound = match rule.entry.of(request, params) {
        Ok(bound) => bound,
        Err(why) => return Verdict::Deny(format!("tool '{tool}' {why}")),
    };
    let found = Approvals::find(rule, request, &bound);
    if found.is_by_actor && rule.on_self == OnSelf::Deny {
        return Verdict::Deny(format!("tool '{tool}' is approved by its own actor '{}'", shown(&request.actor)));
    }
    if found.by.len() >= rule.approvals {
        return Verdict::Allow;
    }
    let why = found.lacking(rule, tool, &bound);
    match rule.on_missing {
        OnMissing::Escalate => Verdict::Escalate(why),
        OnMissing::Deny => Verdict::Deny(why),
    }
}

/// The approvals of a request under one rule.
#[derive(Default)]
struct Approvals {
    /// Each person once.
    by: Vec<Approver>,
    is_by_actor: bool,
    /// What looks like an approval and is none, and why.
    discounted: Vec<String>,
}

impl Approvals {
    fn find(rule: &Rule, request: &Request, bound: &Bound) -> Self {
        let mut found = Self::default();
        for text in request.evidence.iter().filter_map(|entry| bound.approver(entry)) {
            let why = match Approver::new(text) {
                None => "no plain name",
                Some(approver) if approver.is_perhaps(&request.actor) => {
                    found.is_by_actor = true;
                    "the actor itself"
                }
                Some(approver) if !rule.approvers.iter().any(|pattern| pattern.matches(&approver)) => "no approver",
                Some(approver) if found.by.contains(&approver) => "counted already",
                Some(approver) => {
                    found.by.push(approver);
                    continue;
                }
            };
            if found.discounted.len() < DISCOUNTED_MAX {
                found.discounted.push(format!("'{}' ({why})", shown(text)));
            }
        }
        found
    }

    fn lacking(&self, rule: &Rule, tool: &str, bound: &Bound) -> String {
        let needed = match rule.approvals {
            1 => "an approval".into(),
            several => format!("the approvals of {several} people"),
        };
        let joined = |names: Vec<&str>| shown(&names.join(", "));
        let there = match self.by.len() {
            0 => "none is there".into(),
            count => format!("{count} is there ({})", joined(self.by.iter().map(Approver::as_str).collect())),
        };
        let discounted = match self.discounted.len() {
            0 => String::new(),
            _ => format!("; not counted: {}", self.discounted.join(", ")),
        };
        format!(
            "tool '{tool}' needs {needed}, and {there}: evidence '{}' of {} is needed{discounted}",
            bound.describe(),
            joined(rule.approvers.iter().map(ApproverPattern::as_str).collect()),
        )
    }
}

#[cfg(test)]
mod tests;
