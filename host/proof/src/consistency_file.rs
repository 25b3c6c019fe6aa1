//! The file of `gavel prove --consistency`: that a log today begins with the log of an earlier checkpoint.
//!
//! ```text
//! {"format":"gavel-consistency/1","kernel_id":K,"key":VKEY,"old":NOTE,"new":NOTE,"consistency":[BASE64,…],
//!  "rotations":[{"record":{…},"proof":TLOG_PROOF},…]}
//! ```
//!
//! Whoever kept the old checkpoint learns that nothing before it was changed or taken out since. The file proves that of
//! the checkpoint *in it*: whether that is the one which was kept is for its keeper to compare.

use crate::hash::{Hash, HexHash};
use crate::json;
use crate::note::{Checkpoint, Note, VerifyingKey};
use crate::proof_file::Proved;
use crate::report::{EvidenceError, Report};
use crate::tree::verify_consistency;
use crate::trust::{Keys, check_origin, report_signature};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::fmt::Write as _;

/// What `format` says in a consistency file of this version.
pub const FORMAT: &str = "gavel-consistency/1";
/// The most hashes of a proof: trees have at most 2^64 leaves.
const HASHES_MAX: usize = 64;

/// A whole file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsistencyFile {
    /// Whose log it is.
    pub kernel_id: String,
    /// The key that signed the new checkpoint.
    pub key: Option<VerifyingKey>,
    /// The earlier checkpoint, a signed note; a server that was asked for a size only leaves it to who asked.
    pub old: Option<String>,
    /// The later checkpoint, a signed note.
    pub new: String,
    /// The proof (RFC 6962, section 2.1.2).
    pub hashes: Vec<Hash>,
    /// The records that replaced the key, oldest first.
    pub rotations: Vec<Proved>,
}

impl ConsistencyFile {
    /// The file's text: JSON.
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut out = format!("{{\"format\":\"{FORMAT}\"");
        let key = self.key.as_ref().map(ToString::to_string);
        let texts = [
            ("kernel_id", Some(&self.kernel_id)),
            ("key", key.as_ref()),
            ("old", self.old.as_ref()),
            ("new", Some(&self.new)),
        ];
        for (name, text) in texts {
            if let Some(text) = text {
                // Writing to a string cannot fail.
                let _ = write!(out, ",\n\"{name}\":");
                json::push_string(&mut out, text);
            }
        }
        let hashes: Vec<_> = self.hashes.iter().map(|hash| format!("\"{}\"", STANDARD.encode(hash))).collect();
        let rotations: Vec<_> = self.rotations.iter().map(Proved::to_json).collect();
        let (hashes, rotations) = (hashes.join(",\n"), rotations.join(",\n"));
        let _ = write!(out, ",\n\"consistency\":[\n{hashes}\n],\n\"rotations\":[\n{rotations}\n]}}\n");
        out
    }
}

/// The checks of a consistency file, in their order.
pub(crate) const CHECKS: [&str; 5] = ["form", "log", "tree", "signature", "key"];

/// A consistency file being read.
#[derive(Debug, Default)]
pub(crate) struct Reading {
    pub(crate) old: Option<String>,
    pub(crate) new: Option<String>,
    hashes: Option<Vec<Hash>>,
}

impl Reading {
    /// Takes the proof, a JSON array of texts.
    pub(crate) fn set_hashes(&mut self, value: &str) -> Result<(), EvidenceError> {
        let texts = serde_json::from_str::<Vec<String>>(value).ok().filter(|texts| texts.len() <= HASHES_MAX);
        let decoded = texts.and_then(|texts| {
            texts.iter().map(|text| Hash::try_from(STANDARD.decode(text).ok()?).ok()).collect::<Option<Vec<_>>>()
        });
        self.hashes = Some(decoded.ok_or_else(|| {
            EvidenceError::NotAConsistencyFile(format!(
                "`consistency` is not a list of at most {HASHES_MAX} hashes of 32 bytes in base64"
            ))
        })?);
        Ok(())
    }

    /// Verifies what was read.
    pub(crate) fn finish(
        &self,
        kernel_id: Option<&str>,
        keys: &Keys,
        report: &mut Report,
    ) -> Result<(), EvidenceError> {
        let missing = |name: &str| EvidenceError::NotAConsistencyFile(format!("`{name}` is missing"));
        let old_note = self.old.as_deref().ok_or_else(|| missing("old"))?;
        let new_note = self.new.as_deref().ok_or_else(|| missing("new"))?;
        let hashes = self.hashes.as_ref().ok_or_else(|| missing("consistency"))?;
        report.holds("form", "a consistency file, read to its end");
        let (old, new) = (Note::parse(old_note)?.checkpoint()?, Note::parse(new_note)?.checkpoint()?);
        check_origin(&new.origin, kernel_id, None)?;
        if old.origin != new.origin {
            let other = format!("the later one is of {}", new.origin);
            return Err(EvidenceError::OtherLog { origin: old.origin, other });
        }
        report.holds("log", format!("both checkpoints are of the log {}", new.origin));
        report.origin = Some(new.origin.clone());
        let verified = verify_consistency((old.size, &old.root), (new.size, &new.root), hashes);
        verified.map_err(|source| EvidenceError::Inconsistent { old: old.size, new: new.size, source })?;
        report.holds("tree", told(&old, &new));
        match keys.check(new_note)? {
            Some(signed) => {
                report_signature(report, &signed);
                match keys.check(old_note) {
                    Ok(_) => report.holds("old", "the earlier checkpoint is signed too"),
                    // Its key may have been replaced since; whoever kept it knows whose it is.
                    Err(
                        EvidenceError::OtherKey { .. }
                        | EvidenceError::Checkpoint(crate::note::NoteError::OtherKey { .. }),
                    ) => {
                        report.not_covered("old", "who signed the earlier checkpoint: another key than this");
                    }
                    Err(why) => return Err(why),
                }
            }
            None => {
                report.not_covered("signature", "who signed the checkpoints: the file has no key, and none was given");
            }
        }
        report.not_covered("kept", "whether the earlier checkpoint is the one that you kept: compare it");
        Ok(())
    }
}

fn told(old: &Checkpoint, new: &Checkpoint) -> String {
    format!(
        "the {} records of the later checkpoint begin with the {} of the earlier one, whose root is {}",
        new.size,
        old.size,
        HexHash::of(&old.root).as_str()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::note::CheckpointKey;
    use crate::report::Outcome;
    use crate::tree::{Frontier, Nodes, consistency, leaf_hash};
    use crate::trust::TrustedKey;
    use crate::verify::Verifier;
    use std::convert::Infallible;

    const ORIGIN: &str = "gavel/k-1/00ff";

    struct Numbers;

    impl Nodes for Numbers {
        type Error = Infallible;

        fn node(&self, level: u32, index: u64) -> Result<Hash, Infallible> {
            Ok(tree(index << level, (index + 1) << level))
        }
    }

    fn tree(start: u64, end: u64) -> Hash {
        let mut frontier = Frontier::new();
        (start..end).for_each(|leaf| frontier.push(leaf_hash(&leaf.to_be_bytes())));
        frontier.root()
    }

    fn key() -> CheckpointKey {
        CheckpointKey::from_seed(&[1; 32])
    }

    fn note(size: u64) -> String {
        Checkpoint { origin: ORIGIN.into(), size, root: tree(0, size) }.sign(&[&key()])
    }

    fn file(old: u64, new: u64) -> ConsistencyFile {
        ConsistencyFile {
            kernel_id: "k-1".into(),
            key: Some(key().verifying(ORIGIN)),
            old: Some(note(old)),
            new: note(new),
            hashes: consistency(&Numbers, old, new).unwrap(),
            rotations: Vec::new(),
        }
    }

    fn verified(text: &str, trusted: Option<&CheckpointKey>) -> Report {
        let trusted = trusted.map(|key| TrustedKey::Named(key.verifying(ORIGIN)));
        let mut verifier = Verifier::new(trusted);
        verifier.push(text.as_bytes());
        verifier.finish()
    }

    #[test]
    fn a_log_that_grew_is_consistent() {
        for (old, new) in [(1, 1), (1, 2), (3, 7), (4, 7), (7, 300), (256, 300)] {
            let text = file(old, new).to_json();
            for trusted in [None, Some(&key())] {
                let report = verified(&text, trusted);
                assert!(report.holds, "{old} {new}: {:?}", report.error);
                assert_eq!(report.tree_size, Some(new));
            }
        }
    }

    #[test]
    fn anything_else_is_told() {
        let good = file(3, 7);
        let other = CheckpointKey::from_seed(&[2; 32]);
        let mut surplus = good.clone();
        surplus.hashes.push([0; 32]);
        let mut short = good.clone();
        short.hashes.pop();
        let forked = Checkpoint { origin: ORIGIN.into(), size: 3, root: [5; 32] }.sign(&[&key()]);
        let forked = ConsistencyFile { old: Some(forked), ..good.clone() };
        let elsewhere = Checkpoint { origin: "gavel/k-2/00".into(), size: 3, root: tree(0, 3) }.sign(&[&key()]);
        let elsewhere = ConsistencyFile { old: Some(elsewhere), ..good.clone() };
        let swapped = ConsistencyFile { old: Some(note(7)), new: note(3), ..good.clone() };
        for (file, told) in [
            (surplus, "does not begin with"),
            (short, "does not begin with"),
            (forked, "does not begin with"),
            (swapped, "does not begin with"),
            (elsewhere, "of another log"),
            (ConsistencyFile { old: None, ..good.clone() }, "`old` is missing"),
            (ConsistencyFile { kernel_id: "k-2".into(), ..good.clone() }, "of another log"),
        ] {
            let report = verified(&file.to_json(), None);
            let why = report.error.clone().unwrap_or_default();
            assert!(!report.holds && why.contains(told), "{told}: {why}");
        }
        let report = verified(&good.to_json(), Some(&other));
        assert!(report.error.clone().unwrap().contains("not signed by the key that you gave"), "{report:?}");
        let text = good.to_json().replace("\"consistency\":[", "\"consistency\":[\"AAAA\",");
        assert!(verified(&text, None).error.unwrap().contains("32 bytes"));
        assert!(verified(&good.to_json(), None).checks.iter().any(|check| check.outcome == Outcome::NotCovered));
    }
}
