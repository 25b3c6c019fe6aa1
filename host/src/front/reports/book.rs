//! Reports on disk, and to which places each has still to be brought.

use super::Place;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Write};
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// Reports that wait. What is written here lies on the disk before anybody is told that it does.
#[derive(Debug)]
pub(super) struct Book {
    folder: PathBuf,
    reports_max: usize,
    /// Where every report is to go.
    places: BTreeSet<Place>,
    state: Mutex<State>,
    /// Held while one is written, so that they are queued in the order of their numbers.
    writing: Mutex<()>,
    news: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct State {
    /// Reports on disk, by their numbers, with the places that have them not yet.
    waiting: BTreeMap<u64, BTreeSet<Place>>,
    next: u64,
}

/// A report as it lies on disk.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Report {
    /// The same for every delivery.
    pub(super) key: String,
    /// `healing`, or `given_up`.
    pub(super) kind: String,
    pub(super) data: Value,
}

/// What came of reading a report.
#[derive(Debug)]
pub(super) enum Found {
    /// It.
    Report(Report),
    /// It waits no longer.
    Gone,
    /// It could not be read this time.
    Later(io::Error),
}

impl Book {
    /// With what waited when the one before ended.
    pub(super) fn open(folder: &Path, reports_max: usize, places: BTreeSet<Place>) -> Result<Self> {
        let shown = folder.display();
        fs::create_dir_all(folder).with_context(|| format!("the folder {shown} cannot be made"))?;
        let mut numbers = BTreeSet::new();
        for entry in fs::read_dir(folder).with_context(|| format!("{shown} cannot be read"))? {
            let name = entry.with_context(|| format!("{shown} cannot be read"))?.file_name();
            let number = name.to_str().and_then(|name| name.strip_suffix(".json")?.parse::<u64>().ok());
            numbers.extend(number);
        }
        let next = numbers.last().map_or(0, |last| last + 1);
        let waiting = numbers.into_iter().map(|number| (number, places.clone())).collect();
        let state = Mutex::new(State { waiting, next });
        let news = watch::Sender::new(());
        Ok(Self { folder: folder.to_owned(), reports_max, places, state, writing: Mutex::default(), news })
    }

    /// Where reports are to go.
    pub(super) fn places(&self) -> &BTreeSet<Place> {
        &self.places
    }

    /// How many wait.
    pub(super) fn count(&self) -> usize {
        self.lock().waiting.len()
    }

    /// Changes whenever there is something to deliver.
    pub(super) fn news(&self) -> watch::Receiver<()> {
        self.news.subscribe()
    }

    /// There is something to deliver.
    pub(super) fn wake(&self) {
        self.news.send_replace(());
    }

    /// Put a report on disk, and be done when it is there.
    pub(super) async fn keep(self: &Arc<Self>, kind: &'static str, data: Value) -> Result<()> {
        let book = Arc::clone(self);
        tokio::task::spawn_blocking(move || book.keep_now(kind, data)).await?
    }

    fn keep_now(&self, kind: &str, data: Value) -> Result<()> {
        if self.places.is_empty() {
            // Nobody in this fleet would ever take it.
            return Ok(());
        }
        let _alone = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let number = {
            let mut state = self.lock();
            state.next += 1;
            state.next - 1
        };
        let mut random = [0; 8];
        getrandom::fill(&mut random)?;
        let key = format!("{kind}-{number}-{}", hex::encode(random));
        let report = Report { key, kind: kind.to_owned(), data };
        let (path, new) = (self.path(number), self.path(number).with_extension("new"));
        let mut file = File::create(&new)?;
        file.write_all(&serde_json::to_vec(&report)?)?;
        file.sync_all()?;
        fs::rename(&new, &path)?;
        File::open(&self.folder)?.sync_all()?;
        self.queue(number);
        Ok(())
    }

    fn queue(&self, number: u64) {
        let mut state = self.lock();
        state.waiting.insert(number, self.places.clone());
        let dropped = if state.waiting.len() > self.reports_max { state.waiting.pop_first() } else { None };
        drop(state);
        if let Some((number, _)) = dropped {
            tracing::error!(number, "more reports wait than may (fleet.reports_max): the oldest is dropped");
            let _ = fs::remove_file(self.path(number));
        }
        self.wake();
    }

    /// The first report after this one that a place has not.
    pub(super) fn next_for(&self, place: Place, after: Option<u64>) -> Option<u64> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let state = self.lock();
        let mut waiting = state.waiting.range((from, Bound::Unbounded));
        waiting.find(|(_, places)| places.contains(&place)).map(|(number, _)| *number)
    }

    /// Read a report. One that is no report is put aside: no other try would find more in it.
    pub(super) async fn read(self: &Arc<Self>, number: u64) -> Found {
        let book = Arc::clone(self);
        let read = tokio::task::spawn_blocking(move || book.read_now(number)).await;
        read.unwrap_or_else(|why| Found::Later(io::Error::other(why)))
    }

    fn read_now(&self, number: u64) -> Found {
        let path = self.path(number);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(why) if why.kind() == io::ErrorKind::NotFound => {
                if self.forget(number) {
                    tracing::error!(number, "a report that waited was removed by somebody else");
                }
                return Found::Gone;
            }
            Err(why) => return Found::Later(why),
        };
        match serde_json::from_slice(&bytes) {
            Ok(report) => Found::Report(report),
            Err(why) => {
                let aside = path.with_extension("unreadable");
                tracing::error!(number, "a report is none, and is put aside ({}): {why}", aside.display());
                if let Err(why) = fs::rename(&path, aside) {
                    tracing::warn!("{}: it cannot be put aside: {why}", path.display());
                }
                self.forget(number);
                Found::Gone
            }
        }
    }

    /// A place has a report. When all have, it goes.
    pub(super) async fn delivered(self: &Arc<Self>, number: u64, place: Place) {
        let is_last = {
            let mut state = self.lock();
            let left = state.waiting.get_mut(&number);
            let is_last = left.is_some_and(|left| {
                left.remove(&place);
                left.is_empty()
            });
            if is_last {
                state.waiting.remove(&number);
            }
            is_last
        };
        if !is_last {
            return;
        }
        let path = self.path(number);
        let removed = tokio::task::spawn_blocking(move || {
            fs::remove_file(&path)
                .map_err(|why| io::Error::new(why.kind(), format!("{}: it cannot be removed: {why}", path.display())))
        });
        if let Err(why) = removed.await.map_err(io::Error::other).and_then(|removed| removed) {
            tracing::warn!(number, "a delivered report will be delivered again: {why}");
        }
    }

    /// Says whether it waited.
    fn forget(&self, number: u64) -> bool {
        self.lock().waiting.remove(&number).is_some()
    }

    fn path(&self, number: u64) -> PathBuf {
        self.folder.join(format!("{number:012}.json"))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
