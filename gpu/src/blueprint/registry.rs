//! The library of blueprints (Urza): names to ids to descriptions, loaded at run time, with each one's record.

use super::Blueprint;
use crate::Error;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// How a seed with a blueprint ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Outcome {
    /// It is part of the network.
    Fossilized,
    /// It failed and was taken out.
    Culled,
    /// It was unstable and was put back.
    RolledBack,
}

/// What became of the seeds of one blueprint.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Record {
    /// Seeds that germinated with it.
    pub used: u64,
    /// Of these, fossilised.
    pub fossilized: u64,
    /// Culled.
    pub culled: u64,
    /// Rolled back.
    pub rolled_back: u64,
    /// The mean of `post_metric - pre_metric` over all that ended.
    pub mean_gain: f64,
}

impl Record {
    /// How many have ended.
    #[must_use]
    pub fn ended(&self) -> u64 {
        self.fossilized + self.culled + self.rolled_back
    }

    /// Count an end.
    pub fn count(&mut self, outcome: Outcome, gain: f64) {
        match outcome {
            Outcome::Fossilized => self.fossilized += 1,
            Outcome::Culled => self.culled += 1,
            Outcome::RolledBack => self.rolled_back += 1,
        }
        #[allow(clippy::cast_precision_loss, reason = "counts of seeds are far below 2^52")]
        let ended = self.ended() as f64;
        self.mean_gain += (gain - self.mean_gain) / ended;
    }
}

/// All blueprints that layers may use.
#[derive(Debug, Clone, Default)]
pub struct Registry {
    by_id: BTreeMap<String, (Arc<Blueprint>, Record)>,
    id_of: BTreeMap<String, String>,
}

impl Registry {
    /// None yet.
    #[must_use]
    pub fn empty() -> Self {
        Self::default()
    }

    /// Add a blueprint, or give its name to this description from now on; the earlier one keeps its id and its record.
    /// Returns its id.
    ///
    /// # Errors
    /// If a value of it is out of range.
    pub fn add(&mut self, blueprint: Blueprint) -> Result<String, Error> {
        blueprint.check()?;
        let id = blueprint.id();
        self.id_of.insert(blueprint.name.clone(), id.clone());
        self.by_id.entry(id.clone()).or_insert_with(|| (Arc::new(blueprint), Record::default()));
        Ok(id)
    }

    /// The blueprint with this id or, failing that, this name.
    ///
    /// # Errors
    /// If there is none.
    pub fn find(&self, asked: &str) -> Result<Arc<Blueprint>, Error> {
        let id = self.id_of.get(asked).map_or(asked, String::as_str);
        let found = self.by_id.get(id).map(|(blueprint, _)| blueprint.clone());
        found.ok_or_else(|| Error::NoBlueprint { asked: asked.to_owned(), known: self.names() })
    }

    /// The record of the blueprint with this id.
    #[must_use]
    pub fn record(&self, id: &str) -> Option<&Record> {
        self.by_id.get(id).map(|(_, record)| record)
    }

    /// The record, to be written on.
    pub fn record_mut(&mut self, id: &str) -> Option<&mut Record> {
        self.by_id.get_mut(id).map(|(_, record)| record)
    }

    /// All of them with their ids and records, by id.
    pub fn all(&self) -> impl Iterator<Item = (&str, &Arc<Blueprint>, &Record)> {
        self.by_id.iter().map(|(id, (blueprint, record))| (id.as_str(), blueprint, record))
    }

    fn names(&self) -> String {
        let names: Vec<_> = self.id_of.keys().map(String::as_str).collect();
        if names.is_empty() { "none".to_owned() } else { names.join(", ") }
    }
}
