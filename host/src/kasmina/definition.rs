//! What a layer is made of, as a caller posts it and as it lies in the data folder.

use super::error::KasminaError;
use crate::config::{BackendChoice, KasminaFile, check_id};
use kasmina::layer;
use kasmina::rollout::Flags;
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
    /// Which features it uses. Default: all. What `chunks` and `strategies` leave of `config` is what is kept.
    #[serde(default)]
    pub flags: Flags,
}

fn standard() -> String {
    super::tamiyo::STANDARD.to_owned()
}

impl Definition {
    /// What the flags leave of it.
    pub(super) fn with_flags(self) -> Self {
        Self { config: self.flags.configure(self.config), ..self }
    }

    /// The layer as this host makes it: with no more weights than the host allows.
    pub(super) fn layer(&self, limits: &KasminaFile) -> layer::Config {
        let mut config = self.config.clone();
        config.weights_max = config.weights_max.min(limits.weights_max);
        config.seed_weights_max = config.seed_weights_max.min(limits.weights_max);
        config
    }

    /// Where it runs, on a host with this default.
    pub(super) fn device(&self, default: BackendChoice) -> BackendChoice {
        if self.flags.gpu { self.backend.unwrap_or(default) } else { BackendChoice::Cpu }
    }

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
            ("candidates_max", config.candidates_max, limits.candidates_max, "candidates_max"),
            ("checkpoints_kept", config.checkpoints_kept, limits.checkpoints_kept_max, "checkpoints_kept_max"),
            ("command_ids_kept", config.command_ids_kept, limits.command_ids_max, "command_ids_max"),
            ("blueprints_max", config.blueprints_max, limits.layer_blueprints_max, "layer_blueprints_max"),
        ];
        for (name, value, max, limit) in bounds {
            if value > max {
                return Err(KasminaError::Limit(format!("{name} = {value}: this host allows {max} (kasmina.{limit})")));
            }
        }
        Ok(())
    }
}
