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
    pub fn of(hash: &Hash) -> Self {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut digits = [0; HEX_DIGITS];
        for (pair, byte) in digits.chunks_exact_mut(2).zip(hash) {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 0xf)];
        }
        Self(digits)
    }

    pub fn as_str(&self) -> &str {
        // All digits are ASCII, so the fallback is never taken.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
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
        }
    }
}
