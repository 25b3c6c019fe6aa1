//! The standard policies, embedded as the components that `guest-policies/` builds.
//!
//! `guest-policies/guests.lock` ties each to the source it was built from; the project's tests
//! rebuild and compare.

use super::package::digest_of;
use std::sync::LazyLock;

/// What a configuration writes before the name of a builtin policy.
pub const PREFIX: &str = "builtin:";

macro_rules! built {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_bytes!(concat!("../../../guest-policies/built/", $name, ".wasm")))),*]
    };
}

const BUILTINS: &[(&str, &[u8])] = built![
    "budget",
    "business-hours",
    "cedar",
    "intent-bound",
    "parameter-schema",
    "path-allow-list",
    "rate-limit",
    "rego",
    "sensitive-data",
    "sequence",
    "two-person",
];

/// The component of the builtin policy `name`.
#[must_use]
pub fn find(name: &str) -> Option<&'static [u8]> {
    BUILTINS.iter().find(|(builtin, _)| *builtin == name).map(|(_, bytes)| *bytes)
}

/// The builtin policy whose component has this digest.
#[must_use]
pub fn by_digest(digest: &str) -> Option<&'static [u8]> {
    static DIGESTS: LazyLock<Vec<String>> =
        LazyLock::new(|| BUILTINS.iter().map(|(_, bytes)| digest_of(bytes)).collect());
    let at = DIGESTS.iter().position(|known| known == digest)?;
    Some(BUILTINS[at].1)
}

/// The names of the builtin policies.
pub fn names() -> impl Iterator<Item = &'static str> {
    BUILTINS.iter().map(|(name, _)| *name)
}
