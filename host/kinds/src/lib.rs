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

mod alert_service;
mod audit_trail;
mod caller;
mod compliance_monitor;
mod crypto_kernel;
mod doors;
mod durable;
mod fault;
mod following;
mod immutable_log;
mod kind;
mod message_bus;
mod metrics_aggregator;
mod peers;
mod private_key;
mod ranges;
mod redb_file;
mod self_healing_kernel;
mod serving;
mod telemetry_service;
#[cfg(test)]
mod trial;
mod webhook;
mod writer;

pub use caller::{Caller, Role};
pub use doors::{Body, Door, Doors, Params};
pub use fault::Fault;
pub use kind::{Clock, Kernel, Kind, Opened, Seed, SettingsError, Well, no_settings, settings};
pub use peers::{KERNEL_HEADER, PeerError, Peers};
pub use serving::{Bounds, Identify, document, router};
pub use webhook::{Elsewhere, Given, SIGNATURE_HEADER, Sent, Webhook, WebhookSettings};

/// The kinds that need nothing but what this crate has.
pub const KINDS: &[Kind] = &[
    message_bus::KIND,
    immutable_log::KIND,
    crypto_kernel::KIND,
    compliance_monitor::KIND,
    audit_trail::KIND,
    self_healing_kernel::KIND,
    telemetry_service::KIND,
    metrics_aggregator::KIND,
    alert_service::KIND,
];

/// Everybody who may be let in.
pub const ANY: &[Role] = &[Role::Agent, Role::Operator, Role::Auditor];
/// Who may see everything.
pub const SEEING: &[Role] = &[Role::Operator, Role::Auditor];
/// Who may change things.
pub const OPERATING: &[Role] = &[Role::Operator];
