//! What a layer costs, measured honestly.

mod boundary;

pub use boundary::{Boundary, boundary};
