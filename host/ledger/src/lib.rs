//! The memory of Gavel: one append-only log for each kernel, durable and verifiable.
//!
//! What it promises:
//! 1. An append is acknowledged only after its record is durable.
//! 2. What was acknowledged is never lost in silence: a damaged log is found, named, and not
//!    opened.
//! 3. Every record is a leaf of one RFC 6962 tree, and every entry a link of one KERNELS chain, in
//!    the same order.
//! 4. After a halt no decision is recorded, whatever the order in which threads arrive: the log is
//!    the order.
//! 5. An I/O error is final: nothing is appended after it until the ledger is opened, and so read,
//!    again.
//!
//! ```
//! use gavel_ledger::{Draft, Identity, Kind, Ledger, Options};
//!
//! let identity = Identity { kernel_id: "k-1".into(), variant: "strict".into() };
//! let ledger = Ledger::in_memory(Options::new(identity, 1_700_000_000_000))?;
//!
//! // A tool is about to run: the decision is durable first ...
//! let decision = Draft { kind: Kind::Decision, ts_ms: 1, meta: r#"{"tool":"echo"}"#.into(), entry: None, closes: None };
//! let index = ledger.append_wait(decision)?.index;
//! // ... and the outcome closes it, with the entry for the KERNELS chain.
//! let outcome = Draft {
//!     kind: Kind::Outcome,
//!     ts_ms: 2,
//!     meta: format!(r#"{{"decision_index":{index}}}"#),
//!     entry: Some(r#"{"actor":"agent-7","decision":"ALLOW"}"#.into()),
//!     closes: Some(index),
//! };
//! let committed = ledger.append_wait(outcome)?;
//! assert_eq!(committed.chain.unwrap().ledger_seq, 0);
//!
//! let records = ledger.records(&ledger.snapshot()).collect::<Result<Vec<_>, _>>()?;
//! let kinds: Vec<&str> = records.iter().map(|record| record.kind()).collect();
//! assert_eq!(kinds, ["opened", "decision", "outcome"]);
//! ledger.close()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Start reading at `stage` and `writer` (how a record gets in), then `recover` and `tail` (what is
//! believed afterwards). The bytes are described in `docs/formats/ledger.md`. Deliberately absent:
//! async, HTTP, any knowledge of what an entry says, and any repair of what was once acknowledged.

mod blobs;
mod draft;
mod error;
mod file;
mod frame;
mod frames;
mod identity;
mod kept;
mod ledger;
mod memory;
mod migrate;
mod queue;
mod recover;
mod scan;
mod sealed;
mod stage;
mod storage;
mod store;
mod tail;
mod verify;
mod view;
mod writer;

pub use blobs::{BLOB_BYTES_MAX, BLOBS, Blob, BlobEntry, BlobError, BlobId, BlobState, BlobTotals, Blobs};
pub use draft::Draft;
pub use error::{AppendError, Error};
pub use file::{FileStorage, compressed_file, remote_file, segment_file};
pub use frame::FORMAT_VERSION;
pub use gavel_proof::record::{EntryView, GENESIS_HASH, Kind, MAX_RECORD_BYTES, RecordView};
pub use gavel_proof::{note, tree};
pub use identity::{IDENTITY_BYTES_MAX, Identity};
pub use ledger::{
    ChainPosition, Committed, Ledger, OpenDecision, Options, Recovered, SEGMENT_RECORDS, Snapshot, Stats, SyncMode,
};
pub use memory::{Fault, Image, MemoryStorage, SECTOR_BYTES};
pub use sealed::{
    SealedSegment, SegmentReport, compress_segment, leave_segment, pack_newest, sealed_segments, verify_segment,
};
pub use storage::{Form, ReadAt, Reader, Storage};
pub use verify::{Audit, Progress, VerifyReport, audit_dir, read_dir, verify_dir};
pub use view::{Begin, Records, View};
