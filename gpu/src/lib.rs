//! Kasmina: a morphogenetic layer. Inside a host network it splits its width into chunks, one seed each; a seed can grow
//! a small network of its own (a blueprint) that is trained apart, blended in, measured, and kept or taken out again.
//!
//! The crate knows nothing of who decides: every structural change is put to a [`Governor`](govern::Governor) first, and a
//! denial leaves the seed as it was. It opens no socket and knows no time of day; it measures only how long a
//! pass took.

pub mod adam;
pub mod backend;
#[doc(hidden)]
pub mod bench;
pub mod blueprint;
#[doc(hidden)]
pub mod check;
mod checkpoint;
pub mod chunks;
pub mod cpu;
pub mod device;
pub mod digits;
pub mod easing;
mod error;
pub mod experiment;
pub mod govern;
pub mod gpu;
pub mod karn;
pub mod layer;
pub mod lifecycle;
pub mod network;
pub mod nursery;
pub mod observe;
pub mod reference;
pub mod report;
pub mod rollout;
pub mod state;
pub mod strategy;
pub mod tamiyo;
pub mod telemetry;

pub use error::Error;
pub use layer::{Layer, Library};
