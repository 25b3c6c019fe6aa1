//! How the ledger's tree is read: the only file beside `index::source` that knows how.

use gavel_ledger::tree::{Frontier, Hash, Nodes, leaf_hash};
use gavel_ledger::{Error, Ledger, RecordView};
use gavel_proof::note::VerifyingKey;
use std::path::Path;

/// The kind of the records that name a key.
pub(crate) const KEY: &str = "key";

/// INTERIM until the ledger has views.
#[derive(Clone)]
pub(crate) struct View {
    records: Vec<RecordView>,
}

impl View {
    pub(crate) fn records(&self) -> u64 {
        self.records.len() as u64
    }

    pub(crate) fn record(&self, index: u64) -> Result<RecordView, Error> {
        Ok(self.records[usize::try_from(index).unwrap_or(usize::MAX)].clone())
    }

    pub(crate) fn records_between(&self, start: u64, end: u64) -> impl Iterator<Item = Result<RecordView, Error>> {
        let range = usize::try_from(start).unwrap_or(0)..usize::try_from(end).unwrap_or(0);
        self.records[range].iter().cloned().map(Ok)
    }

    pub(crate) fn inclusion(&self, index: u64, size: u64) -> Result<Vec<Hash>, Error> {
        gavel_ledger::tree::inclusion(self, index, size)
    }

    pub(crate) fn consistency(&self, old: u64, new: u64) -> Result<Vec<Hash>, Error> {
        gavel_ledger::tree::consistency(self, old, new)
    }
}

impl Nodes for View {
    type Error = Error;

    fn node(&self, level: u32, index: u64) -> Result<Hash, Error> {
        let mut frontier = Frontier::new();
        for record in self.records_between(index << level, (index + 1) << level) {
            frontier.push(leaf_hash(record?.as_str().as_bytes()));
        }
        Ok(frontier.root())
    }
}

/// What is committed now.
pub(crate) fn view(ledger: &Ledger) -> View {
    let records = ledger.records(&ledger.snapshot()).map_while(Result::ok).collect();
    View { records }
}

/// The latest signed checkpoint.
pub(crate) fn checkpoint(_ledger: &Ledger) -> Option<String> {
    None
}

/// A ledger's folder, verified: whose it is, its latest signed checkpoint, and what it holds.
pub(crate) fn open(folder: &Path) -> Result<(String, Option<String>, View), Error> {
    let (report, records) = gavel_ledger::read_dir(folder)?;
    Ok((report.identity.kernel_id, None, View { records: records.collect::<Result<_, _>>()? }))
}

/// The key that a record names.
pub(crate) fn key_of(_view: &View, record: &RecordView) -> anyhow::Result<VerifyingKey> {
    gavel_proof::trust::named_key(record).map_err(|why| anyhow::anyhow!(why))
}

/// The first signed checkpoint that states record `index`.
pub(crate) fn note_after(_view: &View, _index: u64) -> Result<Option<String>, Error> {
    Ok(None)
}
