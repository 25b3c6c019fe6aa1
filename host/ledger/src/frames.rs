//! Reads a segment frame by frame, forward, in bounded memory.
//!
//! It checks what a frame says about itself, that is checksums and lengths, and nothing about its
//! neighbours: that is the scan's part. Where a frame cannot be read it stops, and says whether the
//! file merely ended too early.

use crate::frame::{COMMIT_BYTES, COMMIT_MAGIC, Commit, RECORD_BYTES, RECORD_MAGIC, RecordHead, array_at};
use crate::storage::ReadAt;
use std::io;
use std::sync::Arc;

/// Read at a time: large enough that the calls do not count, small enough to forget.
const WINDOW_BYTES: usize = 256 * 1024;

/// One step.
#[derive(Debug)]
pub(crate) enum Frame {
    /// A record; [`Frames::payload`] holds it until the next step.
    Record { at: u64, kind_code: u8 },
    /// The end of a batch.
    Commit { at: u64, commit: Commit },
    /// The end of what was to be read, after a whole frame.
    End,
    /// What is here is no frame.
    Broken(Broken),
}

/// Where reading stopped, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Broken {
    pub(crate) at: u64,
    pub(crate) what: &'static str,
    /// The frame is right as far as it goes, but the file ends within it.
    pub(crate) cut_off: bool,
}

/// The frames of a segment from some frame on to `end`.
pub(crate) struct Frames {
    source: Arc<dyn ReadAt>,
    end: u64,
    /// Offset in the segment of `window[0]`.
    window_at: u64,
    window: Vec<u8>,
    /// The next frame, as an index into the window.
    next: usize,
    payload: std::ops::Range<usize>,
    note: std::ops::Range<usize>,
}

impl Frames {
    pub(crate) fn new(source: Arc<dyn ReadAt>, start: u64, end: u64) -> Self {
        Self { source, end, window_at: start, window: Vec::new(), next: 0, payload: 0..0, note: 0..0 }
    }

    /// The payload of the record that the last step returned.
    pub(crate) fn payload(&self) -> &[u8] {
        &self.window[self.payload.clone()]
    }

    /// The note of the commit frame that the last step returned.
    pub(crate) fn note(&self) -> &[u8] {
        &self.window[self.note.clone()]
    }

    /// Reads one frame.
    pub(crate) fn step(&mut self) -> io::Result<Frame> {
        let at = self.at();
        let available = self.fill(COMMIT_BYTES)?;
        if available == 0 {
            return Ok(Frame::End);
        }
        let begin = &self.window[self.next..self.next + available];
        if agrees(begin, RECORD_MAGIC) {
            self.record(at, available)
        } else if agrees(begin, COMMIT_MAGIC) {
            self.commit(at, available)
        } else {
            Ok(broken(at, "neither a record frame nor a commit frame begins here"))
        }
    }

    fn record(&mut self, at: u64, available: usize) -> io::Result<Frame> {
        if available < RECORD_BYTES {
            return Ok(cut_off(at, "the file ends within a record frame"));
        }
        let head = match RecordHead::decode(&array_at(&self.window, self.next)) {
            Ok(head) => head,
            Err(what) => return Ok(broken(at, what)),
        };
        let frame_bytes = RECORD_BYTES + head.payload_bytes;
        if self.fill(frame_bytes)? < frame_bytes {
            return Ok(cut_off(at, "the file ends within a record"));
        }
        self.payload = self.next + RECORD_BYTES..self.next + frame_bytes;
        if !head.matches(self.payload()) {
            return Ok(broken(at, "the checksum of the record is wrong"));
        }
        self.next += frame_bytes;
        Ok(Frame::Record { at, kind_code: head.kind_code })
    }

    fn commit(&mut self, at: u64, available: usize) -> io::Result<Frame> {
        if available < COMMIT_BYTES {
            return Ok(cut_off(at, "the file ends within a commit frame"));
        }
        let commit = match Commit::decode(&array_at(&self.window, self.next)) {
            Ok(commit) => commit,
            Err(what) => return Ok(broken(at, what)),
        };
        let frame_bytes = COMMIT_BYTES + usize::from(commit.note_bytes);
        if self.fill(frame_bytes)? < frame_bytes {
            return Ok(cut_off(at, "the file ends within the note of a commit frame"));
        }
        let note = &self.window[self.next + COMMIT_BYTES..self.next + frame_bytes];
        if crc32fast::hash(note) != commit.note_crc {
            return Ok(broken(at, "the checksum of the note in the commit frame is wrong"));
        }
        self.note = self.next + COMMIT_BYTES..self.next + frame_bytes;
        self.next += frame_bytes;
        Ok(Frame::Commit { at, commit })
    }

    /// The offset of the next frame.
    pub(crate) fn at(&self) -> u64 {
        self.window_at + self.next as u64
    }

    /// Sees to it that `need` bytes from the next frame on are in the window, if the segment has
    /// them; returns how many of the `need` there are.
    fn fill(&mut self, need: usize) -> io::Result<usize> {
        if self.window.len() - self.next < need {
            self.window.drain(..self.next);
            self.window_at += self.next as u64;
            self.next = 0;
            let have = self.window.len();
            let left = self.end.saturating_sub(self.window_at + have as u64);
            let more = usize::try_from(left).unwrap_or(usize::MAX).min(WINDOW_BYTES.max(need) - have);
            self.window.resize(have + more, 0);
            read_exact_at(&*self.source, &mut self.window[have..], self.window_at + have as u64)?;
        }
        Ok(need.min(self.window.len() - self.next))
    }
}

/// Fills `buffer` from `offset`; a log that is shorter than it was is an error.
pub(crate) fn read_exact_at(source: &dyn ReadAt, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !buffer.is_empty() {
        match source.read_at(buffer, offset) {
            Ok(0) => {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the log became shorter while it was read"));
            }
            Ok(count) => {
                buffer = &mut buffer[count..];
                offset += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Whether `bytes` begins with `magic`, or with as much of it as there is.
fn agrees(bytes: &[u8], magic: &[u8]) -> bool {
    let length = bytes.len().min(magic.len());
    bytes[..length] == magic[..length]
}

fn broken(at: u64, what: &'static str) -> Frame {
    Frame::Broken(Broken { at, what, cut_off: false })
}

fn cut_off(at: u64, what: &'static str) -> Frame {
    Frame::Broken(Broken { at, what, cut_off: true })
}
