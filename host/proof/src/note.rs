//! Signed checkpoints: who says that a tree of so many leaves has this root.
//!
//! A checkpoint is three lines (C2SP tlog-checkpoint): the origin, which names the log, the number of
//! leaves, and the root in base64. A signed note (C2SP signed-note) is such a text, an empty line, and
//! signature lines `— NAME BASE64`, whose bytes are the first four of the key's id and an Ed25519
//! signature over the text. The id depends on the name, so that one key under two names is two keys.
//!
//! ```
//! use gavel_proof::note::{Checkpoint, CheckpointKey, Note};
//!
//! let key = CheckpointKey::from_seed(&[7; 32]);
//! let checkpoint = Checkpoint { origin: "gavel/k-1/00ff".into(), size: 3, root: [1; 32] };
//! let text = checkpoint.sign(&[&key]);
//! let note = Note::parse(&text)?;
//! note.verify(&key.verifying("gavel/k-1/00ff"))?;
//! assert_eq!(note.checkpoint()?, checkpoint);
//! # Ok::<(), gavel_proof::note::NoteError>(())
//! ```

use crate::hash::Hash;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signature, Signer as _};
use sha2::{Digest, Sha256};
use std::fmt::{self, Write as _};
use std::str::FromStr;

/// The longest note that is read, in bytes. A checkpoint with a signature has some 200.
pub const NOTE_BYTES_MAX: usize = 64 << 10;
/// The most signatures of a note that are read.
pub const SIGNATURES_MAX: usize = 16;

/// The signature type of Ed25519 in a key's id.
const ED25519: u8 = 1;
/// What begins a signature line: an em dash and a space.
const SIGNATURE_MARK: &str = "\u{2014} ";

/// Why a note or a key is of no use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoteError {
    /// The text is no signed note.
    #[error("no signed note: {0}")]
    NotANote(&'static str),
    /// The text of the note is no checkpoint.
    #[error("no checkpoint: {0}")]
    NotACheckpoint(&'static str),
    /// The text is no public key.
    #[error("no verifier key: {0}; it is written NAME+ID+KEY, as `gavel key` prints it")]
    NotAKey(&'static str),
    /// No signature is by this key.
    #[error("not signed by {wanted}; the signatures are by {found}")]
    OtherKey {
        /// The name and id of the key asked for.
        wanted: String,
        /// The names and ids of the signatures.
        found: String,
    },
    /// A signature claims to be by this key, and is not.
    #[error("the signature by {0} does not belong to this text: the text was changed, or the signature is forged")]
    Forged(String),
}

/// What a log says of itself at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// The log.
    pub origin: String,
    /// The leaves of its tree.
    pub size: u64,
    /// The root over them.
    pub root: Hash,
}

impl Checkpoint {
    /// The text that is signed.
    #[must_use]
    pub fn body(&self) -> String {
        format!("{}\n{}\n{}\n", self.origin, self.size, STANDARD.encode(self.root))
    }

    /// The note of this checkpoint, signed by each of `keys` in the origin's name.
    #[must_use]
    pub fn sign(&self, keys: &[&CheckpointKey]) -> String {
        let body = self.body();
        let mut note = format!("{body}\n");
        for key in keys {
            let id = key.verifying(&self.origin).id();
            let bytes = [id.as_slice(), &key.key.sign(body.as_bytes()).to_bytes()].concat();
            // Writing to a string cannot fail.
            let _ = writeln!(note, "{SIGNATURE_MARK}{} {}", self.origin, STANDARD.encode(bytes));
        }
        note
    }

    /// Reads the text of a note. Lines after the third, extensions, are passed over.
    ///
    /// # Errors
    /// [`NoteError::NotACheckpoint`]
    pub fn parse(text: &str) -> Result<Self, NoteError> {
        let fault = NoteError::NotACheckpoint;
        let mut lines = text.split('\n');
        let origin = lines.next().filter(|origin| !origin.is_empty()).ok_or(fault("it has no origin"))?;
        let size =
            lines.next().and_then(crate::json::parse_u64).ok_or(fault("its second line is no number of leaves"))?;
        let root = lines.next().and_then(|root| STANDARD.decode(root).ok());
        let root =
            root.and_then(|root| Hash::try_from(root).ok()).ok_or(fault("its third line is no root in base64"))?;
        Ok(Self { origin: origin.to_owned(), size, root })
    }
}

/// A private key that signs checkpoints. Shown nowhere, cleared when it is dropped.
#[derive(Clone)]
pub struct CheckpointKey {
    key: ed25519_dalek::SigningKey,
}

impl CheckpointKey {
    /// The key of this seed, the 32 bytes that RFC 8032 calls the private key.
    #[must_use]
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self { key: ed25519_dalek::SigningKey::from_bytes(seed) }
    }

    /// The public half, raw.
    #[must_use]
    pub fn public(&self) -> [u8; 32] {
        self.key.verifying_key().to_bytes()
    }

    /// The public half under a name.
    #[must_use]
    pub fn verifying(&self, name: &str) -> VerifyingKey {
        VerifyingKey { name: name.to_owned(), key: self.key.verifying_key() }
    }
}

impl fmt::Debug for CheckpointKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CheckpointKey").finish_non_exhaustive()
    }
}

/// A public key and the name that it signs under: a C2SP vkey, written `NAME+ID+BASE64`.
#[derive(Clone, PartialEq, Eq)]
pub struct VerifyingKey {
    name: String,
    key: ed25519_dalek::VerifyingKey,
}

impl VerifyingKey {
    /// A raw public key under a name.
    ///
    /// # Errors
    /// [`NoteError::NotAKey`] if the bytes are no point of the curve, or the name has white space or a plus sign.
    pub fn new(name: &str, public: &[u8; 32]) -> Result<Self, NoteError> {
        if !is_name(name) {
            return Err(NoteError::NotAKey("its name is empty, or has white space or a plus sign"));
        }
        let key = ed25519_dalek::VerifyingKey::from_bytes(public);
        let key = key.map_err(|_| NoteError::NotAKey("its 32 bytes are no public key of Ed25519"))?;
        Ok(Self { name: name.to_owned(), key })
    }

    /// Its name, for a checkpoint the origin of the log.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The public key, raw.
    #[must_use]
    pub fn public(&self) -> [u8; 32] {
        self.key.to_bytes()
    }

    /// The first four bytes of the SHA-256 of name, newline, type and key.
    #[must_use]
    pub fn id(&self) -> [u8; 4] {
        let hash = Sha256::new()
            .chain_update(&self.name)
            .chain_update([b'\n', ED25519])
            .chain_update(self.key.as_bytes())
            .finalize();
        [hash[0], hash[1], hash[2], hash[3]]
    }

    fn label(&self) -> String {
        label(&self.name, self.id())
    }
}

pub(crate) fn label(name: &str, id: [u8; 4]) -> String {
    format!("{name}+{:08x}", u32::from_be_bytes(id))
}

pub(crate) fn is_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(|character: char| character.is_whitespace() || character == '+')
}

impl fmt::Display for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = [&[ED25519], self.key.as_bytes().as_slice()].concat();
        write!(f, "{}+{}", self.label(), STANDARD.encode(bytes))
    }
}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for VerifyingKey {
    type Err = NoteError;

    fn from_str(text: &str) -> Result<Self, NoteError> {
        let fault = NoteError::NotAKey;
        let mut parts = text.trim().splitn(3, '+');
        let (Some(name), Some(id), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(fault("it has not three parts"));
        };
        let bytes = STANDARD.decode(key).map_err(|_| fault("its last part is not base64"))?;
        let public = match bytes.split_first() {
            Some((&ED25519, public)) => <[u8; 32]>::try_from(public).map_err(|_| fault("it has not 32 bytes"))?,
            _ => return Err(fault("its type is not Ed25519")),
        };
        let key = Self::new(name, &public)?;
        if label(name, key.id()) == format!("{name}+{id}") {
            Ok(key)
        } else {
            Err(fault("its id is not that of its name and key: it was not copied whole, or belongs to another log"))
        }
    }
}

/// A signed note, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note<'a> {
    /// The text that is signed.
    pub text: &'a str,
    /// Who signed it, or claims so: nothing is checked yet.
    pub signatures: Vec<NoteSignature<'a>>,
}

/// One signature of a note.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoteSignature<'a> {
    /// The key's name.
    pub name: &'a str,
    /// The key's id.
    pub id: [u8; 4],
    /// The signature itself, of whatever type the key has.
    pub signature: Vec<u8>,
}

impl<'a> Note<'a> {
    /// Takes a note apart.
    ///
    /// # Errors
    /// [`NoteError::NotANote`]
    pub fn parse(note: &'a str) -> Result<Self, NoteError> {
        let fault = NoteError::NotANote;
        if note.len() > NOTE_BYTES_MAX {
            return Err(fault("it is longer than 65536 bytes"));
        }
        if note.contains(|character: char| character.is_control() && character != '\n') {
            return Err(fault("it has control characters"));
        }
        let middle = note.rfind("\n\n").ok_or(fault("it has no empty line before its signatures"))?;
        let (text, rest) = (&note[..=middle], &note[middle + 2..]);
        let lines = rest.strip_suffix('\n').ok_or(fault("its last line has no end"))?;
        let signatures: Vec<_> = lines
            .split('\n')
            .map(signature_line)
            .collect::<Option<_>>()
            .ok_or(fault("a signature line is not \u{2014} NAME BASE64"))?;
        if signatures.len() > SIGNATURES_MAX {
            return Err(fault("it has more than 16 signatures"));
        }
        Ok(Self { text, signatures })
    }

    /// Check that this key signed it.
    ///
    /// # Errors
    /// [`NoteError::OtherKey`] if no signature says it is by this key, [`NoteError::Forged`] if one says so and is not.
    pub fn verify(&self, key: &VerifyingKey) -> Result<(), NoteError> {
        let id = key.id();
        let mut signatures =
            self.signatures.iter().filter(|signature| signature.name == key.name && signature.id == id);
        let Some(first) = signatures.next() else {
            let found: Vec<_> = self.signatures.iter().map(|signature| label(signature.name, signature.id)).collect();
            return Err(NoteError::OtherKey { wanted: key.label(), found: found.join(", ") });
        };
        let signature = Signature::from_slice(&first.signature).map_err(|_| NoteError::Forged(key.label()))?;
        let checked = key.key.verify_strict(self.text.as_bytes(), &signature);
        checked.map_err(|_| NoteError::Forged(key.label()))
    }

    /// The checkpoint that it signs.
    ///
    /// # Errors
    /// [`NoteError::NotACheckpoint`]
    pub fn checkpoint(&self) -> Result<Checkpoint, NoteError> {
        Checkpoint::parse(self.text)
    }
}

fn signature_line(line: &str) -> Option<NoteSignature<'_>> {
    let (name, signature) = line.strip_prefix(SIGNATURE_MARK)?.split_once(' ')?;
    let bytes = STANDARD.decode(signature).ok()?;
    let (id, signature) = bytes.split_first_chunk::<4>()?;
    (is_name(name) && !signature.is_empty()).then(|| NoteSignature { name, id: *id, signature: signature.to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORIGIN: &str = "gavel/k-1/00ff";

    fn checkpoint() -> Checkpoint {
        Checkpoint { origin: ORIGIN.into(), size: 3, root: [1; 32] }
    }

    /// The example of Go's package `note`, where the format comes from.
    #[test]
    fn agrees_with_the_reference() {
        let key: VerifyingKey = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW".parse().unwrap();
        let text = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n\n\u{2014} PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";
        assert_eq!(Note::parse(text).unwrap().verify(&key), Ok(()));
    }

    #[test]
    fn every_key_that_signed_is_found_and_no_other() {
        let (old, new) = (CheckpointKey::from_seed(&[1; 32]), CheckpointKey::from_seed(&[2; 32]));
        let text = checkpoint().sign(&[&old, &new]);
        let note = Note::parse(&text).unwrap();
        assert_eq!((note.text, note.signatures.len()), (checkpoint().body().as_str(), 2));
        for key in [&old, &new] {
            assert_eq!(note.verify(&key.verifying(ORIGIN)), Ok(()));
        }
        assert!(matches!(note.verify(&old.verifying("gavel/other/1")), Err(NoteError::OtherKey { .. })));
        let third = CheckpointKey::from_seed(&[3; 32]).verifying(ORIGIN);
        assert!(matches!(note.verify(&third), Err(NoteError::OtherKey { .. })));
    }

    #[test]
    fn a_changed_text_is_forged() {
        let key = CheckpointKey::from_seed(&[1; 32]);
        let text = checkpoint().sign(&[&key]).replace("\n3\n", "\n4\n");
        let verified = Note::parse(&text).unwrap().verify(&key.verifying(ORIGIN));
        assert!(matches!(verified, Err(NoteError::Forged(_))), "{verified:?}");
    }

    #[test]
    fn what_is_no_note_is_told() {
        let good = checkpoint().sign(&[&CheckpointKey::from_seed(&[1; 32])]);
        for bad in
            ["", "a\n", "a\n\n", &good[..good.len() - 1], &good.replace('\u{2014}', "-"), &good.replace(' ', "\t")]
        {
            assert!(matches!(Note::parse(bad), Err(NoteError::NotANote(_))), "{bad:?}");
        }
        for bad in ["", "o\n", "o\n03\nAQ==\n", "o\n3\nAQ==\n", "\n3\n\n"] {
            assert!(matches!(Checkpoint::parse(bad), Err(NoteError::NotACheckpoint(_))), "{bad:?}");
        }
    }

    #[test]
    fn a_key_reads_back_as_written_and_not_otherwise() {
        let key = CheckpointKey::from_seed(&[1; 32]).verifying(ORIGIN);
        let text = key.to_string();
        assert_eq!(text.parse::<VerifyingKey>().unwrap(), key);
        for bad in ["", "x", "x+y+z", &text.replace("00ff", "00fe"), &text[..text.len() - 4]] {
            assert!(matches!(bad.parse::<VerifyingKey>(), Err(NoteError::NotAKey(_))), "{bad}");
        }
    }
}
