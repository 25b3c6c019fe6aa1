//! The configuration, checked as a whole. `config.schema.json` says the same to operators and their tools.

use gavel_policy::Request;
use gavel_policy::json::{Json, Wrong};
use gavel_policy::key::Key;
use gavel_policy::scope::{OnMissingSession, Scope, SessionPrefix};
use gavel_policy::settings::{NamePatterns, choice, integer_within, items, window_ms};

/// Rules in a configuration. Each that is about a call asks the host's counters twice at most, and one of them
/// searches for a time to try again: within the 64 counter calls of an evaluation's default.
const RULES_MAX: usize = 24;

/// Calls in a window, at most: far beyond any use, and far from where the host's sums saturate.
const LIMIT_MAX: u64 = 1_000_000_000_000;

/// All rules; each that is about a request is applied, and all must agree.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) rules: Vec<Rule>,
    pub(crate) session_prefix: SessionPrefix,
    pub(crate) on_missing_session: OnMissingSession,
    pub(crate) count: Count,
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Count {
    /// Every call that is asked for, also one that this policy denies.
    Attempts,
    /// Only what this policy lets pass.
    Passed,
}

impl Config {
    pub(crate) fn read(settings: &Json) -> Result<Self, Wrong> {
        let settings = settings.object(&["rules", "session_prefix", "on_missing_session", "count"])?;
        let count = |word: &Json| choice(word, &[("attempts", Count::Attempts), ("passed", Count::Passed)]);
        let rules = settings.require("rules", |rules| items(rules, RULES_MAX, Rule::read))?;
        for (index, rule) in rules.iter().enumerate() {
            if let Some(earlier) = rules[..index].iter().position(|earlier| earlier.counts_the_same(rule)) {
                return Err(Wrong::new(format!(
                    "`rules[{index}]` counts the same as `rules[{earlier}]`; keep one of them"
                )));
            }
        }
        Ok(Self {
            rules,
            session_prefix: settings.get("session_prefix", SessionPrefix::read)?.unwrap_or_default(),
            on_missing_session: settings
                .get("on_missing_session", OnMissingSession::read)?
                .unwrap_or(OnMissingSession::Deny),
            count: settings.get("count", count)?.unwrap_or(Count::Attempts),
        })
    }
}

/// So many calls in such a window.
#[derive(Debug)]
pub(crate) struct Rule {
    /// Absent: every request.
    pub(crate) tools: Option<NamePatterns>,
    pub(crate) limit: u64,
    pub(crate) window_ms: u64,
    pub(crate) per: Scope,
}

impl Rule {
    fn read(rule: &Json) -> Result<Self, Wrong> {
        let rule = rule.object(&["tools", "limit", "window_ms", "per"])?;
        Ok(Self {
            tools: rule.get("tools", NamePatterns::read)?,
            limit: rule.require("limit", |limit| integer_within(limit, 1..=LIMIT_MAX))?,
            window_ms: rule.require("window_ms", window_ms)?,
            per: rule.get("per", Scope::read)?.unwrap_or(Scope { actor: true, tool: false, session: false }),
        })
    }

    pub(crate) fn is_about(&self, request: &Request) -> bool {
        let Some(tools) = &self.tools else { return true };
        request.tool_call.as_ref().is_some_and(|call| tools.matches(&call.name))
    }

    /// The counter's key says what is counted, not where the rule stands: rules may move, and the limit may change,
    /// without losing the count or taking another rule's.
    pub(crate) fn key(&self, request: &Request, session: Option<&str>) -> String {
        let patterns = self.tools.iter().flat_map(NamePatterns::texts);
        let rule = Key::new("calls").parts("tools", patterns).part("ms", &self.window_ms.to_string());
        self.per.key(rule, request, session).finish()
    }

    fn counts_the_same(&self, other: &Self) -> bool {
        self.tools == other.tools && self.window_ms == other.window_ms && self.per == other.per
    }
}
