//! An event, and who stands behind it. Sender, time and id are the bus's own: nothing in a payload can claim them.

use serde::{Serialize, Serializer};
use serde_json::{Map, Value};
use std::ops::Deref;
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

/// A stamped event. Shared, never changed; a copy shares what was stamped.
///
/// What was [`Stamped`] is read as if it were its own: `event.name`, `event.data`.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    stamped: Arc<Stamped>,
    /// When its answer is too late. What is called while it is handled has no longer.
    pub until: Instant,
    /// The event whose caller waits for all this: what it holds, and what it waits for, is one chain.
    pub root: Root,
}

/// A chain of events whose callers wait for each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Root(pub(crate) u64);

/// What an event is, from its beginning to its end.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Stamped {
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
    /// About how many bytes its data have in memory.
    #[serde(skip)]
    pub data_bytes: usize,
}

impl Deref for Event {
    type Target = Stamped;

    fn deref(&self) -> &Stamped {
        &self.stamped
    }
}

impl Serialize for Event {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.stamped.serialize(serializer)
    }
}

impl Event {
    pub(crate) fn new(stamped: Stamped, until: Instant, root: Root) -> Self {
        Self { stamped: Arc::new(Stamped { data_bytes: bytes_of(&stamped.data), ..stamped }), until, root }
    }

    /// The same event with other data.
    pub(crate) fn with_data(&self, data: Value) -> Self {
        let stamped = Stamped {
            data_bytes: bytes_of(&data),
            data,
            event_id: self.event_id.clone(),
            name: self.name.clone(),
            timestamp_ms: self.timestamp_ms,
            sender: self.sender.clone(),
            correlation_id: self.correlation_id.clone(),
            client_id: self.client_id.clone(),
            chain: self.chain.clone(),
            hops: self.hops,
        };
        Self { stamped: Arc::new(stamped), until: self.until, root: self.root }
    }

    /// The same event, after it went from host to host so often.
    pub(crate) fn with_hops(&self, hops: u32) -> Self {
        let stamped = Stamped { hops, ..Stamped::clone(&self.stamped) };
        Self { stamped: Arc::new(stamped), until: self.until, root: self.root }
    }

    /// The same event for somebody whom nobody waits for: a chain, and a time, of its own.
    pub(crate) fn apart(&self, until: Instant, root: Root) -> Self {
        Self { stamped: Arc::clone(&self.stamped), until, root }
    }

    /// As it is told to those who look back or watch.
    #[must_use]
    pub fn shown(&self) -> Value {
        #[allow(clippy::cast_precision_loss, reason = "milliseconds since 1970 are below 2^52")]
        let seconds = self.timestamp_ms as f64 / 1e3;
        serde_json::json!({
            "timestamp": seconds,
            "event_name": self.name,
            "data": self.data,
            "client_id": self.client_id,
            "sender": self.sender,
            "correlation_id": self.correlation_id,
            "event_id": self.event_id,
        })
    }

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

/// Longest correlation id or client id: both are kept, and handed on, with every event of an exchange.
pub const ID_BYTES_MAX: usize = 256;

/// What is wrong with what a sender calls an exchange or a client, if anything is.
pub(crate) fn id_problem(what: &str, id: Option<&String>) -> Option<String> {
    let bytes = id.map_or(0, String::len);
    (bytes > ID_BYTES_MAX).then(|| format!("a {what} of {bytes} bytes is longer than {ID_BYTES_MAX}"))
}

/// About how many bytes a value takes in memory: what a history or a mailbox holds is bounded in these.
pub(crate) fn bytes_of(value: &Value) -> usize {
    let inside: usize = match value {
        Value::String(text) => text.len(),
        // As its digits: integers of any size are kept as they came.
        Value::Number(number) => number.as_str().len(),
        Value::Array(items) => items.iter().map(bytes_of).sum(),
        Value::Object(members) => {
            members.iter().map(|(key, item)| size_of::<String>() + key.len() + bytes_of(item)).sum()
        }
        Value::Null | Value::Bool(_) => 0,
    };
    size_of::<Value>() + inside
}

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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_data_weigh_counts_every_part_of_them() {
        assert_eq!(bytes_of(&Value::Null), size_of::<Value>());
        let digits: Value = serde_json::from_str(&"7".repeat(5_000)).unwrap();
        assert!(bytes_of(&digits) >= 5_000, "a long number is no short one");
        let empty = Value::Array(vec![json!([]); 1_000]);
        assert!(bytes_of(&empty) >= 1_000 * size_of::<Value>(), "an empty list takes its place too");
        assert!(bytes_of(&json!({ "k".repeat(3_000): [] })) >= 3_000);
    }
}
