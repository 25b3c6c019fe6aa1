//! The policy `sequence`: some tools only after others in the same session (`after`), some never after others
//! (`never_after`: what has read untrusted data must not send).
//!
//! It remembers calls in the host's counters, as judged up to here: a call that this policy lets pass is remembered
//! even if a later policy denies it, or if its tool fails. So it belongs last among the policies.
//!
//! What always holds: a call that is denied here is not remembered; one that escalates is, where remembering it can
//! only forbid; and with `at_most`, the calls that pass can be shared out among the earlier calls so that none gets more
//! than its number, each within its time, also when decisions run at the same time.

mod config;
mod rule;

use gavel_policy::counting::{Counters, HostCounters};
use gavel_policy::text::shown;
use gavel_policy::{Configuration, Metadata, Policy, Request, Verdict, export_policy};

use config::{Config, Order, Refusal};
use rule::Applied;

/// The policy, for [`export_policy!`].
pub struct Sequence;

export_policy!(Sequence);

static CONFIG: Configuration<Config> = Configuration::new();

impl Policy for Sequence {
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

fn judge(config: &Config, request: &Request, counters: &mut impl Counters) -> Verdict {
    let Some(call) = &request.tool_call else { return Verdict::Abstain };
    let tool = shown(&call.name);
    let mut escalation = None;
    let rules = match rules_about(config, request, &call.name, &mut escalation) {
        Ok(rules) => rules,
        Err(denial) => return denial,
    };
    let mut uses = Vec::new();
    for applied in rules.iter().filter(|applied| applied.rule.guards(&call.name)) {
        match applied.check(&tool, counters) {
            Ok(taken) => uses.extend(taken),
            Err(why) => match applied.rule.otherwise {
                Refusal::Deny => return Verdict::Deny(why),
                Refusal::Escalate => escalation = escalation.or(Some(why)),
            },
        }
    }
    let marks = rules.iter().filter(|applied| applied.rule.remembers(&call.name));
    if let Some(why) = escalation {
        // A human may let it run, and this policy is not asked again.
        marks.filter(|mark| mark.rule.order == Order::NeverAfter).for_each(|mark| mark.remember(counters));
        return Verdict::Escalate(why);
    }
    if let Some(why) = uses.iter().find_map(|used| used.take(&tool, counters)) {
        return Verdict::Deny(why);
    }
    marks.for_each(|mark| mark.remember(counters));
    let is_guarded = rules.iter().any(|applied| applied.rule.guards(&call.name));
    if is_guarded { Verdict::Allow } else { Verdict::Abstain }
}

/// The rules that guard a tool or remember it, each for this request's actor and session. A rule that lacks its session
/// denies, or escalates, or drops out where that helps nobody.
fn rules_about<'c>(
    config: &'c Config,
    request: &Request,
    tool: &str,
    escalation: &mut Option<String>,
) -> Result<Vec<Applied<'c>>, Verdict> {
    let mut rules = Vec::new();
    for rule in config.rules.iter().filter(|rule| rule.guards(tool) || rule.remembers(tool)) {
        match Applied::of(config, rule, request) {
            Ok(applied) => rules.push(applied),
            // An earlier call that helps nobody, for want of a session, does no harm; one that taints would escape.
            Err(_) if !rule.guards(tool) && rule.order != Order::NeverAfter => {}
            Err(none) => {
                let why = format!("tool '{}' is in a rule by session: {none}", shown(tool));
                if none.several || rule.on_missing_session == Refusal::Deny {
                    return Err(Verdict::Deny(why));
                }
                escalation.get_or_insert(why);
            }
        }
    }
    Ok(rules)
}

#[cfg(test)]
mod tests;
