//! The library that all layers of a host share: blueprints with their records, and strategies. Kept on disk, so that
//! a layer that is taken up again finds what its seeds grow.

use super::error::KasminaError;
use super::store::Store;
use kasmina::blueprint::{Blueprint, Record};
use kasmina::karn::{EVENT_IDS_KEPT, Karn};
use kasmina::layer::Library;
use kasmina::report::EpochReport;
use kasmina::strategy::Strategy;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A library on disk.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Kept {
    blueprints: Vec<KeptBlueprint>,
    /// The id of the description that each name means.
    #[serde(default)]
    names: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct KeptBlueprint {
    blueprint: Blueprint,
    record: Record,
}

impl Kept {
    /// Add all of it to a library, where each name means what it meant; what the library does not take.
    fn fill(self, library: &mut Library) -> Vec<KeptBlueprint> {
        let Self { blueprints, names } = self;
        let meant = |kept: &KeptBlueprint| names.get(&kept.blueprint.name) == Some(&kept.blueprint.id());
        let (named, others): (Vec<_>, Vec<_>) = blueprints.into_iter().partition(meant);
        let mut set_aside = Vec::new();
        for kept in named.iter().chain(&others) {
            match library.blueprints.add(kept.blueprint.clone()) {
                Ok(id) => library.blueprints.record_mut(&id).into_iter().for_each(|known| *known = kept.record),
                Err(why) => {
                    let blueprint = &kept.blueprint.name;
                    tracing::error!(blueprint, %why, "a blueprint that was kept is not used");
                    set_aside.push(kept.clone());
                }
            }
        }
        // Where another description took the name on the way, it goes back.
        for kept in named {
            let _ = library.blueprints.add(kept.blueprint);
        }
        set_aside
    }
}

/// The library. Cheap to clone.
#[derive(Clone)]
pub(super) struct SharedLibrary {
    pub(super) shared: Arc<Mutex<Library>>,
    store: Store,
    blueprints_max: usize,
    /// What lies on disk.
    kept: Arc<Mutex<Kept>>,
    /// What lay on disk and the registry does not take: kept as it was.
    set_aside: Arc<Vec<KeptBlueprint>>,
    /// Takes field reports into the blueprints' records.
    karn: Arc<Mutex<Karn>>,
}

impl std::fmt::Debug for SharedLibrary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SharedLibrary").finish_non_exhaustive()
    }
}

impl SharedLibrary {
    /// The library as it was kept, or the standard one.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(super) fn open(store: Store, blueprints_max: usize) -> anyhow::Result<Self> {
        let mut library = Library::standard();
        let set_aside = Arc::new(store.library::<Kept>()?.map_or(Vec::new(), |kept| kept.fill(&mut library)));
        let karn = Arc::new(Mutex::new(Karn::new(EVENT_IDS_KEPT)));
        let shared = library.shared();
        Ok(Self { shared, store, blueprints_max, kept: Arc::default(), set_aside, karn })
    }

    fn library(&self) -> MutexGuard<'_, Library> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keep what changed since it was kept last.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn keep(&self) -> io::Result<()> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let now = {
            let library = self.library();
            let all = library.blueprints.all();
            let blueprints = all.map(|(_, blueprint, record)| KeptBlueprint {
                blueprint: Blueprint::clone(blueprint),
                record: *record,
            });
            let blueprints = blueprints.chain(self.set_aside.iter().cloned()).collect();
            let known = library.blueprints.all().map(|(_, blueprint, _)| &blueprint.name);
            let meant = |name: &String| Some((name.clone(), library.blueprints.find(name).ok()?.id()));
            Kept { blueprints, names: known.filter_map(meant).collect() }
        };
        if *kept != now {
            self.store.keep_library(&now)?;
            *kept = now;
        }
        Ok(())
    }

    /// Have Karn learn from the report of a boundary, by an id of its own; once, however often it comes.
    ///
    /// # Errors
    /// When there is no such blueprint, or a metric is not finite.
    pub(super) fn learn(&self, event_id: &str, report: &EpochReport) -> Result<(), KasminaError> {
        let mut karn = self.karn.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(karn.take_epoch(event_id, report, &mut self.library().blueprints).map(drop)?)
    }

    /// Whether a blueprint may be added.
    ///
    /// # Errors
    /// When a value of it is out of range, or there are too many.
    pub(super) fn check(&self, blueprint: &Blueprint) -> Result<(), KasminaError> {
        blueprint.check()?;
        let library = self.library();
        let count = library.blueprints.all().count();
        if library.blueprints.record(&blueprint.id()).is_none() && count >= self.blueprints_max {
            let why = format!("{count} blueprints are known already (kasmina.blueprints_max)");
            return Err(KasminaError::Limit(why));
        }
        Ok(())
    }

    /// Add a blueprint; its id.
    ///
    /// # Errors
    /// When a value of it is out of range, there are too many, or it cannot be kept.
    pub(super) fn add(&self, blueprint: &Blueprint) -> Result<String, KasminaError> {
        self.check(blueprint)?;
        self.library().blueprints.add(blueprint.clone())?;
        let kept = self.keep();
        kept.map_err(|why| KasminaError::NotKept {
            layer: format!("(blueprint {})", blueprint.name),
            why: why.to_string(),
        })?;
        Ok(blueprint.id())
    }

    /// Add a strategy, or put it in the place of the one with its name.
    pub(super) fn add_strategy(&self, strategy: Box<dyn Strategy>) {
        self.library().strategies.add(strategy);
    }

    /// All blueprints with their records.
    pub(super) fn blueprints(&self) -> Vec<Value> {
        let library = self.library();
        let all = library.blueprints.all();
        all.map(|(id, blueprint, record)| json!({"id": id, "blueprint": **blueprint, "record": record})).collect()
    }

    /// The names of all strategies.
    pub(super) fn strategies(&self) -> Vec<String> {
        self.library().strategies.names().into_iter().map(str::to_owned).collect()
    }

    /// The name of the strategy that the state tensor numbers so.
    pub(super) fn strategy(&self, number: i32) -> Option<String> {
        let number = usize::try_from(number).ok()?;
        self.library().strategies.name(number).map(str::to_owned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kasmina::blueprint::Function;

    #[test]
    fn a_name_means_after_a_restart_what_it_meant() {
        // Whichever of the two has the lesser id: each is the one that is meant once.
        for ranks in [[2, 3], [3, 2]] {
            let data = tempfile::tempdir().unwrap();
            let open = || SharedLibrary::open(Store::open(Some(data.path())).unwrap(), 16).unwrap();
            let library = open();
            for rank in ranks {
                let _ = library.add(&Blueprint::new("mine", Function::Adapter { rank }));
            }
            library.keep().unwrap();
            let meant = |library: &SharedLibrary| library.library().blueprints.find("mine").unwrap().id();
            assert_eq!(meant(&open()), meant(&library), "{ranks:?}");
            assert_eq!(open().blueprints(), library.blueprints());
        }
    }

    #[test]
    fn what_the_registry_does_not_take_stays_on_disk() {
        let data = tempfile::tempdir().unwrap();
        let store = Store::open(Some(data.path())).unwrap();
        let broken = Blueprint::new("broken", Function::Adapter { rank: 0 });
        let kept = KeptBlueprint { blueprint: broken, record: Record { used: 7, ..Record::default() } };
        store.keep_library(&Kept { blueprints: vec![kept.clone()], names: BTreeMap::new() }).unwrap();
        let library = SharedLibrary::open(store.clone(), 16).unwrap();
        library.keep().unwrap();
        assert!(library.library().blueprints.find("broken").is_err());
        assert!(store.library::<Kept>().unwrap().unwrap().blueprints.contains(&kept));
    }
}
