//! Write a Gavel policy in Rust: the types of the contract (`wit/policy.wit`), one trait, one macro.
//!
//! A policy is a WebAssembly component that answers one question, may this request proceed, and can do nothing else:
//! no clock, no randomness, no files, no network. This crate promises to the author:
//!
//! - [`Policy`] is all there is to implement, and [`export_policy!`] makes a component of it.
//! - A panic denies (the component traps), and its message and place reach the operator's log first.
//! - A configuration that cannot be read denies, with the reason, by [`configuration`].
//!
//! ```
//! use gavel_policy::{Metadata, Policy, Request, Verdict, export_policy};
//!
//! struct NoDeletes;
//!
//! impl Policy for NoDeletes {
//!     fn describe() -> Metadata {
//!         Metadata {
//!             name: "no-deletes".into(),
//!             version: env!("CARGO_PKG_VERSION").into(),
//!             description: "Denies every tool that deletes.".into(),
//!             config_schema: None,
//!         }
//!     }
//!
//!     fn evaluate(request: Request) -> Verdict {
//!         match request.tool_call {
//!             Some(call) if call.name.starts_with("delete_") => Verdict::Deny(format!("{} deletes", call.name)),
//!             _ => Verdict::Abstain,
//!         }
//!     }
//! }
//!
//! export_policy!(NoDeletes);
//! ```
//!
//! Compiled for the machine itself, as by `cargo test`, the types and [`read_configuration`] work, but there is no
//! host: [`configuration`], [`log`] and [`counters`] panic. So keep the judgement in functions that take what they
//! judge, [`counting::Counters`] among it, and test those.

#[cfg(target_arch = "wasm32")]
mod allocator;
mod configuration;
pub mod counting;
pub mod glob;
pub mod json;
pub mod key;
mod panics;
pub mod pointer;
pub mod scope;
pub mod settings;
mod sha256;
pub mod text;

pub use bindings::gavel::policy::types::ToolCall;
pub use bindings::gavel::policy::{counters, log};
pub use bindings::{Metadata, Request, Verdict};
pub use configuration::{BrokenConfiguration, Configuration, configuration, read_configuration};

/// A policy: what a type must know to become a component by [`export_policy!`].
///
/// Both functions may run in a fresh instance or in one that judged before; an answer that depends on which is wrong.
pub trait Policy {
    /// Say what this policy is. Asked once, when it is loaded; must not depend on the configuration.
    fn describe() -> Metadata;

    /// Judge one request. Only [`Verdict::Allow`] and [`Verdict::Abstain`] let it pass; a panic denies.
    fn evaluate(request: Request) -> Verdict;
}

/// Export a type that implements [`Policy`] as the component's policy. Once for each component.
#[macro_export]
macro_rules! export_policy {
    ($policy:ty) => {
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            struct Component;

            impl $crate::bindings::Guest for Component {
                fn describe() -> $crate::Metadata {
                    $crate::report_panics();
                    <$policy as $crate::Policy>::describe()
                }

                fn evaluate(request: $crate::Request) -> $crate::Verdict {
                    $crate::report_panics();
                    <$policy as $crate::Policy>::evaluate(request)
                }
            }

    $crate::bindings::export!(Component with_types_in $crate::bindings);
        };
    };
}

// For `export_policy!` only.
#[doc(hidden)]
pub use panics::report_panics;

/// What wit-bindgen makes of `wit/policy.wit`; for `export_policy!` only.
#[doc(hidden)]
#[allow(unsafe_code, reason = "generated: the canonical ABI passes pointers")]
#[allow(clippy::all, clippy::pedantic, missing_docs, reason = "generated")]
pub mod bindings {
    wit_bindgen::generate!({
        world: "policy",
        path: "../../wit",
        pub_export_macro: true,
        default_bindings_module: "gavel_policy::bindings",
        // A verdict that is equal is the same verdict; tests compare them.
        additional_derives: [PartialEq, Eq],
    });
}
