//! Private keys of Ed25519 in files: PKCS#8 in PEM, as `openssl` writes it too, for their owner's eyes only.
//!
//! The text of a private key is wiped from memory as soon as it was used; the key itself wipes itself when it is dropped.

use crate::durable::{self, NotKept};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::SigningKey;
use std::fs::{File, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// A PKCS#8 private key of Ed25519 (RFC 8410) before its 32 bytes: they are the same in every one.
const PKCS8_HEAD: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];
/// A public key of Ed25519 as SPKI (RFC 8410) before its 32 bytes.
const SPKI_HEAD: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
const SEED_BYTES: usize = 32;
/// The longest file that is read: one that `openssl` writes has some 200 bytes.
const FILE_BYTES_MAX: usize = 4096;
const PEM_BEGIN: &str = "-----BEGIN PRIVATE KEY-----";
const PEM_END: &str = "-----END PRIVATE KEY-----";

/// Why there is no private key.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeyFileError {
    /// The file cannot be read.
    #[error("{path}: {why}", path = .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        why: io::Error,
    },
    /// It could not be written.
    #[error(transparent)]
    NotKept(#[from] NotKept),
    /// Others than its owner may read it.
    #[error("{path}: others may read this private key (mode {mode:03o}): make it yours alone with `chmod 600 {path}`", path = .path.display())]
    NotPrivate {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It holds no private key of Ed25519.
    #[error("{path}: no Ed25519 private key as PKCS#8 in PEM: restore the file from a copy", path = .path.display())]
    NotAKey {
        /// The file.
        path: PathBuf,
    },
    /// There is no randomness for a new key.
    #[error("no randomness to be had for a new key: {0}")]
    NoRandomness(String),
}

/// Makes a key. It is nowhere but in memory yet.
pub(crate) fn generate() -> Result<SigningKey, KeyFileError> {
    let mut seed = Zeroizing::new([0; SEED_BYTES]);
    getrandom::fill(&mut *seed).map_err(|why| KeyFileError::NoRandomness(why.to_string()))?;
    Ok(SigningKey::from_bytes(&seed))
}

/// Keeps a key in a file, durably. One that is there already is not written over.
pub(crate) fn keep(path: &Path, key: &SigningKey) -> Result<(), KeyFileError> {
    if path.exists() {
        let why = io::Error::new(io::ErrorKind::AlreadyExists, "a private key is never written over");
        return Err(KeyFileError::File { path: path.to_owned(), why });
    }
    Ok(durable::replace(path, pem(key).as_bytes())?)
}

/// Reads a key.
pub(crate) fn read(path: &Path) -> Result<SigningKey, KeyFileError> {
    let told = |why| KeyFileError::File { path: path.to_owned(), why };
    let mut file = File::open(path).map_err(told)?;
    let mode = file.metadata().map_err(told)?.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(KeyFileError::NotPrivate { path: path.to_owned(), mode });
    }
    // With room from the beginning, so that no copy is left behind by growing.
    let mut text = Zeroizing::new(String::with_capacity(FILE_BYTES_MAX));
    Read::take(&mut file, FILE_BYTES_MAX as u64).read_to_string(&mut text).map_err(told)?;
    seed_of(&text)
        .map(|seed| SigningKey::from_bytes(&seed))
        .ok_or_else(|| KeyFileError::NotAKey { path: path.to_owned() })
}

/// Writes zeros over a private key and removes its file. A file system that writes elsewhere, a snapshot and a backup keep
/// what they have.
pub(crate) fn erase(path: &Path) -> io::Result<()> {
    std::fs::set_permissions(path, Permissions::from_mode(0o600))?;
    let mut file = File::options().write(true).open(path)?;
    let bytes = usize::try_from(file.metadata()?.len()).unwrap_or(FILE_BYTES_MAX);
    file.write_all(&vec![0; bytes.min(FILE_BYTES_MAX)])?;
    file.sync_all()?;
    std::fs::remove_file(path)?;
    durable::sync_folder_of(path)
}

/// A public key as PEM, for other tools.
pub(crate) fn public_pem(public: &[u8; 32]) -> String {
    let der = STANDARD.encode([SPKI_HEAD.as_slice(), public].concat());
    format!("-----BEGIN PUBLIC KEY-----\n{der}\n-----END PUBLIC KEY-----\n")
}

fn pem(key: &SigningKey) -> Zeroizing<String> {
    let mut der = Zeroizing::new([0; PKCS8_HEAD.len() + SEED_BYTES]);
    der[..PKCS8_HEAD.len()].copy_from_slice(&PKCS8_HEAD);
    der[PKCS8_HEAD.len()..].copy_from_slice(key.as_bytes());
    let body = Zeroizing::new(STANDARD.encode(der.as_slice()));
    let mut pem = Zeroizing::new(String::with_capacity(256));
    for part in [PEM_BEGIN, "\n", &body, "\n", PEM_END, "\n"] {
        pem.push_str(part);
    }
    pem
}

fn seed_of(pem: &str) -> Option<Zeroizing<[u8; SEED_BYTES]>> {
    let body = pem.split_once(PEM_BEGIN)?.1.split_once(PEM_END)?.0;
    let mut joined = Zeroizing::new(String::with_capacity(body.len()));
    joined.extend(body.split_whitespace());
    let der = Zeroizing::new(STANDARD.decode(joined.as_bytes()).ok()?);
    let (head, rest) = der.split_first_chunk::<{ PKCS8_HEAD.len() }>()?;
    // Some tools append the public key, which changes the length of the whole and the version; the seed stands at the
    // same place.
    let same = head[0] == PKCS8_HEAD[0] && head[2..4] == PKCS8_HEAD[2..4] && head[5..] == PKCS8_HEAD[5..];
    let seed = rest.first_chunk::<SEED_BYTES>()?;
    (same && head[4] <= 1).then(|| Zeroizing::new(*seed))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first test vector of RFC 8032.
    const SEED: &str = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
    const PUBLIC: &str = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";

    #[test]
    fn a_key_is_kept_for_its_owner_and_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.pem");
        let key = generate().unwrap();
        keep(&path, &key).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(read(&path).unwrap(), key);
        assert!(keep(&path, &key).unwrap_err().to_string().contains("never written over"));
        std::fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        let told = read(&path).unwrap_err().to_string();
        assert!(told.contains("mode 640") && told.contains("chmod 600"), "{told}");
        erase(&path).unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn the_forms_are_those_of_the_standard() {
        let seed: [u8; 32] = hex::decode(SEED).unwrap().try_into().unwrap();
        let key = SigningKey::from_bytes(&seed);
        assert_eq!(hex::encode(key.verifying_key().to_bytes()), PUBLIC);
        // As `openssl genpkey -algorithm ed25519` and `openssl pkey -pubout` write them.
        let private = pem(&key);
        assert!(private.contains("\nMC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n"), "{PUBLIC}");
        assert_eq!(seed_of(&private).as_deref(), Some(&seed));
        let public = public_pem(&key.verifying_key().to_bytes());
        assert!(public.contains("\nMCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\n"), "{public}");
    }

    #[test]
    fn what_is_no_key_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("k");
        for text in ["", "garbage", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"] {
            durable::replace(&path, text.as_bytes()).unwrap();
            let told = read(&path).unwrap_err().to_string();
            assert!(told.contains("no Ed25519 private key"), "{told}");
        }
    }
}
