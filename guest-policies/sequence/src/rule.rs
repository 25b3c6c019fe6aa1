//! One rule applied to one request: what was there before, and what of it is used up.

use gavel_policy::Request;
use gavel_policy::counting::{Counters, STEPS_PER_WINDOW, shortest_over};
use gavel_policy::scope::{NoSession, OnMissingSession};
use gavel_policy::text::{Milliseconds, shown};

use crate::config::{Config, Order, Rule};

/// A rule, and whose calls it is about here.
pub(crate) struct Applied<'c> {
    pub(crate) rule: &'c Rule,
    seen_key: String,
    used_key: String,
    whose: String,
}

impl<'c> Applied<'c> {
    pub(crate) fn of(config: &Config, rule: &'c Rule, request: &Request) -> Result<Self, NoSession> {
        let session = config.session_prefix.session_in(rule.per, OnMissingSession::Deny, request)?;
        Ok(Self {
            rule,
            seen_key: rule.seen_key(request, session),
            used_key: rule.used_key(request, session),
            whose: rule.per.describe(request, session),
        })
    }

    /// Does the rule let the call pass? An error says why not; a use is still to be taken.
    pub(crate) fn check(&self, tool: &str, counters: &mut impl Counters) -> Result<Option<Use<'_>>, String> {
        let Self { rule, seen_key, whose, .. } = self;
        let seen = counters.read(seen_key, rule.within_ms);
        let (earlier, within) = (shown(&rule.earlier.joined()), Milliseconds(rule.within_ms));
        match rule.order {
            Order::NeverAfter if seen == 0 => Ok(None),
            Order::NeverAfter => Err(format!(
                "tool '{tool}' may not be called after {earlier}: there were {seen} such calls {whose} in the last {within}"
            )),
            Order::After { .. } if seen == 0 => Err(format!(
                "tool '{tool}' may be called only after {earlier}: there was no such call {whose} in the last {within}"
            )),
            Order::After { at_most: None } => Ok(None),
            Order::After { at_most: Some(times) } => {
                let used = Use { of: self, seen, most: seen.saturating_mul(times) };
                let made = counters.read(&self.used_key, rule.within_ms);
                if used.fits(made.saturating_add(1), 1, counters) { Ok(Some(used)) } else { Err(used.refusal(tool)) }
            }
        }
    }

    /// Remember this call, as one of the earlier ones for those to come.
    pub(crate) fn remember(&self, counters: &mut impl Counters) {
        counters.add(&self.seen_key, 1, self.rule.within_ms);
    }
}

/// A call that takes one of the times that the earlier calls are good for.
pub(crate) struct Use<'a> {
    of: &'a Applied<'a>,
    /// Earlier calls in the window, at least one.
    seen: u64,
    /// The calls that they are good for.
    most: u64,
}

impl Use<'_> {
    /// Take it. Other decisions may have taken theirs since the check, so the sum that comes back is what counts.
    pub(crate) fn take(&self, tool: &str, counters: &mut impl Counters) -> Option<String> {
        let made = counters.add(&self.of.used_key, 1, self.of.rule.within_ms);
        if self.fits(made, 0, counters) { None } else { Some(self.refusal(tool)) }
    }

    /// Are so many calls in the window covered by the earlier ones? `untaken` is how many the counter does not hold yet.
    ///
    /// Some of those calls may have used earlier ones that have left the window since, so where the whole window holds
    /// too many, only those since the oldest earlier call that is still in it are counted. Every use before that
    /// found its own earlier call before that as well, so this shares none out twice.
    ///
    /// The host merges what is added within a 128th of the window, at the later time: so the oldest earlier call may be
    /// a step older than it looks. Counting from further back only makes the rule stricter.
    fn fits(&self, made: u64, untaken: u64, counters: &mut impl Counters) -> bool {
        if made <= self.most {
            return true;
        }
        let Applied { rule, seen_key, used_key, .. } = self.of;
        let oldest_ms = shortest_over(counters, seen_key, rule.within_ms, self.seen - 1);
        let since_ms = (oldest_ms + rule.within_ms.div_ceil(STEPS_PER_WINDOW)).min(rule.within_ms);
        counters.read(used_key, since_ms).saturating_add(untaken) <= self.most
    }

    fn refusal(&self, tool: &str) -> String {
        let Applied { rule, whose, .. } = self.of;
        format!(
            "tool '{tool}' may be called only {} for each call of {}: what there was {whose} in the last {} is used up",
            match self.most / self.seen {
                1 => "once".into(),
                times => format!("{times} times"),
            },
            shown(&rule.earlier.joined()),
            Milliseconds(rule.within_ms),
        )
    }
}
