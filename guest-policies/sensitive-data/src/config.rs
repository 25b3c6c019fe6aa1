//! The configuration. `config.schema.json` says the same to operators and their tools.

use gavel_policy::glob::{Case, NamePattern, PathPattern};
use gavel_policy::json::{Json, Wrong};

use crate::kind::{Action, Actions, Kind, Kinds, Named};

/// 2 MiB: what the host takes for a request by default (1 MiB), once as it is and once decoded.
const SCAN_BYTES_DEFAULT: usize = 2 << 20;
/// No one means less: it would refuse ordinary calls.
const SCAN_BYTES_MIN: i64 = 1_024;
const SCAN_BYTES_MAX: i64 = 64 << 20;

#[derive(Debug)]
pub(crate) struct Config {
    actions: Actions,
    rules: Vec<Rule>,
    exceptions: Vec<Exception>,
    pub(crate) scan_request_params: bool,
    pub(crate) scan_intent: bool,
    pub(crate) decode: bool,
    pub(crate) max_scan_bytes: usize,
    pub(crate) on_too_large: Action,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            actions: Actions::default(),
            rules: Vec::new(),
            exceptions: Vec::new(),
            scan_request_params: false,
            scan_intent: false,
            decode: true,
            max_scan_bytes: SCAN_BYTES_DEFAULT,
            on_too_large: Action::Deny,
        }
    }
}

impl Config {
    pub(crate) fn read(settings: &Json) -> Result<Self, Wrong> {
        let mut config = Self::default();
        if *settings == Json::Null {
            return Ok(config);
        }
        let settings = settings.object(&[
            "kinds",
            "rules",
            "exceptions",
            "also_scan",
            "decode",
            "max_scan_bytes",
            "on_too_large",
        ])?;
        if let Some(kinds) = settings.get("kinds", KindActions::read)? {
            kinds.apply(&mut config.actions);
        }
        config.rules = settings.get("rules", |rules| rules.list(Rule::read))?.unwrap_or_default();
        config.exceptions = settings.get("exceptions", |list| list.list(Exception::read))?.unwrap_or_default();
        for place in
            settings.get("also_scan", |places| places.list(|place| Ok(place.text()?.to_owned())))?.unwrap_or_default()
        {
            match place.as_str() {
                "request_params" => config.scan_request_params = true,
                "intent" => config.scan_intent = true,
                _ => return Err(Wrong::new(format!("`also_scan`: '{place}' is neither request_params nor intent"))),
            }
        }
        config.decode = settings.get("decode", boolean)?.unwrap_or(config.decode);
        config.max_scan_bytes = settings.get("max_scan_bytes", scan_bytes)?.unwrap_or(config.max_scan_bytes);
        config.on_too_large = settings.get("on_too_large", on_too_large)?.unwrap_or(config.on_too_large);
        Ok(config)
    }

    /// What is done about each kind in a call of this tool, or in a request without a tool call.
    pub(crate) fn actions(&self, tool: Option<&str>) -> Actions {
        let mut actions = self.actions.clone();
        for rule in self.rules.iter().filter(|rule| tool.is_some_and(|tool| any(&rule.tools, tool))) {
            rule.kinds.apply(&mut actions);
        }
        actions
    }

    /// Is this value at this place excepted? `segments` is absent for what lies outside of the tool's parameters.
    pub(crate) fn excepts(&self, tool: Option<&str>, kind: Kind, segments: Option<&[&str]>, value: &[u8]) -> bool {
        self.exceptions.iter().any(|exception| exception.is_about(tool, kind, segments, value))
    }

    pub(crate) fn has_exceptions(&self) -> bool {
        !self.exceptions.is_empty()
    }
}

/// `{"secrets": "deny", "email": "allow"}`: groups first, so that the order in the text says nothing.
#[derive(Debug)]
struct KindActions(Vec<(Kinds, Action)>);

impl KindActions {
    fn read(map: &Json) -> Result<Self, Wrong> {
        let Json::Object(fields) = map else {
            return Err(Wrong::new(format!("expected an object, not {}", map.kind())));
        };
        let (mut groups, mut single) = (Vec::new(), Vec::new());
        let known: Vec<&str> = fields.iter().map(|(name, _)| &**name).collect();
        let object = map.object(&known)?;
        for name in &known {
            let action = object.require(name, action)?;
            match kind(name)? {
                named @ Named::Group(_) => groups.push((named.kinds(), action)),
                named @ Named::One(_) => single.push((named.kinds(), action)),
            }
        }
        groups.append(&mut single);
        Ok(Self(groups))
    }

    fn apply(&self, actions: &mut Actions) {
        for (kinds, action) in &self.0 {
            actions.set(*kinds, *action);
        }
    }
}

/// Other actions for some tools. Of several that fit, the later ones win.
#[derive(Debug)]
struct Rule {
    tools: Vec<NamePattern>,
    kinds: KindActions,
}

impl Rule {
    fn read(rule: &Json) -> Result<Self, Wrong> {
        let rule = rule.object(&["tools", "kinds"])?;
        Ok(Self { tools: rule.require("tools", tools)?, kinds: rule.require("kinds", KindActions::read)? })
    }
}

/// What may be there all the same. Every condition that is written must hold.
#[derive(Debug)]
struct Exception {
    tools: Option<Vec<NamePattern>>,
    params: Option<Vec<PathPattern>>,
    kinds: Kinds,
    values: Option<Vec<NamePattern>>,
}

impl Exception {
    fn read(exception: &Json) -> Result<Self, Wrong> {
        let fields = exception.object(&["tools", "params", "kinds", "values"])?;
        let params = |list: &Json| not_empty(list.list(|pattern| param(pattern.text()?))?);
        // Lower case, because it is compared with values in lower case.
        let value = |pattern: &Json| Ok(NamePattern::new(&pattern.text()?.to_ascii_lowercase())?);
        let read = Self {
            tools: fields.get("tools", tools)?,
            params: fields.get("params", params)?,
            kinds: fields.get("kinds", kinds)?.unwrap_or(Kinds::ALL),
            values: fields.get("values", |list| not_empty(list.list(value)?))?,
        };
        if read.tools.is_none() && read.params.is_none() && read.values.is_none() {
            return Err(Wrong::new(
                "an exception needs `tools`, `params` or `values`; to look for no such kind set it off",
            ));
        }
        Ok(read)
    }

    fn is_about(&self, tool: Option<&str>, kind: Kind, segments: Option<&[&str]>, value: &[u8]) -> bool {
        self.kinds.has(kind)
            && self.tools.as_ref().is_none_or(|tools| tool.is_some_and(|tool| any(tools, tool)))
            && self.params.as_ref().is_none_or(|params| {
                segments.is_some_and(|path| params.iter().any(|pattern| pattern.matches(path, Case::Kept)))
            })
            && self.values.as_ref().is_none_or(|values| fits_value(values, value))
    }
}

/// The value as it is written, or without its separators, in lower case.
fn fits_value(patterns: &[NamePattern], value: &[u8]) -> bool {
    /// Longer ones are keys in PEM and the like, which no pattern is written for.
    const VALUE_BYTES_MAX: usize = 320;
    let Some(value) = Some(value).filter(|value| value.len() <= VALUE_BYTES_MAX) else { return false };
    let Ok(value) = core::str::from_utf8(value) else { return false };
    let value = value.to_ascii_lowercase();
    let compact: String = value.chars().filter(char::is_ascii_alphanumeric).collect();
    any(patterns, &value) || any(patterns, &compact)
}

fn any(patterns: &[NamePattern], text: &str) -> bool {
    patterns.iter().any(|pattern| pattern.matches(text))
}

fn tools(list: &Json) -> Result<Vec<NamePattern>, Wrong> {
    not_empty(list.list(|pattern| Ok(NamePattern::new(pattern.text()?)?))?)
}

fn param(text: &str) -> Result<PathPattern, Wrong> {
    if !text.starts_with('/') {
        return Err(Wrong::new(format!("'{text}' is not a path of a parameter: it begins with `/`, as /to or /to/*")));
    }
    Ok(PathPattern::new(text)?)
}

fn kinds(list: &Json) -> Result<Kinds, Wrong> {
    let named = not_empty(list.list(|name| kind(name.text()?))?)?;
    Ok(named.into_iter().fold(Kinds::default(), |kinds, named| kinds.with(named.kinds())))
}

fn kind(name: &str) -> Result<Named, Wrong> {
    Named::new(name).ok_or_else(|| {
        let known: Vec<&str> = crate::kind::ABOUT.iter().map(|about| about.name).collect();
        Wrong::new(format!("there is no kind '{name}', only secrets, personal, {}", known.join(", ")))
    })
}

fn action(word: &Json) -> Result<Action, Wrong> {
    match word.text()? {
        "deny" => Ok(Action::Deny),
        "escalate" => Ok(Action::Escalate),
        "allow" => Ok(Action::Allow),
        "off" => Ok(Action::Off),
        other => Err(Wrong::new(format!("'{other}' is none of deny, escalate, allow, off"))),
    }
}

fn on_too_large(word: &Json) -> Result<Action, Wrong> {
    match action(word)? {
        action @ (Action::Deny | Action::Escalate) => Ok(action),
        _ => Err(Wrong::new("what was not looked at never passes: deny or escalate")),
    }
}

fn scan_bytes(number: &Json) -> Result<usize, Wrong> {
    let bytes = number.integer()?;
    usize::try_from(bytes)
        .ok()
        .filter(|_| (SCAN_BYTES_MIN..=SCAN_BYTES_MAX).contains(&bytes))
        .ok_or_else(|| Wrong::new(format!("{bytes} is not between {SCAN_BYTES_MIN} and {SCAN_BYTES_MAX}")))
}

fn boolean(value: &Json) -> Result<bool, Wrong> {
    match value {
        Json::Bool(is) => Ok(*is),
        other => Err(Wrong::new(format!("expected true or false, not {}", other.kind()))),
    }
}

/// An empty list would never fit, and look as if it did.
fn not_empty<T>(list: Vec<T>) -> Result<Vec<T>, Wrong> {
    if list.is_empty() { Err(Wrong::new("the list is empty, so it fits nothing")) } else { Ok(list) }
}
