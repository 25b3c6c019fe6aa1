//! The sandbox: WebAssembly components in, verdicts out.
//!
//! This crate runs policy components (`wit/`, world `gavel:policy/policy`) and promises:
//!
//! - **A policy can do nothing but answer.** It has no WASI; a component that imports anything
//!   outside its world is refused when it is loaded, by name.
//! - **Every decision gets a fresh instance**, unless the operator chose `warm` for a policy.
//! - **It fails closed.** A trap, a deadline, exhausted memory, an oversized or undecodable answer
//!   is a [`FailedClosed`] that names the limit; no failure of a guest is ever an `allow`.
//! - **It is fair.** A policy that burns its whole deadline is moved aside after a millisecond, so
//!   that it delays neither other decisions nor the acceptance of connections.
//! - **Every limit is here**, in [`Limits`] (per policy), [`kasmina::Limits`], [`plugin::Limits`] and
//!   [`SandboxOptions`] (per process).
//!
//! Components that take part in growing a Kasmina layer run in the same sandbox: see [`kasmina`]. So do the plugins of
//! the event bus, whose instances live long and may wait, on an engine of their own: see [`plugin`].
//!
//! It knows no HTTP, no ledger and no clock: the time that a policy sees comes with the request.
//!
//! ```
//! # async fn example(bytes: Vec<u8>, request: gavel_runtime::Request) -> Result<(), gavel_runtime::Error> {
//! use gavel_runtime::{PolicySet, PolicySource, Sandbox, SandboxOptions, WindowedCounters};
//!
//! let sandbox = Sandbox::new(SandboxOptions::default())?;
//! let policy = sandbox.load(PolicySource::new("business-hours", bytes)).await?;
//! let set = PolicySet::new(vec![policy]);
//! let judged = set.judge(request.into(), WindowedCounters::new(10_000).into()).await;
//! assert!(judged.denial().is_none());
//! # Ok(()) }
//! ```

mod ahead;
mod bindings;
mod cache;
mod counters;
mod epoch;
mod error;
mod evaluate;
mod instance;
pub mod kasmina;
mod lanes;
mod limits;
mod load;
pub mod plugin;
mod policy;
mod sandbox;
mod set;
mod wait;
mod world;

pub use bindings::gavel::policy::log::Level;
pub use bindings::gavel::policy::types::{Metadata, Request, ToolCall, Verdict};
pub use counters::{CounterAnswer, CounterOperation, Counters, WindowedCounters};
pub use error::{Error, FailedClosed, Subject};
pub use evaluate::{Evaluation, LogLine};
pub use limits::{Isolation, Limits, SandboxOptions};
pub use load::{Inspection, PolicySource};
pub use policy::Policy;
pub use sandbox::Sandbox;
pub use set::{Denial, Judged, PolicySet};
