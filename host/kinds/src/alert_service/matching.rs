//! Which alert is meant: severities, patterns, and the routes that they choose.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Severity {
    Info,
    Warning,
    Critical,
}

/// Which alerts. What it does not say does not matter; a text that ends with `*` stands for all that begin so.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Matcher {
    /// So bad at least.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) severity_min: Option<Severity>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) source: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) name: Option<String>,
    /// All of these.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) labels: BTreeMap<String, String>,
}

/// What a matcher looks at.
#[derive(Debug, Clone, Copy)]
pub(super) struct Traits<'a> {
    pub(super) severity: Severity,
    pub(super) source: &'a str,
    pub(super) name: &'a str,
    pub(super) labels: &'a BTreeMap<String, String>,
}

impl Matcher {
    pub(super) fn matches(&self, alert: Traits<'_>) -> bool {
        let fits = |wanted: &Option<String>, text: &str| wanted.as_deref().is_none_or(|wanted| is_like(wanted, text));
        self.severity_min.is_none_or(|least| alert.severity >= least)
            && fits(&self.source, alert.source)
            && fits(&self.name, alert.name)
            && self
                .labels
                .iter()
                .all(|(label, wanted)| alert.labels.get(label).is_some_and(|text| is_like(wanted, text)))
    }

    /// Whether it means everything.
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What is wrong with it, if anything is.
    pub(super) fn check(&self) -> Result<(), String> {
        let texts = self.source.iter().chain(&self.name).chain(self.labels.keys()).chain(self.labels.values());
        for text in texts {
            if text.len() > 256 {
                return Err(format!("a pattern of {} bytes is longer than 256", text.len()));
            }
            if text.trim_end_matches('*').contains('*') {
                return Err(format!("pattern {text:?}: a star may stand at the end only"));
            }
        }
        if self.labels.len() > 32 {
            return Err(format!("{} labels are more than 32", self.labels.len()));
        }
        Ok(())
    }
}

fn is_like(pattern: &str, text: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(beginning) => text.starts_with(beginning),
        None => pattern == text,
    }
}

/// Whom to tell of which alerts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Route {
    /// What it is called, for people.
    #[serde(default)]
    pub(super) name: String,
    /// Which alerts; the first route that matches is taken.
    #[serde(default, rename = "match")]
    pub(super) matcher: Matcher,
    pub(super) steps: Vec<Step>,
}

/// Whom to tell, and how long to wait for an acknowledgement before the next step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Step {
    pub(super) receivers: Vec<String>,
    /// Of the last step it has no meaning.
    #[serde(default)]
    pub(super) after_ms: u64,
}

/// What is wrong with these steps, if anything is. `known` tells whether there is a receiver of a name.
pub(super) fn check_steps(steps: &[Step], known: impl Fn(&str) -> bool) -> Result<(), String> {
    const STEPS_MAX: usize = 16;
    const AFTER_MS_MAX: u64 = 30 * 24 * 3_600_000;
    if !(1..=STEPS_MAX).contains(&steps.len()) {
        return Err(format!("steps: there are {}, 1 to {STEPS_MAX} are allowed", steps.len()));
    }
    for (at, step) in steps.iter().enumerate() {
        if step.receivers.is_empty() || step.receivers.len() > 32 {
            return Err(format!("steps.{at}.receivers: there are {}, 1 to 32 are allowed", step.receivers.len()));
        }
        if let Some(unknown) = step.receivers.iter().find(|name| !known(name)) {
            return Err(format!("steps.{at}.receivers: there is no receiver '{unknown}'; the settings name them"));
        }
        let is_last = at + 1 == steps.len();
        if step.after_ms > AFTER_MS_MAX || (step.after_ms == 0 && !is_last) {
            return Err(format!(
                "steps.{at}.after_ms: {} is not within 1 to {AFTER_MS_MAX}: it says when the next step begins",
                step.after_ms
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_matcher_means_what_it_says_and_nothing_less() {
        let labels = BTreeMap::from([("kernel".to_owned(), "audit_trail".to_owned())]);
        let alert =
            Traits { severity: Severity::Warning, source: "guardian", name: "kernel_given_up", labels: &labels };
        let check = |text: &str| serde_json::from_str::<Matcher>(text).unwrap().matches(alert);
        for fits in [
            "{}",
            r#"{"severity_min":"info"}"#,
            r#"{"severity_min":"warning","source":"guard*","name":"kernel_given_up"}"#,
            r#"{"labels":{"kernel":"audit*"}}"#,
            r#"{"name":"*"}"#,
        ] {
            assert!(check(fits), "{fits}");
        }
        for fits_not in [
            r#"{"severity_min":"critical"}"#,
            r#"{"source":"guard"}"#,
            r#"{"source":"guardian","name":"other"}"#,
            r#"{"labels":{"kernel":"audit_trail","zone":"*"}}"#,
        ] {
            assert!(!check(fits_not), "{fits_not}");
        }
        assert!(serde_json::from_str::<Matcher>(r#"{"name":"a*b"}"#).unwrap().check().is_err());
    }

    #[test]
    fn steps_that_lead_nowhere_are_refused() {
        let check = |text: &str| check_steps(&serde_json::from_str::<Vec<Step>>(text).unwrap(), |name| name == "ops");
        assert_eq!(check(r#"[{"receivers":["ops"],"after_ms":1},{"receivers":["ops"]}]"#), Ok(()));
        for bad in [
            "[]",
            r#"[{"receivers":[]}]"#,
            r#"[{"receivers":["nobody"]}]"#,
            r#"[{"receivers":["ops"]},{"receivers":["ops"]}]"#,
        ] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }
}
