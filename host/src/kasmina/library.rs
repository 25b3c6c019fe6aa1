//! The library that all layers of a host share: blueprints with their records, and strategies. Kept on disk, so that
//! a layer that is taken up again finds what its seeds grow.

use super::error::KasminaError;
use super::store::Store;
use kasmina::blueprint::{Blueprint, Record};
use kasmina::karn::{EVENT_IDS_KEPT, Karn};
use kasmina::layer::Library;
use kasmina::report::FieldReport;
use kasmina::strategy::Strategy;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A library on disk.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Kept {
    blueprints: Vec<KeptBlueprint>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct KeptBlueprint {
    blueprint: Blueprint,
    record: Record,
}

/// The library. Cheap to clone.
#[derive(Clone)]
pub(super) struct SharedLibrary {
    pub(super) shared: Arc<Mutex<Library>>,
    store: Store,
    blueprints_max: usize,
    /// What lies on disk.
    kept: Arc<Mutex<Kept>>,
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
        let kept: Option<Kept> = store.library()?;
        for KeptBlueprint { blueprint, record } in kept.into_iter().flat_map(|kept| kept.blueprints) {
            let id = library.blueprints.add(blueprint)?;
            if let Some(known) = library.blueprints.record_mut(&id) {
                *known = record;
            }
        }
        let karn = Arc::new(Mutex::new(Karn::new(EVENT_IDS_KEPT)));
        Ok(Self { shared: Arc::new(Mutex::new(library)), store, blueprints_max, kept: Arc::default(), karn })
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
            Kept { blueprints: blueprints.collect() }
        };
        if *kept != now {
            self.store.keep_library(&now)?;
            *kept = now;
        }
        Ok(())
    }

    /// Have Karn learn from a field report, which came as this event; once, however often it comes.
    ///
    /// # Errors
    /// When there is no such blueprint, or a metric is not finite.
    pub(super) fn learn(&self, event_id: &str, report: &FieldReport) -> Result<(), KasminaError> {
        let mut karn = self.karn.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(karn.take(event_id, report, &mut self.library().blueprints).map(drop)?)
    }

    /// Add a blueprint; its id.
    ///
    /// # Errors
    /// When a value of it is out of range, there are too many, or it cannot be kept.
    pub(super) fn add(&self, blueprint: &Blueprint) -> Result<String, KasminaError> {
        blueprint.check()?;
        {
            let mut library = self.library();
            let (id, count) = (blueprint.id(), library.blueprints.all().count());
            if library.blueprints.record(&id).is_none() && count >= self.blueprints_max {
                let why = format!("{count} blueprints are known already (kasmina.blueprints_max)");
                return Err(KasminaError::Limit(why));
            }
            library.blueprints.add(blueprint.clone())?;
        }
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
