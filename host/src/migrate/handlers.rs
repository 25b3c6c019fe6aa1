//! The older daemon's command handlers, read as text: which commands there are, which events they lead to, and what they
//! read of a command's parameters. Python is neither parsed nor run, so a file that Python would refuse is read too.

use anyhow::{Context, Result, ensure};
use gavel_bus::unix::legacy_event;
use gavel_bus::{NAME_BYTES_MAX, namespace};
use serde::Serialize;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The largest handler that is read, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// The most parameters of one command that are listed.
const PARAMETERS_MAX: usize = 32;
/// The longest summary, in characters.
const SUMMARY_CHARS_MAX: usize = 120;
/// The longest name of a plugin that is made of a file's name, in bytes.
const PLUGIN_NAME_BYTES_MAX: usize = 64;

/// One file of handlers, or one command that was named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Handler {
    /// What its plugin is called.
    pub plugin: String,
    /// The file it was read from; none if it was named.
    pub file: Option<PathBuf>,
    /// What it answers, by event.
    pub commands: Vec<Command>,
}

/// A command, and the event that it leads to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Command {
    /// The older name; the event's own where an event was named.
    pub command: String,
    /// The event.
    pub event: String,
    /// Who answers the event already.
    pub answered_by: Option<String>,
    /// What the handler says of itself.
    pub summary: Option<String>,
    /// What it reads of the parameters, in the order of the text.
    pub parameters: Vec<String>,
}

/// What a folder of handlers holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Found {
    /// One for each file with a handler.
    pub handlers: Vec<Handler>,
    /// Files without one, and why they were passed over.
    pub passed_over: Vec<PassedOver>,
}

/// A file that is left where it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PassedOver {
    /// Which one.
    pub file: PathBuf,
    /// Why.
    pub why: String,
}

/// Read every handler of a folder.
///
/// # Errors
/// If the folder cannot be read.
pub fn read_folder(folder: &Path) -> Result<Found> {
    let named = || format!("the handlers' folder {}", folder.display());
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).with_context(named)? {
        let path = entry.with_context(named)?.path();
        if path.extension().is_some_and(|extension| extension == "py") {
            files.push(path);
        }
    }
    files.sort();
    let mut found = Found::default();
    for file in files {
        match read_file(&file) {
            Ok(handler) => found.handlers.push(handler),
            Err(why) => found.passed_over.push(PassedOver { file, why: format!("{why:#}") }),
        }
    }
    Ok(found)
}

/// The handler of a command or event that is named.
///
/// # Errors
/// If it can be neither.
pub fn named(name: &str) -> Result<Handler> {
    let command = command_of(name)?;
    Ok(Handler { plugin: plugin_name(name), file: None, commands: vec![command] })
}

fn read_file(file: &Path) -> Result<Handler> {
    let metadata = fs::metadata(file)?;
    ensure!(metadata.is_file(), "it is no file");
    ensure!(metadata.len() <= FILE_BYTES_MAX, "{} bytes are more than {FILE_BYTES_MAX}", metadata.len());
    let text = String::from_utf8_lossy(&fs::read(file)?).into_owned();
    let stem = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let mut sections = sections(&text);
    if sections.is_empty() && text.contains("(CommandHandler)") {
        sections.push((stem.to_ascii_uppercase(), &text));
    }
    ensure!(!sections.is_empty(), "no command handler is in it");
    let mut commands: Vec<Command> = Vec::new();
    for (name, section) in sections {
        let mut command = command_of(&name)?;
        // Two commands of one event are one handler.
        if commands.iter().any(|other| other.event == command.event) {
            continue;
        }
        command.summary = summary(section);
        command.parameters = parameters(section);
        commands.push(command);
    }
    Ok(Handler { plugin: plugin_name(&stem), file: Some(file.to_owned()), commands })
}

/// Each command that the text declares, with the text down to the next.
fn sections(text: &str) -> Vec<(String, &str)> {
    let mut starts: Vec<(String, usize)> = Vec::new();
    for marker in ["@command_handler(", "command_name"] {
        for (at, _) in text.match_indices(marker) {
            let line = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
            // What follows a sign of a comment, or stands in a longer name, declares nothing.
            if !text[line..at].trim().is_empty() {
                continue;
            }
            if let Some(name) = declared(marker, &text[at + marker.len()..]) {
                starts.push((name, at));
            }
        }
    }
    starts.sort_by_key(|(_, at)| *at);
    starts.dedup_by(|later, earlier| later.0 == earlier.0);
    let ends: Vec<usize> = starts.iter().skip(1).map(|(_, at)| *at).chain([text.len()]).collect();
    starts.into_iter().zip(ends).map(|((name, at), end)| (name, &text[at..end])).collect()
}

/// The name in quotes that follows `@command_handler(`, `command_name =` or `command_name: str =`.
fn declared(marker: &str, rest: &str) -> Option<String> {
    let rest = match marker {
        "command_name" => {
            let (kind, value) = rest.split_once('=')?;
            matches!(kind.trim(), "" | ": str").then_some(value)?
        }
        _ => rest,
    };
    quoted(rest.trim_start())
}

/// A text in quotes that begins here.
fn quoted(text: &str) -> Option<String> {
    let quote = text.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    let inner = &text[1..];
    let end = inner.find([quote, '\n'])?;
    (inner[end..].starts_with(quote) && end > 0).then(|| inner[..end].to_owned())
}

/// The first line of the first docstring.
fn summary(section: &str) -> Option<String> {
    let start = section.find("\"\"\"")? + 3;
    let end = section[start..].find("\"\"\"").map_or(section.len(), |end| start + end);
    let line = section[start..end].lines().map(str::trim).find(|line| !line.is_empty())?;
    let line: String = line.chars().filter(|c| !c.is_control()).take(SUMMARY_CHARS_MAX).collect();
    Some(line)
}

/// The names that are read of the parameters: `parameters.get("x")`, `parameters["x"]`, `params.x`.
fn parameters(section: &str) -> Vec<String> {
    let mut found: Vec<(usize, String)> = Vec::new();
    for marker in ["parameters.get(", "parameters[", "params.get(", "params[", "params."] {
        for (at, _) in section.match_indices(marker) {
            let rest = &section[at + marker.len()..];
            let name = if marker == "params." { field(rest) } else { quoted(rest.trim_start()) };
            found.extend(name.filter(|name| is_identifier(name)).map(|name| (at, name)));
        }
    }
    found.sort();
    let mut seen = BTreeSet::new();
    let names = found.into_iter().map(|(_, name)| name).filter(|name| seen.insert(name.clone()));
    names.take(PARAMETERS_MAX).collect()
}

/// A field's name; what is called is no field.
fn field(text: &str) -> Option<String> {
    let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len());
    (!text[end..].starts_with('(')).then(|| text[..end].to_owned())
}

fn is_identifier(name: &str) -> bool {
    let legal = |c: char| c.is_ascii_alphanumeric() || c == '_';
    !name.is_empty() && name.len() <= NAME_BYTES_MAX && name.chars().all(legal)
}

/// What a command leads to.
fn command_of(name: &str) -> Result<Command> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, ':' | '_' | '-' | '.' | '/');
    ensure!(!name.is_empty() && name.chars().all(legal), "{name:?} is the name of neither a command nor an event");
    let event = event_of(name);
    ensure!(!event.is_empty(), "{name} carries whichever event it names: there is nothing to answer");
    ensure!(event.len() <= NAME_BYTES_MAX, "the event's name of {} bytes is longer than {NAME_BYTES_MAX}", event.len());
    let answered_by = service_of(&event).map(str::to_owned);
    Ok(Command { command: name.to_owned(), event, answered_by, summary: None, parameters: Vec::new() })
}

/// The event of a command; an event is its own. Commands that are not in the table become `legacy:name`.
#[must_use]
pub fn event_of(name: &str) -> String {
    // `COMPLETION:async:sonnet` is how the oldest clients wrote COMPLETION with its options.
    let head = namespace(name);
    match (legacy_event(name), legacy_event(head)) {
        (Some(event), _) => event.to_owned(),
        (None, Some(event)) if name != head => event.to_owned(),
        _ if name.contains(':') => name.to_owned(),
        _ => format!("legacy:{}", name.to_ascii_lowercase()),
    }
}

/// Gavel's own service that answers the events of a namespace.
#[must_use]
pub fn service_of(event: &str) -> Option<&'static str> {
    Some(match namespace(event) {
        "agent" => "agent_service",
        "completion" => "completion_service",
        "message" => "message_service",
        "state" => "state_service",
        "system" => "system_service",
        "transport" => "unix_transport",
        _ => return None,
    })
}

/// `spawn_agent` as `spawn-agent-plugin`. The ending keeps it apart from words of a language and from packages.
fn plugin_name(name: &str) -> String {
    let mut made = String::new();
    for c in name.chars().take(PLUGIN_NAME_BYTES_MAX) {
        match c.to_ascii_lowercase() {
            c if c.is_ascii_alphanumeric() => made.push(c),
            _ if made.ends_with('-') || made.is_empty() => {}
            _ => made.push('-'),
        }
    }
    let made = made.trim_end_matches('-');
    match made.chars().next() {
        Some(first) if first.is_ascii_alphabetic() => format!("{made}-plugin"),
        _ => format!("legacy-{made}-plugin").replace("--", "-"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPAWN: &str = r#"
"""SPAWN_AGENT command handler - starts an agent"""
from ..command_registry import command_handler, CommandHandler

@command_handler("SPAWN_AGENT")
class SpawnAgentHandler(CommandHandler):
    """Starts an agent."""
    async def handle(self, parameters, writer, full_command):
        params = SpawnAgentParameters(**parameters)
        model = params.model or parameters.get('model', "x")
        log(params.dict(), parameters["task"], params.model)
"#;

    fn read(name: &str, text: &str) -> Result<Handler> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(name);
        fs::write(&file, text).unwrap();
        read_file(&file)
    }

    #[test]
    fn a_handler_is_read_with_what_it_says_and_reads() {
        let handler = read("spawn_agent.py", SPAWN).unwrap();
        assert_eq!(handler.plugin, "spawn-agent-plugin");
        let [command] = &handler.commands[..] else { panic!("{handler:?}") };
        assert_eq!((command.command.as_str(), command.event.as_str()), ("SPAWN_AGENT", "agent:spawn"));
        assert_eq!(command.answered_by.as_deref(), Some("agent_service"));
        assert_eq!(command.summary.as_deref(), Some("Starts an agent."));
        assert_eq!(command.parameters, ["model", "task"]);
    }

    #[test]
    fn a_command_is_found_however_it_is_declared() {
        for (text, names) in [
            ("@command_handler('A')\nclass X: pass\n  @command_handler( \"B\" )", &["A", "B"][..]),
            ("class X(Y):\n    command_name = \"A\"", &["A"]),
            ("class X(Y):\n    command_name: str = 'A'", &["A"]),
            ("# @command_handler(\"A\")\ndef command_handler(command_name: str):\n  my_command_name = 'B'", &[]),
            ("@command_handler(NAME)", &[]),
            ("@command_handler(\"A", &[]),
            ("command_name", &[]),
        ] {
            let found: Vec<String> = sections(text).into_iter().map(|(name, _)| name).collect();
            assert_eq!(found, names, "{text}");
        }
    }

    #[test]
    fn what_declares_nothing_is_told_by_its_file_or_passed_over() {
        let handler = read("get_compositions.py", "class GetCompositions(CommandHandler):\n    pass").unwrap();
        assert_eq!(handler.commands[0].event, "legacy:get_compositions");
        assert_eq!(handler.commands[0].answered_by, None);
        assert!(read("__init__.py", "import os").unwrap_err().to_string().contains("no command handler"));
        assert!(read("x.py", "@command_handler(\"A B\")").unwrap_err().to_string().contains("neither a command"));
        assert!(read("x.py", "@command_handler(\"EVENT\")").unwrap_err().to_string().contains("whichever event"));
    }

    #[test]
    fn two_commands_of_one_event_are_one_handler() {
        let handler = read("help.py", "@command_handler(\"HELP\")\n@command_handler(\"GET_COMMANDS\")").unwrap();
        assert_eq!(handler.commands.len(), 1);
        assert_eq!(handler.commands[0].event, "system:commands");
    }

    #[test]
    fn commands_and_events_lead_to_events() {
        for (name, event) in [
            ("HEALTH_CHECK", "system:health"),
            ("COMPLETION:async:sonnet", "completion:request"),
            ("COMPOSE_PROMPT", "legacy:compose_prompt"),
            ("notes:add", "notes:add"),
        ] {
            assert_eq!(event_of(name), event);
        }
    }

    #[test]
    fn names_of_plugins_are_legal_whatever_the_file_is_called() {
        for (name, plugin) in [
            ("spawn_agent", "spawn-agent-plugin"),
            ("Ünïcode__x", "n-code-x-plugin"),
            ("2fast", "legacy-2fast-plugin"),
            ("___", "legacy-plugin"),
            ("notes:add", "notes-add-plugin"),
        ] {
            assert_eq!(plugin_name(name), plugin);
        }
    }
}
