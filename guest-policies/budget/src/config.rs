//! The configuration, checked as a whole. `config.schema.json` says the same to operators and their tools.

use gavel_policy::Request;
use gavel_policy::json::{Json, Wrong};
use gavel_policy::key::Key;
use gavel_policy::pointer::{Found, Pointer};
use gavel_policy::scope::{OnMissingSession, Scope, SessionPrefix};
use gavel_policy::settings::{NamePatterns, choice, integer_within, items, window_ms};
use gavel_policy::text::shown;

use crate::decimal::{SCALE_MAX, Scale, UNITS_MAX};

/// Rules in a configuration. Each that is about a call asks the host's counters twice, and one of them searches for a
/// time to try again: within the 64 counter calls of an evaluation's default.
const RULES_MAX: usize = 24;

/// All rules; each that is about a call is applied, and all must agree.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) rules: Vec<Rule>,
    pub(crate) session_prefix: SessionPrefix,
    pub(crate) on_missing_session: OnMissingSession,
}

impl Config {
    pub(crate) fn read(settings: &Json) -> Result<Self, Wrong> {
        let settings = settings.object(&["rules", "session_prefix", "on_missing_session"])?;
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
        })
    }
}

/// So much in such a window. Amounts are in the smallest units of `scale`.
#[derive(Debug)]
pub(crate) struct Rule {
    tools: NamePatterns,
    amount: Vec<Pointer>,
    pub(crate) scale: Scale,
    pub(crate) limit: u64,
    pub(crate) window_ms: u64,
    pub(crate) per: Scope,
    pub(crate) per_call_max: Option<u64>,
    pub(crate) escalate_above: Option<u64>,
    pub(crate) on_missing: OnMissing,
}

/// What to do with a call that lacks a parameter which is an amount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnMissing {
    Deny,
    /// It is nothing.
    Allow,
    Escalate,
}

impl Rule {
    fn read(rule: &Json) -> Result<Self, Wrong> {
        let names =
            ["tools", "amount", "scale", "limit", "window_ms", "per", "per_call_max", "escalate_above", "on_missing"];
        let rule = rule.object(&names)?;
        let digits = |digits: &Json| integer_within(digits, 0..=u64::from(SCALE_MAX));
        let digits = rule.get("scale", digits)?.unwrap_or(2);
        let scale = Scale(u8::try_from(digits).map_err(|error| Wrong::new(error.to_string()))?);
        let amount = |amount: &Json| units(scale, amount);
        let pointers = |pointers: &Json| items(pointers, usize::MAX, |pointer| Pointer::new(pointer.text()?));
        let on_missing = |word: &Json| {
            choice(word, &[("deny", OnMissing::Deny), ("allow", OnMissing::Allow), ("escalate", OnMissing::Escalate)])
        };
        // What owns nothing first: an error further down then has nothing to drop, and the component is smaller.
        let rule = Self {
            scale,
            limit: rule.require("limit", amount)?,
            window_ms: rule.require("window_ms", window_ms)?,
            per: rule.get("per", Scope::read)?.unwrap_or(Scope { actor: true, tool: false, session: false }),
            per_call_max: rule.get("per_call_max", amount)?,
            escalate_above: rule.get("escalate_above", amount)?,
            on_missing: rule.get("on_missing", on_missing)?.unwrap_or(OnMissing::Deny),
            tools: rule.require("tools", NamePatterns::read)?,
            amount: rule.require("amount", pointers)?,
        };
        rule.check()?;
        Ok(rule)
    }

    /// A bound that can never be met was meant otherwise.
    fn check(&self) -> Result<(), Wrong> {
        let most = self.per_call_max.unwrap_or(self.limit);
        if most > self.limit {
            return Err(Wrong::new("`per_call_max` is more than `limit`, so it bounds nothing"));
        }
        if self.escalate_above.is_some_and(|above| above >= most) {
            return Err(Wrong::new("`escalate_above` is not less than what one call may spend, so nothing escalates"));
        }
        Ok(())
    }

    pub(crate) fn is_about(&self, tool: &str) -> bool {
        self.tools.matches(tool)
    }

    /// What a call asks for: the sum of all amounts, none if there is none to be found.
    pub(crate) fn units(&self, params: &Json) -> Result<Option<u64>, NoUnits> {
        let (mut sum, mut missing) = (None, None);
        for place in self.amount.iter().flat_map(|pointer| pointer.find(params)) {
            let wrong = |why: String| NoUnits::Wrong(format!("its parameter '{}' {why}", shown(place.name())));
            match place.found {
                Found::Missing => missing = missing.or_else(|| Some(shown(place.name()))),
                Found::NoParts(kind) => return Err(wrong(format!("is {kind}, and no amount can be in it"))),
                Found::Value(Json::Number(text)) => add(&mut sum, self.scale.units(text)).map_err(wrong)?,
                Found::Value(Json::Text(text)) => add(&mut sum, self.scale.units(text)).map_err(wrong)?,
                Found::Value(other) => return Err(wrong(format!("is {}, not an amount", other.kind()))),
            }
        }
        // After the rest, so that what is wrong is denied whatever is missing.
        match missing {
            Some(name) if self.on_missing != OnMissing::Allow => Err(NoUnits::Missing(name)),
            _ => Ok(sum),
        }
    }

    /// The counter's key says what is counted, not where the rule stands: rules may move, and limits may change,
    /// without losing what was spent or taking another rule's.
    pub(crate) fn key(&self, request: &Request, session: Option<&str>) -> String {
        let rule = Key::new("spent")
            .parts("tools", self.tools.texts())
            .parts("amount", self.amount.iter().map(Pointer::as_str))
            .part("scale", &self.scale.0.to_string())
            .part("ms", &self.window_ms.to_string());
        self.per.key(rule, request, session).finish()
    }

    fn counts_the_same(&self, other: &Self) -> bool {
        let what = |rule: &Self| (rule.window_ms, rule.per, rule.scale);
        self.tools == other.tools && self.amount == other.amount && what(self) == what(other)
    }
}

/// Why it cannot be said what a call asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NoUnits {
    /// This parameter is missing.
    Missing(String),
    /// A parameter is no amount; the end of a sentence that begins with the tool.
    Wrong(String),
}

/// Add an amount to a sum that must stay an amount.
fn add(sum: &mut Option<u64>, amount: Result<u64, crate::decimal::NoAmount>) -> Result<(), String> {
    let amount = amount.map_err(|why| why.to_string())?;
    let total = sum.unwrap_or(0) + amount; // both are at most UNITS_MAX, far below the half of u64::MAX
    if total > UNITS_MAX {
        return Err("makes the sum more than the largest amount".into());
    }
    *sum = Some(total);
    Ok(())
}

/// An amount in a setting: a number, or a text where a number would lose its zeros.
#[inline(never)] // a rule has three of them
fn units(scale: Scale, amount: &Json) -> Result<u64, Wrong> {
    let text = match amount {
        Json::Number(text) => text,
        other => other.text().map_err(|_| Wrong::new(format!("expected an amount, not {}", other.kind())))?,
    };
    match scale.units(text) {
        Ok(0) => Err(Wrong::new("it is zero, so nothing could be spent; to forbid a tool is another policy's matter")),
        Ok(units) => Ok(units),
        Err(why) => Err(Wrong::new(format!("'{text}' {why}"))),
    }
}
