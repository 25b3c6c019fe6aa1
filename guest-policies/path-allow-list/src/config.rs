//! The configuration. `config.schema.json` says the same to operators and their tools.

use gavel_policy::glob::PathPattern;
use gavel_policy::json::{Json, Wrong};
use gavel_policy::pointer::Pointer;
use gavel_policy::settings::{NamePatterns, items};

use crate::path::Path;

#[derive(Debug)]
pub(crate) struct Config {
    /// The segments of the workspace's absolute path.
    pub(crate) root: Option<Vec<String>>,
    pub(crate) rules: Vec<Rule>,
}

impl Config {
    pub(crate) fn read(settings: &Json) -> Result<Self, Wrong> {
        let settings = settings.object(&["root", "rules"])?;
        Ok(Self {
            root: settings.get("root", root)?,
            rules: settings.require("rules", |rules| items(rules, usize::MAX, Rule::read))?,
        })
    }
}

#[derive(Debug)]
pub(crate) struct Rule {
    tools: NamePatterns,
    pub(crate) params: Vec<Pointer>,
    pub(crate) allow: Vec<PathPattern>,
    pub(crate) deny: Vec<PathPattern>,
    pub(crate) on_missing: OnMissing,
}

impl Rule {
    fn read(rule: &Json) -> Result<Self, Wrong> {
        let rule = rule.object(&["tools", "params", "allow", "deny", "on_missing"])?;
        let params = |params: &Json| items(params, usize::MAX, |pointer| Pointer::new(pointer.text()?));
        Ok(Self {
            tools: rule.require("tools", NamePatterns::read)?,
            params: rule.require("params", params)?,
            allow: rule.require("allow", paths)?,
            deny: rule.get("deny", paths)?.unwrap_or_default(),
            on_missing: rule.get("on_missing", OnMissing::read)?.unwrap_or(OnMissing::Deny),
        })
    }

    pub(crate) fn is_about(&self, tool: &str) -> bool {
        self.tools.matches(tool)
    }
}

/// What to do with a call that lacks a parameter which a rule names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnMissing {
    Deny,
    Allow,
}

impl OnMissing {
    fn read(word: &Json) -> Result<Self, Wrong> {
        match word.text()? {
            "deny" => Ok(Self::Deny),
            "allow" => Ok(Self::Allow),
            other => Err(Wrong::new(format!("'{other}' is neither deny nor allow"))),
        }
    }
}

fn paths(patterns: &Json) -> Result<Vec<PathPattern>, Wrong> {
    patterns.list(|pattern| Ok(PathPattern::new(pattern.text()?)?))
}

fn root(text: &Json) -> Result<Vec<String>, Wrong> {
    let text = text.text()?;
    match Path::parse(text) {
        Ok(path) if path.is_absolute() => Ok(path.segments().iter().map(|&segment| segment.into()).collect()),
        Ok(_) => Err(Wrong::new(format!("'{text}' is not absolute"))),
        Err(why) => Err(Wrong::new(format!("'{text}' {why}"))),
    }
}
