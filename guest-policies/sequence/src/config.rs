//! The configuration, checked as a whole. `config.schema.json` says the same to operators and their tools.

use gavel_policy::Request;
use gavel_policy::json::{Fields, Json, Wrong};
use gavel_policy::key::Key;
use gavel_policy::scope::{Scope, SessionPrefix};
use gavel_policy::settings::{NamePatterns, choice, integer_within, items, window_ms};

/// Rules in a configuration. Each that is about a call asks the host's counters twice, one with `at_most` up to twelve
/// times; an evaluation has 64 by default, so four with `at_most` may be about one call.
const RULES_MAX: usize = 16;

/// Calls that one earlier call may be good for, at most.
const AT_MOST_MAX: u64 = 1_000_000;

/// All rules; each that is about a call is applied, and all must agree.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) rules: Vec<Rule>,
    pub(crate) session_prefix: SessionPrefix,
}

impl Config {
    pub(crate) fn read(settings: &Json) -> Result<Self, Wrong> {
        let settings = settings.object(&["rules", "session_prefix"])?;
        let rules = settings.require("rules", |rules| items(rules, RULES_MAX, Rule::read))?;
        for (index, rule) in rules.iter().enumerate() {
            if let Some(earlier) = rules[..index].iter().position(|earlier| earlier.remembers_the_same(rule)) {
                return Err(Wrong::new(format!(
                    "`rules[{index}]` is about the same as `rules[{earlier}]`; keep one of them"
                )));
            }
        }
        Ok(Self { rules, session_prefix: settings.get("session_prefix", SessionPrefix::read)?.unwrap_or_default() })
    }
}

/// What must, or must not, have come before some tools.
#[derive(Debug)]
pub(crate) struct Rule {
    tools: NamePatterns,
    pub(crate) order: Order,
    pub(crate) earlier: NamePatterns,
    pub(crate) within_ms: u64,
    pub(crate) per: Scope,
    pub(crate) on_missing_session: Refusal,
    pub(crate) otherwise: Refusal,
}

/// How the tools and the earlier ones belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// Only after an earlier one, each of which is good for so many calls, or for any number.
    After { at_most: Option<u64> },
    /// Never after an earlier one.
    NeverAfter,
}

/// What becomes of a call that a rule does not let pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    Deny,
    Escalate,
}

impl Refusal {
    fn read(word: &Json) -> Result<Self, Wrong> {
        choice(word, &[("deny", Self::Deny), ("escalate", Self::Escalate)])
    }
}

impl Rule {
    fn read(rule: &Json) -> Result<Self, Wrong> {
        let names = ["tools", "after", "never_after", "within_ms", "per", "at_most", "on_missing_session", "otherwise"];
        let rule = rule.object(&names)?;
        let (order, earlier) = order(&rule)?;
        // The narrower default of the two in each case: what helps a call must be its own actor's, what taints need not.
        let default = Scope { actor: order != Order::NeverAfter, tool: false, session: true };
        Ok(Self {
            tools: rule.require("tools", NamePatterns::read)?,
            order,
            earlier,
            within_ms: rule.require("within_ms", window_ms)?,
            per: rule.get("per", scope)?.unwrap_or(default),
            on_missing_session: rule.get("on_missing_session", Refusal::read)?.unwrap_or(Refusal::Deny),
            otherwise: rule.get("otherwise", Refusal::read)?.unwrap_or(Refusal::Deny),
        })
    }

    /// Must this tool wait for, or keep off, the earlier ones? A tool that others wait for waits for none itself, so
    /// that `"tools": ["*"], "after": ["login"]` lets somebody log in.
    pub(crate) fn guards(&self, tool: &str) -> bool {
        self.tools.matches(tool) && (self.order == Order::NeverAfter || !self.remembers(tool))
    }

    /// Is this tool one of the earlier ones?
    pub(crate) fn remembers(&self, tool: &str) -> bool {
        self.earlier.matches(tool)
    }

    /// The counter of the earlier calls.
    pub(crate) fn seen_key(&self, request: &Request, session: Option<&str>) -> String {
        self.key("seen", request, session)
    }

    /// The counter of the calls that an earlier one was good for.
    pub(crate) fn used_key(&self, request: &Request, session: Option<&str>) -> String {
        self.key("used", request, session)
    }

    /// It says what is remembered, not where the rule stands: rules may move without taking another's memory.
    fn key(&self, label: &'static str, request: &Request, session: Option<&str>) -> String {
        let order = if self.order == Order::NeverAfter { "never-after" } else { "after" };
        let rule = Key::new(label)
            .parts("tools", self.tools.texts())
            .parts(order, self.earlier.texts())
            .part("ms", &self.within_ms.to_string());
        self.per.key(rule, request, session).finish()
    }

    fn remembers_the_same(&self, other: &Self) -> bool {
        let is_never = |rule: &Self| rule.order == Order::NeverAfter;
        self.tools == other.tools
            && self.earlier == other.earlier
            && is_never(self) == is_never(other)
            && (self.within_ms, self.per) == (other.within_ms, other.per)
    }
}

fn order(rule: &Fields) -> Result<(Order, NamePatterns), Wrong> {
    let at_most = rule.get("at_most", |number| integer_within(number, 1..=AT_MOST_MAX))?;
    match (rule.get("after", NamePatterns::read)?, rule.get("never_after", NamePatterns::read)?) {
        (Some(earlier), None) => Ok((Order::After { at_most }, earlier)),
        (None, Some(_)) if at_most.is_some() => Err(Wrong::new("`at_most` belongs to `after`, not to `never_after`")),
        (None, Some(earlier)) => Ok((Order::NeverAfter, earlier)),
        _ => Err(Wrong::new("exactly one of `after` and `never_after` is needed")),
    }
}

fn scope(words: &Json) -> Result<Scope, Wrong> {
    match Scope::read(words)? {
        scope if scope.tool => Err(Wrong::new("'tool' cannot be here: a rule is about more than one tool")),
        scope => Ok(scope),
    }
}
