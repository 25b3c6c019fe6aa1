//! Cuts a ledger of format 1 that is longer than a segment into segments.
//!
//! Records, their order, and so their root and chain stay what they are, byte for byte; only the frames between
//! them are made anew. A crash leaves either the old ledger or the new one:
//!
//! 1. The segments are written into the folder `migrating`, synced. A leftover of it is written over.
//! 2. `migrating` is renamed to `migrated`: from here on the new ledger counts.
//! 3. The old log is renamed to `segment-000000.v1`, where it stays, and the segments are moved to their places. A
//!    crash in between is finished at the next opening ([`resume`]).

use crate::error::Error;
use crate::file::{FileStorage, MARK, segment_file, sync_dir, write_whole};
use crate::frame::{self, Carry, HEADER_BYTES, Header};
use crate::frames::{Frame, Frames};
use crate::identity::Identity;
use crate::scan::read_header;
use crate::stage::commit_of;
use crate::storage::Storage;
use gavel_proof::record;
use gavel_proof::state::State;
use gavel_proof::tree::leaf_hash;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const WORK: &str = "migrating";
const DONE: &str = "migrated";
const OLD: &str = "segment-000000.v1";

/// Splits the one segment of `storage`, which was scanned and found sound.
pub(crate) fn split(storage: &mut FileStorage, segment_records: u64) -> Result<(), Error> {
    let (dir, place) = (storage.dir().to_owned(), storage.place());
    let work = dir.join(WORK);
    fs::create_dir_all(&work).map_err(Error::io_at("create", &work))?;
    write_segments(storage, &work, segment_records)?;
    sync_dir(&work)
        .and_then(|()| fs::rename(&work, dir.join(DONE)))
        .and_then(|()| sync_dir(&dir))
        .map_err(Error::io_at("rename", &work))?;
    resume(&dir)?;
    storage.look_again().map_err(Error::io("list", place))
}

/// Finishes what a crash interrupted.
pub(crate) fn resume(dir: &Path) -> Result<(), Error> {
    let done = dir.join(DONE);
    if !done.exists() {
        return Ok(());
    }
    let finish = || -> io::Result<()> {
        let (log, old) = (dir.join(segment_file(0)), dir.join(OLD));
        if !old.exists() {
            fs::rename(&log, &old)?;
        }
        let mut segments: Vec<PathBuf> =
            fs::read_dir(&done)?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?;
        segments.sort();
        for segment in segments {
            if let Some(name) = segment.file_name() {
                fs::rename(&segment, dir.join(name))?;
            }
        }
        sync_dir(dir)?;
        // The mark names the old log's end, which is no place any more.
        match fs::OpenOptions::new().write(true).open(dir.join(MARK)) {
            Ok(mark) => mark.set_len(0).and_then(|()| mark.sync_all())?,
            Err(why) if why.kind() != io::ErrorKind::NotFound => return Err(why),
            Err(_) => {}
        }
        fs::remove_dir(&done)?;
        sync_dir(dir)
    };
    finish().map_err(Error::io_at("finish the migration in", dir))
}

/// A segment being put together.
struct Building {
    segment: u32,
    bytes: Vec<u8>,
    batch_start: u64,
    commit_at: u64,
    pending: bool,
}

fn write_segments(storage: &FileStorage, work: &Path, segment_records: u64) -> Result<(), Error> {
    let (place, reader) = (storage.place(), storage.reader());
    let source = reader.open(0).map_err(Error::io("open", &place))?;
    let (header, _) = read_header(&*source, &place, 0)?;
    let end = source.log_bytes().map_err(Error::io("measure", &place))?;
    let mut frames = Frames::new(Arc::clone(&source), HEADER_BYTES as u64, end);
    let mut state = State::new();
    let mut identity = None;
    let mut bytes_before = 0;
    let first = Header::first(header.ledger_id).encode().to_vec();
    let mut building =
        Building { segment: 0, batch_start: first.len() as u64, bytes: first, commit_at: 0, pending: false };
    loop {
        match frames.step().map_err(Error::io("read", &place))? {
            Frame::Record { at, kind_code } => {
                let index = state.records();
                let damaged = |what: String| Error::damaged(0, at, index, what);
                if state.records() / segment_records > u64::from(building.segment) {
                    bytes_before += building.finish(work)?;
                    let identity = identity.clone().ok_or_else(|| damaged("the first record is missing".to_owned()))?;
                    building = Building::next(&building, &state, identity, bytes_before, header.ledger_id);
                }
                take(&mut state, &mut building, &mut identity, kind_code, frames.payload()).map_err(damaged)?;
                if state.records().is_multiple_of(segment_records) {
                    building.commit(&state);
                }
            }
            Frame::Commit { .. } => building.commit(&state),
            Frame::End => break,
            Frame::Broken(broken) => return Err(Error::damaged(0, broken.at, state.records(), broken.what)),
        }
    }
    building.finish(work).map(drop)
}

/// Takes one record over, as it is.
fn take(
    state: &mut State,
    building: &mut Building,
    identity: &mut Option<Identity>,
    kind_code: u8,
    payload: &[u8],
) -> Result<(), String> {
    let text = str::from_utf8(payload).map_err(|why| why.to_string())?;
    let parts =
        record::parse(text).map_err(|malformed| format!("byte {} should be {}", malformed.at, malformed.what))?;
    let facts = parts.facts(text);
    if identity.is_none() {
        *identity = Some(Identity::of_meta(parts.meta(text))?);
    }
    let link = parts.entry(text).map(|entry| state.chain.link(entry.data));
    frame::push_payload(&mut building.bytes, kind_code, payload);
    state.advance(&facts, leaf_hash(payload), link);
    building.pending = true;
    Ok(())
}

impl Building {
    fn next(before: &Self, state: &State, identity: Identity, bytes_before: u64, ledger_id: frame::LedgerId) -> Self {
        let segment = before.segment + 1;
        let carry = Carry { state: state.clone(), identity, bytes_before }.encode();
        let header = Header::later(segment, state.records(), ledger_id, &carry);
        let bytes = [header.encode().as_slice(), &carry].concat();
        Self { segment, batch_start: bytes.len() as u64, bytes, commit_at: 0, pending: false }
    }

    fn commit(&mut self, state: &State) {
        if std::mem::take(&mut self.pending) {
            let commit = commit_of(state, self.batch_start, self.commit_at, "");
            self.commit_at = self.bytes.len() as u64;
            self.bytes.extend_from_slice(&commit.encode());
            self.batch_start = self.bytes.len() as u64;
        }
    }

    fn finish(&self, work: &Path) -> Result<u64, Error> {
        let path = work.join(segment_file(self.segment));
        write_whole(&path, &self.bytes).map_err(Error::io_at("write", &path))?;
        Ok(self.bytes.len() as u64)
    }
}
