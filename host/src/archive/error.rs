//! What can go wrong between this disk and an archive.

use std::path::PathBuf;

/// Why something could not be archived, read from an archive, or restored. Nothing was overwritten or removed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveError {
    /// The URL names no archive.
    #[error(
        "`{url}` names no archive: {why}; give file:///FOLDER, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or az://CONTAINER/PREFIX"
    )]
    Url {
        /// As it was given.
        url: String,
        /// What is wrong with it.
        why: String,
    },
    /// An option that the store does not know.
    #[error("option `{option}` is none of {store}: see `archive.options` in docs/configuration.md")]
    Option {
        /// The option.
        option: String,
        /// The kind of store.
        store: &'static str,
    },
    /// The store did not do what it was asked.
    #[error("cannot {action} {url}: {source}; what is archived stays as it is, try again")]
    Store {
        /// What was tried.
        action: &'static str,
        /// The object, or the folder of objects.
        url: String,
        /// What the store said.
        source: object_store::Error,
    },
    /// There is no such object.
    #[error("{url} is not in the archive")]
    Absent {
        /// The object.
        url: String,
    },
    /// Another object has the name already.
    #[error(
        "{url} exists with other bytes: it has sha256 {theirs}, ours has {ours}; nothing was overwritten: find out whose it is, or use another prefix"
    )]
    Conflict {
        /// The object.
        url: String,
        /// The digest of what should have been written.
        ours: String,
        /// The digest of what is there.
        theirs: String,
    },
    /// What was read is not what was written, or not what the manifest says.
    #[error("{url} is not what it should be: {what}")]
    Altered {
        /// The object.
        url: String,
        /// What differs, with values.
        what: String,
    },
    /// A file or folder of this disk.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The answer.
        source: std::io::Error,
    },
}

impl ArchiveError {
    pub(super) fn io(action: &'static str, path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}
