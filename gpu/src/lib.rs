//! Kasmina: a morphogenetic layer. Inside a host network it splits its width into chunks, one seed each; a seed can grow
//! a small network of its own (a blueprint) that is trained apart, blended in, measured, and kept or taken out again.
//!
//! The crate knows nothing of who decides: every structural change is put to a [`Governor`](govern::Governor) first, and a
//! denial leaves the seed as it was. It opens no socket and reads no clock.

pub mod backend;
pub mod bench;
pub mod blueprint;
#[doc(hidden)]
pub mod check;
pub mod chunks;
pub mod cpu;
mod error;
pub mod govern;
pub mod observe;
pub mod reference;
pub mod state;
pub mod telemetry;

pub use error::Error;
