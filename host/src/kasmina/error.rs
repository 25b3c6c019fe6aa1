//! Why something was not done with a layer. Whatever it is, the layer is as it was; but for [`KasminaError::Lost`] and
//! [`KasminaError::Half`], which say that it may not be.

use crate::news::PayloadError;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KasminaError {
    /// What the layer itself says.
    #[error(transparent)]
    Layer(#[from] kasmina::Error),
    /// No layer of that name.
    #[error("there is no layer '{0}'")]
    NoLayer(String),
    /// There is one already.
    #[error("there is a layer '{0}' already")]
    Exists(String),
    /// More than a limit grants.
    #[error("{0}")]
    Limit(String),
    /// What was asked for makes no sense here.
    #[error("{0}")]
    Invalid(String),
    /// Not in this state.
    #[error("{0}")]
    Conflict(String),
    /// What was asked for is not there.
    #[error("{0}")]
    Absent(String),
    /// The kernel said no.
    #[error("denied: {0}")]
    Denied(String),
    /// Too many jobs wait.
    #[error("{waiting} jobs wait for layer '{layer}' already (kasmina.queue)")]
    Busy {
        /// Which layer.
        layer: String,
        /// How many there may be.
        waiting: usize,
    },
    /// The layer's thread ended, or never began.
    #[error("layer '{layer}' is out of service: {why}")]
    Failed {
        /// Which layer.
        layer: String,
        /// Why.
        why: String,
    },
    /// The layer's thread ended before it answered.
    #[error("layer '{layer}' gave no answer, and what was asked for may have been done: {why}")]
    Lost {
        /// Which layer.
        layer: String,
        /// Why.
        why: String,
    },
    /// A first part was done, the second was not.
    #[error("layer '{layer}': {done} was done, what was to follow was not: {why}")]
    Half {
        /// Which layer.
        layer: String,
        /// The first part.
        done: &'static str,
        /// What the layer says of the second.
        why: kasmina::Error,
    },
    /// The disk.
    #[error("layer '{layer}' could not be kept, and is as it was before: {why}")]
    NotKept {
        /// Which layer.
        layer: String,
        /// Why.
        why: String,
    },
    /// The ledger.
    #[error(transparent)]
    Kernel(#[from] crate::decide::Refused),
    /// Large data of an event.
    #[error(transparent)]
    Payload(#[from] PayloadError),
}
