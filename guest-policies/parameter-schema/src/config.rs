//! The configuration. `config.schema.json` says the same to operators and their tools.

use gavel_policy::glob::NamePattern;
use gavel_policy::json::{Json, Wrong};

use crate::read::read;
use crate::schema::Schema;

#[derive(Debug)]
pub(crate) struct Config {
    tools: Vec<(NamePattern, Schema)>,
    pub(crate) unlisted: Unlisted,
}

/// What to do with a call of a tool that no pattern fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unlisted {
    Abstain,
    Allow,
    Deny,
}

impl Config {
    pub(crate) fn read(settings: &Json) -> Result<Self, Wrong> {
        let settings = settings.object(&["tools", "unlisted"])?;
        Ok(Self {
            tools: settings.require("tools", tools)?,
            unlisted: settings.get("unlisted", Unlisted::read)?.unwrap_or(Unlisted::Abstain),
        })
    }

    /// The schemas that a call of this tool must fit, all of them.
    pub(crate) fn schemas(&self, tool: &str) -> impl Iterator<Item = &Schema> {
        self.tools.iter().filter(move |(pattern, _)| pattern.matches(tool)).map(|(_, schema)| schema)
    }
}

impl Unlisted {
    fn read(word: &Json) -> Result<Self, Wrong> {
        match word.text()? {
            "abstain" => Ok(Self::Abstain),
            "allow" => Ok(Self::Allow),
            "deny" => Ok(Self::Deny),
            other => Err(Wrong::new(format!("'{other}' is none of abstain, allow, deny"))),
        }
    }
}

fn tools(map: &Json) -> Result<Vec<(NamePattern, Schema)>, Wrong> {
    let Json::Object(fields) = map else { return Err(Wrong::new(format!("expected an object, not {}", map.kind()))) };
    if fields.is_empty() {
        return Err(Wrong::new("it names no tool, so it checks nothing"));
    }
    let known: Vec<&str> = fields.iter().map(|(name, _)| &**name).collect();
    let object = map.object(&known)?;
    let schema = |json: &Json| {
        read(json).map_err(|refused| Wrong::new(format!("the schema is refused at '{}': {}", refused.at, refused.why)))
    };
    known.into_iter().map(|name| Ok((NamePattern::new(name)?, object.require(name, schema)?))).collect()
}
