//! What an experiment is made of: every number that decides how it goes, so that the same plan gives the same run.

use crate::Error;
use crate::blueprint::{Blueprint, Function};
use crate::layer;
use crate::layer::Library;
use crate::network::Training;
use crate::tamiyo::{Policy, Standard};
use serde::{Deserialize, Serialize};
use std::sync::{Arc, Mutex, PoisonError};

/// The name of the blueprint that [`Plan::with_bad_blueprint`] adds.
pub const BAD_BLUEPRINT: &str = "reckless";

/// A plan of an experiment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Plan {
    /// The layer. Its width is that of the hidden activations and its random seed the plan's, whatever stands here.
    pub layer: layer::Config,
    /// Hidden units of the host network.
    pub hidden: usize,
    /// How the host network is trained before it is frozen.
    pub network: Training,
    /// Epochs with the layer.
    pub epochs: u64,
    /// Rows of a batch.
    pub batch: usize,
    /// Where all that is random comes from.
    pub random_seed: u64,
    /// Descriptions that are added to the library first.
    pub descriptions: Vec<Blueprint>,
    /// How the standard Tamiyo decides, and with which blueprints.
    pub tamiyo: Policy,
}

impl Default for Plan {
    fn default() -> Self {
        Self::digits()
    }
}

impl Plan {
    /// The demonstration on the digits: 24 hidden units whose input weights stay random, which is too little for the
    /// task, and four seeds in them. All gates and minima are the specification's.
    #[must_use]
    pub fn digits() -> Self {
        let blueprint = Blueprint::new("adapter-16", Function::Adapter { rank: 16 });
        Self {
            layer: layer::Config { id: "digits.hidden".to_owned(), seeds: 4, ..layer::Config::default() },
            hidden: 24,
            network: Training::default(),
            epochs: 300,
            batch: 32,
            random_seed: 1,
            tamiyo: Policy { blueprints: vec![blueprint.name.clone()], ..Policy::default() },
            descriptions: vec![blueprint],
        }
    }

    /// The same with one blueprint only, that harms: it denoises as well as any, so that it comes through its training,
    /// but the task moves its weights with steps far too great. One seed grows at a time, for two that harm can make up
    /// for one another, and then neither looks bad; after two that failed Karn gives the blueprint up. Its drift never
    /// settles, so that gate is opened: what is shown is the verdict of the evaluation.
    #[must_use]
    pub fn with_bad_blueprint(mut self) -> Self {
        let bad = Blueprint { task_rate: 3.0, ..Blueprint::new(BAD_BLUEPRINT, Function::Adapter { rank: 16 }) };
        self.tamiyo.blueprints = vec![bad.name.clone()];
        self.tamiyo.growing_max = 1;
        self.tamiyo.ranking.hope_min = 0.7;
        self.layer.gates.drift_spread_max = 2.0;
        self.epochs = 450;
        self.descriptions = vec![bad];
        self
    }

    /// Check what the layer's and the network's own checks do not see.
    ///
    /// # Errors
    /// Names the value that cannot be used.
    pub fn check(&self) -> Result<(), Error> {
        for (key, value) in [("hidden", self.hidden), ("batch", self.batch)] {
            if value == 0 {
                return Err(Error::Config { key, value: "0".to_owned(), problem: "it must be 1 at least".to_owned() });
            }
        }
        self.network.check()?;
        self.layer_config().check().map(drop)
    }

    /// The layer's configuration as the run uses it.
    #[must_use]
    pub fn layer_config(&self) -> layer::Config {
        layer::Config { width: self.hidden, random_seed: self.random_seed, ..self.layer.clone() }
    }

    /// Add the plan's descriptions to a library.
    ///
    /// # Errors
    /// If one cannot be used.
    pub fn describe(&self, library: &Arc<Mutex<Library>>) -> Result<(), Error> {
        let mut library = library.lock().unwrap_or_else(PoisonError::into_inner);
        self.descriptions.iter().try_for_each(|blueprint| library.blueprints.add(blueprint.clone()).map(drop))
    }

    /// The standard Tamiyo with the plan's policy.
    #[must_use]
    pub fn tamiyo(&self, library: &Arc<Mutex<Library>>) -> Standard {
        Standard::new(self.tamiyo.clone(), library.clone())
    }
}
