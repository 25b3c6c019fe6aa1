//! What a plugin says of itself, as it can be kept on disk, and what of it is believed.

use crate::Error;
use crate::bindings::plugin::gavel::plugin::types;
use crate::world::PLUGIN;
use serde::{Deserialize, Serialize};

/// Bytes of a plugin's name.
pub const NAME_BYTES_MAX: usize = 64;
/// Bytes of its version, its description and its author, each.
pub const TEXT_BYTES_MAX: usize = 1_024;
/// Entries of each list.
pub const LIST_ITEMS_MAX: usize = 256;
/// Bytes of an entry: as long as an event's name may be.
pub const ITEM_BYTES_MAX: usize = 128;
/// Bytes of the schema of its configuration.
pub const CONFIG_SCHEMA_BYTES_MAX: usize = 64 << 10;

/// What a plugin says of itself, and what it asks for: the answer of `describe`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Described {
    /// What it is.
    pub metadata: Metadata,
    /// What it does and needs.
    pub capabilities: Capabilities,
}

/// What a plugin is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metadata {
    /// Its name: a lower-case letter, then lower-case letters, digits, hyphens and underscores.
    pub name: String,
    /// Its own version.
    pub version: String,
    /// One sentence: what it does.
    pub description: String,
    /// Who made it.
    pub author: String,
    /// Names of plugins that must be there too.
    pub dependencies: Vec<String>,
    /// Who goes first where several see one event: the greater number.
    pub priority: i32,
    /// The JSON Schema of its configuration, as text; `None` when it takes none.
    pub config_schema: Option<String>,
}

/// What a plugin answers and hears, and what it asks to be granted.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Capabilities {
    /// Namespaces whose events it answers, without the colon.
    pub event_namespaces: Vec<String>,
    /// Single events that it answers.
    pub commands: Vec<String>,
    /// Services that it provides.
    pub provides_services: Vec<String>,
    /// Patterns of events of which it hears after they were answered.
    pub subscribes: Vec<String>,
    /// Patterns of events that it sees before they are handled.
    pub before: Vec<String>,
    /// Patterns of events whose answers it sees.
    pub after: Vec<String>,
    /// Patterns of events that it may emit or call.
    pub emits: Vec<String>,
    /// Namespaces of the state that it may use, beside its own.
    pub state: Vec<String>,
    /// Governed tools that it may ask for.
    pub tools: Vec<String>,
    /// Memory that it needs, in bytes; 0: the default.
    pub memory_bytes: u64,
    /// Time that it needs for one event, in milliseconds; 0: the default.
    pub deadline_ms: u64,
}

impl From<(types::Metadata, types::Capabilities)> for Described {
    fn from((metadata, capabilities): (types::Metadata, types::Capabilities)) -> Self {
        let types::Metadata { name, version, description, author, dependencies, priority, config_schema } = metadata;
        let types::Capabilities {
            event_namespaces,
            commands,
            provides_services,
            subscribes,
            before,
            after,
            emits,
            state,
            tools,
            memory_bytes,
            deadline_ms,
        } = capabilities;
        Self {
            metadata: Metadata { name, version, description, author, dependencies, priority, config_schema },
            capabilities: Capabilities {
                event_namespaces,
                commands,
                provides_services,
                subscribes,
                before,
                after,
                emits,
                state,
                tools,
                memory_bytes,
                deadline_ms,
            },
        }
    }
}

impl Described {
    /// Whether names, texts and lists are such as can be shown and kept; that patterns are patterns is for the bus to
    /// see. `plugin` is whom a message is about.
    pub(super) fn check(&self, plugin: &str) -> Result<(), Error> {
        let Metadata { name, version, description, author, dependencies, config_schema, .. } = &self.metadata;
        let given = &self.capabilities;
        let texts = [("version", version), ("description", description), ("author", author)];
        let schema = config_schema.as_ref().map_or(0, String::len);
        let lists = [
            ("dependencies", dependencies),
            ("event-namespaces", &given.event_namespaces),
            ("commands", &given.commands),
            ("provides-services", &given.provides_services),
            ("subscribes", &given.subscribes),
            ("before", &given.before),
            ("after", &given.after),
            ("emits", &given.emits),
            ("state", &given.state),
            ("tools", &given.tools),
        ];
        let fault = name_fault(name)
            .map(|why| ("name", why))
            .or_else(|| texts.iter().find_map(|(what, text)| Some((*what, text_fault(text, TEXT_BYTES_MAX)?))))
            .or_else(|| Some(("config-schema", too_long(schema, CONFIG_SCHEMA_BYTES_MAX)?)))
            .or_else(|| lists.iter().find_map(|(what, items)| Some((*what, list_fault(items)?))));
        match fault {
            Some((what, why)) => Err(Error::Description { subject: PLUGIN.subject(plugin), what, why }),
            None => Ok(()),
        }
    }
}

fn name_fault(name: &str) -> Option<String> {
    let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_');
    if !name.starts_with(|c: char| c.is_ascii_lowercase()) || !name.chars().all(legal) {
        let shown = &name[..name.floor_char_boundary(NAME_BYTES_MAX)];
        return Some(format!(
            "{shown:?} must begin with a lower-case letter and have only lower-case letters, digits, - and _"
        ));
    }
    too_long(name.len(), NAME_BYTES_MAX)
}

fn list_fault(items: &[String]) -> Option<String> {
    if items.len() > LIST_ITEMS_MAX {
        return Some(format!("{} entries, at most {LIST_ITEMS_MAX} are allowed", items.len()));
    }
    let empty = items.iter().any(String::is_empty).then(|| "an entry is empty".to_owned());
    empty.or_else(|| items.iter().find_map(|item| text_fault(item, ITEM_BYTES_MAX)))
}

fn text_fault(text: &str, bytes_max: usize) -> Option<String> {
    let control = text.chars().any(char::is_control);
    too_long(text.len(), bytes_max).or_else(|| control.then(|| format!("{text:?} has a control character")))
}

fn too_long(bytes: usize, bytes_max: usize) -> Option<String> {
    (bytes > bytes_max).then(|| format!("{bytes} bytes, at most {bytes_max} are allowed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Described {
        let metadata = Metadata { name: "a-plugin_2".into(), version: "1".into(), ..Metadata::default() };
        let capabilities = Capabilities { before: vec!["*:error".into()], ..Capabilities::default() };
        Described { metadata, capabilities }
    }

    fn told(change: impl FnOnce(&mut Described)) -> String {
        let mut described = good();
        change(&mut described);
        described.check("p").map_or_else(|why| why.to_string(), |()| "good".into())
    }

    #[test]
    fn what_is_out_of_bounds_is_told_by_field_and_limit() {
        assert_eq!(told(|_| ()), "good");
        for name in ["", "A", "2x", "a b", "a/b", "ä"] {
            let told = told(|it| it.metadata.name = name.into());
            assert!(told.starts_with(&format!("plugin p: describe gave name: {name:?} must begin with")), "{told}");
        }
        assert_eq!(told(|it| it.metadata.name = "a".repeat(NAME_BYTES_MAX)), "good");
        assert_eq!(
            told(|it| it.metadata.name = "a".repeat(NAME_BYTES_MAX + 1)),
            "plugin p: describe gave name: 65 bytes, at most 64 are allowed"
        );
        assert!(told(|it| it.metadata.author = "a\u{1b}[2J".into()).contains("author: \"a\\u{1b}[2J\" has a control"));
        assert!(told(|it| it.metadata.description = "é".repeat(513)).contains("description: 1026 bytes, at most 1024"));
        assert!(told(|it| it.metadata.config_schema = Some(" ".repeat(65_537))).contains("config-schema: 65537 bytes"));
        assert_eq!(told(|it| it.capabilities.tools = vec!["t".into(); LIST_ITEMS_MAX]), "good");
        assert!(told(|it| it.capabilities.tools = vec!["t".into(); 257]).contains("tools: 257 entries, at most 256"));
        assert!(told(|it| it.capabilities.state = vec![String::new()]).contains("state: an entry is empty"));
        assert!(told(|it| it.capabilities.emits = vec!["e".repeat(129)]).contains("emits: 129 bytes, at most 128"));
    }
}
