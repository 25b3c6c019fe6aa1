//! What a count is kept for: each actor, each tool, each session, or the kernel as a whole.
//!
//! A session is what the caller's evidence says it is, an entry such as `session:8d1f`. Gavel verifies the actor where
//! the operator gave the caller a key; nothing verifies a session unless the operator's own gateway writes it.

use core::fmt;

use crate::Request;
use crate::json::{Json, Wrong};
use crate::key::Key;
use crate::settings::choice;
use crate::text::shown;

/// The parts of a request that counts are kept apart by. None of them: one count for the whole kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scope {
    /// Each actor has its own.
    pub actor: bool,
    /// Each tool has its own; so has a request without a tool call.
    pub tool: bool,
    /// Each session has its own.
    pub session: bool,
}

impl Scope {
    /// Read it as settings write it: `["actor", "tool"]`, or `["kernel"]` for one count of all.
    ///
    /// # Errors
    ///
    /// When it is not such a list, or one that says nothing, the same twice, or the kernel and something else.
    pub fn read(words: &Json) -> Result<Self, Wrong> {
        let mut scope = Self { actor: false, tool: false, session: false };
        let mut kernel = false;
        let words = words.list(|word| {
            let word = word.text()?;
            let part = match word {
                "actor" => &mut scope.actor,
                "tool" => &mut scope.tool,
                "session" => &mut scope.session,
                "kernel" => &mut kernel,
                other => return Err(Wrong::new(format!("'{other}' is not one of actor tool session kernel"))),
            };
            if core::mem::replace(part, true) { Err(Wrong::new(format!("'{word}' comes twice"))) } else { Ok(()) }
        })?;
        match words.len() {
            0 => Err(Wrong::new("the list is empty; one count for the whole kernel is [\"kernel\"]")),
            2.. if kernel => Err(Wrong::new("'kernel' is one count of all, so nothing stands beside it")),
            _ => Ok(scope),
        }
    }

    /// The key of this request's count. `session` is its session if it has one; it matters only if [`Scope::session`].
    #[must_use]
    pub fn key(&self, rule: Key, request: &Request, session: Option<&str>) -> Key {
        let part = |key: Key, label, value: Option<&str>| match value {
            Some(value) => key.part(label, value),
            None => key,
        };
        let tool = request.tool_call.as_ref().map(|call| call.name.as_str());
        let key = part(rule, "actor", self.actor.then_some(request.actor.as_str()));
        let key = part(key, "in-tool", if self.tool { tool } else { None });
        part(key, "session", if self.session { session } else { None })
    }

    /// Whose count it is, as a reason says it: `by actor 'agent:ops' with tool 'search'`; `in this kernel` for all.
    #[must_use]
    pub fn describe(&self, request: &Request, session: Option<&str>) -> String {
        let mut parts = Vec::new();
        if self.actor {
            parts.push(format!("by actor '{}'", shown(&request.actor)));
        }
        if self.tool {
            parts.push(match &request.tool_call {
                Some(call) => format!("with tool '{}'", shown(&call.name)),
                None => "without a tool".into(),
            });
        }
        if self.session {
            parts.push(match session {
                Some(session) => format!("in session '{}'", shown(session)),
                None => "without a session".into(),
            });
        }
        if parts.is_empty() { "in this kernel".into() } else { parts.join(" ") }
    }

    /// The words that [`Scope::read`] reads.
    #[must_use]
    pub fn words(&self) -> Vec<&'static str> {
        let all = [(self.actor, "actor"), (self.tool, "tool"), (self.session, "session")];
        let words: Vec<_> = all.into_iter().filter(|(is, _)| *is).map(|(_, word)| word).collect();
        if words.is_empty() { vec!["kernel"] } else { words }
    }
}

/// How evidence says which session a request belongs to: by an entry with this prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionPrefix(String);

impl Default for SessionPrefix {
    fn default() -> Self {
        Self("session:".into())
    }
}

impl SessionPrefix {
    /// Read it as settings write it: a text.
    ///
    /// # Errors
    ///
    /// When it is none, or empty: then any evidence would be a session.
    pub fn read(prefix: &Json) -> Result<Self, Wrong> {
        match prefix.text()? {
            "" => Err(Wrong::new("it is empty, so any evidence would be a session")),
            prefix => Ok(Self(prefix.to_owned())),
        }
    }

    /// The session of a request.
    ///
    /// # Errors
    ///
    /// When its evidence names none, or several: which of them counts must not be the caller's choice.
    pub fn session<'r>(&self, request: &'r Request) -> Result<&'r str, NoSession> {
        let named = request.evidence.iter().filter_map(|entry| entry.strip_prefix(self.0.as_str()));
        let mut sessions = named.filter(|session| !session.is_empty());
        let Some(first) = sessions.next() else { return Err(NoSession { prefix: self.0.clone(), several: false }) };
        if sessions.any(|session| session != first) {
            return Err(NoSession { prefix: self.0.clone(), several: true });
        }
        Ok(first)
    }

    /// The session that counts in `scope` are kept by: none if they are not, or if requests without one may share.
    ///
    /// # Errors
    ///
    /// When the scope asks for a session and the request has none, or several.
    pub fn session_in<'r>(
        &self,
        scope: Scope,
        on_missing: OnMissingSession,
        request: &'r Request,
    ) -> Result<Option<&'r str>, NoSession> {
        if !scope.session {
            return Ok(None);
        }
        match self.session(request) {
            Err(none) if !none.several && on_missing == OnMissingSession::Share => Ok(None),
            session => session.map(Some),
        }
    }
}

/// What to do with a request that names no session, where counts are kept for each session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnMissingSession {
    /// It is an error.
    Deny,
    /// All requests without a session are as of one session.
    Share,
}

impl OnMissingSession {
    /// Read it as settings write it: `deny` or `share`.
    ///
    /// # Errors
    ///
    /// When it is something else.
    pub fn read(word: &Json) -> Result<Self, Wrong> {
        choice(word, &[("deny", Self::Deny), ("share", Self::Share)])
    }
}

/// Why a request has no session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoSession {
    prefix: String,
    /// Its evidence names several; else none.
    pub several: bool,
}

impl fmt::Display for NoSession {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prefix = shown(&self.prefix);
        if self.several {
            write!(out, "the evidence names several sessions: one entry '{prefix}...' is needed")
        } else {
            write!(out, "the evidence names no session: an entry '{prefix}...' is needed")
        }
    }
}

impl std::error::Error for NoSession {}

#[cfg(test)]
#[path = "scope_tests.rs"]
mod tests;
