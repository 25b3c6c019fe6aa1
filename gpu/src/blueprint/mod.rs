//! Blueprints: the small networks that seeds grow. A [`Blueprint`] is a description; its [`id`](Blueprint::id) is the
//! SHA-256 of the description's canonical JSON, and a name belongs to one description of a registry.

mod function;
mod registry;

pub use function::{Function, LAYER_NORM_EPSILON, Part, gelu, gelu_slope};
pub(crate) use registry::name_taken;
pub use registry::{Outcome, Record, Registry};

use crate::Error;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Hexadecimal digits of an id.
const ID_DIGITS: usize = 64;

/// What a seed grows, and how it is trained. As JSON it is what an author writes and what commands carry
/// (`blueprint_ir`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Blueprint {
    /// Lower case, with hyphens.
    pub name: String,
    /// What it computes.
    pub function: Function,
    /// Step size of Adam while the seed is trained apart.
    #[serde(default = "denoising_rate")]
    pub denoising_rate: f32,
    /// Step size of Adam while the task trains it.
    #[serde(default = "task_rate")]
    pub task_rate: f32,
}

fn denoising_rate() -> f32 {
    0.01
}

fn task_rate() -> f32 {
    0.002
}

impl Blueprint {
    /// A blueprint with the default step sizes.
    #[must_use]
    pub fn new(name: &str, function: Function) -> Self {
        Self { name: name.to_owned(), function, denoising_rate: denoising_rate(), task_rate: task_rate() }
    }

    /// Read a description.
    ///
    /// # Errors
    /// If it is not one, or a value is out of its range.
    pub fn parse(json: &str) -> Result<Self, Error> {
        let problem = |problem: String| Error::Blueprint { name: "(unread)".to_owned(), problem };
        let blueprint: Self = serde_json::from_str(json).map_err(|error| problem(error.to_string()))?;
        blueprint.check()?;
        Ok(blueprint)
    }

    /// Check that every value is in its range.
    ///
    /// # Errors
    /// Names the value that is not.
    pub fn check(&self) -> Result<(), Error> {
        let problem = |problem: String| Err(Error::Blueprint { name: self.name.clone(), problem });
        let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
        if self.name.is_empty() || self.name.len() > 64 || !self.name.chars().all(legal) {
            return problem("a name has 1 to 64 characters of a-z, 0-9, - and _".to_owned());
        }
        if self.name.len() == ID_DIGITS && self.name.chars().all(|c| c.is_ascii_hexdigit()) {
            return problem("a name of 64 hexadecimal digits would pass for an id: choose another".to_owned());
        }
        for (key, rate) in [("denoising_rate", self.denoising_rate), ("task_rate", self.task_rate)] {
            if !(rate > 0.0 && rate.is_finite()) {
                return problem(format!("{key} = {rate}: it must be above 0"));
            }
        }
        self.function.check().or_else(problem)
    }

    /// The description as canonical JSON: keys sorted, no blanks.
    ///
    /// # Panics
    /// Never for a blueprint that was checked: its numbers are finite.
    #[must_use]
    pub fn canonical(&self) -> String {
        // serde_json's maps are sorted by key; a struct's fields are brought through one for that.
        #[allow(clippy::unwrap_used, reason = "names and finite numbers have a JSON form")]
        serde_json::to_value(self).unwrap().to_string()
    }

    /// SHA-256 of [`Self::canonical`], in hexadecimal.
    #[must_use]
    pub fn id(&self) -> String {
        hex::encode(Sha256::digest(self.canonical()))
    }

    /// Fresh weights for a chunk of `width` columns, the same for the same `seed`: what makes the output begin at zero
    /// is zero, so that a fresh seed is the identity.
    #[must_use]
    pub fn fresh_weights(&self, width: usize, seed: u64) -> Vec<f32> {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut weights = Vec::with_capacity(self.function.weights(width));
        for part in self.function.layout(width) {
            let spread = part.spread;
            weights.extend((0..part.length).map(|_| {
                let unit: f32 = if spread == 0.0 { 0.0 } else { StandardNormal.sample(&mut random) };
                part.middle + spread * unit
            }));
        }
        weights
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    #[test]
    fn the_id_is_of_the_canonical_description() {
        let blueprint = Blueprint::new("adapter-16", Function::Adapter { rank: 16 });
        expect![[
            r#"{"denoising_rate":0.01,"function":{"kind":"adapter","rank":16},"name":"adapter-16","task_rate":0.002}"#
        ]]
        .assert_eq(&blueprint.canonical());
        assert_eq!(Blueprint::parse(&blueprint.canonical()).unwrap().id(), blueprint.id());
    }

    #[test]
    fn what_cannot_be_used_is_refused_with_its_reason() {
        for (json, reason) in [
            (r#"{"name":"a","function":{"kind":"adapter","rank":0}}"#, "rank = 0"),
            (r#"{"name":"A","function":{"kind":"residual_scale"}}"#, "1 to 64 characters"),
            (r#"{"name":"a","function":{"kind":"tower"}}"#, "unknown variant `tower`"),
            (r#"{"name":"a","function":{"kind":"mlp"},"task_rate":-1}"#, "task_rate = -1"),
            (r#"{"name":"a","function":{"kind":"mlp"},"rate":1}"#, "unknown field `rate`"),
        ] {
            let error = Blueprint::parse(json).unwrap_err().to_string();
            assert!(error.contains(reason), "{json}: {error}");
        }
    }
}
