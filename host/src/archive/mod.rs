//! The archive: where sealed segments and evidence go when they leave this disk, and how they come back.
//!
//! An archive is an object store: a local folder, S3 and what speaks it, Google's or Azure's, named by a URL. What lies
//! in it is never trusted: everything that comes back is checked against its manifest, and the records in it against
//! their chain, their tree and their signatures.
//!
//! What always holds:
//! - Nothing in the archive is overwritten: the same bytes again are fine, others under the same name are a conflict
//!   that names both digests. Removed is only a copy of the newest segment, when a later one is there.
//! - What was uploaded is read back and digested before it counts as archived; nothing local is removed before.
//! - A store that is down, full or slow loses nothing: what was archived stays so, and the next run goes on there.

mod connect;
mod error;
mod manifest;
mod packed;
mod restore;
mod segments;
mod store;
mod walk;

pub use connect::check_url;
pub use error::ArchiveError;
pub use manifest::Manifest;
pub use packed::unpacked;
pub use restore::{Wanted, restore_ledger, restore_segments};
pub use segments::archived_file;
pub use store::{Archive, Stored};
pub use walk::{ArchivedLedger, verify_remote};
