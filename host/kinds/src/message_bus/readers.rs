//! Who waits or listens: so many in all, so many of each sender, and some places that are the fleet's.

use super::settings::Settings;
use crate::caller::Caller;
use crate::fault::Fault;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Somebody who may wait.
#[derive(Debug, Clone)]
pub(super) struct Reader {
    name: String,
    of_the_fleet: bool,
}

impl From<&Caller> for Reader {
    fn from(caller: &Caller) -> Self {
        Self { name: caller.sender().to_owned(), of_the_fleet: caller.is_of_the_fleet() }
    }
}

/// Those who wait or listen.
#[derive(Debug, Default)]
pub(super) struct Readers {
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    of_each: BTreeMap<String, usize>,
}

/// A place among them, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    readers: Arc<Readers>,
    name: String,
}

impl Readers {
    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.taken().all
    }

    /// A place for one more.
    pub(super) fn place(self: &Arc<Self>, reader: &Reader, settings: &Settings) -> Result<Place, Fault> {
        let mut taken = self.taken();
        let (all, most) = (taken.all, settings.readers_for(reader.of_the_fleet));
        if all >= most {
            return Err(Fault::unavailable(format!(
                "{all} streams and waiting reads are open already, at most {most} may be (readers_max, less the tenth \
                 that is the fleet's)"
            )));
        }
        let (its, most) = (taken.of_each.get(&reader.name).copied().unwrap_or(0), settings.readers_per_sender_max);
        if its >= most && !reader.of_the_fleet {
            return Err(Fault::too_many(format!(
                "'{}' has {its} streams and waiting reads open already, at most {most} may be (readers_per_sender_max)",
                reader.name
            )));
        }
        taken.all += 1;
        *taken.of_each.entry(reader.name.clone()).or_default() += 1;
        Ok(Place { readers: Arc::clone(self), name: reader.name.clone() })
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.readers.taken();
        taken.all -= 1;
        if let Some(its) = taken.of_each.get_mut(&self.name) {
            *its -= 1;
            if *its == 0 {
                taken.of_each.remove(&self.name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_sender_leaves_places_for_others_and_all_leave_some_for_the_fleet() {
        let value = serde_json::json!({"readers_max": 10, "readers_per_sender_max": 6});
        let settings = Settings::read(&value).unwrap();
        let readers = Arc::new(Readers::default());
        let agent = |name: &str| Reader::from(&Caller::trusted(name));
        let mut places: Vec<Place> = (0..6).map(|_| readers.place(&agent("a"), &settings).unwrap()).collect();
        assert_eq!(readers.place(&agent("a"), &settings).unwrap_err().status, 429);
        places.extend((0..3).map(|_| readers.place(&agent("b"), &settings).unwrap()));
        assert_eq!(readers.place(&agent("c"), &settings).unwrap_err().status, 503);
        let fleet = Reader::from(&Caller::of_the_fleet("kernel:x"));
        places.push(readers.place(&fleet, &settings).unwrap());
        assert_eq!(readers.place(&fleet, &settings).unwrap_err().status, 503);
        places.clear();
        assert_eq!(readers.count(), 0);
        assert!(readers.taken().of_each.is_empty() && readers.place(&agent("c"), &settings).is_ok());
    }
}
