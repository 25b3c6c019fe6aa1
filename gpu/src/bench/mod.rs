//! Measuring backends honestly: bytes counted once, the error beside the speed, the yardstick in the same run.

pub mod gpu;
