//! What a witness says of a checkpoint: that it saw it, when, and that nothing it saw before was taken back
//! (C2SP tlog-cosignature, the Ed25519 form).
//!
//! A cosignature stands among the signatures of the checkpoint's note, under the witness's name. Its bytes are the
//! witness's clock (8, big-endian, seconds since 1970) and a signature over `cosignature/v1`, that time, and the note's
//! text. The key's type is 4, so that a witness's key is never taken for a log's.

use crate::note::{Note, NoteError, is_name, label};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::Signature;
use sha2::{Digest, Sha256};
use std::fmt;
use std::str::FromStr;

/// The signature type of a timestamped Ed25519 cosignature.
const COSIGNATURE: u8 = 4;

/// A witness's public key and name: a C2SP vkey of type 4, written `NAME+ID+BASE64`.
#[derive(Clone, PartialEq, Eq)]
pub struct WitnessKey {
    name: String,
    key: ed25519_dalek::VerifyingKey,
}

impl WitnessKey {
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

    /// The witness's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The first four bytes of the SHA-256 of name, newline, type and key.
    #[must_use]
    pub fn id(&self) -> [u8; 4] {
        let hash = Sha256::new()
            .chain_update(&self.name)
            .chain_update([b'\n', COSIGNATURE])
            .chain_update(self.key.as_bytes())
            .finalize();
        [hash[0], hash[1], hash[2], hash[3]]
    }

    /// The time at which this witness signed the note, in seconds since 1970.
    ///
    /// # Errors
    /// [`NoteError::OtherKey`] if no signature says it is by this key, [`NoteError::Forged`] if one says so and is not.
    pub fn verify(&self, note: &Note<'_>) -> Result<u64, NoteError> {
        let id = self.id();
        let mut found = note.signatures.iter().filter(|signature| signature.name == self.name && signature.id == id);
        let Some(first) = found.next() else {
            let found: Vec<_> = note.signatures.iter().map(|signature| label(signature.name, signature.id)).collect();
            return Err(NoteError::OtherKey { wanted: label(&self.name, id), found: found.join(", ") });
        };
        let forged = || NoteError::Forged(label(&self.name, id));
        let (time, signature) = first.signature.split_first_chunk::<8>().ok_or_else(forged)?;
        let time = u64::from_be_bytes(*time);
        let signature = Signature::from_slice(signature).map_err(|_| forged())?;
        let message = message(time, note.text);
        self.key.verify_strict(message.as_bytes(), &signature).map_err(|_| forged())?;
        Ok(time)
    }
}

/// What a witness signs.
#[must_use]
pub fn message(time: u64, text: &str) -> String {
    format!("cosignature/v1\ntime {time}\n{text}")
}

impl fmt::Display for WitnessKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = [&[COSIGNATURE], self.key.as_bytes().as_slice()].concat();
        write!(f, "{}+{}", label(&self.name, self.id()), STANDARD.encode(bytes))
    }
}

impl fmt::Debug for WitnessKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for WitnessKey {
    type Err = NoteError;

    fn from_str(text: &str) -> Result<Self, NoteError> {
        let fault = NoteError::NotAKey;
        let mut parts = text.trim().splitn(3, '+');
        let (Some(name), Some(id), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(fault("it has not three parts"));
        };
        let bytes = STANDARD.decode(key).map_err(|_| fault("its last part is not base64"))?;
        let public = match bytes.split_first() {
            Some((&COSIGNATURE, public)) => <[u8; 32]>::try_from(public).map_err(|_| fault("it has not 32 bytes"))?,
            _ => return Err(fault("its type is not that of a witness's Ed25519 key (4)")),
        };
        let key = Self::new(name, &public)?;
        if label(name, key.id()) == format!("{name}+{id}") {
            Ok(key)
        } else {
            Err(fault("its id is not that of its name and key: it was not copied whole"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::note::{Checkpoint, CheckpointKey};
    use ed25519_dalek::Signer;

    fn witness() -> (ed25519_dalek::SigningKey, WitnessKey) {
        let signing = ed25519_dalek::SigningKey::from_bytes(&[9; 32]);
        let key = WitnessKey::new("witness.test/w1", &signing.verifying_key().to_bytes()).unwrap();
        (signing, key)
    }

    fn cosigned(time: u64, signed: u64) -> String {
        let (signing, key) = witness();
        let checkpoint = Checkpoint { origin: "gavel/k/0".into(), size: 3, root: [1; 32] };
        let note = checkpoint.sign(&[&CheckpointKey::from_seed(&[1; 32])]);
        let signature = signing.sign(message(signed, &checkpoint.body()).as_bytes()).to_bytes();
        let bytes = [key.id().as_slice(), &time.to_be_bytes(), &signature].concat();
        format!("{note}\u{2014} {} {}\n", key.name(), STANDARD.encode(bytes))
    }

    #[test]
    fn a_cosignature_tells_when() {
        let (_, key) = witness();
        let text = cosigned(1_679_315_147, 1_679_315_147);
        assert_eq!(key.verify(&Note::parse(&text).unwrap()), Ok(1_679_315_147));
        // The log's own signature is still found.
        let log = CheckpointKey::from_seed(&[1; 32]).verifying("gavel/k/0");
        assert_eq!(Note::parse(&text).unwrap().verify(&log), Ok(()));
    }

    #[test]
    fn another_time_or_text_is_forged_and_another_key_is_told() {
        let (_, key) = witness();
        for text in [cosigned(5, 6), cosigned(5, 5).replace("\n3\n", "\n4\n")] {
            assert!(matches!(key.verify(&Note::parse(&text).unwrap()), Err(NoteError::Forged(_))), "{text}");
        }
        let other = WitnessKey::new("witness.test/w2", &key.key.to_bytes()).unwrap();
        assert!(matches!(other.verify(&Note::parse(&cosigned(5, 5)).unwrap()), Err(NoteError::OtherKey { .. })));
    }

    #[test]
    fn a_key_reads_back_as_written_and_a_logs_key_is_none() {
        let (_, key) = witness();
        assert_eq!(key.to_string().parse::<WitnessKey>().unwrap(), key);
        let log = CheckpointKey::from_seed(&[1; 32]).verifying("witness.test/w1").to_string();
        for bad in ["", "x+y+z", &log, &key.to_string().replace("w1", "w2")] {
            assert!(matches!(bad.parse::<WitnessKey>(), Err(NoteError::NotAKey(_))), "{bad}");
        }
    }
}
