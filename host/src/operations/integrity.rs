//! Verifying a ledger beside its writing, a bounded piece at a time.
//!
//! A pass goes from the first record to the last: each record's leaf, each link of the chain, and at
//! the end the root and the head that the writer holds, and the checkpoint that is signed for them. One check reads at most so many bytes and the
//! next one goes on where it stopped. A ledger that is shorter than that is verified whole each time; a
//! longer one from its beginning again when its last pass began long enough ago, and until then only
//! what is new. `gavel verify` on the folder checks more: checksums and every commit frame.

use super::reading::records_from;
use crate::kernel::Kernel;
use gavel_ledger::note::{Checkpoint, Note, NoteError, VerifyingKey};
use gavel_ledger::tree::{Frontier, leaf_hash};
use gavel_ledger::{EntryView, GENESIS_HASH, RecordView, Snapshot};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// The passes over the ledgers of a host, by kernel.
#[derive(Debug, Default)]
pub(super) struct Passes(Mutex<HashMap<String, Arc<Mutex<Pass>>>>);

/// How far a ledger was verified, and what was counted on the way.
#[derive(Debug, Clone)]
pub struct Pass {
    /// When it began.
    pub started_ms: u64,
    /// Decisions ALLOW among the verified entries.
    pub allow: u64,
    /// Decisions DENY among them.
    pub deny: u64,
    /// When the last verified entry was written.
    pub last_entry_ms: Option<u64>,
    /// Entries verified.
    pub entries: u64,
    /// Whether the checkpoint at the end of it is signed, and by the ledger's key.
    pub signed: bool,
    tree: Frontier,
    head: String,
    /// Whether it came to the end of the ledger, as that was then.
    whole: bool,
}

/// What a check found.
#[derive(Debug, Clone)]
pub struct Checked {
    /// The pass as it stands.
    pub pass: Pass,
    /// Records verified in the pass so far.
    pub verified: u64,
    /// Records in the ledger.
    pub records: u64,
    /// The first thing that does not hold.
    pub error: Option<String>,
}

/// What bounds a check.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) max_bytes: u64,
    pub(super) again_after_ms: u64,
}

impl Passes {
    /// Go on with the pass over the ledger of `kernel`. Blocks.
    pub(super) fn check(&self, kernel: &Kernel, bounds: Bounds, now_ms: u64) -> Checked {
        let pass = {
            let mut passes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let new = || Arc::new(Mutex::new(Pass::new(now_ms)));
            Arc::clone(passes.entry(kernel.id().to_owned()).or_insert_with(new))
        };
        // Two checks at the same time read the ledger once: the second one finds little left.
        let mut pass = pass.lock().unwrap_or_else(PoisonError::into_inner);
        let snapshot = kernel.ledger().snapshot();
        let old = now_ms.saturating_sub(pass.started_ms) >= bounds.again_after_ms;
        if snapshot.bytes <= bounds.max_bytes || (pass.whole && old) {
            *pass = Pass::new(now_ms);
        }
        let error = pass.go_on(kernel, &snapshot, bounds.max_bytes).err();
        let checked = Checked { pass: pass.clone(), verified: pass.tree.size(), records: snapshot.records, error };
        if checked.error.is_some() {
            // What was found stays found: the next check begins anew and finds it again.
            *pass = Pass::new(now_ms);
        }
        checked
    }
}

impl Pass {
    fn new(now_ms: u64) -> Self {
        Self {
            started_ms: now_ms,
            allow: 0,
            deny: 0,
            last_entry_ms: None,
            entries: 0,
            signed: false,
            tree: Frontier::new(),
            head: GENESIS_HASH.to_owned(),
            whole: false,
        }
    }

    fn go_on(&mut self, kernel: &Kernel, snapshot: &Snapshot, max_bytes: u64) -> Result<(), String> {
        self.signed = false;
        let mut bytes = 0;
        let begin = kernel.ledger().view().first_here().map_err(|why| why.to_string())?;
        if self.tree.size() < begin.records {
            // What is before was verified when it went to the archive, and is where it can be verified there.
            (self.entries, self.head, self.tree) = (begin.entries, begin.chain_head, begin.tree);
        }
        for record in records_from(kernel, snapshot, self.tree.size()) {
            if bytes >= max_bytes {
                return Ok(());
            }
            let record = record.map_err(|why| why.to_string())?;
            bytes += record.as_str().len() as u64;
            self.step(&record)?;
        }
        self.whole = true;
        self.compare(snapshot)?;
        self.signed = self.check_signature(kernel, snapshot)?;
        Ok(())
    }

    fn step(&mut self, record: &RecordView) -> Result<(), String> {
        if let Some(entry) = record.entry() {
            self.link(entry).map_err(|what| format!("record {}: {what}", record.index()))?;
        }
        self.tree.push(leaf_hash(record.as_str().as_bytes()));
        Ok(())
    }

    fn link(&mut self, entry: EntryView<'_>) -> Result<(), String> {
        #[derive(Deserialize)]
        struct Data<'a> {
            decision: &'a str,
            ts_ms: u64,
        }
        let EntryView { ledger_seq, prev_hash, entry_hash, data } = entry;
        if ledger_seq != self.entries {
            return Err(format!("entry {ledger_seq} stands where entry {} should", self.entries));
        }
        if prev_hash != self.head {
            return Err(format!("entry {ledger_seq}: prev_hash is {prev_hash}, the entry before has {}", self.head));
        }
        let hash = Sha256::new().chain_update(prev_hash).chain_update(":").chain_update(data).finalize();
        let found = hex::encode(hash);
        if found != entry_hash {
            return Err(format!("entry {ledger_seq}: entry_hash is {entry_hash}, its fields give {found}"));
        }
        let data: Data<'_> = serde_json::from_str(data).map_err(|why| format!("entry {ledger_seq}: {why}"))?;
        match data.decision {
            "ALLOW" => self.allow += 1,
            "DENY" => self.deny += 1,
            _ => {}
        }
        (self.head, self.entries, self.last_entry_ms) = (found, self.entries + 1, Some(data.ts_ms));
        Ok(())
    }

    /// At the end of the ledger: it must come to what the writer holds.
    fn compare(&self, snapshot: &Snapshot) -> Result<(), String> {
        let (found, held) = (hex::encode(self.tree.root()), hex::encode(snapshot.root));
        if found != held {
            return Err(format!("the root over {} records is {found}, the writer holds {held}", snapshot.records));
        }
        if (&self.head, self.entries) != (&snapshot.chain_head, snapshot.entries) {
            return Err(format!(
                "the chain of {} entries ends at {}, the writer holds {} that end at {}",
                self.entries, self.head, snapshot.entries, snapshot.chain_head
            ));
        }
        Ok(())
    }

    /// What is published of this ledger must be signed by its key and say what was found here.
    fn check_signature(&self, kernel: &Kernel, snapshot: &Snapshot) -> Result<bool, String> {
        let Some((text, key)) = snapshot.checkpoint.as_deref().zip(snapshot.key.as_ref()) else { return Ok(false) };
        let said = |why: NoteError| format!("the signed checkpoint: {why}");
        let origin = kernel.ledger().view().origin();
        let note = Note::parse(text).map_err(said)?;
        note.verify(&VerifyingKey::new(&origin, key).map_err(said)?).map_err(said)?;
        let (found, wanted) =
            (note.checkpoint().map_err(said)?, Checkpoint { origin, size: self.tree.size(), root: self.tree.root() });
        if found != wanted {
            return Err(format!(
                "the signed checkpoint says {} records with root {} of {}, found were {} with root {} of {}",
                found.size,
                hex::encode(found.root),
                found.origin,
                wanted.size,
                hex::encode(wanted.root),
                wanted.origin
            ));
        }
        Ok(true)
    }
}
