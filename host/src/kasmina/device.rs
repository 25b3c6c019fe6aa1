//! Which device a layer runs on.

use super::error::KasminaError;
use crate::config::BackendChoice;
use kasmina::backend::Backend;

/// The backend of a layer's choice.
///
/// # Errors
/// When there is no such device.
pub(super) fn backend(choice: BackendChoice) -> Result<Box<dyn Backend>, KasminaError> {
    match choice {
        BackendChoice::Auto | BackendChoice::Cpu => Ok(Box::new(kasmina::reference::Plain::default())),
        BackendChoice::Gpu => Err(KasminaError::Invalid("backend gpu: this build has none; use cpu or auto".into())),
    }
}
