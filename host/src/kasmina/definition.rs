//! What a layer is made of, as a caller posts it and as it lies in the data folder.

use super::error::KasminaError;
use crate::config::{BackendChoice, KasminaFile, check_id};
use kasmina::layer;
use serde::{Deserialize, Serialize};

/// A layer's definition.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Definition {
    /// The layer itself; its id is its name here.
    pub config: layer::Config,
    /// Who commands it: the name of a Tamiyo, or `none` for callers alone. Default `standard`.
    #[serde(default = "standard")]
    pub tamiyo: String,
    /// Where it runs. Default: as the host's configuration says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<BackendChoice>,
}

fn standard() -> String {
    super::tamiyo::STANDARD.to_owned()
}

impl Definition {
    /// Check it against the limits of the host.
    ///
    /// # Errors
    /// Which value is beyond which limit.
    pub(super) fn check(&self, limits: &KasminaFile) -> Result<(), KasminaError> {
        let config = &self.config;
        check_id(&config.id).map_err(|why| KasminaError::Invalid(why.replacen("kernel id", "layer id", 1)))?;
        let bounds = [
            ("width", config.width, limits.width_max, "width_max"),
            ("seeds", config.seeds, limits.seeds_max, "seeds_max"),
        ];
        for (name, value, max, limit) in bounds {
            if value > max {
                return Err(KasminaError::Limit(format!("{name} = {value}: this host allows {max} (kasmina.{limit})")));
            }
        }
        Ok(())
    }
}
