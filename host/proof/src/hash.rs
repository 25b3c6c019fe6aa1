//! A SHA-256 digest, and the hex form in which the KERNELS chain stores it and hashes it again.

use std::fmt;

/// A SHA-256 digest.
pub type Hash = [u8; 32];

/// The number of hex digits in a hash.
pub const HEX_DIGITS: usize = 64;

/// A digest as 64 hex digits in lower case, without an allocation: a full audit makes one for every
/// entry.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct HexHash([u8; HEX_DIGITS]);

impl HexHash {
    /// The digits of `hash`.
    #[must_use]
    pub fn of(hash: &Hash) -> Self {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut digits = [0; HEX_DIGITS];
        for (pair, byte) in digits.chunks_exact_mut(2).zip(hash) {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 0xf)];
        }
        Self(digits)
    }

    /// The digits as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // All digits are ASCII, so the fallback is never taken.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

/// The 32 bytes that `text` writes as 64 hex digits in lower case.
#[must_use]
pub fn from_hex(text: &str) -> Option<Hash> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    if text.len() != HEX_DIGITS {
        return None;
    }
    let mut hash = Hash::default();
    for (byte, pair) in hash.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(hash)
}

impl fmt::Debug for HexHash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn is_what_the_hex_crate_writes(hash in any::<Hash>()) {
            let digits = HexHash::of(&hash);
            prop_assert_eq!(digits.as_str(), hex::encode(hash));
            prop_assert_eq!(from_hex(digits.as_str()), Some(hash));
        }
    }
}
