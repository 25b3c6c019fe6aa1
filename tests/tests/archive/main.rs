//! The ledger's life beyond one disk: blobs and their erasure, archiving, restoring.
//!
//! What belongs here: what leaves the log for a blob or for an archive, and that it comes back or is missed by name.
//! The store is a small S3 of these tests ([`s3`]), or a folder. The rules of segments themselves are the ledger's own
//! tests.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed; its helpers are part of it")]
#![allow(clippy::needless_pass_by_value, reason = "a `json!` is written where it is used")]

mod blobs;
mod bundles;
mod s3;
mod segments;
mod store;
