//! A plugin to begin with, for each handler of the older daemon: it builds as it stands, owns the handler's events, and
//! refuses each until its function is written. So nobody takes for done what is not. An event that a service of Gavel's
//! answers has its function too, but is not owned unless it was asked for by name: loading a scaffold takes nothing away.
//!
//! The glue, the contract, the build command and the pinned packages are those of the examples in
//! `guest-examples/plugins`, embedded; what is written here is what differs from plugin to plugin.

use super::handlers::{Command, Handler};
use crate::policies::templates::File;
use serde::Serialize;
use std::collections::BTreeSet;
use std::fmt::Write;

/// What a scaffold is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Language {
    /// Rust, for wasm32-unknown-unknown.
    Rust,
    /// JavaScript.
    Javascript,
}

/// The code of a refusal of what is not written yet.
pub const NOT_MIGRATED: &str = "NOT_MIGRATED";

/// Files of one example, each by its path below `guest-examples/plugins/LANGUAGE/`.
macro_rules! files {
    ($language:literal: $($path:literal)*) => {
        &[$(($path, include_str!(concat!("../../../guest-examples/plugins/", $language, "/", $path)))),*]
    };
}

const RUST: &[(&str, &str)] = files!("rust":
    ".cargo/config.toml" ".gitignore" "Cargo.lock" "Cargo.toml" "build" "src/plugin.rs" "wit/plugin.wit");
const JAVASCRIPT: &[(&str, &str)] = files!("js":
    ".gitignore" "build" "package-lock.json" "package.json" "src/main.js" "src/plugin.js" "src/refused.js"
    "wit/plugin.wit");

/// The files of the scaffold for a handler.
#[must_use]
pub fn files(handler: &Handler, language: Language) -> Vec<File> {
    let events = events(handler);
    let mut files: Vec<File> = match language {
        Language::Rust => RUST.iter().map(|file| embedded(file, &[("prompt-guard", &handler.plugin)])).collect(),
        Language::Javascript => {
            let renamed = [
                ("Keeps notes by id, finds and summarises them.", "Answers events of the older daemon."),
                ("notes.js", "handlers.js"),
                ("* as notes", "* as handlers"),
                ("(notes)", "(handlers)"),
                ("notes", &handler.plugin),
            ];
            JAVASCRIPT.iter().map(|file| embedded(file, &renamed)).collect()
        }
    };
    let written = match language {
        Language::Rust => vec![("src/lib.rs", rust_lib(handler, &events)), ("src/handlers.rs", rust_handlers(&events))],
        Language::Javascript => vec![("src/handlers.js", javascript_handlers(handler, &events))],
    };
    let common = [("plugin.yaml", manifest(handler)), ("README.md", readme(handler, &events, language))];
    files.extend(written.into_iter().chain(common).map(|(path, text)| file(path, text)));
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}

fn file(path: &str, text: String) -> File {
    File { path: path.to_owned(), executable: text.starts_with("#!"), content: text.into_bytes() }
}

/// A file of an example with the example's name replaced. Only what the name stands in is touched: glue and contract are
/// the example's to the byte.
fn embedded((path, text): &(&str, &str), renamed: &[(&str, &str)]) -> File {
    if matches!(*path, "src/plugin.rs" | "src/plugin.js" | "src/refused.js" | "wit/plugin.wit") {
        return file(path, (*text).to_owned());
    }
    let mut text = (*text).to_owned();
    for (old, new) in renamed {
        text = text.replace(old, new);
        if old.contains('-') {
            text = text.replace(&old.replace('-', "_"), &new.replace('-', "_"));
        }
    }
    file(path, text)
}

/// An event and the name of its function.
struct Named<'a> {
    command: &'a Command,
    function: String,
}

fn events(handler: &Handler) -> Vec<Named<'_>> {
    let mut taken = BTreeSet::new();
    let named = handler.commands.iter().map(|command| {
        let legal = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' };
        let mut function = format!("on_{}", command.event.chars().map(legal).collect::<String>());
        while !taken.insert(function.clone()) {
            function.push_str("_too");
        }
        Named { command, function }
    });
    named.collect()
}

/// The events that the plugin owns, and those whose function is written for when it shall.
fn owned<'a>(handler: &Handler, events: &'a [Named<'_>]) -> (Vec<&'a str>, Vec<&'a str>) {
    let owns = |named: &&Named<'_>| handler.file.is_none() || named.command.answered_by.is_none();
    let (owned, left): (Vec<&Named<'_>>, Vec<&Named<'_>>) = events.iter().partition(owns);
    let names = |of: Vec<&'a Named<'_>>| of.into_iter().map(|named| named.command.event.as_str()).collect();
    (names(owned), names(left))
}

/// The comment on the events that are not owned, in front of those that are; empty if there are none.
fn left_out(left: &[&str], indent: &str) -> String {
    if left.is_empty() {
        return String::new();
    }
    format!("{indent}// Gavel's services answer these; add one to take it over: {}\n", left.join(", "))
}

/// Where it comes from, in words.
fn origin(handler: &Handler) -> String {
    let name = handler.file.as_deref().and_then(|file| file.file_name()).map(|name| plain(&name.to_string_lossy()));
    match name {
        Some(name) => format!("the older daemon's {name}"),
        None => format!(
            "the older daemon's {}",
            handler.commands.iter().map(|c| &*c.command).collect::<Vec<_>>().join(", ")
        ),
    }
}

/// What strangers wrote, as it may stand in a comment or a text of any language here.
fn plain(text: &str) -> String {
    text.chars().filter(|c| !c.is_control() && !matches!(c, '"' | '\\' | '`' | '*')).collect()
}

/// The comment on a function, in lines that begin with a sign.
fn comment(named: &Named<'_>, sign: &str) -> String {
    let Command { command, event, summary, parameters, .. } = named.command;
    let mut lines = vec![format!("`{event}`, once the command {command}.")];
    if let Some(summary) = summary {
        lines.push(format!("It said of itself: {}", plain(summary)));
    }
    if !parameters.is_empty() {
        lines.push(format!("It read of the parameters: {}.", parameters.join(", ")));
    }
    lines.into_iter().map(|line| [sign, " ", &line, "\n"].concat()).collect()
}

fn rust_lib(handler: &Handler, events: &[Named<'_>]) -> String {
    let (owned, left) = owned(handler, events);
    let quoted: Vec<String> = owned.iter().map(|event| format!("{event:?}")).collect();
    let mut arms = String::new();
    for named in events {
        let _ = writeln!(
            arms,
            "            {:?} => handlers::{}(event, &data).map(Some),",
            named.command.event, named.function
        );
    }
    format!(
        r#"//! {name}: what answers the events of {origin}. The handlers are in `handlers.rs`.

mod handlers;
#[allow(unused_imports, reason = "no plugin needs all of it")]
mod plugin;

use plugin::{{Answer, Capabilities, Event, Metadata, Plugin, Value}};

struct Migrated;

impl Plugin for Migrated {{
    fn describe() -> (Metadata, Capabilities) {{
        let metadata =
            Metadata {{ description: "Answers the events of {origin}.".into(), ..plugin::metadata() }};
        let capabilities = Capabilities {{
{left}            commands: plugin::texts(&[{events}]),
            ..plugin::capabilities()
        }};
        (metadata, capabilities)
    }}

    fn handle(event: &Event, data: Value) -> Answer {{
        match event.name.as_str() {{
{arms}            _ => Ok(None),
        }}
    }}
}}

plugin::export_plugin!(Migrated);
"#,
        name = handler.plugin,
        origin = origin(handler),
        left = left_out(&left, "            "),
        events = quoted.join(", "),
    )
}

fn rust_handlers(events: &[Named<'_>]) -> String {
    let mut text = String::from(
        "//! What each event does. This is the file to edit: an event that is not written is refused.\n\n\
         use crate::plugin::{Event, Refusal, Value, refusal};\n",
    );
    for named in events {
        let lines = comment(named, "///");
        let _ = write!(
            text,
            "\n{lines}pub(crate) fn {}(event: &Event, _data: &Value) -> Result<Value, Refusal> {{\n    \
             Err(refusal(\"{NOT_MIGRATED}\", format!(\"{{}}: its handler is not written yet\", event.name)))\n}}\n",
            named.function
        );
    }
    text
}

fn javascript_handlers(handler: &Handler, events: &[Named<'_>]) -> String {
    let (owned, left) = owned(handler, events);
    let quoted: Vec<String> = owned.iter().map(|event| format!("'{event}'")).collect();
    let mut text = format!(
        r"// {name}: what answers the events of {origin}.
// This is the file to edit: an event that is not written is refused.

import {{ refuse }} from './refused.js';

const ANSWERS = {{
",
        name = handler.plugin,
        origin = origin(handler),
    );
    for named in events {
        let _ = writeln!(text, "  '{}': {},", named.command.event, named.function);
    }
    let _ = write!(
        text,
        r"}};

export function describe() {{
  return [
    {{ name: '{name}', version: '0.1.0', description: 'Answers the events of {origin}.' }},
{left}    {{ commands: [{events}] }},
  ];
}}

export function handle(host, event, data) {{
  return Object.hasOwn(ANSWERS, event.name) ? ANSWERS[event.name](host, event, data) : undefined;
}}
",
        name = handler.plugin,
        origin = origin(handler).replace('\'', "\\'"),
        left = left_out(&left, "    "),
        events = quoted.join(", "),
    );
    for named in events {
        let lines = comment(named, "//");
        let _ = write!(
            text,
            "\n{lines}function {}(host, event, data) {{\n  \
             refuse('{NOT_MIGRATED}', `${{event.name}}: its handler is not written yet`);\n}}\n",
            named.function
        );
    }
    text
}

fn manifest(handler: &Handler) -> String {
    format!(
        "# A plugin folder is this file and the component that it names.\ncomponent: {}.wasm\n# What the handlers come to \
         need is granted here.\ngrants:\n  emits: []\n  state: []\n  tools: []\n",
        handler.plugin
    )
}

fn readme(handler: &Handler, events: &[Named<'_>], language: Language) -> String {
    let (source, needs) = match language {
        Language::Rust => ("src/handlers.rs", "Rust 1.85 or newer with `rustup target add wasm32-unknown-unknown`"),
        Language::Javascript => ("src/handlers.js", "Node 18 or newer; run `npm install` first"),
    };
    let mut rows = String::new();
    for named in events {
        let Command { command, event, answered_by, .. } = named.command;
        let today = match answered_by {
            Some(service) => format!("`{service}`, which has this namespace"),
            None => "nobody".to_owned(),
        };
        let _ = writeln!(rows, "| {command} | `{event}` | {today} |");
    }
    format!(
        r"# {name}

A plugin that answers the events of {origin}.

| command | event | who answers it otherwise |
|---|---|---|
{rows}
- **Edit** `{source}`: one function for each event. Until it is written it refuses with the code {NOT_MIGRATED}.
- **Build**: `GAVEL=/path/to/gavel ./build`. It needs {needs}.
- **Grant** in `plugin.yaml` what the handlers come to need: events, namespaces of the state, tools.
- **Load**: put this folder, or a copy with `plugin.yaml` and `{name}.wasm` alone, into one of `plugin_dirs`.

An event belongs to the plugin that names it in `commands`, before the one that has its namespace. What a service answers is
not named there unless it was asked for: add it to put your handler in the service's place. Two that name the same are
refused when they are loaded. `wit/plugin.wit` is the contract.
",
        name = handler.plugin,
        origin = origin(handler),
    )
}

#[cfg(test)]
mod tests {
    use super::super::handlers::named;
    use super::*;

    fn text(files: &[File], path: &str) -> String {
        let file = files.iter().find(|file| file.path == path).unwrap_or_else(|| panic!("no {path}"));
        String::from_utf8(file.content.clone()).unwrap()
    }

    #[test]
    fn a_scaffold_has_its_own_name_everywhere() {
        let handler = named("SPAWN_AGENT").unwrap();
        for language in [Language::Rust, Language::Javascript] {
            let files = files(&handler, language);
            for file in &files {
                let text = String::from_utf8_lossy(&file.content).into_owned();
                assert!(!text.contains("prompt-guard") && !text.contains("prompt_guard"), "{}", file.path);
                assert!(!text.contains("notes"), "{}", file.path);
            }
            assert!(text(&files, "build").contains("spawn-agent-plugin.wasm"));
            assert!(text(&files, "plugin.yaml").contains("component: spawn-agent-plugin.wasm\n"));
            assert!(files.iter().any(|file| file.path == "build" && file.executable));
        }
        assert!(text(&files(&handler, Language::Rust), "build").contains("release/spawn_agent_plugin.wasm"));
    }

    #[test]
    fn what_strangers_wrote_stays_a_comment() {
        let mut handler = named("X").unwrap();
        handler.file = Some("a'b\"\n*x.py".into());
        handler.commands[0].summary = Some("ends */ `rm` \u{7}\nfn evil() {}".to_owned());
        for (language, path) in [(Language::Rust, "src/handlers.rs"), (Language::Javascript, "src/handlers.js")] {
            let text = text(&files(&handler, language), path);
            let line = text.lines().find(|line| line.contains("It said")).unwrap();
            assert!(line.ends_with("It said of itself: ends / rm fn evil() {}"), "{line}");
        }
        assert!(text(&files(&handler, Language::Javascript), "src/handlers.js").contains("a\\'bx.py."));
    }

    #[test]
    fn what_a_service_answers_is_taken_over_only_when_it_is_asked_for_by_name() {
        let mut handler = named("SPAWN_AGENT").unwrap();
        handler.commands.extend(named("COMPOSE").unwrap().commands);
        let rust = |handler: &Handler| text(&files(handler, Language::Rust), "src/lib.rs");
        assert!(rust(&handler).contains(r#"&["agent:spawn", "legacy:compose"]"#), "{}", rust(&handler));
        handler.file = Some("spawn_agent.py".into());
        assert!(rust(&handler).contains(r#"&["legacy:compose"]"#), "{}", rust(&handler));
        assert!(rust(&handler).contains("add one to take it over: agent:spawn\n"), "{}", rust(&handler));
        let javascript = text(&files(&handler, Language::Javascript), "src/handlers.js");
        assert!(javascript.contains("{ commands: ['legacy:compose'] }"), "{javascript}");
        assert!(javascript.contains("'agent:spawn': on_agent_spawn"), "{javascript}");
    }

    #[test]
    fn events_that_look_alike_have_functions_of_their_own() {
        let mut handler = named("a:b").unwrap();
        handler.commands.push(named("a.b").unwrap().commands.remove(0));
        handler.commands[1].event = "a_b".to_owned();
        let names: Vec<String> = events(&handler).into_iter().map(|named| named.function).collect();
        assert_eq!(names, ["on_a_b", "on_a_b_too"]);
    }
}
