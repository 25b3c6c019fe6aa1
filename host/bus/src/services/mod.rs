//! The services that a bus has in it: plugins like any other, written in Rust and made with the host.
//!
//! They answer the events of the older daemon's catalogue. What they must remember is in the [`Store`](crate::Store).

mod agent;
mod completion;
mod message;
mod state;
mod system;

pub use agent::{Agents, Profile};
pub use completion::{Completion, CompletionLimits, Completions, Prompt, Provider};
pub use message::Messages;
pub use state::{State, StateGrants};
pub use system::{About, System};

use crate::event::Event;
use crate::plugin::{Capabilities, Factory, Fault, Metadata, Registration};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::sync::Arc;

/// The code of a request whose data are not what the event needs.
pub const INVALID_PARAMETERS: &str = "INVALID_PARAMETERS";

/// The data of an event as what it must be. No data are as an empty object.
fn read<T: DeserializeOwned>(event: &Event) -> Result<T, Fault> {
    let data = if event.data.is_null() { Value::Object(serde_json::Map::new()) } else { event.data.clone() };
    serde_json::from_value(data).map_err(|why| invalid(&format!("{}: {why}", event.name)))
}

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
