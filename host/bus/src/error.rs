//! What the bus answers when it cannot give a handler's answer. There is always an answer.

use crate::event::Answer;
use serde_json::Value;

/// Why an event has no handler's answer.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The event cannot be read as one.
    #[error("{0}")]
    Invalid(String),
    /// Nobody owns the event and nobody listens.
    #[error("no handler for event '{0}'")]
    NoHandler(String),
    /// The handler took too long.
    #[error("no answer to event '{event}' within {seconds} s (event_timeout)")]
    Timeout {
        /// Which event.
        event: String,
        /// The limit.
        seconds: f64,
    },
    /// The host ends before there is an answer. Whether the event was carried out is not known.
    #[error(
        "the host is shutting down and waits no longer for the answer to event '{0}': whether it was carried out is not known"
    )]
    Stopping(String),
    /// The sender may not.
    #[error("{0}")]
    Forbidden(String),
    /// The sender sends too much, or a queue is full.
    #[error("{0}")]
    RateLimited(String),
    /// The plugin broke, or its circuit is open.
    #[error("plugin '{plugin}': {problem}")]
    PluginFailed {
        /// Which plugin.
        plugin: String,
        /// What happened.
        problem: String,
    },
    /// The plugin is well and says no.
    #[error("{message}")]
    Refused {
        /// Why.
        message: String,
        /// A word for programs.
        code: Option<String>,
    },
}

impl Error {
    /// The word for programs.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        Some(match self {
            Self::Invalid(_) => return None,
            Self::NoHandler(_) => "NO_HANDLER",
            Self::Timeout { .. } | Self::Stopping(_) => "TIMEOUT",
            Self::Forbidden(_) => "FORBIDDEN",
            Self::RateLimited(_) => "RATE_LIMITED",
            Self::PluginFailed { .. } => "PLUGIN_FAILED",
            Self::Refused { code, .. } => return code.as_deref(),
        })
    }

    /// As an answer on the wire.
    #[must_use]
    pub fn answer(&self) -> Answer {
        let mut answer = Answer::new();
        answer.insert("error".to_owned(), Value::from(self.to_string()));
        if let Some(code) = self.code() {
            answer.insert("code".to_owned(), Value::from(code));
        }
        answer
    }
}

/// Why a plugin is not registered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RegisterError {
    /// Another plugin owns a name that this one claims.
    #[error("plugins '{first}' and '{second}' both own {what}: let one of them give it up")]
    TwoOwners {
        /// Who has it.
        first: String,
        /// Who claims it too.
        second: String,
        /// The command or namespace.
        what: String,
    },
    /// A plugin of this name is there.
    #[error("a plugin named '{0}' is registered: replace it instead")]
    Exists(String),
    /// No plugin of this name is there.
    #[error("no plugin named '{0}' is registered")]
    Unknown(String),
    /// The bus has ended.
    #[error("the bus is shut down: it takes no more plugins")]
    Ended,
    /// It needs one that is not there.
    #[error("plugin '{plugin}' depends on '{missing}', which is not registered")]
    Dependency {
        /// Which plugin.
        plugin: String,
        /// What it needs.
        missing: String,
    },
    /// Something in what it says of itself cannot be.
    #[error("plugin '{plugin}': {problem}")]
    Invalid {
        /// Which plugin.
        plugin: String,
        /// What is wrong.
        problem: String,
    },
    /// The new one does not start; the old one is still in place.
    #[error("plugin '{plugin}' did not start: {problem}")]
    Startup {
        /// Which plugin.
        plugin: String,
        /// What happened.
        problem: String,
    },
}
