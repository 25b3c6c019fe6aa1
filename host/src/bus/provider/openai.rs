//! Completions over HTTP, from any endpoint that speaks `OpenAI`'s `/v1/chat/completions`.
//!
//! What always holds: the key is in the request's header and nowhere else, not in logs, errors or answers; an answer is
//! read up to a limit; nothing is tried again, for the caller knows better whether it should be; what is no answer is an
//! error with a code.
//!
//! A conversation is kept in memory, under the `session_id` that the first answer gives. It ends with the host: going on
//! with one that is not known is refused, rather than begun anew without a word.

use crate::config::CompletionServiceFile;
use anyhow::{Context, Result, bail};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use gavel_bus::services::{Completion, Prompt, Provider};
use reqwest::header::{AUTHORIZATION, HeaderValue};
use reqwest::{Client, Response, Url};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// What of a failed answer's text is told, in characters.
const TOLD_CHARS_MAX: usize = 300;
/// Keys of a prompt that go to the endpoint as they are.
const PASSED_ON: [&str; 8] = [
    "temperature",
    "top_p",
    "max_tokens",
    "max_completion_tokens",
    "stop",
    "seed",
    "presence_penalty",
    "frequency_penalty",
];

/// A code, and what went wrong.
type Failed = (String, String);

/// One endpoint.
pub(super) struct OpenAi {
    client: Client,
    url: Url,
    key: Option<Key>,
    model: String,
    response_bytes_max: usize,
    sessions: Sessions,
}

/// Never shown.
struct Key {
    header: HeaderValue,
    text: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Message {
    role: String,
    content: String,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    model: Option<String>,
    #[serde(default)]
    usage: Value,
    choices: Vec<Choice>,
}

#[derive(Deserialize)]
struct Choice {
    message: Said,
}

#[derive(Deserialize)]
struct Said {
    content: Option<String>,
}

impl OpenAi {
    /// # Errors
    /// When the address is none, or the key cannot be read.
    pub(super) fn new(file: &CompletionServiceFile, timeout: Duration) -> Result<Self> {
        let base = file.base_url.as_deref().context("plugins.completion_service.base_url is missing")?;
        let url = endpoint(base)?;
        let key = key(file)?;
        if key.is_some() && url.scheme() == "http" && !is_loopback(&url) {
            tracing::warn!("plugins.completion_service: the key goes over http, which anybody on the way can read");
        }
        // Another part of the process may have chosen a provider; then it is used here too.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder()
            .timeout(timeout)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("gavel/", env!("CARGO_PKG_VERSION")))
            .build()
            .context("the client of plugins.completion_service")?;
        Ok(Self {
            client,
            url,
            key,
            model: file.model.clone().context("plugins.completion_service.model is missing")?,
            response_bytes_max: file.max_response_bytes,
            sessions: Sessions::new(file.max_sessions, file.max_session_bytes),
        })
    }

    async fn answer(&self, prompt: Prompt) -> Result<Completion, Failed> {
        let (id, session) = self.sessions.find(prompt.session_id.as_deref())?;
        // Two prompts of one conversation follow each other.
        let mut said = session.lock().await;
        let asked = Message { role: "user".to_owned(), content: prompt.prompt.clone() };
        self.sessions.check(&id, &said, &asked)?;
        let model = if prompt.model.is_empty() { self.model.clone() } else { prompt.model.clone() };
        let body = body(&model, &prompt, &said, &asked);
        let text = self.post(&body).await?;
        let malformed =
            |why: &dyn std::fmt::Display| failed("PROVIDER_ERROR", &format!("its answer is malformed: {why}"));
        let answer: Answer = serde_json::from_slice(&text).map_err(|why| malformed(&why))?;
        let first = answer.choices.into_iter().next().ok_or_else(|| malformed(&"`choices` is empty"))?;
        let response = first.message.content.ok_or_else(|| malformed(&"`message.content` is no text"))?;
        said.push(asked);
        said.push(Message { role: "assistant".to_owned(), content: response.clone() });
        drop(said);
        self.sessions.keep(&id, session);
        Ok(Completion { response, session_id: Some(id), model: answer.model.unwrap_or(model), usage: answer.usage })
    }

    async fn post(&self, body: &Value) -> Result<Vec<u8>, Failed> {
        let mut request = self.client.post(self.url.clone()).json(body);
        if let Some(key) = &self.key {
            request = request.header(AUTHORIZATION, key.header.clone());
        }
        let response = request.send().await.map_err(|why| self.unreachable(why))?;
        let status = response.status().as_u16();
        let text = self.read(response).await?;
        if (200..300).contains(&status) {
            return Ok(text);
        }
        let code = match status {
            401 | 403 => "UNAUTHORIZED",
            429 => "RATE_LIMITED",
            408 | 504 => "TIMEOUT",
            _ => "PROVIDER_ERROR",
        };
        // An endpoint that refuses a key may say parts of it.
        let more = if code == "UNAUTHORIZED" { String::new() } else { self.shown(&text) };
        Err(failed(code, &format!("the endpoint answered with status {status}{more}")))
    }

    async fn read(&self, mut response: Response) -> Result<Vec<u8>, Failed> {
        let mut text = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|why| self.unreachable(why))? {
            if text.len() + chunk.len() > self.response_bytes_max {
                let most = self.response_bytes_max;
                return Err(failed(
                    "RESPONSE_TOO_LARGE",
                    &format!("its answer is longer than {most} bytes (max_response_bytes)"),
                ));
            }
            text.extend_from_slice(&chunk);
        }
        Ok(text)
    }

    fn unreachable(&self, why: reqwest::Error) -> Failed {
        let code = if why.is_timeout() { "TIMEOUT" } else { "PROVIDER_ERROR" };
        // An address may hold a password; without it the chain of causes says what happened.
        let why = why.without_url();
        let mut told = why.to_string();
        let mut source = std::error::Error::source(&why);
        while let Some(cause) = source {
            told = format!("{told}: {cause}");
            source = cause.source();
        }
        failed(code, &self.without_key(&format!("the endpoint did not answer: {told}")))
    }

    /// The beginning of an answer's text.
    fn shown(&self, text: &[u8]) -> String {
        let text = self.without_key(&String::from_utf8_lossy(text));
        let short: String =
            text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(TOLD_CHARS_MAX).collect();
        if short.is_empty() { short } else { format!(": {short}") }
    }

    fn without_key(&self, text: &str) -> String {
        self.key.as_ref().map_or_else(|| text.to_owned(), |key| text.replace(&key.text, "[key]"))
    }
}

impl Provider for OpenAi {
    fn name(&self) -> String {
        "openai".to_owned()
    }

    fn complete(&self, prompt: Prompt) -> BoxFuture<'_, Result<Completion, Failed>> {
        self.answer(prompt).boxed()
    }
}

fn failed(code: &str, why: &str) -> Failed {
    (code.to_owned(), why.to_owned())
}

fn body(model: &str, prompt: &Prompt, said: &[Message], asked: &Message) -> Value {
    let system =
        (!prompt.system.is_empty()).then(|| Message { role: "system".to_owned(), content: prompt.system.clone() });
    let messages: Vec<&Message> = system.iter().chain(said).chain([asked]).collect();
    let mut body = Map::from_iter([("model".to_owned(), json!(model)), ("messages".to_owned(), json!(messages))]);
    for key in PASSED_ON {
        if let Some(value) = prompt.more.get(key) {
            body.insert(key.to_owned(), value.clone());
        }
    }
    Value::Object(body)
}

/// `…/v1/chat/completions`, whether or not the configuration has the `/v1`.
fn endpoint(base: &str) -> Result<Url> {
    let named = "plugins.completion_service.base_url";
    let base = base.trim_end_matches('/');
    let version = if base.ends_with("/v1") { "" } else { "/v1" };
    let url = Url::parse(&format!("{base}{version}/chat/completions")).with_context(|| format!("{named}: {base}"))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        bail!("{named}: {base} is no address of a web server");
    }
    if !url.username().is_empty() || url.password().is_some() {
        bail!("{named} holds a user or a password: name a key by api_key_env or api_key_file instead");
    }
    Ok(url)
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// The key, from where the configuration says it is.
fn key(file: &CompletionServiceFile) -> Result<Option<Key>> {
    let text = match (&file.api_key_env, &file.api_key_file) {
        (Some(name), _) => std::env::var(name)
            .map_err(|_| anyhow::anyhow!("plugins.completion_service.api_key_env: {name} is not set to a text"))?,
        (None, Some(path)) => std::fs::read_to_string(path)
            .with_context(|| format!("plugins.completion_service.api_key_file {}", path.display()))?,
        (None, None) => return Ok(None),
    };
    let text = text.trim().to_owned();
    // What it holds is not told.
    let header = (!text.is_empty()).then(|| HeaderValue::from_str(&format!("Bearer {text}")).ok()).flatten();
    let mut header = header.context("plugins.completion_service: the key is empty or has characters that none has")?;
    header.set_sensitive(true);
    Ok(Some(Key { header, text }))
}

/// Conversations, the last used last.
struct Sessions {
    kept: Mutex<VecDeque<(String, Session)>>,
    kept_max: usize,
    bytes_max: usize,
}

type Session = Arc<tokio::sync::Mutex<Vec<Message>>>;

impl Sessions {
    fn new(kept_max: usize, bytes_max: usize) -> Self {
        Self { kept: Mutex::default(), kept_max, bytes_max }
    }

    /// The conversation that is named, or a new one.
    fn find(&self, id: Option<&str>) -> Result<(String, Session), Failed> {
        let Some(id) = id else {
            let mut random = [0; 16];
            getrandom::fill(&mut random).map_err(|why| failed("PROVIDER_ERROR", &format!("no session: {why}")))?;
            return Ok((format!("session_{}", hex::encode(random)), Session::default()));
        };
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let known = kept.iter().find(|(known, _)| known == id).map(|(_, session)| Arc::clone(session));
        let session = known.ok_or_else(|| {
            let why = format!(
                "no session '{id}': they live as long as the host, and the last {} are kept (max_sessions)",
                self.kept_max
            );
            failed("SESSION_NOT_FOUND", &why)
        })?;
        Ok((id.to_owned(), session))
    }

    fn check(&self, id: &str, said: &[Message], asked: &Message) -> Result<(), Failed> {
        let bytes: usize = said.iter().chain([asked]).map(|message| message.content.len()).sum();
        if bytes <= self.bytes_max {
            return Ok(());
        }
        let most = self.bytes_max;
        Err(failed(
            "SESSION_TOO_LONG",
            &format!("session '{id}' would have {bytes} bytes, at most {most} (max_session_bytes): begin a new one"),
        ))
    }

    /// It was used just now.
    fn keep(&self, id: &str, session: Session) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|(known, _)| known != id);
        kept.push_back((id.to_owned(), session));
        while kept.len() > self.kept_max {
            kept.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_found_with_and_without_its_version() {
        for (base, whole) in [
            ("https://api.example.com", "https://api.example.com/v1/chat/completions"),
            ("http://127.0.0.1:8000/v1/", "http://127.0.0.1:8000/v1/chat/completions"),
            ("https://gateway.example.com/llm", "https://gateway.example.com/llm/v1/chat/completions"),
        ] {
            assert_eq!(endpoint(base).unwrap().as_str(), whole);
        }
        for base in ["", "api.example.com", "file:///etc", "https://me:secret@example.com"] {
            assert!(endpoint(base).is_err(), "{base}");
        }
    }
}
