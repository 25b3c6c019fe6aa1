//! The standard policies, embedded as the components that `guest-policies/` builds.
//!
//! `guest-policies/guests.lock` ties each to the source it was built from; the project's tests
//! rebuild and compare.

/// What a configuration writes before the name of a builtin policy.
pub const PREFIX: &str = "builtin:";

const BUILTINS: [(&str, &[u8]); 4] = [
    ("business-hours", include_bytes!("../../../guest-policies/built/business-hours.wasm")),
    ("cedar", include_bytes!("../../../guest-policies/built/cedar.wasm")),
    ("path-allow-list", include_bytes!("../../../guest-policies/built/path-allow-list.wasm")),
    ("rego", include_bytes!("../../../guest-policies/built/rego.wasm")),
];

/// The component of the builtin policy `name`.
#[must_use]
pub fn find(name: &str) -> Option<&'static [u8]> {
    BUILTINS.iter().find(|(builtin, _)| *builtin == name).map(|(_, bytes)| *bytes)
}

/// The names of the builtin policies.
pub fn names() -> impl Iterator<Item = &'static str> {
    BUILTINS.iter().map(|(name, _)| *name)
}
