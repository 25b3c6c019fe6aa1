//! Gavel: the governance runtime that AI agents' tool calls go through.
//!
//! An agent never calls a tool: it submits a request to a kernel. The kernel asks its policies,
//! which are WebAssembly components in sandboxes, records the decision in a ledger that anyone can
//! verify, and only then runs the tool. This crate is the composition root, the only place that
//! knows everything; start reading at [`decide`].
//!
//! - `gavel-kernel` is the law: pure judgement, canonical JSON, the evidence chain.
//! - `gavel-ledger` is the memory: durable, append-only, provable.
//! - `gavel-runtime` is the sandbox: components in, verdicts out.
//! - here: configuration, tools, HTTP, the command line, and the way of a request through all of it.

pub mod approvals;
pub mod archive;
pub mod archive_target;
pub mod bus;
mod carry;
mod checkpoint_key;
pub mod checkpoints;
mod claims;
pub mod cli;
pub mod clock;
pub mod config;
pub mod conformance;
pub mod decide;
pub mod embed;
pub mod evidence;
pub mod fleet;
pub mod front;
mod gate;
pub mod host;
pub mod http;
pub mod incidents;
pub mod index;
pub mod kasmina;
pub mod kernel;
pub mod kinds;
pub mod metrics;
pub mod migrate;
pub mod news;
pub mod operations;
mod past;
pub mod plugins;
pub mod policies;
pub mod prove;
mod record;
pub mod remembered;
pub mod replay;
mod service;
pub mod signing;
mod smoke;
mod states;
pub mod tlog;
pub mod tools;
pub mod upkeep;
