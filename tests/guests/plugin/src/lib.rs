//! The plugin that tests talk to: it does what an event's name says. Not a plugin for use.
//!
//! The README lists the names. One component rather than many: a test changes a word, not a file, and the honest answers
//! among them show that it is not merely broken. Without the standard library, so that it is as small as a plugin can be.
#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;

mod deeds;
#[cfg(target_arch = "wasm32")]
mod machine;

/// What wit-bindgen makes of `wit/plugin/plugin.wit`.
#[allow(unsafe_code, reason = "generated: the canonical ABI passes pointers")]
#[allow(clippy::all, clippy::pedantic, missing_docs, reason = "generated")]
mod bindings {
    wit_bindgen::generate!({ world: "plugin", path: "../../../wit/plugin" });

    use super::TestPlugin;
    export!(TestPlugin);
}

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use bindings::gavel::plugin::log::{Level, write};
use bindings::gavel::plugin::{bus, config};
use bindings::{Before, Capabilities, Event, Guest, Metadata, Refusal};

/// The plugin that is exported.
struct TestPlugin;

impl Guest for TestPlugin {
    fn describe() -> (Metadata, Capabilities) {
        let metadata = Metadata {
            name: "test-plugin".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            description: env!("CARGO_PKG_DESCRIPTION").to_owned(),
            // It must not use the imports; so it tells what came of using one.
            author: bus::emit("test:described", "{}").map_or_else(|refusal| refusal.code.unwrap_or_default(), |id| id),
            dependencies: Vec::new(),
            priority: 7,
            config_schema: Some(r#"{"type": ["object", "null"]}"#.to_owned()),
        };
        let capabilities = Capabilities {
            event_namespaces: vec!["test".to_owned()],
            commands: vec!["extra:command".to_owned()],
            provides_services: vec!["testing".to_owned()],
            subscribes: vec!["*:heard".to_owned()],
            before: vec!["test:*".to_owned()],
            after: vec!["test:*".to_owned()],
            emits: vec!["other:*".to_owned()],
            state: vec!["shared".to_owned()],
            tools: vec!["read_file".to_owned()],
            memory_bytes: 1 << 20,
            deadline_ms: 500,
        };
        (metadata, capabilities)
    }

    fn startup() -> Result<(), String> {
        match configured() {
            Some("startup-fails") => Err("it was told not to start".to_owned()),
            Some("startup-traps") => deeds::trap(),
            Some("startup-loops") => deeds::endless(),
            _ => Ok(()),
        }
    }

    fn pre_event(event: Event) -> Before {
        match deed(&event) {
            "replace" => Before::Replace(event.data),
            "cancel" => Before::Cancel("not now".to_owned()),
            "replace-with" => Before::Replace("x".repeat(deeds::number(&event.data))),
            "trap-before" => deeds::trap(),
            _ => Before::Pass,
        }
    }

    fn handle_event(event: Event) -> Result<Option<String>, Refusal> {
        deeds::answer(event)
    }

    fn hear_event(event: Event) -> Result<(), Refusal> {
        match deed(&event) {
            "refuse" => Err(refusal("it does not want to hear", None)),
            "trap" => deeds::trap(),
            _ => {
                write(Level::Info, &format!("heard {}", event.name));
                Ok(())
            }
        }
    }

    fn post_event(event: Event, answer: String) -> Result<(), Refusal> {
        match deed(&event) {
            "refuse" => Err(refusal("it does not want to see", Some("BLIND"))),
            _ => {
                write(Level::Debug, &format!("after {}: {answer}", event.name));
                Ok(())
            }
        }
    }

    fn shutdown() -> Result<(), String> {
        match configured() {
            Some("shutdown-fails") => Err("it was told not to end".to_owned()),
            _ => Ok(()),
        }
    }
}

/// What an event asks for: the part of its name after the colon.
fn deed(event: &Event) -> &str {
    event.name.split_once(':').map_or("", |(_, deed)| deed)
}

/// What the configuration asks for, of the words known here.
fn configured() -> Option<&'static str> {
    const WORDS: [&str; 4] = ["startup-fails", "startup-traps", "startup-loops", "shutdown-fails"];
    let config = config::get();
    WORDS.into_iter().find(|word| config.contains(word))
}

fn refusal(message: &str, code: Option<&str>) -> Refusal {
    Refusal { message: message.to_string(), code: code.map(ToString::to_string) }
}
