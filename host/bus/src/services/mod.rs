//! The services that a bus has in it: plugins like any other, written in Rust and made with the host.
//!
//! They answer the events of the older daemon's catalogue. What they must remember is in the [`Store`](crate::Store).

mod agent;
mod completion;
mod message;
mod state;
mod system;

pub use agent::{Agents, Imported, Profile, ProfileSource, Profiles, import_identities};
pub use completion::{Completion, CompletionLimits, Completions, Prompt, Provider};
pub use message::Messages;
pub use state::{State, StateGrants};
pub use system::{About, System};

/// Every event that a service answers, by service. `unix_transport`, which comes with the sockets, has its own list:
/// [`crate::unix::EVENTS`].
pub const EVENTS: [(&str, &[&str]); 5] = [
    ("system_service", &system::EVENTS),
    ("state_service", &state::EVENTS),
    ("agent_service", &agent::EVENTS),
    ("completion_service", &completion::EVENTS),
    ("message_service", &message::EVENTS),
];

/// Every event that a service tells of, and nobody owns. Nobody else may tell of it.
pub const NEWS: [&str; 4] = ["state:changed", "completion:started", "completion:result", "completion:error"];

/// The events whose owners may tell of a piece of [`NEWS`]; `None` if it is no news.
pub(crate) fn tellers(name: &str) -> Option<&'static [&'static str]> {
    NEWS.contains(&name).then_some(match name {
        "state:changed" => &["state:set", "agent:update_state"],
        _ => &["completion:async"],
    })
}

use crate::event::Event;
use crate::plugin::{Capabilities, Factory, Fault, Metadata, Registration};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::sync::Arc;

/// The code of a request whose data are not what the event needs.
pub const INVALID_PARAMETERS: &str = "INVALID_PARAMETERS";

/// The data of an event as what it must be. No data are as an empty object.
fn read<T: DeserializeOwned>(event: &Event) -> Result<T, Fault> {
    let data = match &event.data {
        Value::Null => Value::Object(serde_json::Map::new()),
        Value::Object(_) => event.data.clone(),
        _ => return Err(invalid(&format!("{}: the data are no object", event.name))),
    };
    serde_json::from_value(data).map_err(|why| invalid(&format!("{}: {why}", event.name)))
}

/// A value that is there, `null` too; with `default`, what is left out is `None`.
fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    serde::Deserialize::deserialize(deserializer).map(Some)
}

/// One text, or a list of them: both are in use.
fn one_or_many<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(serde::Deserialize)]
    #[serde(untagged, expecting = "a text or a list of texts")]
    enum Either {
        One(String),
        Many(Vec<String>),
    }
    Ok(match serde::Deserialize::deserialize(deserializer)? {
        Either::One(one) => vec![one],
        Either::Many(many) => many,
    })
}

/// What the transport made of a message: `delivered` to a connected agent, or `queued` until it connects.
async fn send(
    handle: Option<&crate::handle::Handle>,
    cause: &Event,
    frame: Value,
) -> Result<&'static str, crate::error::Error> {
    let none = || crate::error::Error::Refused {
        message: "no transport serves agents here".to_owned(),
        code: Some(DELIVERY_FAILED.to_owned()),
    };
    let handle = handle.ok_or_else(none)?;
    let sent = handle.call(Some(cause), crate::event::Draft::new("transport:send", frame)).await;
    match sent {
        Ok(answer) => Ok(if answer.get("status") == Some(&Value::from("queued")) { "queued" } else { "delivered" }),
        Err(crate::error::Error::NoHandler(_)) => Err(none()),
        Err(why) => Err(why),
    }
}

/// The code of a message that could not be handed over.
const DELIVERY_FAILED: &str = "DELIVERY_FAILED";

fn invalid(message: &str) -> Fault {
    Fault::Refused { message: message.to_owned(), code: Some(INVALID_PARAMETERS.to_owned()) }
}

/// The registration of a service that owns one namespace.
fn service(name: &str, namespace: &str, description: &str, factory: Arc<dyn Factory>) -> Registration {
    Registration {
        metadata: Metadata {
            name: name.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            description: description.to_owned(),
            author: "gavel".to_owned(),
            ..Metadata::default()
        },
        capabilities: Capabilities {
            event_namespaces: vec![namespace.to_owned()],
            provides_services: vec![name.trim_end_matches("_service").to_owned()],
            ..Capabilities::default()
        },
        config: Value::Null,
        digest: "native".to_owned(),
        factory,
    }
}
