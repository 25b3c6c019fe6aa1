//! The configuration, checked as a whole. `config.schema.json` says the same to operators and their tools.

use gavel_policy::json::{Json, Wrong};
use gavel_policy::settings::{NamePatterns, choice, integer_within, items};

use crate::entry::Entry;
use crate::people::ApproverPattern;

/// Approvals that one call may need, at most.
const APPROVALS_MAX: u64 = 16;

/// All rules; each whose tools fit is applied, and all must agree.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) rules: Vec<Rule>,
}

impl Config {
    pub(crate) fn read(settings: &Json) -> Result<Self, Wrong> {
        let settings = settings.object(&["rules"])?;
        Ok(Self { rules: settings.require("rules", |rules| items(rules, usize::MAX, Rule::read))? })
    }
}

/// Which tools need whose approvals.
#[derive(Debug)]
pub(crate) struct Rule {
    tools: NamePatterns,
    pub(crate) approvals: usize,
    pub(crate) approvers: Vec<ApproverPattern>,
    pub(crate) entry: Entry,
    pub(crate) on_missing: OnMissing,
    pub(crate) on_self: OnSelf,
}

/// What becomes of a call that lacks approvals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnMissing {
    Escalate,
    Deny,
}

/// What becomes of a call that its own actor approved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnSelf {
    /// That approval does not count.
    Ignore,
    Deny,
}

impl Rule {
    fn read(rule: &Json) -> Result<Self, Wrong> {
        let rule = rule.object(&["tools", "approvals", "approvers", "entry", "on_missing", "on_self"])?;
        let approvals = rule.get("approvals", |number| integer_within(number, 1..=APPROVALS_MAX))?.unwrap_or(2);
        let approvers = |list: &Json| items(list, usize::MAX, |pattern| ApproverPattern::new(pattern.text()?));
        let entry = |template: &Json| Entry::new(template.text()?);
        let on_missing = |word: &Json| choice(word, &[("escalate", OnMissing::Escalate), ("deny", OnMissing::Deny)]);
        let on_self = |word: &Json| choice(word, &[("ignore", OnSelf::Ignore), ("deny", OnSelf::Deny)]);
        let rule = Self {
            tools: rule.require("tools", NamePatterns::read)?,
            approvals: usize::try_from(approvals).map_err(|error| Wrong::new(error.to_string()))?,
            approvers: rule.require("approvers", approvers)?,
            entry: match rule.get("entry", entry)? {
                Some(entry) => entry,
                None => Entry::new(Entry::DEFAULT)?,
            },
            on_missing: rule.get("on_missing", on_missing)?.unwrap_or(OnMissing::Escalate),
            on_self: rule.get("on_self", on_self)?.unwrap_or(OnSelf::Ignore),
        };
        rule.check()?;
        Ok(rule)
    }

    /// Could so many approve at all?
    fn check(&self) -> Result<(), Wrong> {
        let is_new = |(index, pattern): &(usize, &ApproverPattern)| !self.approvers[..*index].contains(pattern);
        let names = self.approvers.iter().enumerate().filter(is_new).count();
        if self.approvers.iter().all(ApproverPattern::is_one_name) && names < self.approvals {
            let approvals = self.approvals;
            return Err(Wrong::new(format!("`approvers` names {names}, so there are never {approvals} approvals")));
        }
        Ok(())
    }

    pub(crate) fn is_about(&self, tool: &str) -> bool {
        self.tools.matches(tool)
    }
}
