//! What is signed: never what a caller hands in, but a text around its digest that says what the signature is for.
//!
//! ```text
//! gavel crypto_kernel signature v1 LF
//! NAME LF
//! sha256:HEX LF
//! ```
//!
//! `NAME` is the key's, `HEX` the SHA-256 of the payload in lower case. The first line is that of no other text which
//! Gavel signs: a checkpoint begins with its log's origin (`gavel/…`, no spaces) and has a number in its second line and
//! 32 bytes of base64 in its third; a policy's signature and a message of a bus begin with `gavel policy signature v1` and
//! `gavel bus message v1`; a permit is an object of JSON under an HMAC. So a signature of this kernel is good for
//! nothing else, whatever payload it was asked for, and nothing else is taken for one.

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use sha2::{Digest, Sha256};

/// The first line, which changes with the form.
pub(super) const CONTEXT: &str = "gavel crypto_kernel signature v1";
pub(super) const SIGNATURE_BYTES: usize = 64;
const NAME_BYTES_MAX: usize = 64;

/// The digest of a payload, as it stands in an envelope.
pub(super) fn digest(payload: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(payload)))
}

/// The bytes that are signed.
fn envelope(name: &str, digest: &str) -> String {
    format!("{CONTEXT}\n{name}\n{digest}\n")
}

/// Whether a key may have this name. It has no line end, so that an envelope can be read in one way only.
pub(super) fn is_name(name: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_.-".contains(&byte);
    (1..=NAME_BYTES_MAX).contains(&name.len())
        && name.bytes().all(good)
        && name.starts_with(|first: char| first.is_ascii_alphanumeric())
}

/// Signs the payload of this digest under a key's name.
pub(super) fn sign(key: &SigningKey, name: &str, digest: &str) -> [u8; SIGNATURE_BYTES] {
    key.sign(envelope(name, digest).as_bytes()).to_bytes()
}

/// Whether this public key signed the payload of this digest under this name.
pub(super) fn holds(public: &[u8; 32], name: &str, digest: &str, signature: &[u8; SIGNATURE_BYTES]) -> bool {
    let signature = Signature::from_bytes(signature);
    let text = envelope(name, digest);
    VerifyingKey::from_bytes(public).is_ok_and(|key| key.verify_strict(text.as_bytes(), &signature).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use gavel_proof::note::{Checkpoint, CheckpointKey, Note};

    /// The first test vector of RFC 8032: what `docs/fleet/crypto_kernel.md` shows is computed with it.
    const SEED: &str = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";

    fn key() -> SigningKey {
        SigningKey::from_bytes(&hex::decode(SEED).unwrap().try_into().unwrap())
    }

    #[test]
    fn the_bytes_are_those_of_the_document() {
        let digest = digest(b"hello");
        let text = envelope("release", &digest);
        assert_eq!(
            text,
            "gavel crypto_kernel signature v1\nrelease\nsha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824\n"
        );
        let document = include_str!("../../../../docs/fleet/crypto_kernel.md");
        let signature = sign(&key(), "release", &digest);
        assert!(document.contains(&hex::encode(signature)), "{}", hex::encode(signature));
        assert!(document.contains(CONTEXT));
    }

    #[test]
    fn a_signature_holds_for_its_name_payload_and_key_only() {
        let public = key().verifying_key().to_bytes();
        let signature = sign(&key(), "release", &digest(b"hello"));
        assert!(holds(&public, "release", &digest(b"hello"), &signature));
        assert!(!holds(&public, "releases", &digest(b"hello"), &signature));
        assert!(!holds(&public, "release", &digest(b"hello\n"), &signature));
        let other = SigningKey::from_bytes(&[7; 32]).verifying_key().to_bytes();
        assert!(!holds(&other, "release", &digest(b"hello"), &signature));
    }

    #[test]
    fn no_payload_makes_a_checkpoint() {
        let checkpoint = Checkpoint { origin: "gavel/immutable_log/00ff".into(), size: 3, root: [1; 32] };
        let verifying = CheckpointKey::from_seed(&key().to_bytes()).verifying(&checkpoint.origin);
        let honest = checkpoint.sign(&[&CheckpointKey::from_seed(&key().to_bytes())]);
        assert!(Note::parse(&honest).unwrap().verify(&verifying).is_ok());
        // The same key, asked to sign the very text of the checkpoint as a payload.
        let signature = sign(&key(), "release", &digest(checkpoint.body().as_bytes()));
        let (text, _) = honest.rsplit_once("\u{2014} ").unwrap();
        let line = [verifying.id().as_slice(), &signature].concat();
        let line = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, line);
        let forged = format!("{text}\u{2014} {} {line}\n", checkpoint.origin);
        let refused = Note::parse(&forged).unwrap().verify(&verifying).unwrap_err();
        assert!(refused.to_string().contains("does not belong to this text"), "{refused}");
    }

    #[test]
    fn names_are_plain() {
        for good in ["release", "a", "0-a_b.c", &"x".repeat(64)] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", "Release", "a\nb", "a b", ".a", "-a", "a/b", &"x".repeat(65)] {
            assert!(!is_name(bad), "{bad}");
        }
    }
}
