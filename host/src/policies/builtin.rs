//! The standard policies, embedded as the components that `guest-policies/` builds.
//!
//! `guest-policies/guests.lock` ties each to the source it was built from; the project's tests
//! rebuild and compare.

use super::package::digest_of;
use std::sync::LazyLock;

/// What a configuration writes before the name of a builtin policy.
pub const PREFIX: &str = "builtin:";

/// A standard policy.
struct Builtin {
    name: &'static str,
    component: &'static [u8],
    /// The tests that it ships, as YAML.
    tests: &'static str,
}

/// What is built in: for each policy its name and the folder of its sources.
macro_rules! built {
    ($($name:literal in $folder:literal),* $(,)?) => {
        &[$(Builtin {
            name: $name,
            component: include_bytes!(concat!("../../../guest-policies/built/", $name, ".wasm")),
            tests: include_str!(concat!("../../../", $folder, "/", $name, "/tests.yaml")),
        }),*]
    };
}

const BUILTINS: &[Builtin] = built![
    "budget" in "guest-policies",
    "business-hours" in "guest-policies",
    "cedar" in "guest-policies/engines",
    "intent-bound" in "guest-policies",
    "parameter-schema" in "guest-policies",
    "path-allow-list" in "guest-policies",
    "rate-limit" in "guest-policies",
    "rego" in "guest-policies/engines",
    "sensitive-data" in "guest-policies",
    "sequence" in "guest-policies",
    "two-person" in "guest-policies",
];

/// The component of the builtin policy `name`.
#[must_use]
pub fn find(name: &str) -> Option<&'static [u8]> {
    BUILTINS.iter().find(|builtin| builtin.name == name).map(|builtin| builtin.component)
}

/// The tests that the builtin policy `name` ships, as YAML ([`super::suite`]).
#[must_use]
pub fn tests(name: &str) -> Option<&'static str> {
    BUILTINS.iter().find(|builtin| builtin.name == name).map(|builtin| builtin.tests)
}

/// The builtin policy whose component has this digest.
#[must_use]
pub fn by_digest(digest: &str) -> Option<&'static [u8]> {
    static DIGESTS: LazyLock<Vec<String>> =
        LazyLock::new(|| BUILTINS.iter().map(|builtin| digest_of(builtin.component)).collect());
    let at = DIGESTS.iter().position(|known| known == digest)?;
    Some(BUILTINS[at].component)
}

/// The names of the builtin policies.
pub fn names() -> impl Iterator<Item = &'static str> {
    BUILTINS.iter().map(|builtin| builtin.name)
}
