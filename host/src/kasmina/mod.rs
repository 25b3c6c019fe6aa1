//! Layers that grow: the adapters between the crate `kasmina`, which knows no host, and the rest of Gavel.

pub mod component;
mod convert;
