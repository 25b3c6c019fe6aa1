//! The last checkpoint that witnesses signed, in a file of the kernel's folder.
//!
//! It is a signed note like any other: the ledger's own signature, then the cosignatures, each verified before it is
//! written. Whoever wants the ledger's word backed by others takes it from here.

use crate::policies::catalogue::write_whole;
use anyhow::{Context, Result};
use gavel_proof::note::{NOTE_BYTES_MAX, Note, SIGNATURES_MAX};
use std::io::{ErrorKind, Read};
use std::path::Path;

/// The file in a kernel's folder.
pub const FILE: &str = "cosigned-checkpoint";

/// The note of a kernel's folder, if there is one.
///
/// # Errors
/// When the file cannot be read, or is no note.
pub fn read(dir: &Path) -> Result<Option<String>> {
    let path = dir.join(FILE);
    let file = match std::fs::File::open(&path) {
        Err(why) if why.kind() == ErrorKind::NotFound => return Ok(None),
        opened => opened.with_context(|| path.display().to_string())?,
    };
    let mut note = String::new();
    file.take(NOTE_BYTES_MAX as u64 + 1).read_to_string(&mut note).with_context(|| path.display().to_string())?;
    Note::parse(&note).with_context(|| path.display().to_string())?;
    Ok(Some(note))
}

/// Whether two notes are of one text.
#[must_use]
pub fn same_text(one: &str, other: &str) -> bool {
    let texts = (Note::parse(one), Note::parse(other));
    matches!(texts, (Ok(one), Ok(other)) if one.text == other.text)
}

/// Keep `note` with these signature lines, unless what is kept is newer.
///
/// # Errors
/// When the file cannot be written.
pub(super) fn add(dir: &Path, note: &str, lines: &[String]) -> Result<()> {
    // A file that cannot be read is no reason to lose what was signed now.
    let kept = read(dir).unwrap_or_default();
    let Some(text) = merged(kept.as_deref(), note, lines) else { return Ok(()) };
    write_whole(&dir.join(FILE), text.as_bytes()).with_context(|| dir.join(FILE).display().to_string())
}

fn merged(kept: Option<&str>, note: &str, lines: &[String]) -> Option<String> {
    let size = |note: &str| Some(Note::parse(note).ok()?.checkpoint().ok()?.size);
    if kept.and_then(size) > size(note) {
        return None;
    }
    let begin = kept.filter(|kept| same_text(kept, note)).unwrap_or(note);
    let mut text = begin.to_owned();
    for line in lines {
        // A witness that signed twice, at another time, is not kept twice.
        let signer = line.rsplit_once(' ').map_or(line.as_str(), |(signer, _)| signer);
        let there = text.lines().any(|known| known.rsplit_once(' ').is_some_and(|(known, _)| known == signer));
        let full = Note::parse(&text).is_ok_and(|note| note.signatures.len() >= SIGNATURES_MAX);
        if !there && !full {
            text.push_str(line);
            text.push('\n');
        }
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use gavel_proof::note::{Checkpoint, CheckpointKey};

    fn note(size: u64) -> String {
        let checkpoint = Checkpoint { origin: "gavel/k/0".into(), size, root: [1; 32] };
        checkpoint.sign(&[&CheckpointKey::from_seed(&[1; 32])])
    }

    fn line(name: &str) -> String {
        format!("\u{2014} {name} AAAAAAE=")
    }

    #[test]
    fn what_witnesses_signed_is_gathered_and_never_older() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(read(folder.path()).unwrap(), None);
        add(folder.path(), &note(5), &[line("w1")]).unwrap();
        add(folder.path(), &note(5), &[line("w2"), line("w1")]).unwrap();
        let both = format!("{}{}\n{}\n", note(5), line("w1"), line("w2"));
        assert_eq!(read(folder.path()).unwrap(), Some(both.clone()));
        add(folder.path(), &note(4), &[line("w3")]).unwrap();
        assert_eq!(read(folder.path()).unwrap(), Some(both));
        add(folder.path(), &note(6), &[line("w3")]).unwrap();
        let newer = format!("{}{}\n", note(6), line("w3"));
        assert_eq!(read(folder.path()).unwrap(), Some(newer));
        assert!(same_text(&note(5), &format!("{}{}\n", note(5), line("w1"))) && !same_text(&note(5), &note(6)));
    }

    #[test]
    fn a_file_that_is_no_note_is_told_and_written_anew() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(FILE), "nonsense").unwrap();
        assert!(read(folder.path()).is_err());
        add(folder.path(), &note(5), &[line("w1")]).unwrap();
        assert!(read(folder.path()).unwrap().is_some());
    }
}
