//! Controls: what must hold, as it is configured.

use crate::following::Record;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Bytes of an id, a title, a pattern.
const TEXT_BYTES_MAX: usize = 512;
/// References to frameworks of one control.
const REFERENCES_MAX: usize = 32;
/// The longest time of a check.
const TIME_MS_MAX: u64 = 366 * 86_400_000;

/// How bad it is if a control does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Severity {
    Info,
    Warning,
    Critical,
}

/// What must hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Control {
    pub(super) id: String,
    pub(super) title: String,
    /// Where frameworks ask for it: free text, as `SOC 2 CC6.1`.
    #[serde(default)]
    pub(super) references: Vec<String>,
    pub(super) severity: Severity,
    /// The sources that it is about: a pattern.
    #[serde(default = "everything")]
    pub(super) sources: String,
    pub(super) check: Check,
}

fn everything() -> String {
    "*".to_owned()
}

/// How it is checked. Each ledger is judged by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Check {
    /// No record matches.
    Never(Matcher),
    /// Not too many records match within some time.
    Rate(Rate),
    /// What must follow on a record follows.
    Follows(Follows),
    /// A record comes again and again.
    Fresh(Fresh),
    /// The history is not rewritten.
    Chain(Chain),
}

/// Not too many.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Rate {
    pub(super) matches: Matcher,
    /// Of which records they are a share; all that match, if it is missing.
    #[serde(default)]
    pub(super) of: Matcher,
    pub(super) window_ms: u64,
    /// More records than this are too many.
    pub(super) more_than: Option<u64>,
    /// A greater share of `of` than this is too much.
    pub(super) more_than_percent: Option<u64>,
    /// Of fewer records no share is taken.
    #[serde(default)]
    pub(super) at_least: u64,
}

/// What must follow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Follows {
    pub(super) first: Matcher,
    pub(super) then: Matcher,
    /// What both say alike.
    #[serde(default)]
    pub(super) same: Same,
    pub(super) within_ms: Option<u64>,
    pub(super) within_records: Option<u64>,
}

/// What two records say alike.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Same {
    #[default]
    RequestId,
    Actor,
}

/// What must come again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Fresh {
    pub(super) matches: Matcher,
    pub(super) every_ms: u64,
}

/// Nothing to set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Chain {}

/// Which records: all that is given must hold. Texts are patterns, in which `*` stands for anything.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Matcher {
    pub(super) kind: Option<String>,
    pub(super) actor: Option<String>,
    pub(super) tool: Option<String>,
    pub(super) decision: Option<String>,
    pub(super) policy: Option<String>,
    pub(super) reason: Option<String>,
    /// Whether it is whole in itself; a decision whose tool is about to run is not.
    pub(super) closed: Option<bool>,
}

impl Matcher {
    /// Whether it wants this record.
    pub(super) fn matches(&self, record: &Record) -> bool {
        let kind = Some(record.kind.clone());
        let names = [
            (&self.kind, &kind),
            (&self.actor, &record.actor),
            (&self.tool, &record.tool),
            (&self.decision, &record.decision),
            (&self.policy, &record.policy),
            (&self.reason, &record.reason),
        ];
        let fits = |(pattern, said): &(&Option<String>, &Option<String>)| match (pattern, said) {
            (None, _) => true,
            (Some(pattern), Some(said)) => fits(pattern, said),
            (Some(_), None) => false,
        };
        names.iter().all(fits) && self.closed.is_none_or(|closed| closed == record.closed)
    }

    fn patterns(&self) -> impl Iterator<Item = &String> {
        let Self { kind, actor, tool, decision, policy, reason, closed: _ } = self;
        [kind, actor, tool, decision, policy, reason].into_iter().flatten()
    }

    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Whether a text fits a pattern, in which `*` stands for any text. Takes time of pattern times text at most.
pub(super) fn fits(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut at, mut in_text) = (0, 0);
    // The last star, and how much of the text it stands for so far.
    let mut star: Option<(usize, usize)> = None;
    while in_text < text.len() {
        if pattern.get(at) == Some(&b'*') {
            star = Some((at, in_text));
            at += 1;
        } else if pattern.get(at) == Some(&text[in_text]) {
            (at, in_text) = (at + 1, in_text + 1);
        } else if let Some((star_at, taken)) = star {
            star = Some((star_at, taken + 1));
            (at, in_text) = (star_at + 1, taken + 1);
        } else {
            return false;
        }
    }
    pattern[at..].iter().all(|byte| *byte == b'*')
}

impl Control {
    /// Whether it is about this source.
    pub(super) fn is_about(&self, source: &str) -> bool {
        fits(&self.sources, source)
    }

    /// What is wrong with it.
    pub(super) fn check(&self) -> Result<(), String> {
        let id = &self.id;
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if id.is_empty() || id.len() > 64 || !id.bytes().all(plain) {
            return Err(format!("control `{}`: an id has 1 to 64 letters, digits, `-`, `_`, `.`", id.escape_debug()));
        }
        let texts = [&self.title, &self.sources];
        let long = texts.into_iter().chain(&self.references).chain(self.matchers().flat_map(Matcher::patterns));
        if long.into_iter().any(|text| text.len() > TEXT_BYTES_MAX) || self.references.len() > REFERENCES_MAX {
            return Err(format!(
                "control {id}: texts have at most {TEXT_BYTES_MAX} bytes, references {REFERENCES_MAX}"
            ));
        }
        self.check_check().map_err(|why| format!("control {id}: {why}"))
    }

    fn matchers(&self) -> impl Iterator<Item = &Matcher> {
        let (one, other) = match &self.check {
            Check::Never(matcher) => (Some(matcher), None),
            Check::Rate(rate) => (Some(&rate.matches), Some(&rate.of)),
            Check::Follows(follows) => (Some(&follows.first), Some(&follows.then)),
            Check::Fresh(fresh) => (Some(&fresh.matches), None),
            Check::Chain(_) => (None, None),
        };
        one.into_iter().chain(other)
    }

    fn check_check(&self) -> Result<(), String> {
        let time = |name: &str, ms: u64| match ms {
            1..=TIME_MS_MAX => Ok(()),
            _ => Err(format!("{name}: {ms} is not from 1 to {TIME_MS_MAX}")),
        };
        match &self.check {
            Check::Never(matcher) if matcher.is_empty() => Err("`never` of every record: say which".to_owned()),
            Check::Never(_) | Check::Chain(_) => Ok(()),
            Check::Rate(rate) => match (rate.more_than, rate.more_than_percent) {
                (Some(_), None) | (None, Some(0..=99)) => time("window_ms", rate.window_ms),
                _ => Err("a rate has either `more_than` or `more_than_percent` (0 to 99)".to_owned()),
            },
            Check::Follows(Follows { within_ms: None, within_records: None, .. }) => {
                Err("what follows has `within_ms` or `within_records`".to_owned())
            }
            Check::Follows(follows) => follows.within_ms.map_or(Ok(()), |ms| time("within_ms", ms)),
            Check::Fresh(fresh) => time("every_ms", fresh.every_ms),
        }
    }
}

/// What is checked where nothing is configured.
pub(super) fn default_controls() -> Vec<Control> {
    // A test shows that these are controls.
    serde_json::from_str::<Vec<Value>>(include_str!("controls.json"))
        .unwrap_or_default()
        .into_iter()
        .filter_map(|control| serde_json::from_value(control).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn patterns_fit_what_they_should() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
            ("a*", "abc", true),
            ("*c", "abc", true),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "acb", false),
            ("ü*", "über", true),
            ("**x**", "x", true),
            ("a", "A", false),
        ] {
            assert_eq!(fits(pattern, text), expected, "{pattern} {text}");
        }
        // A pattern that a simple search would take years for.
        assert!(!fits(&"a*".repeat(200), &("a".repeat(199) + "b")));
    }

    #[test]
    fn the_default_controls_are_controls() {
        let controls = default_controls();
        let written: Vec<Value> = serde_json::from_str(include_str!("controls.json")).unwrap();
        assert_eq!(controls.len(), written.len());
        for control in controls {
            control.check().unwrap();
        }
    }

    #[test]
    fn controls_that_make_no_sense_are_refused() {
        let control = |check: Value| {
            let control = json!({"id": "c", "title": "t", "severity": "info", "check": check});
            serde_json::from_value::<Control>(control).map_err(|why| why.to_string())?.check()
        };
        control(json!({"never": {"kind": "halt"}})).unwrap();
        for (check, told) in [
            (json!({"never": {}}), "`never` of every record"),
            (json!({"never": {"colour": "red"}}), "unknown field `colour`"),
            (json!({"rate": {"matches": {}, "window_ms": 1}}), "either `more_than`"),
            (json!({"rate": {"matches": {}, "window_ms": 0, "more_than": 1}}), "window_ms: 0"),
            (json!({"follows": {"first": {}, "then": {}}}), "`within_ms` or `within_records`"),
            (json!({"fresh": {"matches": {}, "every_ms": 0}}), "every_ms: 0"),
            (json!({"hope": {}}), "unknown variant `hope`"),
        ] {
            let why = control(check).unwrap_err();
            assert!(why.contains(told), "{why}");
        }
    }
}
