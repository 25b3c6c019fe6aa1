//! The life of a sealed segment: verified by itself, compressed, gone to an archive.
//!
//! A sealed segment never changes again, so its forms hold the same bytes: as it was written (`.log`), compressed
//! (`.log.zst`), or only in an archive, with a note here that says where (`.remote`). Each form gets its name when it is
//! whole and durable, and only then does the one before go: a crash in between leaves two forms, and the first of
//! `.log`, `.log.zst`, `.remote` counts. Readers that have a file open keep it.

use crate::error::Error;
use crate::file::{FolderReader, compressed_file, opened_segment, remote_file, segment_file, sync_dir};
use crate::frame::Mark;
use crate::identity::Identity;
use crate::scan::{Task, scan};
use crate::storage::{Form, ReadAt, Reader};
use crate::store::tree_file;
use gavel_proof::Hash;
use sha2::{Digest, Sha256};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

/// As for the log: evidence is for its owner's eyes.
const FILE_MODE: u32 = 0o600;
/// Bytes that are digested at a time.
const PIECE_BYTES: usize = 1 << 20;

/// A segment that is full, and where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SealedSegment {
    /// Its number, from 0.
    pub segment: u32,
    /// Its form.
    pub form: Form,
}

/// A segment that is sound by itself: every checksum, leaf, root, link, rule and checkpoint in it holds, given what it
/// says of the records before it. Two that follow each other must agree on that.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SegmentReport {
    /// Its number, from 0.
    pub segment: u32,
    /// Whose ledger it is of.
    pub identity: Identity,
    /// The ledger: the first half of the leaf hash of record 0.
    pub ledger_id: [u8; 16],
    /// The index of its first record.
    pub first_index: u64,
    /// Its records.
    pub records: u64,
    /// Entries of the KERNELS chain up to its end.
    pub entries: u64,
    /// Root of the tree over the records before it.
    pub root_before: Hash,
    /// Root of the tree over the records up to its end.
    pub root: Hash,
    /// `entry_hash` of the last entry before it in hex, or 64 zeros.
    pub chain_head_before: String,
    /// The same up to its end.
    pub chain_head: String,
    /// The signed checkpoint in its last commit frame, if a key is in force.
    pub checkpoint: Option<String>,
    /// Its bytes as they were written.
    pub bytes: u64,
    /// Their SHA-256.
    pub sha256: Hash,
}

/// The sealed segments of the ledger in `dir`, oldest first, in whatever form they are there.
///
/// # Errors
/// If there is no ledger, or a segment is in no form there.
pub fn sealed_segments(dir: &Path) -> Result<Vec<SealedSegment>, Error> {
    let (reader, newest, _) = FolderReader::open(dir)?;
    let form = |segment| match reader.form(segment).map_err(Error::io_at("look for a segment in", dir))? {
        Form::Absent => Err(Error::Missing { place: reader.place(), segment }),
        form => Ok(SealedSegment { segment, form }),
    };
    (0..newest).map(form).collect()
}

/// Verifies the one segment in the file `path`, plain or compressed. Changes nothing.
///
/// # Errors
/// Names the first byte and record that are not as they should be.
pub fn verify_segment(path: &Path, segment: u32) -> Result<SegmentReport, Error> {
    let place = path.display().to_string();
    let source = opened_segment(path).map_err(Error::io("open", &place))?;
    let bytes = source.log_bytes().map_err(Error::io("measure", &place))?;
    let found = scan(task(&source, &place, segment, bytes), &mut |_| {})?;
    if let Some(broken) = found.broken {
        return Err(Error::damaged(segment, broken.at, found.state.records(), broken.what));
    }
    let before = found.carry.map_or_else(gavel_proof::state::State::new, |carry| carry.state);
    let identity = found.identity.ok_or_else(|| Error::damaged(segment, 0, 0, "the first record is missing"))?;
    Ok(SegmentReport {
        segment,
        identity,
        ledger_id: found.header.ledger_id,
        first_index: found.header.first_index,
        records: found.state.records() - found.header.first_index,
        entries: found.state.chain.len,
        root_before: before.tree.root(),
        root: found.state.tree.root(),
        chain_head_before: before.chain.head_hex.as_str().to_owned(),
        chain_head: found.state.chain.head_hex.as_str().to_owned(),
        checkpoint: found.last_note.map(|signed| signed.note),
        bytes,
        sha256: digest(&*source, bytes).map_err(Error::io("read", &place))?,
    })
}

/// Compresses a sealed segment: written beside, read back and compared with what it was made from, and only then does
/// the plain file go. Doing it again finishes what a crash interrupted.
///
/// # Errors
/// As the operating system has it; then the plain file is as it was.
pub fn compress_segment(dir: &Path, segment: u32, level: i32) -> Result<(), Error> {
    let (plain, packed) = (dir.join(segment_file(segment)), dir.join(compressed_file(segment)));
    let new = packed.with_extension("zst.new");
    let source = opened_segment(&plain).map_err(Error::io_at("open", &plain))?;
    let bytes = source.log_bytes().map_err(Error::io_at("measure", &plain))?;
    let before = digest(&*source, bytes).map_err(Error::io_at("read", &plain))?;
    pack(&plain, bytes, &new, level).map_err(Error::io_at("write", &new))?;
    let after = unpacked_digest(&new).map_err(Error::io_at("read back", &new))?;
    if after != before {
        let what = "what was compressed does not come back as it was: suspect the memory or the disk".to_owned();
        // It is of no use, and the plain file is there.
        let _ = fs::remove_file(&new);
        return Err(Error::damaged(segment, 0, 0, what));
    }
    fs::rename(&new, &packed).and_then(|()| sync_dir(dir)).map_err(Error::io_at("name", &packed))?;
    fs::remove_file(&plain).and_then(|()| sync_dir(dir)).map_err(Error::io_at("remove", &plain))
}

/// Lets a sealed segment leave for the archive: the file `note` in `dir`, which says where it is, becomes its
/// `.remote`, then its other forms go. Who calls this has verified that the archive holds it.
///
/// # Errors
/// As the operating system has it. Doing it again finishes it.
pub fn leave_segment(dir: &Path, segment: u32, note: &str) -> Result<(), Error> {
    let (note, remote, tree) = (dir.join(note), dir.join(remote_file(segment)), dir.join(tree_file(segment)));
    if !tree.exists() {
        // Without it nothing could be proved any more, and the ledger not be opened.
        let absent = io::Error::new(io::ErrorKind::NotFound, "what is derived from the segment is not kept yet");
        return Err(Error::io_at("let go of a segment without", &tree)(absent));
    }
    if note.exists() {
        fs::rename(&note, &remote).and_then(|()| sync_dir(dir)).map_err(Error::io_at("name", &remote))?;
    }
    if !remote.exists() {
        let absent = io::Error::new(io::ErrorKind::NotFound, "nothing says where the segment is archived");
        return Err(Error::io_at("name", &remote)(absent));
    }
    for path in [dir.join(compressed_file(segment)), dir.join(segment_file(segment))] {
        match fs::remove_file(&path) {
            Err(why) if why.kind() != io::ErrorKind::NotFound => return Err(Error::io_at("remove", &path)(why)),
            _ => {}
        }
    }
    sync_dir(dir).map_err(Error::io_at("sync", dir))
}

/// Packs what is committed of the newest segment of the ledger in `dir` into the new file `packed`, while its owner goes
/// on appending, and tells which segment it is. What comes is as [`verify_segment`] wants it.
///
/// # Errors
/// If there is no ledger, or the segment is not as it should be.
pub fn pack_newest(dir: &Path, packed: &Path, level: i32) -> Result<u32, Error> {
    let (reader, segment, mark) = FolderReader::open(dir)?;
    let plain = dir.join(segment_file(segment));
    let source = reader.open(segment).map_err(Error::io_at("open", &plain))?;
    let bytes = source.log_bytes().map_err(Error::io_at("measure", &plain))?;
    // The mark is written after the sync: what is behind it may not be on the disk yet, and so is not to be given away.
    let marked = Mark::decode(&mark).filter(|mark| mark.segment == segment).map(|mark| mark.end);
    let end = marked.map_or(bytes, |end| end.min(bytes));
    let found = scan(task(&source, &plain.display().to_string(), segment, end), &mut |_| {})?;
    if let Some(broken) = found.broken.filter(|_| marked.is_some()) {
        return Err(Error::damaged(segment, broken.at, found.state.records(), broken.what));
    }
    pack(&plain, found.extent.end, packed, level).map_err(Error::io_at("write", packed))?;
    Ok(segment)
}

/// All of a segment, without a mark to hold it against.
fn task<'a>(source: &'a Arc<dyn ReadAt>, place: &'a str, segment: u32, end: u64) -> Task<'a> {
    Task {
        source,
        place,
        segment,
        end,
        mark: None,
        segment_records: u64::MAX,
        each_signature: false,
        derive: false,
        root_at: None,
    }
}

/// Packs the first `bytes` of a file.
fn pack(plain: &Path, bytes: u64, packed: &Path, level: i32) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let file = options.write(true).create(true).truncate(true).mode(FILE_MODE).open(packed)?;
    let mut encoder = zstd::stream::write::Encoder::new(file, level)?;
    encoder.include_checksum(true)?;
    io::copy(&mut BufReader::with_capacity(PIECE_BYTES, File::open(plain)?.take(bytes)), &mut encoder)?;
    let mut file = encoder.finish()?;
    file.flush()?;
    file.sync_all()
}

fn unpacked_digest(packed: &Path) -> io::Result<Hash> {
    struct Digesting(Sha256);
    impl Write for Digesting {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.update(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut digest = Digesting(Sha256::new());
    zstd::stream::copy_decode(File::open(packed)?, &mut digest)?;
    Ok(digest.0.finalize().into())
}

fn digest(source: &dyn ReadAt, bytes: u64) -> io::Result<Hash> {
    let (mut digest, mut piece, mut at) = (Sha256::new(), vec![0; PIECE_BYTES], 0);
    while at < bytes {
        let count = source.read_at(&mut piece, at)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        digest.update(&piece[..count]);
        at += count as u64;
    }
    Ok(digest.finalize().into())
}
