//! Plugins of the event bus: components of `wit/plugin/plugin.wit`, world `plugin`.
//!
//! They run under the rules of the policies: nothing is imported that their world does not offer, every call has a
//! deadline and caps, and what goes wrong is a [`FailedClosed`](crate::FailedClosed) that names the limit. Three things differ:
//!
//! - **An instance lives long.** It is made once and asked about one event after another, so what it keeps in its memory
//!   it has at the next. It lies outside of the policies' pool, in an engine that is set up when the first plugin is
//!   brought: however many plugins live, no decision waits for a slot. A plugin that nobody has needed has no instance.
//! - **It may wait.** What it asks of the bus, the state and the tools goes to [`Imports`], and may take its time.
//! - **It is lost once.** After any [`FailedClosed`](crate::FailedClosed), and after a call whose future was dropped half way, an [`Instance`]
//!   answers [`FailedClosed::Spent`](crate::FailedClosed::Spent) and nothing else; [`Component::instantiate`] makes the next.
//!
//! `deadline_ms` is the wall time of the plugin's own work in one call. While it waits in an import its clock stands
//! still: what it waits for has limits of its own, and whoever calls the instance bounds the whole by dropping the call.
//! A plugin that works for long lets everything else on its thread have a turn every millisecond.
//!
//! This crate does not know the bus. Data are texts here: that an answer is JSON is for the caller to see, who reads it
//! anyway.
//!
//! ```
//! # async fn example(bytes: Vec<u8>, event: gavel_runtime::plugin::Event, imports: std::sync::Arc<dyn gavel_runtime::plugin::Imports>)
//! # -> Result<(), Box<dyn std::error::Error>> {
//! use gavel_runtime::plugin::{Limits, Source};
//! use gavel_runtime::{Sandbox, SandboxOptions};
//!
//! let sandbox = Sandbox::new(SandboxOptions::default())?;
//! let described = sandbox.describe_plugin("greeter", &bytes)?;
//! let source = Source { name: "greeter".into(), bytes, config: serde_json::Value::Null, limits: Limits::default() };
//! let component = sandbox.load_plugin(source, &described)?;
//! let mut instance = component.instantiate(imports).await?;
//! instance.startup().await??;
//! match instance.handle_event(&event).await? {
//!     Ok(Some(answer)) => println!("{answer}"),
//!     Ok(None) => println!("it does not know {}", event.name),
//!     Err(refusal) => println!("{}", refusal.message),
//! }
//! # Ok(()) }
//! ```

mod described;
mod guest;
mod home;
mod instance;

pub use crate::bindings::plugin::gavel::plugin::log::Level;
pub use crate::bindings::plugin::gavel::plugin::types::{Before, Event, Refusal};
pub use described::{
    CONFIG_SCHEMA_BYTES_MAX, Capabilities, Described, ITEM_BYTES_MAX, LIST_ITEMS_MAX, Metadata, NAME_BYTES_MAX,
    TEXT_BYTES_MAX,
};
pub use guest::{BoxFuture, Imports};
pub(crate) use home::Home;
pub use instance::{Component, Instance};

use crate::load::{Range, check_configuration, check_ranges, digest_of};
use crate::world::PLUGIN;
use crate::{Error, Sandbox, SandboxOptions};
use guest::Terms;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::sync::Arc;

/// The code of a [`Refusal`] that answers an import whose texts are longer than `max_output_bytes`.
pub const TOO_LARGE: &str = "TOO_LARGE";
/// The code of a [`Refusal`] that answers whatever `describe` asks for.
pub const FORBIDDEN: &str = "FORBIDDEN";

/// What one plugin may use. Every field has a default and can be set in the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Wall time of its own work in one call, in milliseconds, without what its imports take. Default 1,000, at most
    /// 300,000. To be made and started it has 2,000 at least.
    pub deadline_ms: u64,
    /// Linear memory, in bytes, over all memories of the instance, for as long as it lives. Default 32 MiB.
    pub max_memory_bytes: u64,
    /// Elements of any one table. Default 10,000.
    pub max_table_elements: u64,
    /// Bytes of text in one answer, and in what it hands to one import. Default 1 MiB, at most 16 MiB.
    pub max_output_bytes: u64,
    /// Log lines of one call; more are dropped and counted. Default 64.
    pub max_log_lines: u64,
    /// Bytes of one log line; longer ones are shortened. Default 1,024.
    pub max_log_line_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            deadline_ms: 1_000,
            max_memory_bytes: 32 << 20,
            max_table_elements: 10_000,
            max_output_bytes: 1 << 20,
            max_log_lines: 64,
            max_log_line_bytes: 1_024,
        }
    }
}

impl Limits {
    fn check(&self, name: &str, options: &SandboxOptions) -> Result<(), Error> {
        let ranges: [Range; 6] = [
            ("deadline_ms", self.deadline_ms, 1, 300_000),
            ("max_memory_bytes", self.max_memory_bytes, 1, options.max_memory_bytes),
            ("max_table_elements", self.max_table_elements, 1, options.max_table_elements),
            ("max_output_bytes", self.max_output_bytes, 16, 16 << 20),
            ("max_log_lines", self.max_log_lines, 0, 10_000),
            ("max_log_line_bytes", self.max_log_line_bytes, 16, 64 << 10),
        ];
        check_ranges(&PLUGIN, name, &ranges)
    }

    /// What `describe` may use: it is asked before anybody has said what the plugin may.
    fn to_describe(options: &SandboxOptions) -> Self {
        let (max_memory_bytes, max_table_elements) = (options.max_memory_bytes, options.max_table_elements);
        Self { max_memory_bytes, max_table_elements, ..Self::default() }
    }
}

/// What a plugin is made of.
#[derive(Debug, Clone)]
pub struct Source {
    /// Its name, for messages.
    pub name: String,
    /// The component.
    pub bytes: Vec<u8>,
    /// The operator's configuration for it; `Null` for none.
    pub config: Value,
    /// What it may use.
    pub limits: Limits,
}

impl Sandbox {
    /// Ask a component what it is: compile it (or take it from the cache), check its imports and exports, and call
    /// `describe` in an instance that is granted nothing. What it says can be kept by the digest of `bytes`.
    ///
    /// Blocks: a small component in Rust takes some 20 ms, one that carries a language runtime seconds. Within an async
    /// runtime call it on a thread for blocking work.
    ///
    /// # Errors
    /// Everything in [`Error`] but [`Error::Configuration`] and [`Error::Limit`].
    pub fn describe_plugin(&self, name: &str, bytes: &[u8]) -> Result<Described, Error> {
        let home = self.plugins()?;
        let digest = digest_of(bytes);
        let pre = self.plugin_pre(home, name, bytes)?;
        let limits = Limits::to_describe(&self.inner.options);
        let terms = Arc::new(Terms { name: name.into(), config: "null".into(), limits });
        let described = Described::from(instance::describe(home, &pre, &terms)?);
        described.check(name)?;
        home.keep(digest, pre);
        Ok(described)
    }

    /// Whether a plugin that says this of itself can be loaded with this configuration and these limits. Nothing is
    /// compiled.
    ///
    /// # Errors
    /// [`Error::Limit`], [`Error::Description`], [`Error::Configuration`].
    pub fn check_plugin(
        &self,
        name: &str,
        config: &Value,
        limits: &Limits,
        described: &Described,
    ) -> Result<(), Error> {
        limits.check(name, &self.inner.options)?;
        described.check(name)?;
        check_configuration(&PLUGIN, name, config, described.metadata.config_schema.as_deref())
    }

    /// Make a plugin ready to be instantiated: check its limits, imports and exports, check its configuration against the
    /// schema in `described`, and compile it, unless it was described just now or lies in the cache. No code of it runs.
    ///
    /// `described` is taken at its word: it must be what [`describe_plugin`](Self::describe_plugin) said of these bytes.
    /// Blocks, as that does.
    ///
    /// # Errors
    /// Everything in [`Error`] but [`Error::Describe`].
    pub fn load_plugin(&self, source: Source, described: &Described) -> Result<Component, Error> {
        self.check_plugin(&source.name, &source.config, &source.limits, described)?;
        let home = self.plugins()?;
        let digest = digest_of(&source.bytes);
        let pre = match home.take(&digest) {
            Some(pre) => pre,
            None => self.plugin_pre(home, &source.name, &source.bytes)?,
        };
        let config = crate::policy::configuration_text(&source.config).into();
        let terms = Terms { name: source.name, config, limits: source.limits };
        Ok(Component::new(Arc::clone(home), pre, terms, digest))
    }
}
