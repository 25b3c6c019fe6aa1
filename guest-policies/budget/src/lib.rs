//! The policy `budget`: what tool calls spend stays within a budget for each window.
//!
//! The amount of a call is a sum of its parameters, read exactly ([`decimal`]); what is not clearly an amount denies.
//! Every rule that is about a call is applied, and all must agree. Nothing is spent by a call that is denied here: the
//! sums are read first, and added to only when every rule has room. The sum that the host returns is compared again, so
//! the budget also holds when decisions run at the same time; a call denied by that second look has been counted.
//!
//! It knows what is asked for, not what is paid: a call that a later policy denies, or that fails, has spent.

mod config;
mod decimal;

use gavel_policy::counting::{Counters, HostCounters, wait_ms};
use gavel_policy::json::Json;
use gavel_policy::text::{Milliseconds, shown};
use gavel_policy::{Configuration, Metadata, Policy, Request, Verdict, export_policy};

use config::{Config, NoUnits, OnMissing, Rule};

/// The policy, for [`export_policy!`].
pub struct Budget;

export_policy!(Budget);

static CONFIG: Configuration<Config> = Configuration::new();

impl Policy for Budget {
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
    let mut rules = config.rules.iter().filter(|rule| rule.is_about(&call.name)).peekable();
    if rules.peek().is_none() {
        return Verdict::Abstain;
    }
    let tool = shown(&call.name);
    let params = match Json::parse(&call.params) {
        Ok(params) => params,
        Err(wrong) => return Verdict::Deny(format!("the parameters of tool '{tool}' cannot be read: {wrong}")),
    };
    let (mut spendings, mut escalation) = (Vec::new(), None);
    for rule in rules {
        match Spending::of(config, rule, request, &params) {
            Ok(spending) => spendings.extend(spending),
            Err(Verdict::Escalate(why)) => escalation = escalation.or(Some(why)),
            Err(denial) => return denial,
        }
    }
    for spending in &spendings {
        match spending.look(&tool, counters) {
            Err(Verdict::Escalate(why)) => escalation = escalation.or(Some(why)),
            Err(denial) => return denial,
            Ok(()) => {}
        }
    }
    match escalation {
        // Like a denial it spends nothing: no human has decided yet.
        Some(why) => Verdict::Escalate(why),
        None if spendings.is_empty() => Verdict::Abstain,
        None => spend(&spendings, &tool, counters),
    }
}

/// Add every amount. Other decisions may have added since the look, so the sums that come back are what counts.
fn spend(spendings: &[Spending], tool: &str, counters: &mut impl Counters) -> Verdict {
    for Spending { rule, units, key, .. } in spendings.iter().filter(|spending| spending.units > 0) {
        let sum = counters.add(key, *units, rule.window_ms);
        if sum > rule.limit {
            return Verdict::Deny(format!(
                "tool '{tool}' asks for {}, and others spent what was left at the same time; try again",
                rule.scale.show(*units)
            ));
        }
    }
    Verdict::Allow
}

/// What a call asks for under one rule, and where it is counted.
struct Spending<'c> {
    rule: &'c Rule,
    units: u64,
    key: String,
    whose: String,
}

impl<'c> Spending<'c> {
    /// None if the call holds no amount and need not. An error is the verdict.
    fn of(config: &Config, rule: &'c Rule, request: &Request, params: &Json) -> Result<Option<Self>, Verdict> {
        let tool = request.tool_call.as_ref().map_or_else(String::new, |call| shown(&call.name));
        let units = match rule.units(params) {
            Ok(Some(units)) => units,
            Ok(None) => return Ok(None),
            Err(NoUnits::Wrong(why)) => return Err(Verdict::Deny(format!("tool '{tool}': {why}"))),
            Err(NoUnits::Missing(name)) => {
                let why = format!("tool '{tool}' is called without the amount in its parameter '{name}'");
                let escalates = rule.on_missing == OnMissing::Escalate;
                return Err(if escalates { Verdict::Escalate(why) } else { Verdict::Deny(why) });
            }
        };
        let session = config
            .session_prefix
            .session_in(rule.per, config.on_missing_session, request)
            .map_err(|none| Verdict::Deny(format!("tool '{tool}' has a budget by session: {none}")))?;
        let whose = rule.per.describe(request, session);
        Ok(Some(Self { rule, units, key: rule.key(request, session), whose }))
    }

    /// Does the amount fit? Nothing is added.
    fn look(&self, tool: &str, counters: &mut impl Counters) -> Result<(), Verdict> {
        let Self { rule, units, key, whose } = self;
        let scale = rule.scale;
        let asks = format!("tool '{tool}' asks for {}", scale.show(*units));
        if let Some(most) = rule.per_call_max.filter(|most| units > most) {
            return Err(Verdict::Deny(format!("{asks}, and one call may spend {} at most", scale.show(most))));
        }
        if *units > rule.limit {
            return Err(Verdict::Deny(format!("{asks}, and the whole budget is {}", scale.show(rule.limit))));
        }
        if *units > 0 {
            let spent = counters.read(key, rule.window_ms);
            let room = rule.limit - units;
            if spent > room {
                let wait = wait_ms(counters, key, rule.window_ms, room);
                return Err(Verdict::Deny(format!(
                    "{asks}, and {} of {} are left: {} were spent {whose} in the last {}; there is room for it in {}",
                    scale.show(rule.limit.saturating_sub(spent)),
                    scale.show(rule.limit),
                    scale.show(spent),
                    Milliseconds(rule.window_ms),
                    Milliseconds(wait),
                )));
            }
        }
        match rule.escalate_above.filter(|above| units > above) {
            Some(above) => Err(Verdict::Escalate(format!("{asks}; above {} a human must decide", scale.show(above)))),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
