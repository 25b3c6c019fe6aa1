//! The glue between Gavel and a plugin: what every plugin in Rust needs. There is nothing to edit in here.
//!
//! A plugin implements [`Plugin`] and names itself to [`export_plugin!`]. Data and answers are JSON values here and JSON
//! texts outside. A panic ends the instance: its message and place reach the log, the host answers for it and makes
//! another.
//!
//! Compiled for the machine itself, as by `cargo test`, there is no host: what asks one panics. So keep the judgement in
//! functions that take what they judge, and test those.

#![allow(dead_code, reason = "no plugin needs all of it")]

pub(crate) use bindings::gavel::plugin::log::Level;
pub(crate) use bindings::{Before, Capabilities, Event, Metadata, Refusal};
pub(crate) use serde_json::{Value, json};

/// What wit-bindgen makes of `wit/plugin.wit`.
#[allow(clippy::all, clippy::pedantic, reason = "generated")]
pub(crate) mod bindings {
    wit_bindgen::generate!({
        path: "wit",
        world: "plugin",
        pub_export_macro: true,
        default_bindings_module: "crate::plugin::bindings",
    });
}

/// An answer; `None`: this event is not known after all.
pub(crate) type Answer = Result<Option<Value>, Refusal>;

/// What a plugin is. Only [`describe`](Self::describe) is a must; it must not use anything of the host.
pub(crate) trait Plugin {
    fn describe() -> (Metadata, Capabilities);

    fn startup() -> Result<(), String> {
        Ok(())
    }

    /// See an event of `before`. Data that are no JSON arrive as `null`, here and below.
    fn before(_event: &Event, _data: Value) -> Before {
        Before::Pass
    }

    /// Answer an event that this plugin owns.
    fn handle(_event: &Event, _data: Value) -> Answer {
        Ok(None)
    }

    /// Hear of an event of `subscribes`.
    fn hear(_event: &Event, _data: Value) -> Result<(), Refusal> {
        Ok(())
    }

    /// See the answer to an event of `after`.
    fn after(_event: &Event, _data: Value, _answer: Value) -> Result<(), Refusal> {
        Ok(())
    }

    fn shutdown() -> Result<(), String> {
        Ok(())
    }
}

/// Export a type that implements [`Plugin`] as the component's plugin.
macro_rules! export_plugin {
    ($plugin:ty) => {
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            struct Component;

            impl $crate::plugin::bindings::Guest for Component {
                fn describe() -> ($crate::plugin::Metadata, $crate::plugin::Capabilities) {
                    <$plugin as $crate::plugin::Plugin>::describe()
                }

                fn startup() -> Result<(), String> {
                    $crate::plugin::report_panics();
                    <$plugin as $crate::plugin::Plugin>::startup()
                }

                fn pre_event(event: $crate::plugin::Event) -> $crate::plugin::Before {
                    let data = $crate::plugin::read(&event.data);
                    <$plugin as $crate::plugin::Plugin>::before(&event, data)
                }

                fn handle_event(event: $crate::plugin::Event) -> Result<Option<String>, $crate::plugin::Refusal> {
                    let data = $crate::plugin::read(&event.data);
                    let answer = <$plugin as $crate::plugin::Plugin>::handle(&event, data)?;
                    Ok(answer.map(|answer| answer.to_string()))
                }

                fn hear_event(event: $crate::plugin::Event) -> Result<(), $crate::plugin::Refusal> {
                    let data = $crate::plugin::read(&event.data);
                    <$plugin as $crate::plugin::Plugin>::hear(&event, data)
                }

                fn post_event(event: $crate::plugin::Event, answer: String) -> Result<(), $crate::plugin::Refusal> {
                    let (data, answer) = ($crate::plugin::read(&event.data), $crate::plugin::read(&answer));
                    <$plugin as $crate::plugin::Plugin>::after(&event, data, answer)
                }

                fn shutdown() -> Result<(), String> {
                    <$plugin as $crate::plugin::Plugin>::shutdown()
                }
            }

            $crate::plugin::bindings::export!(Component with_types_in $crate::plugin::bindings);
        };
    };
}
pub(crate) use export_plugin;

/// What the package's manifest says; the rest is the plugin's to add.
pub(crate) fn metadata() -> Metadata {
    Metadata {
        name: env!("CARGO_PKG_NAME").into(),
        version: env!("CARGO_PKG_VERSION").into(),
        description: String::new(),
        author: String::new(),
        dependencies: Vec::new(),
        priority: 0,
        config_schema: None,
    }
}

/// Nothing answered, heard or asked for.
pub(crate) fn capabilities() -> Capabilities {
    Capabilities {
        event_namespaces: Vec::new(),
        commands: Vec::new(),
        provides_services: Vec::new(),
        subscribes: Vec::new(),
        before: Vec::new(),
        after: Vec::new(),
        emits: Vec::new(),
        state: Vec::new(),
        tools: Vec::new(),
        memory_bytes: 0,
        deadline_ms: 0,
    }
}

pub(crate) fn texts(of: &[&str]) -> Vec<String> {
    of.iter().map(|text| (*text).to_owned()).collect()
}

/// A refusal with a word for programs.
pub(crate) fn refusal(code: &str, message: impl Into<String>) -> Refusal {
    Refusal { message: message.into(), code: Some(code.into()) }
}

/// The text of a field of the data, or a refusal that names it.
pub(crate) fn text<'a>(data: &'a Value, field: &str) -> Result<&'a str, Refusal> {
    let found = data[field].as_str().filter(|text| !text.is_empty());
    found.ok_or_else(|| refusal("INVALID_PARAMETERS", format!("`{field}` is missing or no text")))
}

/// JSON of the host's; `null` where it is none.
pub(crate) fn read(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or(Value::Null)
}

/// What the operator wrote for this plugin; `null` when there is none.
pub(crate) fn config() -> Value {
    read(&bindings::gavel::plugin::config::get())
}

/// Tell of an event; gives its id.
pub(crate) fn emit(name: &str, data: &Value) -> Result<String, Refusal> {
    bindings::gavel::plugin::bus::emit(name, &data.to_string())
}

/// Ask for the answer to an event.
pub(crate) fn call(name: &str, data: &Value) -> Result<Value, Refusal> {
    bindings::gavel::plugin::bus::call(name, &data.to_string()).map(|answer| read(&answer))
}

/// Ask for a governed tool.
pub(crate) fn tool(name: &str, params: &Value, intent: &str) -> Result<Value, Refusal> {
    bindings::gavel::plugin::tools::call(name, &params.to_string(), intent).map(|result| read(&result))
}

/// Write a line into the operator's log.
pub(crate) fn log(level: Level, line: &str) {
    bindings::gavel::plugin::log::write(level, line);
}

/// The plugin's own namespace of the durable state.
pub(crate) mod state {
    use super::{Refusal, Value, bindings::gavel::plugin::state, read};

    const OWN: &str = env!("CARGO_PKG_NAME");

    pub(crate) fn get(key: &str) -> Result<Option<Value>, Refusal> {
        Ok(state::get(OWN, key)?.map(|value| read(&value)))
    }

    /// Durable when it returns.
    pub(crate) fn set(key: &str, value: &Value) -> Result<(), Refusal> {
        state::set(OWN, key, &value.to_string())
    }

    /// Says whether it was there.
    pub(crate) fn delete(key: &str) -> Result<bool, Refusal> {
        state::delete(OWN, key)
    }

    /// Keys that a glob matches.
    pub(crate) fn keys(pattern: &str) -> Result<Vec<String>, Refusal> {
        state::keys(OWN, pattern)
    }
}

/// From here on a panic's message and place reach the log before the trap.
pub(crate) fn report_panics() {
    std::panic::set_hook(Box::new(|panic| log(Level::Error, &panic.to_string())));
}
