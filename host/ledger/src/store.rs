//! Where each record stands and what the inner nodes of the tree are: what proofs are made from, and
//! what lets a reader go to a record without reading those before it.
//!
//! All of it is derived from the segments and can be made again. Of the segment that is being filled it
//! is kept in memory (some 40 bytes a record, twice that once proofs were asked for); of a sealed one
//! it lies in the file `segment-NNNNNN.tree`, and is made again where that is missing or unusable. Of
//! all sealed segments together only the roots are kept: 32 bytes for 65,536 records.
//!
//! ```text
//! header  magic GAVELTRE, version u16, zero u16, segment u32, records u64, ledger id 16, root 32, crc32 of what
//!         follows, crc32 of these
//! offsets of the record frames in the segment, u64 each
//! nodes   level by level, leaves first; each level from left to right
//! ```
//!
//! What it says is never believed beyond its use: a proof is checked before it is handed out, and a
//! record read by its offset must bear its index.

use crate::error::Error;
use crate::file::remote_file;
use crate::frame::{LedgerId, array_at};
use crate::frames::{Frame, Frames, read_exact_at};
use crate::storage::{Form, ReadAt, Reader};
use gavel_proof::tree::{Frontier, Hash, Nodes, leaf_hash, node_hash};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

const MAGIC: &[u8; 8] = b"GAVELTRE";
const VERSION: u16 = 1;
const HEADER_BYTES: usize = 80;
const HASH_BYTES: u64 = 32;
const OFFSET_BYTES: u64 = 8;
/// Read at a time.
const WINDOW_BYTES: usize = 256 * 1024;

/// The nodes of a tree that grows, level by level.
#[derive(Debug, Clone, Default)]
pub(crate) struct Levels {
    levels: Vec<Vec<Hash>>,
}

impl Levels {
    pub(crate) fn push(&mut self, leaf: Hash) {
        match self.levels.first_mut() {
            Some(leaves) => leaves.push(leaf),
            None => self.levels.push(vec![leaf]),
        }
    }

    fn len(&self) -> usize {
        self.levels.first().map_or(0, Vec::len)
    }

    /// Hashes what was pushed since the last time; callers who never ask for a proof never pay for it.
    fn complete(&mut self) {
        let mut level = 0;
        while self.levels.get(level).is_some_and(|nodes| nodes.len() >= 2) {
            if self.levels.len() == level + 1 {
                self.levels.push(Vec::new());
            }
            let (below, above) = self.levels.split_at_mut(level + 1);
            let (below, above) = (&below[level], &mut above[0]);
            above.extend(
                below.chunks_exact(2).skip(above.len()).map(|pair| node_hash(&pair[0], &pair[1])).collect::<Vec<_>>(),
            );
            level += 1;
        }
    }

    fn node(&mut self, level: u32, index: u64) -> Option<Hash> {
        self.complete();
        self.levels.get(level as usize)?.get(usize::try_from(index).ok()?).copied()
    }
}

/// What is derived from one segment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Derived {
    pub(crate) leaves: Levels,
    pub(crate) offsets: Vec<u64>,
}

impl Derived {
    pub(crate) fn push(&mut self, leaf: Hash, offset: u64) {
        self.leaves.push(leaf);
        self.offsets.push(offset);
    }

    /// Reads it from the segment itself.
    fn read(reader: &dyn Reader, segment: u32, records: u64) -> Result<Self, Error> {
        let place = reader.place();
        let source = open_segment(reader, segment)?;
        let (header, _) = crate::scan::read_header(&*source, &place, segment)?;
        let length = source.log_bytes().map_err(Error::io("measure", &place))?;
        let mut frames = Frames::new(source, header.frames_at(), length);
        let mut derived = Self::default();
        while (derived.offsets.len() as u64) < records {
            match frames.step().map_err(Error::io("read", &place))? {
                Frame::Record { at, .. } => derived.push(leaf_hash(frames.payload()), at),
                Frame::Commit { .. } => {}
                Frame::Broken(broken) => {
                    return Err(Error::damaged(
                        segment,
                        broken.at,
                        header.first_index + derived.offsets.len() as u64,
                        broken.what,
                    ));
                }
                Frame::End => {
                    let what = format!("the segment ends after {} of {records} records", derived.offsets.len());
                    return Err(Error::damaged(
                        segment,
                        frames.at(),
                        header.first_index + derived.offsets.len() as u64,
                        what,
                    ));
                }
            }
        }
        Ok(derived)
    }

    fn encode(&mut self, segment: u32, ledger_id: LedgerId) -> Vec<u8> {
        self.leaves.complete();
        let records = self.offsets.len() as u64;
        let root = self.leaves.levels.last().and_then(|top| top.first().copied()).unwrap_or_default();
        let mut bytes = vec![0; HEADER_BYTES];
        for offset in &self.offsets {
            bytes.extend_from_slice(&offset.to_le_bytes());
        }
        for node in self.leaves.levels.iter().flatten() {
            bytes.extend_from_slice(node);
        }
        let body_crc = crc32fast::hash(&bytes[HEADER_BYTES..]);
        bytes[..HEADER_BYTES].copy_from_slice(&header(segment, records, ledger_id, &root, body_crc));
        bytes
    }
}

/// The derived data of a sealed segment.
#[derive(Clone)]
enum Sealed {
    /// Not in a file yet, or not to be had from one.
    Memory(Arc<Mutex<Derived>>),
    File(Arc<dyn ReadAt>),
}

/// The header of a segment's file.
fn header(segment: u32, records: u64, ledger_id: LedgerId, root: &Hash, body_crc: u32) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(MAGIC);
    header[8..10].copy_from_slice(&VERSION.to_le_bytes());
    header[12..16].copy_from_slice(&segment.to_le_bytes());
    header[16..24].copy_from_slice(&records.to_le_bytes());
    header[24..40].copy_from_slice(&ledger_id);
    header[40..72].copy_from_slice(root);
    header[72..76].copy_from_slice(&body_crc.to_le_bytes());
    let crc = crc32fast::hash(&header[..76]);
    header[76..].copy_from_slice(&crc.to_le_bytes());
    header
}

/// Whether what follows the header of a segment's file is what was written.
fn body_is_sound(file: &dyn ReadAt) -> bool {
    let (mut hasher, mut at) = (crc32fast::Hasher::new(), HEADER_BYTES as u64);
    let mut window = vec![0; WINDOW_BYTES];
    loop {
        match file.read_at(&mut window, at) {
            Ok(0) => break,
            Ok(count) => {
                hasher.update(&window[..count]);
                at += count as u64;
            }
            Err(_) => return false,
        }
    }
    let mut sum = [0; 4];
    read_exact_at(file, &mut sum, 72).is_ok() && sum == hasher.finalize().to_le_bytes()
}

/// The name of a segment's derived data.
pub(crate) fn tree_file(segment: u32) -> String {
    format!("segment-{segment:06}.tree")
}

/// Bytes of a file that says where a segment is.
const REMOTE_BYTES_MAX: u64 = 64 << 10;

/// Opens a segment, and says what to do where it is not here.
pub(crate) fn open_segment(reader: &dyn Reader, segment: u32) -> Result<Arc<dyn ReadAt>, Error> {
    let place = reader.place();
    match reader.form(segment).map_err(Error::io("look for a segment of", &place))? {
        Form::Remote => Err(Error::Remote { url: remote_url(reader, segment), place, segment }),
        Form::Absent => Err(Error::Missing { place, segment }),
        Form::Plain | Form::Compressed => {
            reader.open(segment).map_err(Error::io("open", format!("segment {segment} of {place}")))
        }
    }
}

/// Where a segment is that is not here, as far as its file says it.
fn remote_url(reader: &dyn Reader, segment: u32) -> String {
    let read = || {
        let file = reader.derived(&remote_file(segment)).ok()??;
        let mut bytes = vec![0; usize::try_from(file.log_bytes().ok()?.min(REMOTE_BYTES_MAX)).ok()?];
        read_exact_at(&*file, &mut bytes, 0).ok()?;
        let note: serde_json::Value = serde_json::from_slice(&bytes).ok()?;
        note.get("url")?.as_str().map(str::to_owned)
    };
    read().unwrap_or_else(|| format!("(a place that {} does not say)", remote_file(segment)))
}

struct Inner {
    /// The roots of the sealed segments.
    roots: Levels,
    /// The segment that is being filled.
    open: Derived,
    /// Those asked for of late, and those that are not in a file yet.
    sealed: BTreeMap<u32, Sealed>,
    segments: BTreeMap<u32, Arc<dyn ReadAt>>,
    /// Segments whose file was read as a whole and is what was written.
    sound: BTreeSet<u32>,
}

/// Files of segments, and of derived data, that are kept open for the next reader.
const OPEN_MAX: usize = 64;

/// The derived data of a ledger, as far as it is committed.
pub(crate) struct Store {
    reader: Arc<dyn Reader>,
    ledger_id: LedgerId,
    height: u32,
    inner: Mutex<Inner>,
    /// The threads that keep what was derived from full segments.
    sealing: Mutex<Vec<JoinHandle<()>>>,
}

impl Store {
    /// The data of a ledger whose newest segment holds `open`, after the sealed ones whose frontier is
    /// `before`.
    pub(crate) fn new(
        reader: Arc<dyn Reader>,
        ledger_id: LedgerId,
        segment_records: u64,
        before: &Frontier,
        open: Derived,
    ) -> Result<Self, Error> {
        debug_assert!(segment_records.is_power_of_two());
        let inner = Inner {
            roots: Levels::default(),
            open,
            sealed: BTreeMap::new(),
            segments: BTreeMap::new(),
            sound: BTreeSet::new(),
        };
        let store = Self {
            reader,
            ledger_id,
            height: segment_records.ilog2(),
            inner: Mutex::new(inner),
            sealing: Mutex::default(),
        };
        let count = u32::try_from(before.size() >> store.height).unwrap_or(u32::MAX);
        let roots = store.roots(count, before)?;
        let mut inner = store.lock();
        inner.roots = roots;
        // The newest segment may be full, and the next one still to come.
        if inner.open.offsets.len() as u64 == store.records() {
            let mut full = std::mem::take(&mut inner.open);
            let bytes = full.encode(count, ledger_id);
            if store.kept_root(count).is_none() {
                // As in `derive`: what cannot be kept is made again.
                let _ = store.reader.keep_derived(&tree_file(count), &bytes);
            }
            inner.roots.push(array_at(&bytes, 40));
            inner.sealed.insert(count, Sealed::Memory(Arc::new(Mutex::new(full))));
        }
        drop(inner);
        Ok(store)
    }

    /// The roots of the first `count` segments, which must come to `frontier`; where they do not, they
    /// are read from the segments again.
    fn roots(&self, count: u32, frontier: &Frontier) -> Result<Levels, Error> {
        let agree = |roots: &[Hash]| {
            let mut tree = Frontier::new();
            for root in roots {
                tree.push(*root);
            }
            tree.subtrees() == frontier.subtrees()
        };
        let kept: Vec<_> = (0..count).map(|segment| self.kept_root(segment)).collect();
        let mut roots = Vec::new();
        for (segment, kept) in (0..count).zip(&kept) {
            roots.push(match kept {
                Some(root) => *root,
                None => self.derive(segment, false)?,
            });
        }
        if !agree(&roots) {
            roots = (0..count).map(|segment| self.derive(segment, false)).collect::<Result<_, _>>()?;
        }
        if !agree(&roots) {
            let what = "the segments before do not have the roots that this one begins with";
            return Err(Error::damaged(count, 0, frontier.size(), what));
        }
        let mut levels = Levels::default();
        for root in roots {
            levels.push(root);
        }
        Ok(levels)
    }

    fn records(&self) -> u64 {
        1 << self.height
    }

    /// The root in a segment's file, if it is a whole file of this ledger.
    fn kept_root(&self, segment: u32) -> Option<Hash> {
        let file = self.reader.derived(&tree_file(segment)).ok()??;
        self.checked(&*file, segment)
    }

    fn checked(&self, file: &dyn ReadAt, segment: u32) -> Option<Hash> {
        let mut found = [0; HEADER_BYTES];
        read_exact_at(file, &mut found, 0).ok()?;
        let records = self.records();
        let bytes = HEADER_BYTES as u64 + records * OFFSET_BYTES + (2 * records - 1) * HASH_BYTES;
        let body_crc = u32::from_le_bytes(array_at(&found, 72));
        let expected = header(segment, records, self.ledger_id, &array_at(&found, 40), body_crc);
        (found == expected && file.log_bytes().ok()? == bytes).then(|| array_at(&found, 40))
    }

    /// Makes a segment's data again, and keeps it if it can be kept, in memory if it `must` be.
    fn derive(&self, segment: u32, must: bool) -> Result<Hash, Error> {
        let mut derived = Derived::read(&*self.reader, segment, self.records())?;
        let bytes = derived.encode(segment, self.ledger_id);
        let root = array_at(&bytes, 40);
        let known = self.lock().roots.node(0, segment.into());
        if known.is_some_and(|known| known != root) {
            let what = "its records are not those that the later segments begin after: audit the ledger";
            return Err(Error::damaged(segment, 0, u64::from(segment) << self.height, what));
        }
        // Where it cannot be kept, it is made again when it is needed again: slow, and right.
        let kept = self.reader.keep_derived(&tree_file(segment), &bytes).is_ok();
        let file = if kept { self.reader.derived(&tree_file(segment)).ok().flatten() } else { None };
        let in_memory = must.then(|| Sealed::Memory(Arc::new(Mutex::new(derived))));
        if let Some(sealed) = file.map(Sealed::File).or(in_memory) {
            self.lock().remember(segment, sealed);
        }
        Ok(root)
    }

    /// Adds what a batch added to the newest segment.
    pub(crate) fn extend(&self, added: &[(Hash, u64)]) {
        let mut inner = self.lock();
        for (leaf, offset) in added {
            inner.open.push(*leaf, *offset);
        }
    }

    /// The newest segment, `segment`, is full; what comes is of the next. Its data is written to its file in a thread
    /// of its own, since no append should wait for it.
    pub(crate) fn seal(self: &Arc<Self>, segment: u32) {
        let mut inner = self.lock();
        let mut full = std::mem::take(&mut inner.open);
        debug_assert_eq!(full.leaves.len() as u64, self.records(), "only a full segment is sealed");
        let root = full.leaves.node(self.height, 0).unwrap_or_default();
        inner.roots.push(root);
        let full = Arc::new(Mutex::new(full));
        inner.sealed.insert(segment, Sealed::Memory(Arc::clone(&full)));
        drop(inner);
        let store = Arc::clone(self);
        let keep = move || {
            let bytes = full.lock().unwrap_or_else(PoisonError::into_inner).encode(segment, store.ledger_id);
            let kept = store.reader.keep_derived(&tree_file(segment), &bytes);
            if let (Ok(()), Ok(Some(file))) = (kept, store.reader.derived(&tree_file(segment))) {
                store.lock().remember(segment, Sealed::File(file));
            }
        };
        // Without a thread, or on a full disk, it stays in memory until the ledger is opened again.
        if let Ok(sealing) = std::thread::Builder::new().name("ledger-seal".to_owned()).spawn(keep) {
            let mut all = self.sealing.lock().unwrap_or_else(PoisonError::into_inner);
            all.retain(|sealing| !sealing.is_finished());
            all.push(sealing);
        }
    }

    /// Waits until everything that is being kept is kept: after the folder is given free, nobody writes there.
    pub(crate) fn finish_sealing(&self) {
        let sealing = std::mem::take(&mut *self.sealing.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in sealing {
            // What could not be kept is made again when it is needed.
            let _ = thread.join();
        }
    }

    fn sealed(&self, segment: u32) -> Result<Sealed, Error> {
        if let Some(sealed) = self.lock().sealed.get(&segment) {
            return Ok(sealed.clone());
        }
        let place = self.reader.place();
        let file = self.reader.derived(&tree_file(segment)).map_err(Error::io("read derived data of", &place))?;
        // All of it is read the first time, some five megabytes: a proof that does not hold helps nobody.
        let is_sound = |file: &Arc<dyn ReadAt>| self.checked(&**file, segment).is_some() && body_is_sound(&**file);
        let known = self.lock().sound.contains(&segment);
        if let Some(file) = file.filter(|file| known || is_sound(file)) {
            let sealed = Sealed::File(file);
            let mut inner = self.lock();
            inner.sound.insert(segment);
            inner.remember(segment, sealed.clone());
            return Ok(sealed);
        }
        self.derive(segment, true)?;
        self.lock().sealed.get(&segment).cloned().ok_or(Error::Missing { place, segment })
    }

    /// Forget what a segment's file said, and make it again.
    pub(crate) fn again(&self, index: u64) -> Result<(), Error> {
        let segment = self.segment_of(index);
        if self.lock().holds(segment) {
            return Ok(());
        }
        self.derive(segment, true).map(drop)
    }

    pub(crate) fn segment_of(&self, index: u64) -> u32 {
        u32::try_from(index >> self.height).unwrap_or(u32::MAX)
    }

    /// Where record `index` stands: the segment, opened, and the offset of its frame.
    pub(crate) fn find(&self, index: u64) -> Result<(u32, Arc<dyn ReadAt>, u64), Error> {
        let segment = self.segment_of(index);
        let local = index - (u64::from(segment) << self.height);
        let place = self.reader.place();
        let missing = || Error::damaged(segment, 0, index, "the record is not in its segment");
        let open = {
            let inner = self.lock();
            inner
                .holds(segment)
                .then(|| usize::try_from(local).ok().and_then(|local| inner.open.offsets.get(local).copied()))
        };
        let offset = match open {
            Some(offset) => offset.ok_or_else(missing)?,
            None => match self.sealed(segment)? {
                Sealed::Memory(derived) => {
                    let derived = derived.lock().unwrap_or_else(PoisonError::into_inner);
                    usize::try_from(local)
                        .ok()
                        .and_then(|local| derived.offsets.get(local).copied())
                        .ok_or_else(missing)?
                }
                Sealed::File(file) => {
                    let mut bytes = [0; 8];
                    let at = HEADER_BYTES as u64 + local * OFFSET_BYTES;
                    read_exact_at(&*file, &mut bytes, at).map_err(Error::io("read derived data of", &place))?;
                    u64::from_le_bytes(bytes)
                }
            },
        };
        Ok((segment, self.segment(segment)?, offset))
    }

    /// A segment, opened.
    pub(crate) fn segment(&self, segment: u32) -> Result<Arc<dyn ReadAt>, Error> {
        if let Some(source) = self.lock().segments.get(&segment) {
            return Ok(Arc::clone(source));
        }
        let source = open_segment(&*self.reader, segment)?;
        let mut inner = self.lock();
        if inner.segments.len() >= OPEN_MAX {
            inner.segments.pop_first();
        }
        inner.segments.insert(segment, Arc::clone(&source));
        Ok(source)
    }

    pub(crate) fn reader(&self) -> &Arc<dyn Reader> {
        &self.reader
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Whether it is the segment that is being filled.
    fn holds(&self, segment: u32) -> bool {
        self.roots.len() == segment as usize
    }

    fn remember(&mut self, segment: u32, sealed: Sealed) {
        let files = self.sealed.iter().filter(|(_, sealed)| matches!(sealed, Sealed::File(_)));
        if files.clone().count() >= OPEN_MAX {
            let oldest = files.map(|(segment, _)| *segment).next();
            oldest.map(|oldest| self.sealed.remove(&oldest));
        }
        self.sealed.insert(segment, sealed);
    }
}

impl Nodes for Store {
    type Error = Error;

    fn node(&self, level: u32, index: u64) -> Result<Hash, Error> {
        let missing = |segment| Error::damaged(segment, 0, index << level, "a node of the tree is missing");
        if level >= self.height {
            return self.lock().roots.node(level - self.height, index).ok_or_else(|| missing(0));
        }
        let segment = self.segment_of(index << level);
        let local = index - (u64::from(segment) << (self.height - level));
        {
            let mut inner = self.lock();
            if inner.holds(segment) {
                return inner.open.leaves.node(level, local).ok_or_else(|| missing(segment));
            }
        }
        match self.sealed(segment)? {
            Sealed::Memory(derived) => derived
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .leaves
                .node(level, local)
                .ok_or_else(|| missing(segment)),
            Sealed::File(file) => {
                // The levels below have N, N/2, ... nodes: 2N - 2N/2^level in all.
                let records = self.records();
                let before = 2 * records - ((2 * records) >> level);
                let at = HEADER_BYTES as u64 + records * OFFSET_BYTES + (before + local) * HASH_BYTES;
                let mut hash = Hash::default();
                read_exact_at(&*file, &mut hash, at).map_err(Error::io("read derived data of", self.reader.place()))?;
                Ok(hash)
            }
        }
    }
}
