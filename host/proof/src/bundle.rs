//! An evidence bundle: the chain of entries as the KERNELS package writes it, and, if it was exported
//! with its records, all that ties them to a signed checkpoint.
//!
//! Of a bundle as it streams by are kept: where the chain stands, the roots of the subtrees that the
//! records fill, the decisions that are open, and eight bytes of each entry's hash, by which the first
//! entry is named that its record does not carry.

use crate::chain::{Chain, Entry, Link};
use crate::hash::Hash;
use crate::json;
use crate::note::Note;
use crate::record::{self, MAX_RECORD_BYTES, RecordView};
use crate::report::{EvidenceError, Report, Row};
use crate::state::{self, State};
use crate::tree::{RangeProof, leaf_hash};
use crate::trust::{Keys, check_origin, hex_hash, report_signature};
use serde::Deserialize;

/// The checks of a bundle, in their order.
pub(crate) const CHECKS: [&str; 8] = ["form", "chain", "records", "agreement", "log", "tree", "signature", "key"];
/// The most hashes on each side of the records: one for each level of a tree.
const SIDE_HASHES_MAX: usize = 64;

/// A bundle being read.
#[derive(Debug, Default)]
pub(crate) struct Reading {
    shown: Shown,
    recorded: Option<Recorded>,
    pub(crate) has_entries: bool,
    pub(crate) kernel_id: Option<String>,
    pub(crate) root_hash: Option<String>,
    pub(crate) entry_count: Option<u64>,
    pub(crate) first_index: Option<u64>,
    pub(crate) checkpoint: Option<String>,
    sides: RangeProof,
    agreement: Agreement,
    /// What the first entry follows, if it is not the first of the chain.
    follows: Option<(u64, String)>,
}

/// What a bundle that does not begin with its kernel follows.
#[derive(Deserialize)]
struct Continues {
    ledger_seq: u64,
    prev_hash: String,
}

impl Reading {
    /// Takes a member that is no list of entries or records.
    pub(crate) fn member(&mut self, key: &str, value: &str) -> Result<(), EvidenceError> {
        let malformed = |why: serde_json::Error| EvidenceError::NotABundle(format!("`{key}`: {why}"));
        match key {
            "root_hash" => self.root_hash = Some(serde_json::from_str(value).map_err(malformed)?),
            "entry_count" => self.entry_count = serde_json::from_str(value).map_err(malformed)?,
            "first_index" => self.first_index = serde_json::from_str(value).map_err(malformed)?,
            "checkpoint" => self.checkpoint = serde_json::from_str(value).map_err(malformed)?,
            "continues" if self.has_entries => {
                return Err(EvidenceError::NotABundle("`continues` must come before `ledger_entries`".to_owned()));
            }
            "continues" => {
                let Continues { ledger_seq, prev_hash } = serde_json::from_str(value).map_err(malformed)?;
                self.shown.chain = Chain::from_start(ledger_seq, prev_hash.clone());
                self.follows = Some((ledger_seq, prev_hash));
            }
            "before" => self.sides.before = hashes(key, value)?,
            "after" => self.sides.after = hashes(key, value)?,
            _ => drop(serde_json::from_str::<serde::de::IgnoredAny>(value).map_err(malformed)?),
        }
        Ok(())
    }

    /// Takes the next of `ledger_entries`.
    pub(crate) fn entry(&mut self, text: &str, rows_max: usize) -> Result<(), EvidenceError> {
        let number = self.shown.chain.len();
        let entry = Entry::parse(text);
        let entry =
            entry.map_err(|why| EvidenceError::NotABundle(format!("entry {number} of `ledger_entries`: {why}")))?;
        let hash = self.shown.chain.push(entry.link(&entry.canonical()))?;
        self.agreement.shown(&entry, &hash)?;
        if self.shown.rows.len() < rows_max {
            self.shown.rows.push(row(entry));
        }
        Ok(())
    }

    /// Takes the next of `records`.
    pub(crate) fn record(&mut self, text: &str) -> Result<(), EvidenceError> {
        let recorded = self.recorded.get_or_insert_with(|| Recorded::from(text, self.first_index));
        if let Some((ledger_seq, hash)) = recorded.push(text)? {
            self.agreement.recorded(ledger_seq, &hash, text)?;
        }
        Ok(())
    }

    /// Verifies what was read.
    pub(crate) fn finish(mut self, keys: &Keys, report: &mut Report) -> Result<(), EvidenceError> {
        report.rows = std::mem::take(&mut self.shown.rows);
        let missing = |what: &str| Err(EvidenceError::NotABundle(format!("`{what}` is missing")));
        if !self.has_entries {
            return missing("ledger_entries");
        }
        let Some(root_hash) = self.root_hash.take() else { return missing("root_hash") };
        report.holds("form", "an evidence bundle, read to its end");
        self.check_chain(&root_hash, report)?;
        let unsigned = |what: &'static str| if keys.is_given() { Err(EvidenceError::Unsigned(what)) } else { Ok(()) };
        let Some(recorded) = self.recorded.take() else {
            report.not_covered("records", "the bundle has no records: it proves that its entries are one chain, not who wrote it, and not that none was cut off at the end");
            return unsigned("the bundle has no records");
        };
        self.check_records(&recorded, report)?;
        let Some(checkpoint) = self.checkpoint.take() else {
            report.not_covered("tree", "no checkpoint: the bundle proves that it is consistent, not who wrote it, and not that nothing was cut off at the end");
            return unsigned("the bundle has no checkpoint");
        };
        self.check_tree(&recorded, &checkpoint, report)?;
        match keys.check(&checkpoint)? {
            Some(signed) => report_signature(report, &signed),
            None => {
                report.not_covered("signature", "who signed the checkpoint: the bundle has no key, and none was given");
            }
        }
        rest(&recorded, report);
        Ok(())
    }

    fn check_chain(&mut self, root_hash: &str, report: &mut Report) -> Result<(), EvidenceError> {
        let chain = &self.shown.chain;
        chain.finish(root_hash, self.entry_count)?;
        report.entries = chain.len();
        report.root_hash = Some(chain.head().to_owned());
        let (count, from) = (chain.len(), self.follows.as_ref().map(|(first, _)| *first));
        let from = from.map_or("from the beginning of the chain".to_owned(), |first| format!("from number {first} on"));
        report.holds("chain", format!("{count} entries, {from}: each hash and link computed again"));
        if let Some((first, prev_hash)) = self.follows.clone().filter(|(first, _)| *first > 0) {
            (report.first_entry, report.follows) = (Some(first), Some(prev_hash));
            report.not_covered(
                "rest",
                format!("the entries 0 to {}, which only the bundles before this one can show", first - 1),
            );
        }
        Ok(())
    }

    fn check_records(&self, recorded: &Recorded, report: &mut Report) -> Result<(), EvidenceError> {
        let (first, last) = (recorded.first, recorded.next.saturating_sub(1));
        if let Some(claimed) = self.first_index.filter(|claimed| *claimed != first) {
            return Err(EvidenceError::NotABundle(format!(
                "`first_index` is {claimed}, but the first record is {first}"
            )));
        }
        let opened = recorded.kernel_id.as_ref().zip(self.kernel_id.as_ref());
        if let Some((opened, claimed)) = opened.filter(|(opened, claimed)| opened != claimed) {
            let fault = format!("it opens the ledger of kernel {opened}, but the bundle says that it is of {claimed}");
            return Err(EvidenceError::Record { index: 0, request_id: None, fault });
        }
        report.records = Some((first, last));
        let rules = if first == 0 { "each as the rules of the log demand" } else { "each of the right form" };
        report.holds("records", format!("records {first} to {last}, none missing, {rules}"));
        self.agreement.finish(&self.shown.chain, &recorded.chain)?;
        report.holds("agreement", "the entries are those of the records, no more and no fewer");
        Ok(())
    }

    fn check_tree(&self, recorded: &Recorded, note: &str, report: &mut Report) -> Result<(), EvidenceError> {
        let checkpoint = Note::parse(note)?.checkpoint()?;
        check_origin(&checkpoint.origin, self.kernel_id.as_deref(), recorded.first_leaf.as_ref())?;
        report.holds("log", format!("the checkpoint is of the log {}", checkpoint.origin));
        let row = recorded.row();
        let (first, last) = (row.start(), row.end().saturating_sub(1));
        row.verify(checkpoint.size, &self.sides, &checkpoint.root).map_err(|source| EvidenceError::Tree {
            first,
            last,
            source,
        })?;
        let size = checkpoint.size;
        report.holds(
            "tree",
            format!("they are the leaves {first} to {last} of the tree of {size} that the checkpoint signs"),
        );
        Ok(())
    }
}

/// What a bundle that holds leaves open.
fn rest(recorded: &Recorded, report: &mut Report) {
    let (first, next, size) = (recorded.first, recorded.next, report.tree_size.unwrap_or(recorded.next));
    if first > 0 {
        report.not_covered("rest", format!("records 0 to {}: they are only shown by their hashes", first - 1));
    }
    if next < size {
        report.not_covered("rest", format!("records {next} to {}: they are only shown by their hashes", size - 1));
    }
    report.not_covered("rest", "whatever was recorded after that checkpoint");
}

fn hashes(key: &str, value: &str) -> Result<Vec<Hash>, EvidenceError> {
    let malformed = |why: &str| EvidenceError::NotABundle(format!("`{key}`: {why}"));
    let texts: Vec<String> = serde_json::from_str(value).map_err(|why| malformed(&why.to_string()))?;
    if texts.len() > 2 * SIDE_HASHES_MAX {
        return Err(malformed("it has more hashes than a tree has levels"));
    }
    let hashes = texts.iter().map(|text| hex_hash(text)).collect::<Option<_>>();
    hashes.ok_or_else(|| malformed("a hash is 64 hex digits"))
}

fn row(entry: Entry) -> Row {
    let Entry { ledger_seq, ts_ms, request_id, actor, intent, decision, tool_name, error, .. } = entry;
    Row { number: ledger_seq, ts_ms, request_id, actor, intent, decision, tool_name, error }
}

/// The entries that the bundle shows.
#[derive(Debug)]
struct Shown {
    chain: Chain,
    rows: Vec<Row>,
}

impl Default for Shown {
    fn default() -> Self {
        Self { chain: Chain::from_genesis(), rows: Vec::new() }
    }
}

/// The records that the bundle holds.
#[derive(Debug)]
struct Recorded {
    first: u64,
    next: u64,
    chain: Chain,
    /// What the log is after these records, known if they are all.
    state: Option<State>,
    row: crate::row::Row,
    first_leaf: Option<Hash>,
    /// As record 0 has it.
    kernel_id: Option<String>,
}

impl Recorded {
    /// Before the first record, `text`.
    fn from(text: &str, first_index: Option<u64>) -> Self {
        let first = first_index.or_else(|| record::parse(text).ok().map(|parts| parts.index)).unwrap_or(0);
        Self {
            first,
            next: first,
            chain: if first == 0 { Chain::from_genesis() } else { Chain::from_anywhere() },
            state: (first == 0).then(State::new),
            row: crate::row::Row::new(first),
            first_leaf: None,
            kernel_id: None,
        }
    }

    fn row(&self) -> crate::row::Row {
        self.state.as_ref().map_or_else(|| self.row.clone(), |state| crate::row::Row::of(&state.tree))
    }

    /// Steps over the next record; gives the place and the hash of its entry, if it has one.
    fn push(&mut self, text: &str) -> Result<Option<(u64, Hash)>, EvidenceError> {
        let fault = |index, fault: String| EvidenceError::Record { index, request_id: request_of(text), fault };
        let parts = record::parse(text);
        let parts = parts.map_err(|why| fault(self.next, format!("byte {} of it should be {}", why.at, why.what)))?;
        let index = parts.index;
        if index != self.next || index == u64::MAX {
            let expected = self.next;
            return Err(fault(index, format!("expected record {expected}: one is missing, repeated or out of order")));
        }
        if text.len() > MAX_RECORD_BYTES {
            return Err(fault(index, format!("it has {} bytes, at most {MAX_RECORD_BYTES} are allowed", text.len())));
        }
        let facts = parts.facts(text);
        facts.check_form().map_err(|why| fault(index, why.to_string()))?;
        let entry = parts.entry(text);
        let hash = entry.map(|entry| {
            let request_id = request_of(text).unwrap_or_default();
            let record::EntryView { ledger_seq, prev_hash, entry_hash, data } = entry;
            self.chain.push(Link { ledger_seq, prev_hash, entry_hash, data, request_id: &request_id })
        });
        let hash = hash.transpose().map_err(|why| fault(index, why.to_string()))?;
        let (leaf, entry) = (leaf_hash(text.as_bytes()), entry.map(|entry| entry.ledger_seq).zip(hash));
        match &mut self.state {
            Some(state) => {
                state.admit(&facts).map_err(|why| fault(index, why.to_string()))?;
                let link = entry.map(|(ledger_seq, hash)| state::Link {
                    ledger_seq,
                    hash,
                    hash_hex: crate::hash::HexHash::of(&hash),
                });
                state.advance(&facts, leaf, link);
            }
            None => self.row.push(leaf),
        }
        if index == 0 {
            self.first_leaf = Some(leaf);
            let kernel_id = json::member(parts.meta(text), "kernel_id");
            self.kernel_id = kernel_id.and_then(|id| serde_json::from_str(id).ok());
        }
        self.next += 1;
        Ok(entry)
    }
}

fn request_of(text: &str) -> Option<String> {
    RecordView::parse(text.to_owned()).ok().and_then(|record| crate::proof_file::request_of(&record))
}

/// That the entries shown are those recorded, whichever of the two lists comes first.
#[derive(Debug, Default)]
struct Agreement {
    /// The place of the first entry, and the first bytes of each entry's hash.
    shown: (Option<u64>, Vec<u64>),
    recorded: (Option<u64>, Vec<u64>),
}

impl Agreement {
    fn shown(&mut self, entry: &Entry, hash: &Hash) -> Result<(), EvidenceError> {
        let at = push(&mut self.shown, entry.ledger_seq, hash);
        self.compare(at, entry.ledger_seq, || Some(entry.request_id.clone()))
    }

    fn recorded(&mut self, ledger_seq: u64, hash: &Hash, text: &str) -> Result<(), EvidenceError> {
        let at = push(&mut self.recorded, ledger_seq, hash);
        self.compare(at, ledger_seq, || request_of(text))
    }

    fn compare(&self, at: usize, ledger_seq: u64, request: impl Fn() -> Option<String>) -> Result<(), EvidenceError> {
        let (Some(shown), Some(recorded)) = (self.shown.1.get(at), self.recorded.1.get(at)) else { return Ok(()) };
        if shown == recorded && self.shown.0 == self.recorded.0 {
            return Ok(());
        }
        let fault = "it is not the entry of its record: their hashes differ".to_owned();
        Err(EvidenceError::Disagreement { ledger_seq, request_id: request(), fault })
    }

    fn finish(&self, shown: &Chain, recorded: &Chain) -> Result<(), EvidenceError> {
        let first = self.shown.0.or(self.recorded.0).unwrap_or(0);
        let disagree = |ledger_seq: u64, fault: &str| {
            Err(EvidenceError::Disagreement { ledger_seq, request_id: None, fault: fault.to_owned() })
        };
        match shown.len().cmp(&recorded.len()) {
            std::cmp::Ordering::Less => {
                disagree(first + shown.len(), "a record carries it, but the bundle does not show it")
            }
            std::cmp::Ordering::Greater => disagree(first + recorded.len(), "no record carries it"),
            // The whole of the last hash stands for all of them.
            std::cmp::Ordering::Equal if shown.head() != recorded.head() => disagree(
                first + shown.len().saturating_sub(1),
                "it is not the entry of its record: their hashes differ",
            ),
            std::cmp::Ordering::Equal => Ok(()),
        }
    }
}

fn push(list: &mut (Option<u64>, Vec<u64>), ledger_seq: u64, hash: &Hash) -> usize {
    list.0.get_or_insert(ledger_seq);
    list.1.push(hash.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte)));
    list.1.len() - 1
}
