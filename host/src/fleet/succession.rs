//! One kernel after another: what their ledgers say of it, and the end of the one that is replaced.
//!
//! ```text
//! ledger of k     … decisions …  │ replaced_by: k-2 (its last record)
//! ledger of k-2   replaces: k, entries 41, root_hash … (its first event) │ … │ predecessor_retired: k, entries 44, …
//! ```
//!
//! Between the first and the last of these three, requests that began in the old kernel are carried to their end
//! there. `replaces` names the end of the chain that was verified before the new kernel began, `predecessor_retired`
//! the very last one: an auditor walks from either side.

use super::manifest::{End, Predecessor};
use crate::checkpoint_key;
use crate::clock::{Clock, rfc3339};
use crate::evidence::{Source, verify_bundle_file, write_bundle_of};
use crate::kernel::close_open_decisions;
use crate::remembered::Horizon;
use anyhow::{Context, Result, ensure};
use gavel_kernel::json;
use gavel_ledger::{Draft, Identity, Kind, Ledger, Options, Snapshot};
use serde_json::{Value, json};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// What begins the `meta` of the events here.
const EVENT: &str = "\"event\":\"kernel\"";
const REPLACED_BY: &str = "\"action\":\"replaced_by\"";

/// Where a ledger stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tip {
    pub(crate) entries: u64,
    pub(crate) root_hash: String,
    pub(crate) records: u64,
    pub(crate) tree_root: String,
}

impl From<&Snapshot> for Tip {
    fn from(snapshot: &Snapshot) -> Self {
        Self {
            entries: snapshot.entries,
            root_hash: snapshot.chain_head.clone(),
            records: snapshot.records,
            tree_root: hex::encode(snapshot.root),
        }
    }
}

impl Tip {
    pub(crate) fn to_value(&self) -> Value {
        json!({
            "entries": self.entries,
            "root_hash": self.root_hash,
            "records": self.records,
            "tree_root": self.tree_root,
        })
    }
}

/// Who did it, and why, in a record.
#[derive(Debug, Clone)]
pub(crate) struct Cause {
    pub(crate) who: String,
    pub(crate) why: String,
}

/// The `meta` of an event about a kernel's place.
pub(crate) fn event(action: &str, cause: &Cause, about: Value) -> String {
    let mut meta = json!({"event": "kernel", "action": action, "who": cause.who, "why": cause.why});
    if let (Value::Object(meta), Value::Object(about)) = (&mut meta, about) {
        meta.extend(about);
    }
    json::canonical(&meta)
}

/// The `meta` of the first event of a kernel that takes a place.
pub(crate) fn replaces(action: &str, name: &str, old: &str, tip: &Tip, cause: &Cause) -> String {
    let mut replaced = tip.to_value();
    replaced["kernel_id"] = json!(old);
    event(action, cause, json!({"name": name, "replaces": replaced}))
}

/// The `meta` of the last event of one whose place was taken.
pub(crate) fn replaced_by(name: &str, new: &str, cause: &Cause) -> String {
    event("replaced_by", cause, json!({"name": name, "replaced_by": new}))
}

/// What its successor records when that is done.
pub(crate) fn retired(name: &str, old: &str, end: &End, cause: &Cause) -> String {
    let about = json!({
        "kernel_id": old,
        "entries": end.entries,
        "root_hash": end.root_hash,
        "records": end.records,
        "tree_root": end.tree_root,
        "archive": end.archive,
    });
    event("predecessor_retired", cause, json!({"name": name, "predecessor": about}))
}

fn is_replaced_by(meta: &str) -> bool {
    meta.contains(EVENT) && meta.contains(REPLACED_BY)
}

/// The end of a kernel that a crash left draining: close what is open, record who has its place.
pub(crate) fn complete(dir: &Path, name: &str, left: &Predecessor, archive: &Path, clock: &Clock) -> Result<End> {
    let identity = Identity { kernel_id: left.kernel_id.clone(), variant: left.variant.clone() };
    let keys = dir.parent().map(|kernel| checkpoint_key::keys(kernel, false)).transpose()?.unwrap_or_default();
    let (ledger, found) = Ledger::open(dir, Options { keys, ..Options::new(identity, clock.now_ms()) })?;
    close_open_decisions(&ledger, &left.kernel_id, clock, &found.open_decisions)?;
    let mut told = false;
    for record in ledger.records(&ledger.snapshot()) {
        let record = record?;
        told |= record.known_kind() == Some(Kind::Event) && is_replaced_by(record.meta());
    }
    if !told {
        let cause = Cause { who: left.who.clone(), why: left.why.clone() };
        let meta = replaced_by(name, &left.replaced_by, &cause);
        let draft = Draft { kind: Kind::Event, ts_ms: clock.now_ms(), meta, entry: None, closes: None };
        ledger.append_wait(draft)?;
    }
    let whose = Whose { kernel_id: &left.kernel_id, variant: &left.variant, clock };
    let end = end_of(&ledger, whose, Some(archive))?;
    ledger.close()?;
    Ok(end)
}

/// Whose ledger it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Whose<'a> {
    pub(crate) kernel_id: &'a str,
    pub(crate) variant: &'a str,
    pub(crate) clock: &'a Clock,
}

/// Where a ledger ended, its evidence archived in `archive` if there is such a folder. An archive that cannot be
/// written is told in the log: the ledger itself stays where it is.
pub(crate) fn end_of(ledger: &Ledger, whose: Whose<'_>, archive: Option<&Path>) -> Result<End> {
    let snapshot = ledger.snapshot();
    let mut horizon = Horizon::default();
    for record in ledger.records(&snapshot) {
        horizon.see(&record?);
    }
    let archived = archive.map(|folder| archive_evidence(ledger, &snapshot, whose, folder)).transpose();
    let archived = archived.unwrap_or_else(|why| {
        tracing::error!(kernel = whose.kernel_id, "its evidence is not archived: {why:#}");
        None
    });
    let Tip { entries, root_hash, records, tree_root } = Tip::from(&snapshot);
    let archive = archived.and_then(|path| Some(path.file_name()?.to_str()?.to_owned()));
    Ok(End { entries, root_hash, records, tree_root, matters_until_ms: horizon.until_ms(), archive })
}

/// Write the evidence bundle of a ledger into `folder`, read it back and verify it. Blocks on the disk.
pub(crate) fn archive_evidence(
    ledger: &Ledger,
    snapshot: &Snapshot,
    whose: Whose<'_>,
    folder: &Path,
) -> Result<PathBuf> {
    std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let aside = tempfile::NamedTempFile::new_in(folder)?;
    let mut out = BufWriter::with_capacity(1 << 20, aside.as_file());
    let Whose { kernel_id, variant, clock } = whose;
    let source = Source { ledger, kernel_id, variant: variant.to_owned(), now_ms: clock.now_ms() };
    write_bundle_of(&source, snapshot, &mut out)?;
    out.flush()?;
    drop(out);
    aside.as_file().sync_all()?;
    let report = verify_bundle_file(aside.path()).context("what was written does not verify")?;
    ensure!(
        report.root_hash.as_deref() == Some(snapshot.chain_head.as_str()) && report.entries == snapshot.entries,
        "what was written has {} entries and ends in {}, the ledger has {} and ends in {}",
        report.entries,
        report.root_hash.as_deref().unwrap_or("nothing"),
        snapshot.entries,
        snapshot.chain_head
    );
    let path = folder.join(format!("evidence_{}_{}.json", whose.kernel_id, stamp(whose.clock)));
    aside.persist(&path)?;
    std::fs::File::open(folder)?.sync_all()?;
    Ok(path)
}

/// The time in a file's name, to the millisecond: `20260105T100000123Z`.
pub(crate) fn stamp(clock: &Clock) -> String {
    let now_ms = clock.now_ms();
    let seconds = rfc3339(now_ms - now_ms % 1_000);
    let digits: String = seconds.trim_end_matches('Z').chars().filter(char::is_ascii_alphanumeric).collect();
    format!("{digits}{:03}Z", now_ms % 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_in_a_name_has_always_the_same_length() {
        assert_eq!(stamp(&Clock::manual(1_767_607_200_000)), "20260105T100000000Z");
        assert_eq!(stamp(&Clock::manual(1_767_607_200_120)), "20260105T100000120Z");
    }
}
