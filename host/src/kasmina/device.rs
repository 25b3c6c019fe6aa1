//! Which device a layer runs on.

use super::error::KasminaError;
use crate::config::BackendChoice;
use kasmina::backend::Backend;
use kasmina::cpu::Cpu;
use kasmina::device::{Preference, choose};
use kasmina::gpu::Options;

/// The backend of a layer's choice; on the CPU with so many threads, or as many as there are.
///
/// # Errors
/// When there is no such device.
pub(super) fn backend(choice: BackendChoice, threads: Option<usize>) -> Result<Box<dyn Backend>, KasminaError> {
    let preference = match choice {
        BackendChoice::Auto => Preference::Auto,
        BackendChoice::Cpu => Preference::Cpu,
        BackendChoice::Gpu => Preference::Gpu { adapter: None },
    };
    Ok(choose(&preference, threads, &Options::default())?)
}

/// The backend on which seeds are trained apart: a few chunks, for which one thread is enough.
pub(super) fn nursery() -> Box<dyn Backend> {
    Box::new(Cpu::new(Some(1)))
}
