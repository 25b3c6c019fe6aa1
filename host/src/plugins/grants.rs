//! What a plugin asks for, and what it gets: never more than the operator grants.
//!
//! Without a word of the operator a plugin may emit within its own namespaces and use its own state, and nothing else.

use gavel_bus::{Pattern, namespace};
use gavel_runtime::plugin::{Capabilities as Asked, Limits};
use serde::{Deserialize, Serialize};

/// What no plugin stands before without a grant that names it.
const VITAL_NAMESPACES: [&str; 2] = ["state", "system"];

/// What an operator grants. An absent key means the default, not everything.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Grants {
    /// Events that it may emit or call. Default: those of its own namespaces, and its own single events.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub emits: Option<Vec<Pattern>>,
    /// Events that it may see before their handler does, and change or cancel. Default: as of `emits`. The namespace is
    /// always named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<Vec<Pattern>>,
    /// Namespaces of the state beside its own. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<Vec<String>>,
    /// Governed tools. Default: none. The kernel judges each call all the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tools: Option<Vec<String>>,
    /// Memory, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Time for one event, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
}

/// What a plugin got.
#[derive(Debug, Clone, PartialEq)]
pub struct Granted {
    /// Events that it may emit or call.
    pub emits: Vec<Pattern>,
    /// Events that it may see before their handler.
    pub before: Vec<Pattern>,
    /// Namespaces of the state beside its own.
    pub state: Vec<String>,
    /// Governed tools.
    pub tools: Vec<String>,
    /// What its instance may use.
    pub limits: Limits,
    /// What it asked for and did not get, in words.
    pub withheld: Vec<String>,
}

impl Grants {
    /// What is said here, and of what is not said here, what is said `below`.
    #[must_use]
    pub fn over(self, below: &Self) -> Self {
        Self {
            emits: self.emits.or_else(|| below.emits.clone()),
            before: self.before.or_else(|| below.before.clone()),
            state: self.state.or_else(|| below.state.clone()),
            tools: self.tools.or_else(|| below.tools.clone()),
            memory_bytes: self.memory_bytes.or(below.memory_bytes),
            deadline_ms: self.deadline_ms.or(below.deadline_ms),
        }
    }

    /// What a plugin that asks so much gets of it.
    ///
    /// # Errors
    /// When it asks to emit, or to stand before, what is no pattern.
    pub fn grant(&self, asked: &Asked) -> Result<Granted, String> {
        let mut withheld = Vec::new();
        let own = || own_events(asked);
        let (emits, refused) = patterns(&asked.emits, &self.emits.clone().map_or_else(own, Ok)?)?;
        withheld.extend(refused.iter().map(|pattern| format!("to emit {pattern}")));
        let (before, refused) = stand_before(&asked.before, &self.before.clone().map_or_else(own, Ok)?)?;
        withheld.extend(refused.iter().map(|pattern| format!("to see {pattern} before its handler")));
        let (state, refused) = named(&asked.state, self.state.as_deref());
        withheld.extend(refused.iter().map(|space| format!("the state's namespace {space}")));
        let (tools, refused) = named(&asked.tools, self.tools.as_deref());
        withheld.extend(refused.iter().map(|tool| format!("the tool {tool}")));
        let mut limits = Limits::default();
        let memory = (asked.memory_bytes, self.memory_bytes.unwrap_or(limits.max_memory_bytes));
        let deadline = (asked.deadline_ms, self.deadline_ms.unwrap_or(limits.deadline_ms));
        limits.max_memory_bytes = within(memory, "bytes of memory", &mut withheld);
        limits.deadline_ms = within(deadline, "ms for an event", &mut withheld);
        Ok(Granted { emits, before, state, tools, limits, withheld })
    }
}

/// The events that a plugin answers itself.
fn own_events(asked: &Asked) -> Result<Vec<Pattern>, String> {
    let spaces = asked.event_namespaces.iter().map(|space| format!("{}:*", plain(space)));
    spaces.chain(asked.commands.iter().cloned()).map(|text| Pattern::parse(&text)).collect()
}

/// A namespace without what older plugins wrote around it.
pub(super) fn plain(space: &str) -> &str {
    space.trim_start_matches('/').trim_end_matches([':', '*'])
}

/// What both sides allow of the patterns that are asked for, and those that are not granted whole.
fn patterns(asked: &[String], granted: &[Pattern]) -> Result<(Vec<Pattern>, Vec<String>), String> {
    let (mut got, mut refused) = (Vec::new(), Vec::new());
    for text in asked {
        let asked = Pattern::parse(text)?;
        let common: Vec<Pattern> = granted.iter().filter_map(|granted| meet(&asked, granted)).collect();
        if !common.contains(&asked) {
            refused.push(text.clone());
        }
        got.extend(common);
    }
    let mut once: Vec<Pattern> = Vec::new();
    for pattern in got {
        if !once.contains(&pattern) {
            once.push(pattern);
        }
    }
    Ok((once, refused))
}

/// As [`patterns`], for events of others that a plugin could change, and that fail while it fails. So a plugin never stands
/// before all namespaces at once, and before one that the host lives on only where the grant names it.
fn stand_before(asked: &[String], granted: &[Pattern]) -> Result<(Vec<Pattern>, Vec<String>), String> {
    let (vital, any): (Vec<Pattern>, Vec<Pattern>) =
        granted.iter().cloned().partition(|granted| VITAL_NAMESPACES.contains(&namespace(granted.as_str())));
    let (named, _) = patterns(asked, &vital)?;
    let (rest, _) = patterns(asked, &any)?;
    let rest = rest.into_iter().filter(|got| {
        let space = namespace(got.as_str());
        space != "*" && !VITAL_NAMESPACES.contains(&space)
    });
    let got: Vec<Pattern> = named.into_iter().chain(rest).collect();
    let refused = asked.iter().filter(|text| !got.iter().any(|got| got.as_str() == *text)).cloned().collect();
    Ok((got, refused))
}

/// The pattern of the names that are of both.
fn meet(one: &Pattern, other: &Pattern) -> Option<Pattern> {
    let (one, other) = (one.as_str(), other.as_str());
    let text = match (one, other) {
        ("*", all) | (all, "*") => all.to_owned(),
        _ => match (one.split_once(':'), other.split_once(':')) {
            (None, None) => (one == other).then(|| one.to_owned())?,
            (Some(one), Some(other)) => format!("{}:{}", half(one.0, other.0)?, half(one.1, other.1)?),
            _ => return None,
        },
    };
    Pattern::parse(&text).ok()
}

fn half<'a>(one: &'a str, other: &'a str) -> Option<&'a str> {
    match (one, other) {
        ("*", half) | (half, "*") => Some(half),
        _ => (one == other).then_some(one),
    }
}

fn named(asked: &[String], granted: Option<&[String]>) -> (Vec<String>, Vec<String>) {
    let granted = granted.unwrap_or_default();
    asked.iter().cloned().partition(|name| granted.contains(name))
}

/// What is used of what is granted. Nothing asked is all that is granted.
fn within((asked, granted): (u64, u64), what: &str, withheld: &mut Vec<String>) -> u64 {
    if asked > granted {
        withheld.push(format!("{asked} {what} (granted {granted})"));
    }
    if asked == 0 { granted } else { asked.min(granted) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asking() -> Asked {
        Asked {
            event_namespaces: vec!["/echo".into()],
            commands: vec!["greeting:say".into()],
            emits: ["echo:done", "state:*", "*:error"].map(str::to_owned).to_vec(),
            state: vec!["shared".into(), "global".into()],
            tools: vec!["add".into()],
            memory_bytes: 1 << 40,
            ..Asked::default()
        }
    }

    fn texts(patterns: &[Pattern]) -> Vec<&str> {
        patterns.iter().map(Pattern::as_str).collect()
    }

    #[test]
    fn without_a_word_a_plugin_speaks_for_itself_only() {
        let granted = Grants::default().grant(&asking()).unwrap();
        assert_eq!(texts(&granted.emits), ["echo:done", "echo:error"]);
        assert_eq!((granted.state.len(), granted.tools.len()), (0, 0));
        assert_eq!(granted.limits, Limits::default());
        let most = Limits::default().max_memory_bytes;
        assert_eq!(
            granted.withheld,
            [
                "to emit state:*".to_owned(),
                "to emit *:error".to_owned(),
                "the state's namespace shared".to_owned(),
                "the state's namespace global".to_owned(),
                "the tool add".to_owned(),
                format!("{} bytes of memory (granted {most})", 1_u64 << 40),
            ]
        );
    }

    #[test]
    fn it_gets_what_both_sides_name() {
        let patterns = ["state:get", "*:error", "echo:*"].map(|text| Pattern::parse(text).unwrap()).to_vec();
        let grants = Grants {
            emits: Some(patterns),
            state: Some(vec!["shared".into(), "unasked".into()]),
            tools: Some(vec!["add".into(), "write_file".into()]),
            deadline_ms: Some(7),
            ..Grants::default()
        };
        let granted = grants.grant(&asking()).unwrap();
        assert_eq!(texts(&granted.emits), ["echo:done", "state:get", "state:error", "*:error", "echo:error"]);
        assert_eq!((granted.state, granted.tools), (vec!["shared".to_owned()], vec!["add".to_owned()]));
        assert_eq!(granted.limits.deadline_ms, 7);
        assert!(granted.withheld.contains(&"to emit state:*".to_owned()), "{:?}", granted.withheld);
        assert!(!granted.withheld.contains(&"to emit *:error".to_owned()), "{:?}", granted.withheld);
    }

    #[test]
    fn a_plugin_stands_before_its_own_events_and_those_that_are_named() {
        let asked = ["*", "state:set", "echo:*", "completion:*", "system:health"].map(str::to_owned).to_vec();
        let asked = Asked { before: asked, ..asking() };
        let before = |granted: &[&str]| {
            let patterns = granted.iter().map(|text| Pattern::parse(text).unwrap()).collect();
            let granted = Grants { before: Some(patterns), ..Grants::default() }.grant(&asked).unwrap();
            texts(&granted.before).join(" ")
        };
        let own = Grants::default().grant(&asked).unwrap();
        assert_eq!(texts(&own.before), ["echo:*", "greeting:say"]);
        assert!(own.withheld.contains(&"to see state:set before its handler".to_owned()), "{:?}", own.withheld);
        assert!(own.withheld.contains(&"to see * before its handler".to_owned()), "{:?}", own.withheld);
        assert_eq!(before(&["*"]), "echo:* completion:*");
        assert_eq!(before(&["*:set", "*:health"]), "echo:set echo:health completion:set completion:health");
        assert_eq!(before(&["state:set", "system:*"]), "state:set system:* system:health");
        assert_eq!(before(&[]), "");
    }

    #[test]
    fn what_asks_for_no_pattern_is_refused() {
        let asked = Asked { emits: vec!["st*:x".into()], ..Asked::default() };
        assert!(Grants::default().grant(&asked).unwrap_err().contains("star"));
    }
}
