//! The event bus: events, their routes, and the lives of the plugins that answer them.
//!
//! This crate promises:
//!
//! - **Every event is answered**, by its handler or with the reason why not, before its time is up.
//! - **Nobody can be another.** Sender, time and id are stamped by the bus.
//! - **A plugin's failure is its own.** One that breaks, or is late, is answered for, rests, and is made anew.
//! - **A plugin can be replaced under load.** The new one is started first; what is under way ends with the old one.
//! - **Everything is bounded**: queues, chains, rates, times, history; each by a name in [`Options`].
//!
//! It knows no sockets, no WebAssembly, no ledger.
//!
//! ```
//! # async fn example(registration: gavel_bus::Registration) -> Result<(), Box<dyn std::error::Error>> {
//! use gavel_bus::{Bus, Draft, Options, Sender};
//!
//! let bus = Bus::new(Options::default(), || 0);
//! bus.register(vec![registration])?;
//! let reply = bus.dispatch(Sender::Host, Draft::new("state:get", serde_json::json!({ "key": "k" }))).await?;
//! println!("{}", reply.answer["value"]);
//! # Ok(()) }
//! ```

mod bus;
mod error;
mod event;
mod handle;
mod history;
mod mail;
mod options;
mod pattern;
mod plugin;
mod rate;
mod routes;
pub mod services;
mod slot;
mod stats;
mod status;
mod store;
mod to_the_end;
mod traffic;
pub mod unix;
mod waits;

pub use bus::{Bus, Reply};
pub use error::{Error, RegisterError};
pub use event::{Answer, Draft, Event, ID_BYTES_MAX, NAME_BYTES_MAX, Root, Sender, Stamped, answer_of, namespace};
pub use handle::{Emitted, Handle};
pub use history::Query;
pub use options::Options;
pub use pattern::{Pattern, any as any_pattern};
pub use plugin::{Before, Capabilities, Factory, Fault, Metadata, Plugin, Registration};
pub use slot::PluginState;
pub use stats::{Counts, Times};
pub use status::PluginStatus;
pub use store::{Audit, Audited, Change, NoAudit, Store, StoreCounts, StoreError, StoreLimits};
pub use traffic::{EventCount, OUTCOMES, Overview};
