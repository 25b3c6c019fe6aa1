//! Signatures over policies: Ed25519, by the key of whoever answers for them.
//!
//! What is signed is not the file but its digest (`sha256:HEX`, see [`crate::policies::package`]) behind a line that says
//! what the signature is for, so that it is good for nothing else. A public key is written `ed25519:HEX`; a private key
//! lies in a file that its owner alone may read, as PKCS#8 in PEM, which `openssl` and other tools read and write too.
//!
//! It does not say whose key is trusted: the configuration does. A kernel's key for checkpoints is kept in the same form
//! ([`SigningKey::checkpoint_key`]).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::Signer as _;
use gavel_ledger::note::CheckpointKey;
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// What stands before the digest in what is signed.
const CONTEXT: &str = "gavel policy signature v1\n";
/// What a public key is written with.
const PREFIX: &str = "ed25519:";
const PUBLIC_KEY_BYTES: usize = 32;
/// Bytes of a signature.
pub const SIGNATURE_BYTES: usize = 64;
const SEED_BYTES: usize = 32;
/// A PKCS#8 private key of Ed25519 (RFC 8410) before its 32 bytes: they are the same in every one.
const PKCS8_HEAD: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

/// Why a key or a signature is of no use.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SigningError {
    /// A key file cannot be read or written.
    #[error("{path}: {why}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        why: std::io::Error,
    },
    /// Others than its owner may read the private key.
    #[error("{path}: others may read this private key (mode {mode:03o}): make it yours alone with `chmod 600 {path}`")]
    NotPrivate {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A key file holds no private key of Ed25519.
    #[error("{path}: no Ed25519 private key as PKCS#8 in PEM ({why}): `gavel policy key --out FILE` makes one")]
    NotAKey {
        /// The file.
        path: PathBuf,
        /// What was found.
        why: String,
    },
    /// A text is no public key.
    #[error("`{0}` is no public key: it is written ed25519: and 64 hex digits")]
    NotAPublicKey(String),
    /// There is no randomness for a new key.
    #[error("no randomness to be had: {0}")]
    NoRandomness(String),
    /// The signature is not of this digest by this key.
    #[error("the signature by {key} is not of {digest}: the file was changed after it was signed, sign it again")]
    Invalid {
        /// The key that the signature names.
        key: PublicKey,
        /// What should have been signed.
        digest: String,
    },
}

/// A private key, which signs.
pub struct SigningKey {
    key: ed25519_dalek::SigningKey,
}

/// A public key, which tells whose a signature is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PublicKey([u8; PUBLIC_KEY_BYTES]);

/// A signature over a digest, with the key that checks it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signature {
    /// Whose it is.
    pub key: PublicKey,
    #[serde(with = "signature_hex")]
    signature: [u8; SIGNATURE_BYTES],
}

impl SigningKey {
    /// Make a key and keep it in a new file that only its owner may read.
    ///
    /// # Errors
    /// [`SigningError::File`], also where the file exists: a key is never written over.
    pub fn create(path: &Path) -> Result<Self, SigningError> {
        let mut der = PKCS8_HEAD.to_vec();
        der.resize(PKCS8_HEAD.len() + SEED_BYTES, 0);
        getrandom::fill(&mut der[PKCS8_HEAD.len()..]).map_err(|why| SigningError::NoRandomness(why.to_string()))?;
        let key = Self::of(path, &der)?;
        let pem = format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", STANDARD.encode(&der));
        let told = |why| SigningError::File { path: path.to_owned(), why };
        // Beside, and named when it is whole: a crash leaves no half of a key. Its mode is 0600 from the beginning.
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut file = tempfile::NamedTempFile::new_in(folder).map_err(told)?;
        file.write_all(pem.as_bytes()).and_then(|()| file.as_file().sync_all()).map_err(told)?;
        file.persist_noclobber(path).map_err(|why| told(why.error))?;
        std::fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(told)?;
        Ok(key)
    }

    /// Read a private key.
    ///
    /// # Errors
    /// [`SigningError`], also where others than its owner may read the file.
    pub fn read(path: &Path) -> Result<Self, SigningError> {
        let metadata = std::fs::metadata(path).map_err(|why| SigningError::File { path: path.to_owned(), why })?;
        let mode = metadata.mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(SigningError::NotPrivate { path: path.to_owned(), mode });
        }
        let pem = std::fs::read(path).map_err(|why| SigningError::File { path: path.to_owned(), why })?;
        let der = PrivatePkcs8KeyDer::from_pem_slice(&pem)
            .map_err(|why| SigningError::NotAKey { path: path.to_owned(), why: why.to_string() })?;
        Self::of(path, der.secret_pkcs8_der())
    }

    fn of(path: &Path, der: &[u8]) -> Result<Self, SigningError> {
        let told = |why: &str| SigningError::NotAKey { path: path.to_owned(), why: why.to_owned() };
        // Some tools append the public key, which changes two lengths; the seed stands at the same place.
        let (head, rest) = der.split_at_checked(PKCS8_HEAD.len()).ok_or_else(|| told("it is too short"))?;
        let same = |range: std::ops::Range<usize>| head[range.clone()] == PKCS8_HEAD[range];
        if head[0] != PKCS8_HEAD[0] || !same(2..4) || head[4] > 1 || !same(5..16) {
            return Err(told("it is a key of another kind"));
        }
        let seed = rest.first_chunk::<SEED_BYTES>().ok_or_else(|| told("it is too short"))?;
        Ok(Self { key: ed25519_dalek::SigningKey::from_bytes(seed) })
    }

    /// The same key, for signing the checkpoints of a ledger.
    #[must_use]
    pub fn checkpoint_key(&self) -> CheckpointKey {
        CheckpointKey::from_seed(self.key.as_bytes())
    }

    /// The key that others check with.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        PublicKey(self.key.verifying_key().to_bytes())
    }

    /// Sign a message. It must begin with a line that says what the signature is for, as no other kind of message does.
    #[must_use]
    pub fn sign_message(&self, message: &[u8]) -> [u8; SIGNATURE_BYTES] {
        self.key.sign(message).to_bytes()
    }

    /// Sign a policy's digest, `sha256:HEX`.
    #[must_use]
    pub fn sign(&self, digest: &str) -> Signature {
        Signature { key: self.public(), signature: self.key.sign(message(digest).as_bytes()).to_bytes() }
    }
}

impl Signature {
    /// Check that it is of this digest, by the key that it names. Whether that key is trusted is another question.
    ///
    /// # Errors
    /// [`SigningError::Invalid`] when it is not.
    pub fn verify(&self, digest: &str) -> Result<(), SigningError> {
        let invalid = || SigningError::Invalid { key: self.key, digest: digest.to_owned() };
        let key = ed25519_dalek::VerifyingKey::from_bytes(&self.key.0).map_err(|_| invalid())?;
        let signature = ed25519_dalek::Signature::from_bytes(&self.signature);
        key.verify_strict(message(digest).as_bytes(), &signature).map_err(|_| invalid())
    }
}

fn message(digest: &str) -> String {
    format!("{CONTEXT}{digest}")
}

impl PublicKey {
    /// Its 32 bytes.
    #[must_use]
    pub fn raw(&self) -> [u8; PUBLIC_KEY_BYTES] {
        self.0
    }

    /// Whether this key signed the message, as [`SigningKey::sign_message`] does.
    #[must_use]
    pub fn signed(&self, message: &[u8], signature: &[u8; SIGNATURE_BYTES]) -> bool {
        let signature = ed25519_dalek::Signature::from_bytes(signature);
        ed25519_dalek::VerifyingKey::from_bytes(&self.0).is_ok_and(|key| key.verify_strict(message, &signature).is_ok())
    }
}

impl From<[u8; PUBLIC_KEY_BYTES]> for PublicKey {
    fn from(raw: [u8; PUBLIC_KEY_BYTES]) -> Self {
        Self(raw)
    }
}

impl FromStr for PublicKey {
    type Err = SigningError;

    fn from_str(text: &str) -> Result<Self, SigningError> {
        let mut bytes = [0; PUBLIC_KEY_BYTES];
        let digits = text.strip_prefix(PREFIX);
        match digits.map(|digits| hex::decode_to_slice(digits, &mut bytes)) {
            Some(Ok(())) => Ok(Self(bytes)),
            _ => Err(SigningError::NotAPublicKey(text.chars().take(100).collect())),
        }
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", hex::encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signature").field("key", &self.key).finish_non_exhaustive()
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Never the private half.
        f.debug_struct("SigningKey").field("public", &self.public()).finish_non_exhaustive()
    }
}

impl Serialize for PublicKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

mod signature_hex {
    use super::SIGNATURE_BYTES;
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8; SIGNATURE_BYTES], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[u8; SIGNATURE_BYTES], D::Error> {
        let mut bytes = [0; SIGNATURE_BYTES];
        let text = String::deserialize(deserializer)?;
        hex::decode_to_slice(&text, &mut bytes)
            .map_err(|why| de::Error::custom(format!("a signature is {} hex digits: {why}", 2 * SIGNATURE_BYTES)))?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    const DIGEST: &str = "sha256:00ff";

    /// The first test vector of RFC 8032: a seed and its public key.
    const SEED: &str = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
    const PUBLIC: &str = "ed25519:d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";

    #[test]
    fn a_signature_holds_for_its_digest_and_key_only() {
        let folder = tempfile::tempdir().unwrap();
        let [one, other] = ["one", "other"].map(|name| SigningKey::create(&folder.path().join(name)).unwrap());
        let signature = one.sign(DIGEST);
        signature.verify(DIGEST).unwrap();
        let told = signature.verify("sha256:00fe").unwrap_err().to_string();
        assert!(told.contains("is not of sha256:00fe"), "{told}");
        let forged = Signature { key: other.public(), ..signature };
        assert!(forged.verify(DIGEST).is_err());
    }

    #[test]
    fn a_message_is_signed_whole_and_by_one_key() {
        let folder = tempfile::tempdir().unwrap();
        let [one, other] = ["one", "other"].map(|name| SigningKey::create(&folder.path().join(name)).unwrap());
        let signature = one.sign_message(b"for this\nmessage");
        assert!(one.public().signed(b"for this\nmessage", &signature));
        assert!(!one.public().signed(b"for this\nmessages", &signature));
        assert!(!other.public().signed(b"for this\nmessage", &signature));
    }

    #[test]
    fn a_key_is_kept_for_its_owner_and_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.pem");
        let made = SigningKey::create(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(SigningKey::read(&path).unwrap().public(), made.public());
        assert!(SigningKey::create(&path).unwrap_err().to_string().contains("exists"), "never written over");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let told = SigningKey::read(&path).unwrap_err().to_string();
        assert!(told.contains("mode 644") && told.contains("chmod 600"), "{told}");
    }

    #[test]
    fn the_public_key_is_that_of_the_standard() {
        let der = [&PKCS8_HEAD[..], &hex::decode(SEED).unwrap()].concat();
        let key = SigningKey::of(Path::new("rfc8032"), &der).unwrap();
        assert_eq!(key.public().to_string(), PUBLIC);
        assert_eq!(PUBLIC.parse::<PublicKey>().unwrap(), key.public());
    }

    #[test]
    fn a_signature_is_written_and_read_as_json() {
        let folder = tempfile::tempdir().unwrap();
        let signature = SigningKey::create(&folder.path().join("k")).unwrap().sign(DIGEST);
        let text = serde_json::to_string(&signature).unwrap();
        assert_eq!(serde_json::from_str::<Signature>(&text).unwrap(), signature);
        for (bad, why) in [
            (text.replace("ed25519:", "rsa:"), "is no public key"),
            (text.replace("\"signature\":\"", "\"signature\":\"zz"), "a signature is 128 hex digits"),
            (text.replace('}', ",\"x\":1}"), "unknown field"),
        ] {
            let told = serde_json::from_str::<Signature>(&bad).unwrap_err().to_string();
            assert!(told.contains(why), "{told}");
        }
    }

    #[test]
    fn what_is_no_key_says_how_to_make_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("k");
        for text in ["", "garbage", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"] {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
            let told = SigningKey::read(&path).unwrap_err().to_string();
            assert!(told.contains("no Ed25519 private key") && told.contains("gavel policy key"), "{told}");
        }
    }
}
