//! Kernels as processes on ports: started in the order of their needs, watched, healed, and reached through one door.
//!
//! This crate promises:
//!
//! - **A component's port is never free while it is meant to run.** The fleet binds it and hands it on, so a restart refuses
//!   no connection.
//! - **No request falls between two lives.** A process is asked to end when the requests on their way to it are answered, and
//!   the next one gets those that came meanwhile.
//! - **Nothing foreign is signalled.** A signal goes to a process that this fleet, or an earlier one on the same data, has
//!   started, and is still that process.
//! - **Success is seen, not claimed.** A playbook succeeded when the component answered that it is well.
//! - **No storm.** Restarts have a budget, intervals that grow, and an end that waits for an operator.
//! - **One at a time.** Who heals, starts, stops or moves a component has it alone.
//!
//! It knows nothing of what the components do.

mod boot;
mod fleet;
mod guardian;
mod healing;
mod holder;
mod ours;
mod passage;
mod plan;
mod playbook;
mod probe;
mod process;
mod proxy;
mod registry;
mod room;
pub mod table;
mod unit;

pub use fleet::{Fleet, News, Parts, Programs, Witness};
pub use guardian::{Guardian, Order};
pub use healing::{Diagnosis, HealError, Healing, Issue, Outcome, Playbook, Step};
pub use holder::{Holder, Identity, look_asked, of_port};
pub use ours::recorded;
pub use plan::{Component, HEALTH, Limits, Place, Plan, PlanError, port_at};
pub use playbook::{Usage, usage};
pub use probe::{Health, Probe, Silence};
pub use process::{Lines, Program};
pub use proxy::{Body, Proxy, ProxyError};
pub use registry::{Entry, Status};
