//! The approval queue: what a policy escalates waits here for a human.
//!
//! ```text
//! submit ──► escalate ──► DENY, recorded: waiting ──► approved ──► the same request again ──► ALLOW, recorded: used
//!                                            │            └──────► expired
//!                                            ├──► rejected
//!                                            └──► expired
//! ```
//!
//! What always holds:
//! - An approval is bound to the actor, to everything that the policies see of the request but its id and its times, to the
//!   set of policies and to the jurisdiction. Whatever of these differs is another request, which nobody approved.
//! - It allows one request. The record of the decision that it allows is its use: that record is durable before the tool
//!   runs, so that a crash spends an approval or runs nothing, and two requests at once cannot both have it.
//! - The queue is a reading of the ledger ([`book`]), as permits and counters are: there is nothing else that could be out
//!   of step with it, and whoever verifies the ledger sees who approved what.
//! - An escalation without an approval is a denial. A policy that denies is not overruled by anybody.
//!
//! A kernel that takes the place of another begins with an empty queue, and a kernel in memory has none: there an
//! escalation stays the denial that it is. What the host itself asks for (changes of the bus's state, of layers) is not
//! queued either: it is of its moment, and nobody would ask again.
//!
//! Told apart: `book` is what follows from the records, `queue` what is so at this moment, `ask` the way of a request
//! through it, `word` that of a human's decision, `tell` who hears of both, `link` how a webhook may decide.

mod ask;
pub(crate) mod book;
pub mod link;
mod queue;
pub(crate) mod tell;
mod word;

pub(crate) use ask::{Asked, Escalated};
pub(crate) use book::Book;
pub use book::{Approval, Bound, Cause, Given, Use};
pub(crate) use queue::Queue;
pub use queue::{Page, Wanted};
pub use word::{Word, WordError};

use crate::config::ApprovalsFile;
use tokio::sync::Notify;

/// What the queues of all kernels of a host have in common.
#[derive(Debug, Default)]
pub struct Desk {
    /// How long anything may wait, and how much.
    pub(crate) limits: ApprovalsFile,
    /// Rung when there is something to tell.
    pub(crate) bell: Notify,
}

impl Desk {
    /// A desk with these limits.
    #[must_use]
    pub fn new(limits: ApprovalsFile) -> Self {
        Self { limits, bell: Notify::new() }
    }

    /// Its limits.
    #[must_use]
    pub fn limits(&self) -> &ApprovalsFile {
        &self.limits
    }
}
