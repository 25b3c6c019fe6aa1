//! What a layer costs, measured honestly: bytes counted once, the error beside the speed, the yardstick in the same run.

mod boundary;
pub mod gpu;

pub use boundary::{Boundary, boundary};
