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

    /// Add a blueprint. Returns its id. One that is there already stays as it is, with its record. A name belongs to the
    /// description that had it first, for whoever names a blueprint must get what was meant.
    ///
    /// # Errors
    /// If a value of it is out of range, or its name is another description's.
    pub fn add(&mut self, blueprint: Blueprint) -> Result<String, Error> {
        let id = self.check_new(&blueprint)?;
        self.id_of.insert(blueprint.name.clone(), id.clone());
        self.by_id.entry(id.clone()).or_insert_with(|| (Arc::new(blueprint), Record::default()));
        Ok(id)
    }

    /// Whether [`Self::add`] would take a blueprint. Returns its id.
    ///
    /// # Errors
    /// As [`Self::add`].
    pub fn check_new(&self, blueprint: &Blueprint) -> Result<String, Error> {
        blueprint.check()?;
        let id = blueprint.id();
        match self.id_of.get(&blueprint.name) {
            Some(known) if *known != id => Err(name_taken(&blueprint.name, known, &id)),
            _ => Ok(id),
        }
    }

    /// The blueprint with this id or, failing that, this name.
    ///
    /// # Errors
    /// If there is none.
    pub fn find(&self, asked: &str) -> Result<Arc<Blueprint>, Error> {
        let by_name = || self.id_of.get(asked).and_then(|id| self.by_id.get(id));
        let found = self.by_id.get(asked).or_else(by_name).map(|(blueprint, _)| blueprint.clone());
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

/// A name that belongs to the description `known` and is asked for `id`.
pub(crate) fn name_taken(name: &str, known: &str, id: &str) -> Error {
    let problem = format!("the name belongs to the description {known}, this one is {id}: give it another name");
    Error::Blueprint { name: name.to_owned(), problem }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blueprint::Function;

    #[test]
    fn a_name_stays_with_its_description() {
        let mut registry = Registry::empty();
        let (mlp, scale) = (Blueprint::new("one", Function::Mlp), Blueprint::new("one", Function::ResidualScale));
        let id = registry.add(mlp.clone()).unwrap();
        assert_eq!(registry.add(mlp).unwrap(), id, "again");
        let error = registry.add(scale).unwrap_err().to_string();
        assert!(error.contains("the name belongs to the description") && error.contains(&id), "{error}");
        assert_eq!(registry.find("one").unwrap().id(), id);
        assert_eq!(registry.all().count(), 1);
    }

    #[test]
    fn a_name_cannot_stand_for_an_id() {
        let mut registry = Registry::empty();
        let id = registry.add(Blueprint::new("one", Function::Mlp)).unwrap();
        let error = registry.add(Blueprint::new(&id, Function::ResidualScale)).unwrap_err().to_string();
        assert!(error.contains("64 hexadecimal digits"), "{error}");
        assert_eq!(registry.find(&id).unwrap().name, "one");
    }
}
