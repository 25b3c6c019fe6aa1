//! What there is to move from the older daemon: handlers, state, and, if a host is running, who still sends the older
//! commands to it.

use super::handlers::{Command, Found, read_folder};
use super::state::{Fate, Item, Limits, SESSIONS, SHARED, ServerState, Source, fates, read};
use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where handlers lie, from an installation's folder.
const HANDLER_FOLDERS: [&str; 4] = ["", "commands", "ksi_daemon/commands", "daemon/commands"];
/// Where state lies, from an installation's folder.
const STATE_FOLDERS: [&str; 3] = ["", "state", "var/state"];
/// The socket that is asked.
const SOCKET: &str = "events.sock";
/// How long the host has for an answer.
const ANSWER_TIME: Duration = Duration::from_secs(10);
/// The longest answer that is read, in bytes.
const ANSWER_BYTES_MAX: u64 = 16 << 20;

/// What there is to move.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The older installation.
    pub from: PathBuf,
    /// Folders with handlers, and what is in them.
    pub handlers: Vec<Handlers>,
    /// Folders with state, and what is in them.
    pub state: Vec<State>,
    /// What the running host says; none if it was not asked.
    pub host: Option<Host>,
}

/// A folder with handlers.
#[derive(Debug, Clone, Serialize)]
pub struct Handlers {
    /// Which one.
    pub folder: PathBuf,
    /// What is in it.
    #[serde(flatten)]
    pub found: Found,
}

/// A folder with state.
#[derive(Debug, Clone, Serialize)]
pub struct State {
    /// Which one.
    pub folder: PathBuf,
    /// Sessions that can be moved.
    pub sessions: usize,
    /// Keys of the shared state that can be moved.
    pub shared: usize,
    /// Of both, those that are not in the state of the server; all of them as long as that was not looked at.
    pub left: usize,
    /// Bytes of the files.
    pub bytes: u64,
    /// What can be moved.
    #[serde(skip)]
    pub items: Vec<Item>,
    /// What stands in the way.
    pub problems: Vec<super::handlers::PassedOver>,
    /// What is left where it is.
    pub passed_over: Vec<super::handlers::PassedOver>,
}

/// What a running host says.
#[derive(Debug, Clone, Serialize)]
pub struct Host {
    /// The socket that was asked.
    pub socket: PathBuf,
    /// Which frames it takes: compatibility, hybrid or pure.
    pub mode: String,
    /// Uses of the older commands since it started. It counts them in hybrid mode.
    pub legacy_uses: Vec<Use>,
    /// Single events by the plugin that answers them.
    pub commands: BTreeMap<String, String>,
    /// Namespaces by the plugin that answers their events.
    pub namespaces: BTreeMap<String, String>,
}

/// Who uses which command how often.
#[derive(Debug, Clone, Serialize)]
pub struct Use {
    /// The command.
    pub command: String,
    /// The event to use instead.
    pub event: Option<String>,
    /// The client.
    pub client: String,
    /// How often.
    pub uses: u64,
}

impl Host {
    /// Whether uses of commands are not counted by client, so that nothing can be said of who still sends them.
    #[must_use]
    pub fn counts_nothing(&self) -> bool {
        self.mode == "compatibility"
    }

    /// The plugin that answers an event.
    #[must_use]
    pub fn owner(&self, event: &str) -> Option<&str> {
        let owner = self.commands.get(event).or_else(|| self.namespaces.get(gavel_bus::namespace(event)));
        owner.map(String::as_str)
    }
}

impl Report {
    /// Look at an older installation, and ask the host on the sockets of a folder.
    ///
    /// # Errors
    /// If there is neither a handler nor state, a folder cannot be read, or the host does not answer.
    pub fn of(from: &Path, socket_dir: Option<&Path>, limits: &Limits) -> Result<Self> {
        ensure!(from.is_dir(), "{}: there is no such folder", from.display());
        let mut handlers = Vec::new();
        for folder in HANDLER_FOLDERS.map(|name| from.join(name)).into_iter().filter(|folder| folder.is_dir()) {
            let found = read_folder(&folder)?;
            if !found.handlers.is_empty() {
                handlers.push(Handlers { folder, found });
            }
        }
        let mut state = Vec::new();
        for folder in STATE_FOLDERS.map(|name| from.join(name)) {
            if folder.join("sessions").is_dir() || folder.join("shared_state.json").is_file() {
                state.push(State::of(read(&folder, limits)?, folder));
            }
        }
        ensure!(
            !handlers.is_empty() || !state.is_empty(),
            "{}: there are neither handlers (in it or in {}) nor state (in it or in {})",
            from.display(),
            HANDLER_FOLDERS[1..].join(", "),
            STATE_FOLDERS[1..].join(", ")
        );
        let host = socket_dir.map(Host::ask).transpose()?;
        Ok(Self { from: from.to_owned(), handlers, state, host })
    }

    /// Look into the state of a server: what is there with the same value is not left.
    ///
    /// # Errors
    /// If there is a state and it cannot be copied or read.
    pub async fn compare(&mut self, state: &ServerState) -> Result<()> {
        for folder in &mut self.state {
            let fates = fates(&folder.items, &state.file, state.limits).await?;
            folder.left = fates.iter().filter(|fate| **fate != Fate::Same).count();
        }
        Ok(())
    }

    /// Each command of a handler with who answers its event, as far as that is known.
    pub fn commands(&self) -> impl Iterator<Item = (&Command, Option<String>)> {
        let handlers = self.handlers.iter().flat_map(|folder| &folder.found.handlers);
        handlers.flat_map(|handler| &handler.commands).map(|command| {
            let owner = match &self.host {
                Some(host) => host.owner(&command.event).map(str::to_owned),
                None => command.answered_by.clone(),
            };
            (command, owner)
        })
    }
}

impl State {
    fn of(source: Source, folder: PathBuf) -> Self {
        let count = |namespace| source.items.iter().filter(|item| item.namespace == namespace).count();
        Self {
            folder,
            sessions: count(SESSIONS),
            shared: count(SHARED),
            left: source.items.len(),
            bytes: source.bytes,
            items: source.items,
            problems: source.problems,
            passed_over: source.passed_over,
        }
    }
}

impl Host {
    fn ask(socket_dir: &Path) -> Result<Self> {
        let socket = socket_dir.join(SOCKET);
        let status = ask(&socket, "transport:status")?;
        let plugins = ask(&socket, "system:plugins")?;
        let (mut commands, mut namespaces) = (BTreeMap::new(), BTreeMap::new());
        for (name, plugin) in plugins["plugins"].as_object().into_iter().flatten() {
            let capabilities = &plugin["capabilities"];
            let texts = |key: &str| capabilities[key].as_array().into_iter().flatten().filter_map(Value::as_str);
            commands.extend(texts("commands").map(|event| (event.to_owned(), name.clone())));
            namespaces.extend(texts("event_namespaces").map(|space| (space.to_owned(), name.clone())));
        }
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let uses = status["legacy_uses"].as_array().into_iter().flatten().map(|used| Use {
            command: text(&used["command"]).unwrap_or_default(),
            event: text(&used["event"]).filter(|event| !event.is_empty()),
            client: text(&used["client"]).unwrap_or_default(),
            uses: used["uses"].as_u64().unwrap_or(0),
        });
        let mut legacy_uses: Vec<Use> = uses.collect();
        legacy_uses.sort_by(|a, b| b.uses.cmp(&a.uses).then_with(|| a.command.cmp(&b.command)));
        let mode = text(&status["mode"]).unwrap_or_default();
        Ok(Self { socket, mode, legacy_uses, commands, namespaces })
    }
}

/// The answer of a host to an event.
fn ask(socket: &Path, event: &str) -> Result<Value> {
    let ask = || -> Result<Value> {
        let mut stream = UnixStream::connect(socket).context("no host listens there")?;
        stream.set_read_timeout(Some(ANSWER_TIME))?;
        stream.set_write_timeout(Some(ANSWER_TIME))?;
        writeln!(stream, "{}", json!({ "event": event }))?;
        let mut line = String::new();
        BufReader::new(stream.take(ANSWER_BYTES_MAX)).read_line(&mut line).context("no answer came")?;
        let answer: Value = serde_json::from_str(&line).context("the answer is no JSON")?;
        match answer.get("error") {
            Some(why) => bail!("{event}: {}", why.as_str().unwrap_or("an error without words")),
            None => Ok(answer),
        }
    };
    ask().with_context(|| format!("socket {}", socket.display()))
}
