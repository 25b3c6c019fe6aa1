//! The rule. This is the file to edit.
//!
//! A panic in here leaves the seed's alpha as it is; its message is in the log.

use crate::gavel::policy::config;
use crate::{Metadata, StrategyInput, StrategyStep};
use serde::Deserialize;

/// The JSON Schema of the configuration.
const SCHEMA: &str = include_str!("../config.schema.json");

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Config {
    drift_max: f64,
    gradient_min: f64,
    gradient_max: f64,
    pause_epochs: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self { drift_max: 0.1, gradient_min: 0.05, gradient_max: 1.0, pause_epochs: 5 }
    }
}

const HOLD: StrategyStep = StrategyStep { add: 0.0, pause: 0 };

pub(crate) fn describe() -> Metadata {
    Metadata {
        name: "patient-ramp".into(),
        version: "0.1.0".into(),
        description: "Blends a seed in the faster the less it drifts, while its gradients are neither dead nor wild.".into(),
        config_schema: Some(SCHEMA.into()),
    }
}

pub(crate) fn step(input: &StrategyInput) -> StrategyStep {
    let config: Option<Config> = serde_json::from_str(&config::get()).expect("the configuration fits the schema");
    let config = config.unwrap_or_default();
    // At alpha 0 no gradient reaches the seed yet: the first step is taken without.
    let calm = input.alpha == 0.0 || (config.gradient_min..=config.gradient_max).contains(&input.gradient_norm);
    // Where no drift was measured it holds: what is unknown is not small.
    if input.pause_left > 0 || input.drifts.is_empty() || !calm {
        return HOLD;
    }
    let drift = mean(&input.drifts);
    if drift.is_nan() || drift >= config.drift_max {
        return StrategyStep { add: 0.0, pause: config.pause_epochs };
    }
    let share = 1.0 - drift.max(0.0) / config.drift_max;
    StrategyStep { add: (2.0 * share / f64::from(input.steps)).min(1.0) as f32, pause: 0 }
}

fn mean(drifts: &[f32]) -> f64 {
    let mut sum = 0.0;
    for drift in drifts {
        sum += f64::from(*drift);
    }
    sum / drifts.len() as f64
}
