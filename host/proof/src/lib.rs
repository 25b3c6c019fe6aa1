//! What anyone needs to check Gavel's evidence, without us and without I/O: records and the rules of the
//! log, the KERNELS chain, the RFC 6962 tree with its proofs, signed notes, and bundles of all that.
//!
//! The ledger writes with this crate and the auditor reads with it, so there is one definition of
//! each. It compiles for a browser too: no threads, no files, no clock.

mod bundle;
pub mod chain;
pub mod consistency_file;
pub mod cosignature;
pub mod hash;
mod items;
pub mod json;
pub mod note;
pub mod proof_file;
pub mod record;
pub mod report;
mod row;
pub mod state;
pub mod tree;
pub mod trust;
pub mod verify;

pub use hash::Hash;
