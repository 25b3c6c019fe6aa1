//! What the kernels of a fleet do: each a kind, behind routes of its own, with a folder of its own.
//!
//! A kind is one file (or folder) here, and one line in [`KINDS`]. It is given a [`Seed`] and makes a [`Kernel`]: the routes
//! that it answers, whether it is well, and what it does last. Who serves it (a process on a port, as a rule) adds `/health`,
//! `/metrics` and `/openapi.json`, says who calls, and bounds bodies, times and numbers.
//!
//! What every kind promises:
//!
//! - What it acknowledged is on disk: it may be killed at any moment, and loses none of it.
//! - Its memory is bounded, by limits that its settings name.
//! - It takes the identity of a caller from [`Caller`], never from a body.
//!
//! Deliberately absent: processes, ports and restarts (`gavel-fleet`), the sandbox, and the host's configuration.

#[cfg(test)]
mod called;
mod caller;
mod crypto_kernel;
mod doors;
mod durable;
mod fault;
mod immutable_log;
mod kind;
mod peers;
mod private_key;
mod serving;

pub use caller::{Caller, Role};
pub use doors::{Body, Door, Doors, Params};
pub use fault::Fault;
pub use kind::{Clock, Kernel, Kind, Opened, Seed, SettingsError, Well, no_settings, settings};
pub use peers::{KERNEL_HEADER, PeerError, Peers};
pub use serving::{Bounds, Identify, document, router};

/// The kinds that need nothing but what this crate has.
pub const KINDS: &[Kind] = &[immutable_log::KIND, crypto_kernel::KIND];

/// Everybody who may be let in.
pub const ANY: &[Role] = &[Role::Agent, Role::Operator, Role::Auditor];
/// Who may see everything.
pub const SEEING: &[Role] = &[Role::Operator, Role::Auditor];
/// Who may change things.
pub const OPERATING: &[Role] = &[Role::Operator];
