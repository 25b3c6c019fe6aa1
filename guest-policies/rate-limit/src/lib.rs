//! The policy `rate-limit`: at most so many calls in a window, for each actor, tool, session, or the whole kernel.
//!
//! Windows slide: a limit of 20 a minute holds for every minute, not for those of the clock. Every rule that is about a
//! request is applied, and all must agree. It never lets through more than the limit, also when decisions run at the
//! same time: it adds first and compares the sum that the host returns.
//!
//! It counts what is asked for, not what becomes of it: a call that a later policy denies, or that fails, has counted.

mod config;

use gavel_policy::counting::{Counters, HostCounters, wait_ms};
use gavel_policy::text::{Milliseconds, shown};
use gavel_policy::{Configuration, Metadata, Policy, Request, Verdict, export_policy};

use config::{Config, Count, Rule};

/// The policy, for [`export_policy!`].
pub struct RateLimit;

export_policy!(RateLimit);

static CONFIG: Configuration<Config> = Configuration::new();

impl Policy for RateLimit {
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
            Ok(config) => judge(config, &request, &mut HostCounters),
            Err(broken) => broken.clone().into(),
        }
    }
}

/// One rule, the count of this request under it, and what that count says.
struct Tally<'c> {
    rule: &'c Rule,
    key: String,
    session: Option<&'c str>,
}

fn judge(config: &Config, request: &Request, counters: &mut impl Counters) -> Verdict {
    let mut tallies = Vec::new();
    for rule in config.rules.iter().filter(|rule| rule.is_about(request)) {
        let session = match config.session_prefix.session_in(rule.per, config.on_missing_session, request) {
            Ok(session) => session,
            Err(why) => return Verdict::Deny(format!("{} is limited by session: {why}", subject(request))),
        };
        tallies.push(Tally { rule, key: rule.key(request, session), session });
    }
    if tallies.is_empty() {
        return Verdict::Abstain;
    }
    if config.count == Count::Passed {
        // Nothing is added before every rule has room.
        for tally in &tallies {
            let sum = counters.read(&tally.key, tally.rule.window_ms);
            if sum >= tally.rule.limit {
                return tally.denial(config, request, sum.saturating_add(1), counters);
            }
        }
    }
    let sums: Vec<_> = tallies.iter().map(|tally| counters.add(&tally.key, 1, tally.rule.window_ms)).collect();
    match tallies.iter().zip(sums).find(|(tally, sum)| *sum > tally.rule.limit) {
        Some((tally, sum)) => tally.denial(config, request, sum, counters),
        None => Verdict::Allow,
    }
}

impl Tally<'_> {
    /// `sum` is the count with this request in it.
    fn denial(&self, config: &Config, request: &Request, sum: u64, counters: &mut impl Counters) -> Verdict {
        let rule = self.rule;
        let counted = match &rule.tools {
            Some(tools) => format!("call {sum} of {}", shown(&tools.joined())),
            None => format!("request {sum}"),
        };
        let wait = wait_ms(counters, &self.key, rule.window_ms, rule.limit - 1);
        Verdict::Deny(format!(
            "{} comes too often: {counted} {} in the last {}, and the limit is {}; there is room again in {}{}",
            subject(request),
            rule.per.describe(request, self.session),
            Milliseconds(rule.window_ms),
            rule.limit,
            Milliseconds(wait),
            if config.count == Count::Attempts { " if nothing is tried until then" } else { "" },
        ))
    }
}

fn subject(request: &Request) -> String {
    match &request.tool_call {
        Some(call) => format!("tool '{}'", shown(&call.name)),
        None => "a request without a tool".into(),
    }
}

#[cfg(test)]
mod tests;
