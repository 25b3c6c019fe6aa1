//! An event, and who stands behind it. Sender, time and id are the bus's own: nothing in a payload can claim them.

use serde::{Serialize, Serializer};
use serde_json::{Map, Value};
use std::sync::Arc;
use tokio::time::Instant;

/// Who sent an event. Made by the host from what the sender showed, never from what the event says.
///
/// As JSON it is its text, `plugin:NAME`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Sender {
    /// The host itself.
    Host,
    /// A plugin, by the name under which it is registered.
    Plugin(Arc<str>),
    /// A client of a transport, by the identity that the transport gave it, for example `unix:1000/17`.
    Client(Arc<str>),
    /// Another machine's bus, by its name there and ours.
    Peer(Arc<str>),
}

impl Serialize for Sender {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl std::fmt::Display for Sender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Host => f.write_str("host"),
            Self::Plugin(name) => write!(f, "plugin:{name}"),
            Self::Client(name) => write!(f, "client:{name}"),
            Self::Peer(name) => write!(f, "peer:{name}"),
        }
    }
}

/// What is asked of the bus, before it is stamped.
#[derive(Debug, Clone, PartialEq)]
pub struct Draft {
    /// `namespace:name`, for example `state:set`.
    pub name: String,
    /// What it says; an object as a rule.
    pub data: Value,
    /// The caller's name for the exchange; the bus makes one where there is none.
    pub correlation_id: Option<String>,
    /// Which client it is about, in the caller's words: an address for answers, no identity.
    pub client_id: Option<String>,
    /// Ask all who listen, not only the owner; the answer is `{"responses":[…]}`.
    pub fan_out: bool,
}

impl Draft {
    /// An event with nothing but a name and its data.
    #[must_use]
    pub fn new(name: &str, data: Value) -> Self {
        Self { name: name.to_owned(), data, correlation_id: None, client_id: None, fan_out: false }
    }
}

/// A stamped event. Shared, never changed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Event {
    /// Unique on this bus, and, with the random part of its beginning, elsewhere.
    pub event_id: String,
    /// `namespace:name`.
    #[serde(rename = "event_name")]
    pub name: String,
    /// What it says.
    pub data: Value,
    /// Milliseconds since 1970, by the host's clock.
    pub timestamp_ms: u64,
    /// Who sent it.
    pub sender: Sender,
    /// The exchange it belongs to.
    pub correlation_id: String,
    /// Which client it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// The plugins in whose handling this event was made, the first cause first: its length is the depth of the chain.
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "names")]
    pub chain: Vec<Arc<str>>,
    /// How many times it, or an event that caused it, went from one host to another: 0 where it all began here.
    #[serde(skip_serializing_if = "is_zero")]
    pub hops: u32,
    /// When its answer is too late. What is called while it is handled has no longer.
    #[serde(skip)]
    pub until: Instant,
    /// The event whose caller waits for all this: what it holds, and what it waits for, is one chain.
    #[serde(skip)]
    pub root: Arc<str>,
}

impl Event {
    /// Its namespace: what is before the first colon, or all of it.
    #[must_use]
    pub fn namespace(&self) -> &str {
        namespace(&self.name)
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks with a reference")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

fn names<S: Serializer>(names: &[Arc<str>], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(names.iter().map(|name| &**name))
}

/// The namespace of an event's name.
#[must_use]
pub fn namespace(name: &str) -> &str {
    name.split_once(':').map_or(name, |(namespace, _)| namespace)
}

/// Longest name of an event.
pub const NAME_BYTES_MAX: usize = 128;

/// What is wrong with an event's name, if anything is.
pub(crate) fn name_problem(name: &str) -> Option<String> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, ':' | '_' | '-' | '.' | '/');
    if name.is_empty() {
        return Some("Missing event name".to_owned());
    }
    if name.len() > NAME_BYTES_MAX {
        return Some(format!("an event's name of {} bytes is longer than {NAME_BYTES_MAX}", name.len()));
    }
    (!name.chars().all(legal))
        .then(|| format!("the event's name {name:?} may have letters, digits, and : _ - . / only"))
}

/// An answer: an object always, so that the correlation id has its place.
pub type Answer = Map<String, Value>;

/// Make an answer of what a handler gave.
#[must_use]
pub fn answer_of(value: Value) -> Answer {
    match value {
        Value::Object(object) => object,
        other => Map::from_iter([("result".to_owned(), other)]),
    }
}
