//! The configuration. `config.schema.json` says the same to operators and their tools.

use gavel_policy::glob::{NamePattern, PathPattern};
use gavel_policy::json::{Json, Wrong};

use crate::asked::Phrase;
use crate::kinds::Kind;
use crate::kinds::amount::Amount;
use crate::params::Place;

#[derive(Debug)]
pub(crate) struct Config {
    reading: Vec<NamePattern>,
    pub(crate) rules: Vec<Rule>,
    /// What a tool comes to that no rule and no pattern of `reading` fits; `None` leaves it to other policies.
    pub(crate) other_tools: Option<Otherwise>,
    /// What a value comes to that no rule about its tool names; `None` lets it pass.
    pub(crate) other_params: Option<Otherwise>,
}

#[derive(Debug)]
pub(crate) struct Rule {
    tools: Vec<NamePattern>,
    pub(crate) asked: Vec<Phrase>,
    pub(crate) about: Vec<Phrase>,
    pub(crate) params: Vec<(Place, Param)>,
    pub(crate) otherwise: Otherwise,
}

/// What the values of a parameter must be.
#[derive(Debug, Default)]
pub(crate) struct Param {
    /// One of these must find a ground.
    pub(crate) kinds: Vec<Kind>,
    pub(crate) allow: Allow,
    pub(crate) required: bool,
    /// Amounts from 0 to this need no ground.
    pub(crate) at_most: Option<Amount>,
    /// Words after which the intent names an id.
    pub(crate) labels: Vec<String>,
    /// Words of a value that need no ground.
    pub(crate) optional: Vec<String>,
    /// Addresses made of a full name in the intent have a ground.
    pub(crate) named: bool,
    /// Pages below a page in the intent have a ground.
    pub(crate) below: bool,
}

/// Values that need no ground. Each kind reads the entries as its own values are written.
#[derive(Debug, Default)]
pub(crate) struct Allow {
    /// Whether the blank text is among them.
    pub(crate) blank: bool,
    pub(crate) names: Vec<NamePattern>,
    /// Host, and the path if the entry has one.
    pub(crate) pages: Vec<(NamePattern, Option<NamePattern>)>,
    pub(crate) paths: Vec<PathPattern>,
}

/// What to answer when something has no ground.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Otherwise {
    Deny,
    Escalate,
}

impl Config {
    pub(crate) fn read(settings: &Json) -> Result<Self, Wrong> {
        let settings = settings.object(&["reading", "rules", "other_tools", "other_params", "otherwise"])?;
        let otherwise = settings.get("otherwise", Otherwise::read)?.unwrap_or(Otherwise::Escalate);
        let others = |name: &str| {
            let others = settings.get(name, Otherwise::read_or_ignore);
            others.map(|others| others.unwrap_or(Some(Otherwise::Escalate)))
        };
        Ok(Self {
            reading: settings.get("reading", names)?.unwrap_or_default(),
            rules: settings.require("rules", |rules| not_empty(rules.list(|rule| Rule::read(rule, otherwise))?))?,
            other_tools: others("other_tools")?,
            other_params: others("other_params")?,
        })
    }

    pub(crate) fn is_reading(&self, tool: &str) -> bool {
        self.reading.iter().any(|pattern| pattern.matches(tool))
    }
}

impl Rule {
    fn read(rule: &Json, otherwise: Otherwise) -> Result<Self, Wrong> {
        let rule = rule.object(&["tools", "asked", "about", "params", "otherwise"])?;
        let phrases = |words: &Json| not_empty(words.list(|phrase| Phrase::new(phrase.text()?))?);
        Ok(Self {
            tools: rule.require("tools", |tools| not_empty(names(tools)?))?,
            asked: rule.get("asked", phrases)?.unwrap_or_default(),
            about: rule.get("about", phrases)?.unwrap_or_default(),
            params: rule.require("params", params)?,
            otherwise: rule.get("otherwise", Otherwise::read)?.unwrap_or(otherwise),
        })
    }

    pub(crate) fn is_about(&self, tool: &str) -> bool {
        self.tools.iter().any(|pattern| pattern.matches(tool))
    }
}

fn params(params: &Json) -> Result<Vec<(Place, Param)>, Wrong> {
    let Json::Object(fields) = params else {
        return Err(Wrong::new(format!("expected an object, not {}", params.kind())));
    };
    let mut places: Vec<(Place, Param)> = Vec::with_capacity(fields.len());
    for (name, param) in fields {
        if places.iter().any(|(place, _)| place.as_str() == name) {
            return Err(Wrong::new(format!("parameter `{name}` comes twice")));
        }
        let param = Param::read(param).map_err(|wrong| Wrong::new(format!("parameter `{name}`: {wrong}")))?;
        places.push((Place::new(name)?, param));
    }
    Ok(places)
}

const PARAM: [&str; 8] = ["kind", "allow", "required", "at_most", "labels", "optional", "named", "below"];

impl Param {
    fn read(param: &Json) -> Result<Self, Wrong> {
        let Json::Object(_) = param else { return Ok(Self { kinds: kinds(param)?, ..Self::default() }) };
        let fields = param.object(&PARAM)?;
        let kinds = fields.require("kind", kinds)?;
        // A setting that no kind reads would do nothing and look as if it did.
        let only_for = |name: &str, readers: &[Kind]| {
            if fields.get(name, |_| Ok(()))?.is_some() && !kinds.iter().any(|kind| readers.contains(kind)) {
                let readers: Vec<&str> = readers.iter().map(|kind| kind.name()).collect();
                return Err(Wrong::new(format!("setting `{name}` is for kind {} only", readers.join(", "))));
            }
            Ok(())
        };
        only_for("at_most", &[Kind::Amount])?;
        only_for("labels", &[Kind::Id])?;
        only_for("optional", &[Kind::Text, Kind::Words])?;
        only_for("named", &[Kind::Email])?;
        only_for("below", &[Kind::Url])?;
        if kinds.contains(&Kind::Listed) {
            fields.require("allow", |_| Ok(()))?;
        }
        let texts = |list: &Json| list.list(|text| Ok(text.text()?.to_owned()));
        Ok(Self {
            allow: fields.get("allow", |list| Allow::read(list, kinds.contains(&Kind::File)))?.unwrap_or_default(),
            required: fields.get("required", flag)?.unwrap_or(false),
            at_most: fields.get("at_most", Amount::read)?,
            labels: fields.get("labels", texts)?.unwrap_or_default(),
            optional: fields.get("optional", texts)?.unwrap_or_default(),
            named: fields.get("named", flag)?.unwrap_or(false),
            below: fields.get("below", flag)?.unwrap_or(false),
            kinds,
        })
    }
}

/// A kind, or a list of them.
fn kinds(kinds: &Json) -> Result<Vec<Kind>, Wrong> {
    match kinds {
        Json::List(_) => not_empty(kinds.list(Kind::read)?),
        one => Ok(vec![Kind::read(one)?]),
    }
}

impl Allow {
    fn read(list: &Json, paths: bool) -> Result<Self, Wrong> {
        let mut allow = Self::default();
        list.list(|entry| {
            let entry = entry.text()?;
            if entry.is_empty() {
                allow.blank = true;
                return Ok(());
            }
            allow.names.push(NamePattern::new(entry)?);
            allow.pages.push(match entry.split_once('/') {
                Some((host, path)) if !host.is_empty() => {
                    (NamePattern::new(host)?, Some(NamePattern::new(&format!("/{path}"))?))
                }
                _ => (NamePattern::new(entry)?, None),
            });
            if paths {
                allow.paths.push(PathPattern::new(entry)?);
            }
            Ok(())
        })?;
        Ok(allow)
    }
}

impl Otherwise {
    fn read(word: &Json) -> Result<Self, Wrong> {
        match word.text()? {
            "deny" => Ok(Self::Deny),
            "escalate" => Ok(Self::Escalate),
            other => Err(Wrong::new(format!("'{other}' is neither escalate nor deny"))),
        }
    }

    fn read_or_ignore(word: &Json) -> Result<Option<Self>, Wrong> {
        if word.text()? == "ignore" { Ok(None) } else { Self::read(word).map(Some) }
    }
}

fn names(patterns: &Json) -> Result<Vec<NamePattern>, Wrong> {
    patterns.list(|pattern| Ok(NamePattern::new(pattern.text()?)?))
}

fn flag(value: &Json) -> Result<bool, Wrong> {
    match value {
        Json::Bool(is) => Ok(*is),
        other => Err(Wrong::new(format!("expected true or false, not {}", other.kind()))),
    }
}

/// A rule about no tool, or a list without rules, would guard nothing and look as if it did.
fn not_empty<T>(list: Vec<T>) -> Result<Vec<T>, Wrong> {
    if list.is_empty() { Err(Wrong::new("the list is empty, so it guards nothing")) } else { Ok(list) }
}
