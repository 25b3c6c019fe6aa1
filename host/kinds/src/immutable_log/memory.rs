//! What is remembered of the records so far: the newest idempotency keys, and where the log changed its own key.
//!
//! It follows from the records and is kept beside them now and then, so that opening reads few of them again. A key that
//! is being appended is *claimed*: a second append with it waits for the first.

use super::entry;
use gavel_ledger::{Kind, RecordView};
use sha2::{Digest, Sha256};
use std::collections::{HashMap, VecDeque};
use tokio::sync::watch;

/// The form in which it is kept.
const VERSION: u32 = 1;
/// Bytes of an idempotency key as it is kept: its name and its record.
const KEPT_KEY_BYTES: usize = 24;
/// After so many records it is kept again.
const KEEP_AFTER_RECORDS: u64 = 8_192;
/// Or after so many bytes of them.
const KEEP_AFTER_BYTES: u64 = 32 << 20;

/// Half a SHA-256 of sender and key: the record says whether it is really the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct KeyName([u8; 16]);

impl KeyName {
    pub(super) fn of(by: &str, key: &str) -> Self {
        let digest: [u8; 32] = Sha256::new()
            .chain_update((by.len() as u64).to_le_bytes())
            .chain_update(by)
            .chain_update(key)
            .finalize()
            .into();
        let mut name = [0; 16];
        name.copy_from_slice(&digest[..16]);
        Self(name)
    }
}

/// What may be done about a key.
#[derive(Debug)]
pub(super) enum Claim {
    /// It is the caller's now, until [`Memory::settle`].
    Yours,
    /// It was used for this record.
    Used(u64),
    /// Somebody is appending with it: ask again when this is closed.
    Wait(watch::Receiver<()>),
}

#[derive(Debug)]
pub(super) struct Memory {
    keys_max: usize,
    /// The records of the keys.
    keys: HashMap<KeyName, u64>,
    /// The keys, oldest first.
    order: VecDeque<KeyName>,
    claimed: HashMap<KeyName, watch::Sender<()>>,
    /// Where a key of the log's checkpoints came into force.
    key_records: Vec<u64>,
    /// Records that all this follows from.
    records: u64,
    /// Records and bytes since it was kept.
    since_kept: (u64, u64),
}

impl Memory {
    pub(super) fn new(keys_max: usize) -> Self {
        Self {
            keys_max,
            keys: HashMap::new(),
            order: VecDeque::new(),
            claimed: HashMap::new(),
            key_records: Vec::new(),
            records: 0,
            since_kept: (0, 0),
        }
    }

    pub(super) fn records(&self) -> u64 {
        self.records
    }

    pub(super) fn keys(&self) -> usize {
        self.keys.len()
    }

    pub(super) fn key_records(&self) -> &[u64] {
        &self.key_records
    }

    /// Steps over a record that was read.
    pub(super) fn observe(&mut self, record: &RecordView) {
        if record.known_kind() == Some(Kind::Key) {
            self.key_records.push(record.index());
        }
        if let (Some(by), Some(key)) = (entry::sender_of(record), entry::key_of(record)) {
            self.remember(KeyName::of(&by, &key), record.index());
        }
        self.advance(record.index(), record.as_str().len() as u64);
    }

    /// Whether a caller may append with this key.
    pub(super) fn claim(&mut self, name: KeyName) -> Claim {
        if let Some(index) = self.keys.get(&name) {
            return Claim::Used(*index);
        }
        if let Some(claimed) = self.claimed.get(&name) {
            return Claim::Wait(claimed.subscribe());
        }
        self.claimed.insert(name, watch::Sender::new(()));
        Claim::Yours
    }

    /// Gives a claim up; with a record, the key was used for it. Whoever waited goes on.
    pub(super) fn settle(&mut self, name: KeyName, index: Option<u64>) {
        self.claimed.remove(&name);
        if let Some(index) = index {
            self.remember(name, index);
        }
    }

    /// Steps over a record of so many bytes that was appended. Whether it is time to keep all this.
    pub(super) fn advance(&mut self, index: u64, bytes: u64) -> bool {
        self.records = index + 1;
        self.since_kept.0 += 1;
        self.since_kept.1 += bytes;
        self.since_kept.0 >= KEEP_AFTER_RECORDS || self.since_kept.1 >= KEEP_AFTER_BYTES
    }

    fn remember(&mut self, name: KeyName, index: u64) {
        if self.keys.insert(name, index).is_none() {
            self.order.push_back(name);
        }
        while self.order.len() > self.keys_max {
            if let Some(oldest) = self.order.pop_front() {
                self.keys.remove(&oldest);
            }
        }
    }

    /// As it is kept, with the number of records that it follows from: a version, the records of kind `key` after their
    /// number, the idempotency keys oldest first; all numbers in little endian.
    pub(super) fn take_kept(&mut self) -> (u64, Vec<u8>) {
        let mut bytes = Vec::with_capacity(8 + 8 * self.key_records.len() + KEPT_KEY_BYTES * self.order.len());
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend(u32::try_from(self.key_records.len()).unwrap_or(u32::MAX).to_le_bytes());
        bytes.extend(self.key_records.iter().flat_map(|index| index.to_le_bytes()));
        for name in &self.order {
            bytes.extend(name.0);
            bytes.extend(self.keys.get(name).copied().unwrap_or_default().to_le_bytes());
        }
        self.since_kept = (0, 0);
        (self.records, bytes)
    }

    /// What was kept; `None` if it is of another form: then the records are read again from the first.
    pub(super) fn of_kept(records: u64, bytes: &[u8], keys_max: usize) -> Option<Self> {
        let (version, rest) = bytes.split_first_chunk()?;
        let (count, mut rest) = rest.split_first_chunk()?;
        if u32::from_le_bytes(*version) != VERSION {
            return None;
        }
        let mut memory = Self { records, ..Self::new(keys_max) };
        for _ in 0..u32::from_le_bytes(*count) {
            let (index, after) = rest.split_first_chunk()?;
            memory.key_records.push(u64::from_le_bytes(*index));
            rest = after;
        }
        while !rest.is_empty() {
            let (name, after) = rest.split_first_chunk()?;
            let (index, after) = after.split_first_chunk()?;
            memory.remember(KeyName(*name), u64::from_le_bytes(*index));
            rest = after;
        }
        Some(memory)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(number: u64) -> KeyName {
        KeyName::of("agent", &number.to_string())
    }

    #[test]
    fn a_key_is_claimed_once_and_remembered() {
        let mut memory = Memory::new(10);
        assert!(matches!(memory.claim(name(1)), Claim::Yours));
        let Claim::Wait(waiting) = memory.claim(name(1)) else { panic!("claimed twice") };
        assert!(waiting.has_changed().is_ok(), "still claimed");
        memory.settle(name(1), None);
        assert!(waiting.has_changed().is_err(), "given up");
        assert!(matches!(memory.claim(name(1)), Claim::Yours));
        memory.settle(name(1), Some(7));
        assert!(matches!(memory.claim(name(1)), Claim::Used(7)));
    }

    #[test]
    fn only_the_newest_keys_are_remembered() {
        let mut memory = Memory::new(3);
        for number in 0..10 {
            memory.settle(name(number), Some(number));
        }
        assert_eq!(memory.keys(), 3);
        assert!(matches!(memory.claim(name(6)), Claim::Yours));
        assert!(matches!(memory.claim(name(7)), Claim::Used(7)));
    }

    #[test]
    fn what_is_kept_comes_back() {
        let mut memory = Memory::new(10);
        memory.key_records = vec![1, 900];
        for number in 0..5 {
            memory.settle(name(number), Some(number + 2));
            memory.advance(number + 2, 100);
        }
        let (records, bytes) = memory.take_kept();
        let mut back = Memory::of_kept(records, &bytes, 4).unwrap();
        assert_eq!((back.records(), back.keys(), back.key_records()), (7, 4, [1, 900].as_slice()));
        assert!(matches!(back.claim(name(0)), Claim::Yours), "fewer are remembered now");
        assert!(matches!(back.claim(name(4)), Claim::Used(6)));
        assert!(Memory::of_kept(records, &bytes[..bytes.len() - 1], 4).is_none());
        assert!(Memory::of_kept(records, &[9, 0, 0, 0, 0, 0, 0, 0], 4).is_none());
    }

    /// Whatever was kept, and whenever: what is remembered is what all records say.
    #[test]
    fn keeping_at_any_record_changes_nothing() {
        let records: Vec<_> = (2..40_u64)
            .map(|index| {
                // Some keys come again after they were forgotten, some records have none.
                let key = if index % 4 == 0 { String::new() } else { format!(",\"key\":\"{}\"", index % 9) };
                let mut text = Vec::new();
                let meta = format!("{{\"by\":\"a\",\"data\":1{key},\"kind\":\"note\"}}");
                gavel_proof::record::push_record(&mut text, index, Kind::Event, 1, &meta, None);
                RecordView::parse(String::from_utf8(text).unwrap()).unwrap()
            })
            .collect();
        let told = |memory: &mut Memory| (0..9).map(|key| format!("{:?}", known(memory, key))).collect::<Vec<_>>();
        let mut whole = Memory::new(4);
        observe_all(&mut whole, &records);
        let expected = told(&mut whole);
        assert_eq!(expected.iter().filter(|index| index.starts_with("Some")).count(), 4);
        for cut in 0..=records.len() {
            let mut before = Memory::new(4);
            observe_all(&mut before, &records[..cut]);
            let (size, bytes) = before.take_kept();
            let mut after = Memory::of_kept(size, &bytes, 4).unwrap();
            observe_all(&mut after, &records[cut..]);
            assert_eq!(told(&mut after), expected, "kept after {cut} records");
        }
    }

    fn known(memory: &mut Memory, key: u64) -> Option<u64> {
        let name = KeyName::of("a", &key.to_string());
        if let Claim::Used(index) = memory.claim(name) {
            return Some(index);
        }
        memory.settle(name, None);
        None
    }

    fn observe_all(memory: &mut Memory, records: &[RecordView]) {
        for record in records {
            memory.observe(record);
        }
    }

    #[test]
    fn names_do_not_run_into_each_other() {
        assert_ne!(KeyName::of("ab", "c"), KeyName::of("a", "bc"));
    }
}
