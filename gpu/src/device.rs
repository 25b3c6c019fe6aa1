//! Which device runs a layer.

use crate::Error;
use crate::backend::Backend;
use crate::gpu::{self, Gpu, Options};

/// What an operator asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(tag = "device", rename_all = "snake_case", deny_unknown_fields)]
pub enum Preference {
    /// A GPU if there is one made of hardware, else the processor.
    #[default]
    Auto,
    /// The processor.
    Cpu,
    /// A GPU, or the error that tells why not; also one that is software, as Mesa's lavapipe.
    Gpu {
        /// Only one whose name contains this, in any case.
        #[serde(default)]
        adapter: Option<String>,
    },
}
