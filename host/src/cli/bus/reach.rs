//! How a command reaches the bus: over the Unix sockets of this machine, or over HTTP.

use super::sockets::Socket;
use crate::bus::runtime_dir;
use crate::cli::client::{Client, Remote};
use crate::host::default_data_dir;
use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};
use std::fmt::Write;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::time::Duration;

/// Where the bus is.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Where {
    /// The folder of the server's Unix sockets. Default: `gavel` in the user's runtime folder, else `sockets` in the
    /// data folder, where the server puts them by default.
    #[arg(long, env = "GAVEL_SOCKET_DIR", value_name = "DIR")]
    socket_dir: Option<PathBuf>,
    /// Ask over HTTP instead, where `--socket-dir` is not given.
    #[arg(long, env = "GAVEL_URL", value_name = "URL")]
    url: Option<String>,
    /// The key for HTTP, if the server wants one. Better given by the environment than on the command line.
    #[arg(long, env = "GAVEL_KEY", hide_env_values = true, value_name = "KEY")]
    key: Option<String>,
    /// Trust this certificate authority (PEM) instead of the public ones.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// How long to wait for an answer, in seconds.
    #[arg(long, default_value_t = 60, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout: u64,
}

/// An event to be sent.
#[derive(Debug, Clone)]
pub(super) struct Sent {
    pub(super) event: String,
    pub(super) data: Value,
    pub(super) correlation_id: Option<String>,
    pub(super) client_id: Option<String>,
    pub(super) wait: bool,
}

/// What the bus said to an event.
#[derive(Debug)]
pub(super) enum Said {
    /// The answer, with the correlation id.
    Answer(Value),
    /// Why there is none, as an answer with `error` and as a rule `code`.
    No(Value),
}

/// Which part of the past is wanted.
#[derive(Debug, Clone, Default)]
pub(super) struct Past {
    pub(super) limit: usize,
    pub(super) patterns: Vec<String>,
    pub(super) client_id: Option<String>,
    /// In seconds since 1970.
    pub(super) since: Option<f64>,
    pub(super) until: Option<f64>,
    pub(super) newest_first: bool,
}

/// Something that a watcher is told.
#[derive(Debug)]
pub(super) enum Heard {
    /// It hears from now on.
    Listening,
    Event(Value),
    /// So many were too fast for it.
    Missed(u64),
}

/// A way to the bus that is open.
pub(super) enum Way {
    Unix(Socket),
    Http(Box<Client>),
}

impl Where {
    /// Open the way.
    pub(super) fn open(&self) -> Result<Way> {
        match self.remote() {
            Some(remote) => Ok(Way::Http(Box::new(remote.client()?))),
            None => Ok(Way::Unix(Socket::open(&self.socket()?, Duration::from_secs(self.timeout))?)),
        }
    }

    /// The same, but no answer is waited for longer than this.
    pub(super) fn with_patience(&self, seconds: u64) -> Self {
        Self { timeout: self.timeout.min(seconds), ..self.clone() }
    }

    /// In words, for people.
    pub(super) fn told(&self) -> String {
        self.remote().map_or_else(
            || self.socket().map_or_else(|why| why.to_string(), |path| path.display().to_string()),
            |remote| remote.url,
        )
    }

    fn remote(&self) -> Option<Remote> {
        let url = self.url.clone().filter(|_| self.socket_dir.is_none())?;
        Some(Remote { url, kernel: None, key: self.key.clone(), ca: self.ca.clone(), timeout: self.timeout })
    }

    fn socket(&self) -> Result<PathBuf> {
        let dir = match self.socket_dir.clone().or_else(runtime_dir) {
            Some(dir) => dir,
            None => default_data_dir().context("or give `--socket-dir DIR` or `--url URL`")?.join("sockets"),
        };
        Ok(dir.join("events.sock"))
    }

    /// Hear events as they happen. `hear` says whether to go on.
    pub(super) fn listen(&self, patterns: &[String], mut hear: impl FnMut(Heard) -> Result<bool>) -> Result<()> {
        let Some(remote) = self.remote() else {
            let mut socket = Socket::open(&self.socket()?, Duration::from_secs(self.timeout))?;
            let answer = socket.ask(&json!({ "event": "transport:watch", "data": { "patterns": patterns } }))?;
            accepted(answer)?;
            if !hear(Heard::Listening)? {
                return Ok(());
            }
            return socket.pushes(hear);
        };
        let route = format!("/bus/tail?pattern={}", encoded(&patterns.join(",")));
        let answer = remote.listener()?.get(&route)?;
        if answer.status().as_u16() >= 400 {
            return crate::cli::client::read(&remote.url, answer)?.accepted().map(drop);
        }
        server_sent(BufReader::new(answer.into_body().into_reader()), hear)
    }
}

impl Way {
    /// The plugins, each with its name.
    pub(super) fn plugins(&mut self) -> Result<Vec<Value>> {
        let list = match self {
            Self::Http(client) => client.get_json("/bus/plugins")?["plugins"].take(),
            Self::Unix(socket) => {
                let mut answer = accepted(socket.ask(&json!({ "event": "system:plugin_status" }))?)?;
                let Value::Object(plugins) = answer["plugins"].take() else { bail!("the answer names no plugins") };
                let named = plugins.into_iter().map(|(name, mut plugin)| {
                    plugin["name"] = json!(name);
                    plugin
                });
                Value::Array(named.collect())
            }
        };
        match list {
            Value::Array(plugins) => Ok(plugins),
            _ => bail!("the answer names no plugins"),
        }
    }

    /// The bus as a whole: `bus` with its counts, and `unix` with its sockets.
    pub(super) fn status(&mut self) -> Result<Value> {
        match self {
            Self::Http(client) => client.get_json("/bus/status"),
            Self::Unix(socket) => {
                let mut unix = accepted(socket.ask(&json!({ "event": "transport:status" }))?)?;
                let bus = unix["bus"].take();
                if let Some(unix) = unix.as_object_mut() {
                    unix.retain(|key, _| key != "bus" && key != "correlation_id");
                }
                Ok(json!({ "bus": bus, "unix": unix }))
            }
        }
    }

    /// Events of the past, and how many there were in all.
    pub(super) fn history(&mut self, past: &Past) -> Result<Value> {
        let Past { limit, patterns, client_id, since, until, newest_first } = past;
        match self {
            Self::Unix(socket) => {
                let data = json!({
                    "limit": limit, "event_patterns": patterns, "client_id": client_id, "since": since, "until": until,
                    "reverse": newest_first,
                });
                accepted(socket.ask(&json!({ "event": "system:event_history", "data": data }))?)
            }
            Self::Http(client) => {
                let mut route = format!("/bus/history?limit={limit}&reverse={newest_first}");
                let _ = write!(route, "&pattern={}", encoded(&patterns.join(",")));
                for (key, time) in [("since", since), ("until", until)] {
                    if let Some(time) = time {
                        let _ = write!(route, "&{key}={time}");
                    }
                }
                if let Some(client) = client_id {
                    let _ = write!(route, "&client_id={}", encoded(client));
                }
                client.get_json(&route)
            }
        }
    }

    /// Send an event.
    pub(super) fn send(&mut self, sent: &Sent) -> Result<Said> {
        let Sent { event, data, correlation_id, client_id, wait } = sent;
        let mut frame = Map::from_iter([
            ("event".to_owned(), json!(event)),
            ("data".to_owned(), data.clone()),
            ("wait".to_owned(), json!(wait)),
        ]);
        for (key, value) in [("correlation_id", correlation_id), ("client_id", client_id)] {
            if let Some(value) = value {
                frame.insert(key.to_owned(), json!(value));
            }
        }
        let frame = Value::Object(frame);
        match self {
            Self::Unix(socket) => Ok(said(socket.ask(&frame)?)),
            Self::Http(client) => {
                let answer = client.post("/bus/events", frame.to_string().as_bytes())?;
                // What the bus says has a code; what the server says before has none.
                if answer.status >= 400 && (answer.body["code"].is_string() || answer.status == 422) {
                    return Ok(Said::No(answer.body));
                }
                let mut body = answer.accepted()?;
                if !body["answer"].is_object() {
                    return Ok(Said::Answer(body));
                }
                let mut answer = body["answer"].take();
                answer["correlation_id"] = body["correlation_id"].take();
                Ok(Said::Answer(answer))
            }
        }
    }
}

fn said(answer: Value) -> Said {
    if answer["error"].is_null() { Said::Answer(answer) } else { Said::No(answer) }
}

fn accepted(answer: Value) -> Result<Value> {
    match said(answer) {
        Said::Answer(answer) => Ok(answer),
        Said::No(why) => bail!("the bus answered: {}", why["error"].as_str().unwrap_or("no reason given")),
    }
}

/// A text as part of a query.
fn encoded(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~*:,".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

/// Bytes of a line of a stream.
const LINE_BYTES_MAX: u64 = 8 << 20;

/// Read server-sent events, until the stream or the wish to hear ends.
fn server_sent(mut stream: impl BufRead, mut hear: impl FnMut(Heard) -> Result<bool>) -> Result<()> {
    let mut kind = String::new();
    loop {
        let mut line = String::new();
        let read = (&mut stream).take(LINE_BYTES_MAX).read_line(&mut line);
        if read.context("the stream broke off")? == 0 {
            return Ok(());
        }
        let line = line.trim_end();
        let heard = if line == ": listening" {
            Heard::Listening
        } else if let Some(named) = line.strip_prefix("event: ") {
            named.clone_into(&mut kind);
            continue;
        } else if let Some(data) = line.strip_prefix("data: ") {
            let data: Value = serde_json::from_str(data).context("the stream holds something that is no event")?;
            match kind.as_str() {
                "missed" => Heard::Missed(data["missed"].as_u64().unwrap_or_default()),
                _ => Heard::Event(data),
            }
        } else {
            continue;
        };
        if !hear(heard)? {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_read_line_by_line() {
        let text = ": listening\n\nid: 1\nevent: event\ndata: {\"event_name\":\"a:b\"}\n\n: alive\n\nevent: missed\ndata: {\"missed\":7}\n\n";
        let mut told = Vec::new();
        server_sent(text.as_bytes(), |heard| {
            told.push(format!("{heard:?}"));
            Ok(true)
        })
        .unwrap();
        assert_eq!(told.len(), 3, "{told:?}");
        assert!(told[1].contains("a:b") && told[2] == "Missed(7)", "{told:?}");
    }

    #[test]
    fn a_query_holds_any_text() {
        assert_eq!(encoded("state:*,a b&c=ü"), "state:*,a%20b%26c%3D%C3%BC");
    }
}
