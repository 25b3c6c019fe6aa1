//! A redb file in a kernel's folder, and work on it away from the threads that answer.
//!
//! Every commit is synced before it counts, and is written so that a file whose process was killed opens at once, however
//! large it is.

use crate::fault::Fault;
use anyhow::Context;
use redb::{Database, WriteTransaction};
use std::path::Path;

/// Open the file, or make it.
pub(crate) fn open(folder: &Path, name: &str, cache_bytes: usize) -> anyhow::Result<Database> {
    let path = folder.join(name);
    Database::builder().set_cache_size(cache_bytes).create(&path).with_context(|| {
        format!("{} cannot be opened: see that it is ours, whole, and that nobody else has it open", path.display())
    })
}

/// Begin to write. One writes at a time: this waits for the one before.
pub(crate) fn begin(database: &Database) -> Result<WriteTransaction, redb::Error> {
    let mut write = database.begin_write()?;
    write.set_quick_repair(true);
    Ok(write)
}

/// Do work that waits for the disk.
pub(crate) async fn aside<T: Send + 'static>(
    what: &'static str,
    work: impl FnOnce() -> Result<T, redb::Error> + Send + 'static,
) -> Result<T, Fault> {
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(why)) => {
            tracing::error!("{what}: {why}");
            Err(Fault::broken(format!("{what}: the file of this kernel fails: {why}")))
        }
        Err(why) => {
            tracing::error!("{what}: {why}");
            Err(Fault::broken(format!("{what}: it broke off; the log says why")))
        }
    }
}

/// What is written in a file but cannot be read as what it should be.
pub(crate) fn corrupt(what: &str, why: &serde_json::Error) -> redb::Error {
    redb::Error::Corrupted(format!("{what} cannot be read: {why}"))
}
