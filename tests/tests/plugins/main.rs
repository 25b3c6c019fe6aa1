//! Plugins of the event bus on a real host: components in a folder, events over its sockets.
//!
//! Here belongs what a host does with plugins: how they come, live, fail, are replaced and leave, and what they may. What
//! the sandbox does with a component by itself is tested there (`host/runtime/tests`), the bus by itself in
//! `host/bus/tests`.

#![allow(clippy::unwrap_used, reason = "a test that cannot set its case up has failed")]
#![allow(clippy::needless_pass_by_value, reason = "a `json!` is written where it is used")]

mod broken;
mod examples;
mod guest;
mod life;
mod may;
mod stage;
mod swap;
