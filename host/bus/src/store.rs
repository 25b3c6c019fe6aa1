//! Durable state by namespace and key. Namespace and key are two columns, so no key of one namespace can be taken for
//! one of another.
//!
//! A change is audited before it is made, and durable before it is acknowledged. In between a crash may come: changes
//! are written down first as intended, and those that are found so at the next start are audited and made again. So the
//! audit never lacks a change that was made. It may hold one twice, under the same id; and one that was not made, or not
//! before the next start, because the file could not be written: whoever asked was told which.

use crate::event::Sender;
use futures_util::future::BoxFuture;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::{mpsc, oneshot};

const VALUES: TableDefinition<'_, (&str, &str), &str> = TableDefinition::new("values");
/// Changes on their way, by their place among those that are written together: all of it is one batch.
const INTENDED: TableDefinition<'_, u64, &str> = TableDefinition::new("intended");

/// What a store may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreLimits {
    /// The longest namespace or key, in bytes.
    pub name_bytes_max: usize,
    /// The largest value, in bytes of its JSON.
    pub value_bytes_max: usize,
    /// The most keys that one listing gives.
    pub keys_listed_max: usize,
    /// The most changes that wait to be written.
    pub waiting_max: usize,
}

impl Default for StoreLimits {
    fn default() -> Self {
        Self { name_bytes_max: 256, value_bytes_max: 1 << 20, keys_listed_max: 10_000, waiting_max: 1_024 }
    }
}

/// What happens to the state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "snake_case")]
pub enum Change {
    /// A value is put under a key.
    Set {
        /// Where.
        namespace: String,
        /// Under which key.
        key: String,
        /// What.
        value: Value,
    },
    /// A key is removed.
    Delete {
        /// Where.
        namespace: String,
        /// Which key.
        key: String,
    },
    /// All keys of a namespace are removed.
    Clear {
        /// Which one.
        namespace: String,
    },
}

impl Change {
    /// The namespace that it is about.
    #[must_use]
    pub fn namespace(&self) -> &str {
        match self {
            Self::Set { namespace, .. } | Self::Delete { namespace, .. } | Self::Clear { namespace } => namespace,
        }
    }

    fn key(&self) -> &str {
        match self {
            Self::Set { key, .. } | Self::Delete { key, .. } => key,
            Self::Clear { .. } => "",
        }
    }
}

/// A change with who made it, as the audit has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Audited {
    /// The event that asked for it.
    pub event_id: String,
    /// Who sent that.
    pub sender: String,
    /// What.
    #[serde(flatten)]
    pub change: Change,
}

/// Where changes are put on record before they are made.
pub trait Audit: Send + Sync + 'static {
    /// Record these, in their order; durable when it is done. For each, whether it may be made, or why not.
    fn record(&self, changes: Vec<Audited>) -> BoxFuture<'_, Vec<Result<(), String>>>;
}

/// No record: for a bus without a ledger.
#[derive(Debug, Clone, Copy)]
pub struct NoAudit;

impl Audit for NoAudit {
    fn record(&self, changes: Vec<Audited>) -> BoxFuture<'_, Vec<Result<(), String>>> {
        Box::pin(std::future::ready(vec![Ok(()); changes.len()]))
    }
}

/// What is wrong with a request for state, or with the store.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A name or value that cannot be kept.
    #[error("{0}")]
    Invalid(String),
    /// Too many changes wait.
    #[error("{0} changes of state wait to be written (plugins.state_service.max_waiting): send again later")]
    Full(usize),
    /// The store or the audit failed; the change was not made, and will not be.
    #[error("the state was not changed: {0}")]
    Failed(String),
    /// The file failed after the change was audited, and could not be rid of the intention.
    #[error("the state was not changed, but may be at the next start: {0}")]
    Open(String),
}

/// Durable state. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    database: Arc<Database>,
    limits: StoreLimits,
    writer: mpsc::Sender<Job>,
    tally: Arc<Tally>,
}

/// What came of changes since the store was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct StoreCounts {
    /// Changes that were made.
    pub changes: u64,
    /// Changes that were not made because the audit refused them or could not record them.
    pub audit_refusals: u64,
    /// Changes that were not made because the file could not be written.
    pub write_failures: u64,
    /// Changes that wait now.
    pub waiting: usize,
}

#[derive(Debug, Default)]
struct Tally {
    changes: AtomicU64,
    audit_refusals: AtomicU64,
    write_failures: AtomicU64,
}

struct Job {
    change: Audited,
    done: oneshot::Sender<Result<usize, StoreError>>,
}

impl Tally {
    /// What came of so many changes that were written together.
    fn count(&self, answers: &Result<Vec<Result<usize, StoreError>>, StoreError>, changes: usize) {
        let Ok(answers) = answers else {
            self.write_failures.fetch_add(changes as u64, Ordering::Relaxed);
            return;
        };
        let made = answers.iter().filter(|answer| answer.is_ok()).count();
        self.changes.fetch_add(made as u64, Ordering::Relaxed);
        self.audit_refusals.fetch_add((changes - made) as u64, Ordering::Relaxed);
    }
}

impl Store {
    /// Open the store in this file, make it if there is none, and finish what a crash left half done. `None`: in memory.
    ///
    /// # Errors
    /// If the file cannot be opened or read.
    pub async fn open(file: Option<&Path>, limits: StoreLimits, audit: Arc<dyn Audit>) -> Result<Self, StoreError> {
        let opened = match file {
            Some(file) => Database::create(file),
            None => Database::builder().create_with_backend(redb::backends::InMemoryBackend::new()),
        };
        let named = |why: &dyn std::fmt::Display| {
            StoreError::Failed(format!(
                "{}: {why}",
                file.map_or("memory".to_owned(), |file| file.display().to_string())
            ))
        };
        let database = Arc::new(opened.map_err(|why| named(&why))?);
        let left = prepare(&database).map_err(|why| named(&why))?;
        if !left.is_empty() {
            tracing::warn!(changes = left.len(), "changes of state that a crash interrupted are made now");
            let ruled = audit.record(left.clone()).await;
            let allowed: Vec<Audited> = allowed(&left, &ruled).cloned().collect();
            make(&database, &allowed).map_err(|why| named(&why))?;
        }
        let (writer, jobs) = mpsc::channel(limits.waiting_max.max(1));
        let tally = Arc::new(Tally::default());
        tokio::spawn(write(Arc::clone(&database), audit, jobs, Arc::clone(&tally)));
        Ok(Self { database, limits, writer, tally })
    }

    /// What came of changes so far.
    #[must_use]
    pub fn counts(&self) -> StoreCounts {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        StoreCounts {
            changes: get(&self.tally.changes),
            audit_refusals: get(&self.tally.audit_refusals),
            write_failures: get(&self.tally.write_failures),
            waiting: self.writer.max_capacity() - self.writer.capacity(),
        }
    }

    /// The value under a key.
    ///
    /// # Errors
    /// If a name cannot be one, or the file cannot be read.
    pub fn get(&self, namespace: &str, key: &str) -> Result<Option<Value>, StoreError> {
        self.check_names(namespace, key)?;
        let read = || -> Result<Option<String>, redb::Error> {
            let values = self.database.begin_read()?.open_table(VALUES)?;
            Ok(values.get((namespace, key))?.map(|value| value.value().to_owned()))
        };
        let text = read().map_err(|why| failed(&why))?;
        text.map(|text| serde_json::from_str(&text).map_err(|why| failed(&why))).transpose()
    }

    /// Keys of a namespace that a glob matches (`*`: any characters, `?`: one), ascending, and whether there are more.
    ///
    /// # Errors
    /// If a name cannot be one, or the file cannot be read.
    pub fn keys(&self, namespace: &str, pattern: &str) -> Result<(Vec<String>, bool), StoreError> {
        self.check_names(namespace, pattern)?;
        let mut found = Vec::new();
        let mut read = || -> Result<bool, redb::Error> {
            let values = self.database.begin_read()?.open_table(VALUES)?;
            for entry in values.range((namespace, "")..)? {
                let (place, _) = entry?;
                let (space, key) = place.value();
                if space != namespace {
                    break;
                }
                if glob(pattern.as_bytes(), key.as_bytes()) {
                    if found.len() == self.limits.keys_listed_max {
                        return Ok(true);
                    }
                    found.push(key.to_owned());
                }
            }
            Ok(false)
        };
        let more = read().map_err(|why| failed(&why))?;
        Ok((found, more))
    }

    /// All keys of a namespace with their values, at most `most` of them; the flag tells that there are more. For
    /// services that must know all they have written, however few a client may list.
    ///
    /// # Errors
    /// If the name cannot be one, or the file cannot be read.
    pub fn entries(&self, namespace: &str, most: usize) -> Result<(Vec<(String, Value)>, bool), StoreError> {
        self.check_names(namespace, "")?;
        let mut found = Vec::new();
        let mut read = || -> Result<bool, redb::Error> {
            let values = self.database.begin_read()?.open_table(VALUES)?;
            for entry in values.range((namespace, "")..)? {
                let (place, text) = entry?;
                let (space, key) = place.value();
                if space != namespace {
                    break;
                }
                if found.len() == most {
                    return Ok(true);
                }
                found.push((key.to_owned(), text.value().to_owned()));
            }
            Ok(false)
        };
        let more = read().map_err(|why| failed(&why))?;
        let parsed = found.into_iter().map(|(key, text)| Ok((key, serde_json::from_str(&text)?)));
        Ok((parsed.collect::<Result<_, serde_json::Error>>().map_err(|why| failed(&why))?, more))
    }

    /// Make a change: audited, then durable. Gives how many keys there were of what it names.
    ///
    /// # Errors
    /// If a name or value cannot be kept, too many changes wait, or audit or file fail. Nothing is changed then, save
    /// with [`StoreError::Open`], when it may be at the next start.
    pub async fn change(&self, event_id: &str, sender: &Sender, change: Change) -> Result<usize, StoreError> {
        self.check_names(change.namespace(), change.key())?;
        if let Change::Set { value, key, .. } = &change {
            let bytes = value.to_string().len();
            if bytes > self.limits.value_bytes_max {
                let most = self.limits.value_bytes_max;
                return Err(StoreError::Invalid(format!(
                    "the value of '{key}' has {bytes} bytes, at most {most} are kept (plugins.state_service.max_value_bytes)"
                )));
            }
        }
        let change = Audited { event_id: event_id.to_owned(), sender: sender.to_string(), change };
        let (done, made) = oneshot::channel();
        self.writer.try_send(Job { change, done }).map_err(|why| match why {
            mpsc::error::TrySendError::Full(_) => StoreError::Full(self.limits.waiting_max),
            mpsc::error::TrySendError::Closed(_) => StoreError::Failed("its writer has ended".to_owned()),
        })?;
        made.await.unwrap_or_else(|_| Err(StoreError::Failed("its writer has ended".to_owned())))
    }

    fn check_names(&self, namespace: &str, key: &str) -> Result<(), StoreError> {
        let most = self.limits.name_bytes_max;
        for (what, name) in [("namespace", namespace), ("key", key)] {
            if name.len() > most {
                return Err(StoreError::Invalid(format!(
                    "a {what} of {} bytes is longer than {most} (plugins.state_service.max_name_bytes)",
                    name.len()
                )));
            }
        }
        if namespace.is_empty() {
            return Err(StoreError::Invalid("the namespace is empty".to_owned()));
        }
        Ok(())
    }
}

fn failed(why: &dyn std::fmt::Display) -> StoreError {
    StoreError::Failed(why.to_string())
}

/// Make the tables, and find what a crash left.
fn prepare(database: &Database) -> Result<Vec<Audited>, redb::Error> {
    let transaction = database.begin_write()?;
    let left = {
        transaction.open_table(VALUES)?;
        let intended = transaction.open_table(INTENDED)?;
        let mut left = Vec::new();
        for entry in intended.iter()? {
            let (_, text) = entry?;
            left.extend(serde_json::from_str::<Audited>(text.value()));
        }
        left
    };
    transaction.commit()?;
    Ok(left)
}

/// Write changes, as many together as wait: one sync to intend them, one record, one sync to make them.
async fn write(database: Arc<Database>, audit: Arc<dyn Audit>, mut jobs: mpsc::Receiver<Job>, tally: Arc<Tally>) {
    /// So many changes share their syncs at most.
    const TOGETHER_MAX: usize = 256;
    let mut waiting = Vec::new();
    while jobs.recv_many(&mut waiting, TOGETHER_MAX).await > 0 {
        let (changes, replies): (Vec<_>, Vec<_>) = waiting.drain(..).map(|job| (job.change, job.done)).unzip();
        let answers = carry_out(&database, audit.as_ref(), changes).await;
        tally.count(&answers, replies.len());
        for (at, done) in replies.into_iter().enumerate() {
            let answer = match &answers {
                Ok(counts) => counts[at].clone(),
                Err(why) => Err(why.clone()),
            };
            // Whoever asked may have gone; the change is made all the same.
            let _ = done.send(answer);
        }
    }
}

/// For each change, how many keys it found, or why it was not made.
async fn carry_out(
    database: &Arc<Database>,
    audit: &dyn Audit,
    changes: Vec<Audited>,
) -> Result<Vec<Result<usize, StoreError>>, StoreError> {
    let changes = Arc::new(changes);
    in_thread(database, &changes, intend).await?;
    let ruled = audit.record(changes.to_vec()).await;
    let to_make: Arc<Vec<Audited>> = Arc::new(allowed(&changes, &ruled).cloned().collect());
    // Also when none is to be made: they are no longer intended then.
    let mut counts = match in_thread(database, &to_make, make).await {
        Ok(counts) => counts.into_iter(),
        Err(why) => return Err(given_up(database, why).await),
    };
    let answer =
        |ruled: Result<(), String>| ruled.map(|()| counts.next().unwrap_or_default()).map_err(StoreError::Failed);
    Ok(ruled.into_iter().map(answer).collect())
}

/// What is told of changes that could not be made: they must not be made later, when nobody expects it any more.
async fn given_up(database: &Arc<Database>, why: StoreError) -> StoreError {
    match (in_thread(database, &Arc::default(), intend).await, why) {
        (Err(_), StoreError::Failed(why)) => StoreError::Open(why),
        (_, why) => why,
    }
}

/// The changes that may be made.
fn allowed<'a>(changes: &'a [Audited], ruled: &'a [Result<(), String>]) -> impl Iterator<Item = &'a Audited> {
    changes.iter().zip(ruled).filter(|(_, ruled)| ruled.is_ok()).map(|(change, _)| change)
}

async fn in_thread<T: Send + 'static>(
    database: &Arc<Database>,
    changes: &Arc<Vec<Audited>>,
    work: fn(&Database, &[Audited]) -> Result<T, redb::Error>,
) -> Result<T, StoreError> {
    let (database, changes) = (Arc::clone(database), Arc::clone(changes));
    let done = tokio::task::spawn_blocking(move || work(&database, &changes)).await;
    done.map_err(|why| failed(&why))?.map_err(|why| failed(&why))
}

fn intend(database: &Database, changes: &[Audited]) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    // What was refused, and could not be forgotten then, must not be made with these after a crash.
    transaction.delete_table(INTENDED)?;
    {
        let mut intended = transaction.open_table(INTENDED)?;
        for (at, change) in (0..).zip(changes) {
            let text = serde_json::to_string(change).unwrap_or_default();
            intended.insert(at, text.as_str())?;
        }
    }
    Ok(transaction.commit()?)
}

/// Make the changes, and forget that they were intended. Gives how many keys each found.
fn make(database: &Database, changes: &[Audited]) -> Result<Vec<usize>, redb::Error> {
    let transaction = database.begin_write()?;
    let mut counts = Vec::with_capacity(changes.len());
    {
        let mut values = transaction.open_table(VALUES)?;
        for audited in changes {
            counts.push(match &audited.change {
                Change::Set { namespace, key, value } => {
                    let text = value.to_string();
                    usize::from(values.insert((namespace.as_str(), key.as_str()), text.as_str())?.is_some())
                }
                Change::Delete { namespace, key } => {
                    usize::from(values.remove((namespace.as_str(), key.as_str()))?.is_some())
                }
                Change::Clear { namespace } => {
                    let end = format!("{namespace}\0");
                    let mut removed = 0;
                    values.retain_in((namespace.as_str(), "")..(end.as_str(), ""), |_, _| {
                        removed += 1;
                        false
                    })?;
                    removed
                }
            });
        }
    }
    transaction.delete_table(INTENDED)?;
    transaction.commit()?;
    Ok(counts)
}

/// Whether a glob matches: `*` any characters, `?` one byte. Linear in both but for the last star.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t, mut star) = (0, 0, None);
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p, t));
            p += 1;
        } else if pattern.get(p).is_some_and(|&c| c == b'?' || c == text[t]) {
            (p, t) = (p + 1, t + 1);
        } else if let Some((at, from)) = star {
            star = Some((at, from + 1));
            (p, t) = (at + 1, from + 1);
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|&c| c == b'*')
}

#[cfg(test)]
mod tests;
