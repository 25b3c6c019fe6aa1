//! What can go wrong, told apart by what the caller should do next.

use std::time::Duration;

/// Why a call came to nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The server answered that it will not.
    #[error("the server answered {}: {}", .0.status, .0.message)]
    Refused(Refusal),
    /// No whole answer came in time. Unless the call only reads, it may have been carried out.
    #[error("no answer from {url} within {waited:?} (timeout)")]
    TimedOut {
        /// What was called.
        url: String,
        /// The time it was given.
        waited: Duration,
    },
    /// No connection came about: nothing was sent.
    #[error("cannot connect to {url}: {why}")]
    Unreachable {
        /// What was called.
        url: String,
        /// What the system said.
        why: String,
    },
    /// The connection broke before the answer was whole. Unless the call only reads, it may have
    /// been carried out.
    #[error("the connection to {url} broke: {why}")]
    Interrupted {
        /// What was called.
        url: String,
        /// What the system said.
        why: String,
    },
    /// The answer is none of a Gavel server.
    #[error("{url} answered {status} and {why}: is it a Gavel server?")]
    Malformed {
        /// What was called.
        url: String,
        /// The status of the answer.
        status: u16,
        /// What is wrong with it.
        why: String,
    },
    /// The options or the request cannot be used; nothing was sent.
    #[error("{0}")]
    Misused(String),
    /// What came could not be written where it should go.
    #[error("the evidence could not be written: {0}")]
    Output(#[from] std::io::Error),
}

/// What a server says that will not do what it is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Refusal {
    /// The status of the answer: 400 a body that cannot be read, 401 and 403 the key, 404 the
    /// kernel, 409 halted, 413 too long, 429 too often, 503 too busy.
    pub status: u16,
    /// The server's words.
    pub message: String,
    /// The kernel's state, where the answer names it: `HALTED`.
    pub kernel_state: Option<String>,
    /// When to try again. The server sends it only where nothing was done.
    pub retry_after: Option<Duration>,
}

impl Refusal {
    /// Whether the kernel is halted.
    #[must_use]
    pub fn is_halted(&self) -> bool {
        self.status == 409 && self.kernel_state.as_deref() == Some("HALTED")
    }

    /// Whether the request was turned away before it was judged, for a reason that passes.
    pub(crate) fn passes(&self) -> bool {
        self.status == 429 || self.status == 503 && self.retry_after.is_some()
    }
}

impl Error {
    /// What the server said, if it did.
    #[must_use]
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused(refusal) => Some(refusal),
            _ => None,
        }
    }

    /// Whether it is certain that nothing was judged, recorded or run, so that a second try does
    /// nothing twice.
    #[must_use]
    pub fn is_certainly_undone(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Misused(_) => true,
            Self::Refused(refusal) => refusal.passes() || (400..500).contains(&refusal.status) && refusal.status != 408,
            Self::TimedOut { .. } | Self::Interrupted { .. } | Self::Malformed { .. } | Self::Output(_) => false,
        }
    }
}
