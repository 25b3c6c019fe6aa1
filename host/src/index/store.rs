//! The index file: sorted keys in a redb database.
//!
//! A key is 25 bytes: which field (1), the first 8 bytes of the SHA-256 of its text, the record's time and its
//! index (8 each, big-endian), so that all records with one value lie side by side in the order of time. Two
//! texts may share a hash; every hit is compared with the record itself before it is shown, so that costs a
//! look and no more. Beside the keys stand the times of each block of 1,024 records, and what the file is
//! an index of: the ledger's id, how many records it holds, and the leaf hash of the last of them.
//!
//! Nothing here is the truth: a file that does not fit is set aside and made anew.

use super::facts::Facts;
use super::query::{Position, Query};
use anyhow::{Context, Result, ensure};
use gavel_ledger::RecordView;
use gavel_ledger::tree::{Hash, leaf_hash};
use redb::{Database, Durability, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};
use sha2::{Digest, Sha256};
use std::ops::Range;
use std::path::Path;

type Key = [u8; 25];

const KEYS: TableDefinition<'_, &Key, ()> = TableDefinition::new("keys");
const BLOCKS: TableDefinition<'_, u64, (u64, u64)> = TableDefinition::new("blocks");
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");

/// The form of the file; another one is set aside.
const FORMAT: u64 = 1;

/// Records whose times are kept together.
const BLOCK: u64 = 1_024;

/// Keys that one search looks up; then it says where it stopped.
const SEEKS_MAX: usize = 100_000;

/// A field and a value, as they begin a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Term([u8; 9]);

impl Term {
    /// Every record.
    const TIME: Self = Self([0; 9]);

    fn new(field: u8, value: &str) -> Self {
        let digest = Sha256::digest(value.as_bytes());
        let mut term = [field; 9];
        term[1..].copy_from_slice(&digest[..8]);
        Self(term)
    }

    /// The terms of what is asked for; never empty.
    pub(super) fn of_query(query: &Query) -> Vec<Self> {
        let Query { kind, request_id, actor, tool, decision, .. } = query;
        let mut terms = Self::given([request_id, actor, tool, decision]);
        terms.extend(kind.as_deref().and_then(Self::of_kind));
        if terms.is_empty() { vec![Self::TIME] } else { terms }
    }

    /// The terms under which a record is kept.
    pub(super) fn of_facts(facts: &Facts) -> Vec<Self> {
        let Facts { kind, request_id, actor, tool, decision } = facts;
        let mut terms = Self::given([request_id, actor, tool, decision]);
        terms.extend(Self::of_kind(kind));
        terms.push(Self::TIME);
        terms
    }

    /// Decisions and outcomes are nearly all that there is: to find them by their kind the time will do.
    fn of_kind(kind: &str) -> Option<Self> {
        (!matches!(kind, "decision" | "outcome")).then(|| Self::new(b'k', kind))
    }

    fn given(values: [&Option<String>; 4]) -> Vec<Self> {
        let fields = values.into_iter().zip(b"ratd");
        fields.filter_map(|(value, field)| Some(Self::new(*field, value.as_deref()?))).collect()
    }

    fn key(self, at: Position) -> Key {
        let mut key = [0; 25];
        key[..9].copy_from_slice(&self.0);
        key[9..17].copy_from_slice(&at.ts_ms.to_be_bytes());
        key[17..].copy_from_slice(&at.index.to_be_bytes());
        key
    }
}

fn position_of(key: &Key) -> Position {
    let number = |at: usize| key[at..at + 8].iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
    Position { ts_ms: number(9), index: number(17) }
}

/// How a search ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Walked {
    /// There is nothing further.
    ToTheEnd,
    /// It was told to stop, or had looked up enough: all that is newer was seen.
    Until(Position),
}

/// An index file that is open.
pub(super) struct Store {
    database: Database,
}

/// What a file says that it is an index of.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Extent {
    /// Records in it, from the first on.
    pub(super) next: u64,
    /// Leaf hash of the last of them.
    pub(super) last: Option<Hash>,
}

impl Store {
    /// Open the file, or make it, as the index of the ledger with this id.
    pub(super) fn open(path: &Path, cache_bytes: usize, ledger: &Hash) -> Result<(Self, Extent)> {
        let database = Database::builder().set_cache_size(cache_bytes).create(path)?;
        let store = Self { database };
        store.prepare(ledger)?;
        let extent = store.extent(ledger)?;
        Ok((store, extent))
    }

    /// Make the tables of a new file. One that has some already keeps what it says.
    fn prepare(&self, ledger: &Hash) -> Result<()> {
        let write = self.database.begin_write()?;
        {
            let mut meta = write.open_table(META)?;
            if meta.get("format")?.is_none() {
                meta.insert("format", FORMAT.to_be_bytes().as_slice())?;
                meta.insert("ledger", ledger.as_slice())?;
            }
            write.open_table(KEYS)?;
            write.open_table(BLOCKS)?;
        }
        write.commit()?;
        Ok(())
    }

    fn extent(&self, ledger: &Hash) -> Result<Extent> {
        let read = self.database.begin_read()?;
        let meta = read.open_table(META)?;
        let get = |name: &str| anyhow::Ok(meta.get(name)?.map(|value| value.value().to_vec()));
        let number = |bytes: Vec<u8>| bytes.try_into().ok().map(u64::from_be_bytes);
        let format = get("format")?.and_then(number).context("it does not say its format")?;
        ensure!(format == FORMAT, "its format is {format}, this version writes {FORMAT}");
        ensure!(get("ledger")?.as_deref() == Some(ledger), "it is the index of another ledger");
        let next = get("next")?.map_or(Some(0), number).context("it does not say how far it goes")?;
        let last = get("last")?.and_then(|bytes| bytes.try_into().ok());
        ensure!((next == 0) == last.is_none(), "it does not say which record is its last");
        Ok(Extent { next, last })
    }

    /// Add records, the first of which must be the next one. Durable only if asked.
    pub(super) fn add(&self, records: &[RecordView], durable: bool) -> Result<()> {
        let mut write = self.database.begin_write()?;
        if durable {
            // An index that was not closed is then opened at once, however large it is.
            write.set_quick_repair(true);
        } else {
            write.set_durability(Durability::None)?;
        }
        insert(&write, records)?;
        write.commit()?;
        Ok(())
    }

    /// Visit what is kept under all of `terms`, from `newest` down to `oldest`, until `visit` says that it is enough.
    pub(super) fn walk(
        &self,
        terms: &[Term],
        (newest, oldest): (Position, Position),
        mut visit: impl FnMut(Position) -> Result<bool>,
    ) -> Result<Walked> {
        let mut search = Search { read: self.database.begin_read()?, terms, oldest, seeks: 0 };
        let mut from = newest;
        loop {
            match search.next(from)? {
                Found::At(at) => {
                    if !visit(at)? {
                        return Ok(Walked::Until(at));
                    }
                    match at.before() {
                        Some(before) => from = before,
                        None => return Ok(Walked::ToTheEnd),
                    }
                }
                Found::Nothing => return Ok(Walked::ToTheEnd),
                Found::Enough(at) => return Ok(Walked::Until(at)),
            }
        }
    }

    /// The smallest range of indices, in whole blocks, that holds every record of these times; `None` where there is none.
    pub(super) fn range(&self, from_ms: u64, to_ms: u64) -> Result<Option<Range<u64>>> {
        let read = self.database.begin_read()?;
        let blocks = read.open_table(BLOCKS)?;
        let mut found: Option<Range<u64>> = None;
        for block in blocks.iter()? {
            let (number, times) = block?;
            let (first, last) = times.value();
            if first <= to_ms && from_ms <= last {
                let (start, end) = (number.value() * BLOCK, (number.value() + 1) * BLOCK);
                found = Some(found.map_or(start..end, |found| found.start..end));
            }
        }
        Ok(found)
    }
}

fn insert(write: &WriteTransaction, records: &[RecordView]) -> Result<()> {
    let mut keys = write.open_table(KEYS)?;
    let mut blocks = write.open_table(BLOCKS)?;
    for record in records {
        let at = Position::of(record);
        for term in Term::of_facts(&Facts::of(record)) {
            keys.insert(&term.key(at), ())?;
        }
        let block = at.index / BLOCK;
        let times = blocks.get(block)?.map(|times| times.value());
        let (first, last) = times.unwrap_or((at.ts_ms, at.ts_ms));
        blocks.insert(block, (first.min(at.ts_ms), last.max(at.ts_ms)))?;
    }
    if let Some(last) = records.last() {
        let mut meta = write.open_table(META)?;
        meta.insert("next", (last.index() + 1).to_be_bytes().as_slice())?;
        meta.insert("last", leaf_hash(last.as_str().as_bytes()).as_slice())?;
    }
    Ok(())
}

/// A search: the rows of all terms, walked together.
struct Search<'a> {
    read: ReadTransaction,
    terms: &'a [Term],
    oldest: Position,
    seeks: usize,
}

enum Found {
    At(Position),
    Nothing,
    /// Nothing that is newer than this; further was not looked.
    Enough(Position),
}

impl Search<'_> {
    /// The newest position, not after `from`, that stands under every term. Each term is asked for its newest
    /// position not after the candidate; the oldest of the answers is the next candidate.
    fn next(&mut self, from: Position) -> Result<Found> {
        let keys = self.read.open_table(KEYS)?;
        let mut candidate = from;
        let mut agreed = 0;
        for term in self.terms.iter().cycle() {
            if candidate < self.oldest {
                return Ok(Found::Nothing);
            }
            if self.seeks == SEEKS_MAX {
                // The candidate itself is still to be looked at.
                return Ok(Found::Enough(Position { index: candidate.index.saturating_add(1), ..candidate }));
            }
            self.seeks += 1;
            let (low, high) = (term.key(self.oldest), term.key(candidate));
            let Some(found) = keys.range::<&Key>(&low..=&high)?.next_back() else { return Ok(Found::Nothing) };
            let at = position_of(found?.0.value());
            agreed = if at == candidate { agreed + 1 } else { 1 };
            candidate = at;
            if agreed >= self.terms.len() {
                return Ok(Found::At(candidate));
            }
        }
        Ok(Found::Nothing)
    }
}
