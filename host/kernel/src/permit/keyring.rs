//! The keys whose permits count.
//!
//! Only the keyed state of HMAC is kept, never the secret itself; nothing here prints either, and comparing a
//! signature takes the same time wherever it differs.

use super::{identified_text, signed_text};
use crate::json;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Map, Value};
use sha2::Sha256;
use std::{collections::BTreeMap, fmt};
use subtle::ConstantTimeEq;

/// Secret keys by id. A permit signed under an id that is not here is denied.
#[derive(Clone, Default)]
pub struct Keyring {
    keys: BTreeMap<String, Key>,
}

/// Why a keyring cannot be made or cannot sign. Never shows any part of a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyringError {
    /// A secret is not hexadecimal.
    #[error("key {key_id:?}: secret is not hexadecimal, or has an odd number of digits")]
    NotHex {
        /// The key's id.
        key_id: String,
    },
    /// A secret without a byte would let anyone sign.
    #[error("key {key_id:?}: secret is empty")]
    EmptySecret {
        /// The key's id.
        key_id: String,
    },
    /// A permit is to be signed with a key that the keyring does not hold.
    #[error("key {key_id:?} is not in the keyring")]
    UnknownKey {
        /// The key's id.
        key_id: String,
    },
}

impl Keyring {
    /// A keyring from key ids and hexadecimal secrets. Of equal ids the last counts.
    ///
    /// # Errors
    /// [`KeyringError`] names the first key whose secret is not hexadecimal or empty.
    pub fn from_hex<I, K, S>(keys: I) -> Result<Self, KeyringError>
    where
        I: IntoIterator<Item = (K, S)>,
        K: Into<String>,
        S: AsRef<str>,
    {
        let mut keyring = Self::default();
        for (key_id, secret) in keys {
            let key_id = key_id.into();
            match hex::decode(secret.as_ref()) {
                Ok(secret) => keyring.insert(key_id, &secret)?,
                Err(_) => return Err(KeyringError::NotHex { key_id }),
            }
        }
        Ok(keyring)
    }

    /// Adds a key, or replaces the one of the same id.
    ///
    /// # Errors
    /// [`KeyringError::EmptySecret`] when `secret` has no byte.
    pub fn insert(&mut self, key_id: impl Into<String>, secret: &[u8]) -> Result<(), KeyringError> {
        let key_id = key_id.into();
        match Hmac::new_from_slice(secret) {
            Ok(keyed) if !secret.is_empty() => {
                self.keys.insert(key_id, Key(keyed));
                Ok(())
            }
            _ => Err(KeyringError::EmptySecret { key_id }),
        }
    }

    /// The ids of all keys, sorted.
    pub fn key_ids(&self) -> impl Iterator<Item = &str> {
        self.keys.keys().map(String::as_str)
    }

    /// Whether there is no key; then no permit is valid.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Signs a permit: sets its `key_id`, `permit_id` and `signature`, and leaves the rest as given.
    ///
    /// # Errors
    /// [`KeyringError::UnknownKey`] when the keyring has no key of that id.
    pub fn sign(&self, key_id: &str, mut permit: Map<String, Value>) -> Result<Map<String, Value>, KeyringError> {
        let unknown = || KeyringError::UnknownKey { key_id: key_id.to_owned() };
        let key = self.key(key_id).ok_or_else(unknown)?;
        permit.insert("key_id".to_owned(), key_id.into());
        let permit_id = json::sha256_hex(identified_text(&permit).as_bytes());
        permit.insert("permit_id".to_owned(), permit_id.into());
        let signature = key.signature(&signed_text(&permit));
        permit.insert("signature".to_owned(), signature.into());
        Ok(permit)
    }

    pub(super) fn key(&self, key_id: &str) -> Option<&Key> {
        self.keys.get(key_id)
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyring").field("key_ids", &self.keys.keys()).finish_non_exhaustive()
    }
}

/// One secret, ready to sign.
#[derive(Clone)]
pub(super) struct Key(Hmac<Sha256>);

impl Key {
    pub(super) fn has_signed(&self, text: &str, signature: &str) -> bool {
        equal_in_constant_time(&self.signature(text), signature)
    }

    pub(super) fn signature(&self, text: &str) -> String {
        let mut keyed = self.0.clone();
        keyed.update(text.as_bytes());
        hex::encode(keyed.finalize().into_bytes())
    }
}

/// Compares without telling by its time where two texts differ; only their lengths show.
pub(super) fn equal_in_constant_time(left: &str, right: &str) -> bool {
    left.as_bytes().ct_eq(right.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_secrets_are_refused_without_showing_them() {
        for (secret, expected) in [
            ("00zz", "key \"k\": secret is not hexadecimal, or has an odd number of digits"),
            ("000", "key \"k\": secret is not hexadecimal, or has an odd number of digits"),
            ("", "key \"k\": secret is empty"),
        ] {
            let error = Keyring::from_hex([("k", secret)]).expect_err("refused");
            assert_eq!(error.to_string(), expected);
        }
    }

    #[test]
    fn debug_shows_ids_only() {
        let keyring = Keyring::from_hex([("key-1", "0001020304050607")]).expect("valid");
        assert_eq!(format!("{keyring:?}"), "Keyring { key_ids: [\"key-1\"], .. }");
    }

    #[test]
    fn signing_with_an_unknown_key_is_an_error() {
        let error = Keyring::default().sign("k", Map::new()).expect_err("refused");
        assert_eq!(error.to_string(), "key \"k\" is not in the keyring");
    }

    #[test]
    fn hmac_is_that_of_rfc_4231() {
        let keyring = Keyring::from_hex([("k", "4a656665")]).expect("valid");
        let key = keyring.key("k").expect("present");
        assert_eq!(
            key.signature("what do ya want for nothing?"),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
    }
}
