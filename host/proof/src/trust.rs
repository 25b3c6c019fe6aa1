//! Whose signature counts: the key that the auditor trusts, and the way from it to the key that signed.
//!
//! A key is replaced by a record of kind `key` that names the new one. Whoever trusts the old key may
//! trust the new one if that record is in a tree whose checkpoint the *old* key signed. That a
//! checkpoint is signed by both says nothing: anyone can add a signature to a checkpoint.
//!
//! A key that comes with the evidence proves that it is whole, not whose it is.

use crate::hash::HexHash;
use crate::note::{Checkpoint, Note, NoteError, VerifyingKey};
use crate::proof_file::Proved;
use crate::record::{Facts, Kind, RecordView};
use crate::report::{EvidenceError, Report};
use std::fmt::Write as _;
use std::str::FromStr;

/// The most rotations that are followed.
pub const ROTATIONS_MAX: usize = 1024;

/// A key that the auditor has from elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TrustedKey {
    /// A vkey: it counts for the log that it names, and no other.
    Named(VerifyingKey),
    /// A raw public key: it counts for any log.
    Raw([u8; 32]),
}

impl TrustedKey {
    /// The public key, raw.
    #[must_use]
    pub fn public(&self) -> [u8; 32] {
        match self {
            Self::Named(key) => key.public(),
            Self::Raw(public) => *public,
        }
    }

    /// As the key of the log `origin`.
    fn of_log(&self, origin: &str) -> Result<VerifyingKey, EvidenceError> {
        match self {
            Self::Raw(public) => VerifyingKey::new(origin, public).map_err(EvidenceError::Checkpoint),
            Self::Named(key) if key.name() == origin => Ok(key.clone()),
            Self::Named(key) => {
                let other = format!("the key that you gave is that of {}", key.name());
                Err(EvidenceError::OtherLog { origin: origin.to_owned(), other })
            }
        }
    }
}

impl FromStr for TrustedKey {
    type Err = NoteError;

    /// A vkey, or `ed25519:` and 64 hex digits. Empty lines, and lines that begin with `#`, are passed over.
    fn from_str(text: &str) -> Result<Self, NoteError> {
        let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let line = lines.next().ok_or(NoteError::NotAKey("it is empty"))?;
        if lines.next().is_some() {
            return Err(NoteError::NotAKey("it has more than one line"));
        }
        match line.strip_prefix("ed25519:") {
            None => line.parse().map(Self::Named),
            Some(digits) => {
                let public = hex_hash(digits).ok_or(NoteError::NotAKey("after `ed25519:` come 64 hex digits"))?;
                // Under any name: whether it is a point of the curve does not depend on it.
                VerifyingKey::new("key", &public).map(|_| Self::Raw(public))
            }
        }
    }
}

/// 64 hex digits of either case.
pub(crate) fn hex_hash(digits: &str) -> Option<[u8; 32]> {
    let mut hash = [0; 32];
    if digits.len() != 64 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    for (byte, pair) in hash.iter_mut().zip(digits.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(hash)
}

/// The key that a record of kind `key` puts in force, under the name of its log.
///
/// # Errors
/// When the record is of another kind, or gives none.
pub fn named_key(record: &RecordView, origin: &str) -> Result<VerifyingKey, String> {
    let index = record.index();
    if record.known_kind() != Some(Kind::Key) {
        return Err(format!("record {index} is of kind {:?}, not \"key\"", record.kind()));
    }
    let key = Facts::of(Some(Kind::Key), false, record.meta(), record.ts_ms()).key;
    let key = key.ok_or_else(|| format!("record {index} gives no public key of 64 hex digits"))?;
    VerifyingKey::new(origin, &key).map_err(|why| format!("record {index}: {why}"))
}

/// How the key that signed stands to the one that the auditor trusts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It came with the evidence, and none was given.
    Own,
    /// It is the one that was given.
    Given,
    /// So many rotations lead to it from the one that was given.
    Rotated(usize),
}

/// A checkpoint with a good signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    /// What was signed.
    pub checkpoint: Checkpoint,
    /// By whom.
    pub by: VerifyingKey,
    /// And who that is.
    pub standing: Standing,
}

/// The keys of one piece of evidence.
#[derive(Debug, Clone, Default)]
pub struct Keys {
    trusted: Option<TrustedKey>,
    own: Option<VerifyingKey>,
    rotations: Vec<Proved>,
}

impl Keys {
    /// With the key that the auditor trusts, if any.
    #[must_use]
    pub fn new(trusted: Option<TrustedKey>) -> Self {
        Self { trusted, own: None, rotations: Vec::new() }
    }

    /// Whether the auditor gave a key.
    #[must_use]
    pub fn is_given(&self) -> bool {
        self.trusted.is_some()
    }

    /// Takes the key that comes with the evidence.
    ///
    /// # Errors
    /// When the text is no vkey.
    pub fn set_own(&mut self, vkey: &str) -> Result<(), EvidenceError> {
        self.own = Some(vkey.parse().map_err(EvidenceError::Key)?);
        Ok(())
    }

    /// Takes the next rotation, oldest first.
    ///
    /// # Errors
    /// When the text is none, or there are too many.
    pub fn add_rotation(&mut self, text: &str) -> Result<(), EvidenceError> {
        let number = self.rotations.len() + 1;
        if number > ROTATIONS_MAX {
            return Err(EvidenceError::Rotation {
                number,
                fault: format!("more than {ROTATIONS_MAX} are not followed"),
            });
        }
        let rotation = Proved::parse(text).map_err(|fault| EvidenceError::Rotation { number, fault })?;
        self.rotations.push(rotation);
        Ok(())
    }

    /// Checks the signature of a checkpoint; `None` if there is no key to check it with.
    ///
    /// # Errors
    /// When no key that counts has signed it, or a signature is forged.
    pub fn check(&self, note: &str) -> Result<Option<Signed>, EvidenceError> {
        let note = Note::parse(note)?;
        let checkpoint = note.checkpoint()?;
        let (keys, own) = match (&self.trusted, &self.own) {
            (Some(trusted), _) => (self.reached_from(trusted.of_log(&checkpoint.origin)?)?, false),
            (None, Some(own)) if own.name() == checkpoint.origin => (vec![own.clone()], true),
            (None, Some(own)) => {
                let other = format!("`key` is that of {}", own.name());
                return Err(EvidenceError::OtherLog { origin: checkpoint.origin, other });
            }
            (None, None) => return Ok(None),
        };
        // The latest first: it is the one in force.
        for (rotations, key) in keys.iter().enumerate().rev() {
            match note.verify(key) {
                Ok(()) => {
                    let standing = match rotations {
                        _ if own => Standing::Own,
                        0 => Standing::Given,
                        _ => Standing::Rotated(rotations),
                    };
                    return Ok(Some(Signed { checkpoint, by: key.clone(), standing }));
                }
                Err(NoteError::OtherKey { .. }) => {}
                Err(why) => return Err(why.into()),
            }
        }
        Err(no_signature(&note, &keys, own))
    }

    /// The given key, and those that rotations lead to from it, in their order.
    fn reached_from(&self, given: VerifyingKey) -> Result<Vec<VerifyingKey>, EvidenceError> {
        let mut keys = vec![given];
        for (at, rotation) in self.rotations.iter().enumerate() {
            let fault = |fault: String| EvidenceError::Rotation { number: at + 1, fault };
            let Some(key) = keys.last() else { break };
            let note = Note::parse(&rotation.proof.checkpoint).map_err(|why| fault(why.to_string()))?;
            match note.verify(key) {
                Ok(()) => {}
                // One from before the time of the given key.
                Err(NoteError::OtherKey { .. }) => continue,
                Err(why) => return Err(fault(why.to_string())),
            }
            let checkpoint = note.checkpoint().map_err(|why| fault(why.to_string()))?;
            rotation.verify(&checkpoint).map_err(fault)?;
            if checkpoint.origin != key.name() {
                return Err(fault(format!(
                    "its checkpoint is of {}, the key is that of {}",
                    checkpoint.origin,
                    key.name()
                )));
            }
            keys.push(named_key(&rotation.record, key.name()).map_err(fault)?);
        }
        Ok(keys)
    }
}

fn no_signature(note: &Note<'_>, keys: &[VerifyingKey], own: bool) -> EvidenceError {
    let Some(key) = keys.first() else { return EvidenceError::Unsigned("there is no key") };
    match note.verify(key) {
        Err(NoteError::OtherKey { wanted, found }) if !own => EvidenceError::OtherKey { given: wanted, signers: found },
        Err(why) => why.into(),
        Ok(()) => EvidenceError::Unsigned("there is no signature"),
    }
}

/// What a signature proves, on the report.
pub(crate) fn report_signature(report: &mut Report, signed: &Signed) {
    let Signed { checkpoint, by, standing } = signed;
    report.origin = Some(checkpoint.origin.clone());
    report.tree_size = Some(checkpoint.size);
    report.tree_root = Some(HexHash::of(&checkpoint.root).as_str().to_owned());
    report.signed_by = Some(by.to_string());
    report.holds("signature", format!("the checkpoint of {} records is signed by {by}", checkpoint.size));
    match standing {
        Standing::Given => report.holds("key", "that key is the one that you gave"),
        Standing::Rotated(1) => report.holds("key", "the key that you gave was replaced by that key, which it signed"),
        Standing::Rotated(count) => {
            report.holds("key", format!("from the key that you gave, {count} rotations lead to that key, each signed"));
        }
        Standing::Own => report.not_covered(
            "key",
            "whose key that is: it came with the file. Give the key that the operator published to know who signed",
        ),
    }
}

/// Whether a checkpoint's origin, `gavel/KERNEL_ID/LEDGER_ID`, is of this kernel and this first record.
pub(crate) fn check_origin(
    origin: &str,
    kernel_id: Option<&str>,
    first_leaf: Option<&[u8; 32]>,
) -> Result<(), EvidenceError> {
    let other = |other: String| Err(EvidenceError::OtherLog { origin: origin.to_owned(), other });
    let Some((kernel, ledger)) = origin.strip_prefix("gavel/").and_then(|rest| rest.rsplit_once('/')) else {
        return other("an origin of Gavel is gavel/KERNEL_ID/LEDGER_ID".to_owned());
    };
    match (kernel_id, first_leaf.map(HexHash::of)) {
        (Some(kernel_id), _) if escaped(kernel_id) != kernel => other(format!("the evidence is of kernel {kernel_id}")),
        (_, Some(leaf)) if ledger.is_empty() || !leaf.as_str().starts_with(ledger) => {
            other(format!("record 0 is that of the ledger {}", &leaf.as_str()[..16]))
        }
        _ => Ok(()),
    }
}

/// A kernel's id as it stands in an origin: what may not stand in the name of a key is written `%XX`.
fn escaped(kernel_id: &str) -> String {
    let mut out = String::with_capacity(kernel_id.len());
    for byte in kernel_id.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(byte.into()),
            _ => {
                // Writing to a string cannot fail.
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
    out
}
