//! Judges a log that does not end with a commit frame: a batch torn by a crash, or damage?
//!
//! This decides between the two worst mistakes a ledger can make: to cut away what was
//! acknowledged, or to refuse to start after an ordinary crash. The rule is that a cut needs an
//! alibi. Only bytes after the last good commit can be torn, since a batch is written when the one
//! before is synced; nothing may vouch for them; and they must look as a crash leaves them: the
//! file ends too early, or a sector was not written and reads as zeros. Anything else is refused.
//!
//! `docs/formats/ledger.md` goes through the cases, and says which damage cannot be told from a
//! crash.

use crate::error::Error;
use crate::frame::{COMMIT_BYTES, COMMIT_MAGIC, Commit, Mark, array_at};
use crate::frames::{Broken, read_exact_at};
use crate::scan::Scanned;
use crate::storage::ReadAt;
use std::io;

/// The unit that a disk writes whole or not at all. Larger sectors consist of these.
const SECTOR_BYTES: usize = 512;
/// Searched at a time.
const WINDOW_BYTES: usize = 64 * 1024;

/// The mark, as far as it can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MarkFound {
    Absent,
    Damaged,
    Good(Mark),
}

impl MarkFound {
    pub(crate) fn of(bytes: &[u8]) -> Self {
        match Mark::decode(bytes) {
            Some(mark) => Self::Good(mark),
            // All zeros: the file grew, but power failed before its first content arrived.
            None if bytes.iter().all(|&byte| byte == 0) => Self::Absent,
            None => Self::Damaged,
        }
    }

    pub(crate) fn good(&self) -> Option<&Mark> {
        if let Self::Good(mark) = self { Some(mark) } else { None }
    }
}

/// Says whether the bytes from `extent.end` to `end` are a torn batch, so that they may be cut; if
/// not, what they are.
pub(crate) fn judge(
    source: &dyn ReadAt,
    place: &str,
    end: u64,
    found: &Scanned,
    broken: &Broken,
    mark: MarkFound,
) -> Result<(), Error> {
    let (segment, extent, next_index) = (found.header.segment, &found.extent, found.state.records());
    let Broken { at, what, cut_off } = *broken;
    let damaged = |because: String| Err(Error::damaged(segment, at, next_index, format!("{what}; {because}")));
    if extent.batches == 0 {
        return damaged(
            "it is part of the first batch of its segment, which is written whole or not at all".to_owned(),
        );
    }
    match mark {
        MarkFound::Good(mark) if mark.size > extent.size => {
            return damaged(format!("it is no torn write: {} records were acknowledged", mark.size));
        }
        MarkFound::Damaged => {
            return damaged("whether it was acknowledged cannot be told, as the mark is damaged too".to_owned());
        }
        MarkFound::Good(_) | MarkFound::Absent => {}
    }
    let later = later_commit(source, extent.end, end).map_err(Error::io("read", place))?;
    if let Some((found_at, commit)) = later {
        return damaged(format!(
            "it is no torn write: a valid commit of {} records follows at byte {found_at}",
            commit.size
        ));
    }
    if cut_off || a_sector_is_missing(source, extent.end, end).map_err(Error::io("read", place))? {
        return Ok(());
    }
    damaged("it is no torn write: the file goes on, and none of its sectors is missing".to_owned())
}

/// A commit frame in `start..end` that cannot be that of the batch which begins at `start`.
fn later_commit(source: &dyn ReadAt, start: u64, end: u64) -> io::Result<Option<(u64, Commit)>> {
    let mut window = vec![0; WINDOW_BYTES];
    let mut at = start;
    while end - at >= COMMIT_BYTES as u64 {
        let length = usize::try_from(end - at).map_or(WINDOW_BYTES, |left| left.min(WINDOW_BYTES));
        let window = &mut window[..length];
        read_exact_at(source, window, at)?;
        let last = length - COMMIT_BYTES;
        for offset in (0..=last).filter(|&offset| window[offset..].starts_with(COMMIT_MAGIC)) {
            match Commit::decode(&array_at(window, offset)) {
                Ok(commit) if commit.batch_start != start => return Ok(Some((at + offset as u64, commit))),
                _ => {}
            }
        }
        // The next window begins with the first offset at which a whole frame did not fit into this
        // one.
        at += last as u64 + 1;
    }
    Ok(None)
}

/// Whether some sector, or the part of it that lies in `start..end`, was never written.
fn a_sector_is_missing(source: &dyn ReadAt, start: u64, end: u64) -> io::Result<bool> {
    let mut at = start;
    while at < end {
        let next = end.min((at / SECTOR_BYTES as u64 + 1) * SECTOR_BYTES as u64);
        let mut bytes = [0; SECTOR_BYTES];
        let piece = &mut bytes[..usize::try_from(next - at).unwrap_or(0)];
        read_exact_at(source, piece, at)?;
        if piece.iter().all(|&byte| byte == 0) {
            return Ok(true);
        }
        at = next;
    }
    Ok(false)
}
