//! The kinds of kernels that a fleet can run: those of `gavel-kinds`, and those here, which need the sandbox or the host.
//!
//! A kind is added in one file and one line of [`OWN`] (or of [`gavel_kinds::KINDS`]).

mod governance;
mod plugin;
mod policy_engine;
pub mod process;

pub use gavel_kinds::{Kind, SettingsError};

/// The kinds that need what only the host has.
const OWN: &[Kind] = &[governance::KIND, policy_engine::KIND, plugin::KIND];

/// Every kind.
pub fn all() -> impl Iterator<Item = Kind> {
    gavel_kinds::KINDS.iter().chain(OWN).copied()
}

/// The kind of this name.
#[must_use]
pub fn find(name: &str) -> Option<Kind> {
    all().find(|kind| kind.name == name)
}

/// Where a kernel of this kind says whether it is well. A halted governance kernel is well: it does what it was told, and
/// a restart would change nothing.
#[must_use]
pub fn health_path(kind: &str) -> &'static str {
    if kind == governance::KIND.name { "/readyz" } else { gavel_fleet::HEALTH }
}

/// Whether a kernel of this kind works on all cores: it judges, in sandboxes. The others wait for disks and each other.
#[must_use]
pub fn needs_all_cores(kind: &str) -> bool {
    [governance::KIND.name, policy_engine::KIND.name].contains(&kind)
}
