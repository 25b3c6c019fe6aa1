//! The configuration that the operator wrote: read once in an instance, refused as a whole when any of it is wrong.

use core::fmt;
use std::sync::OnceLock;

use crate::Verdict;
use crate::bindings::gavel::policy::config;
use crate::json::{Json, Wrong};

/// A policy's configuration, kept in a `static`: a fresh instance reads it once, a warm one does not read it again.
///
/// It may be kept because the host gives an instance one configuration for all of its life.
#[derive(Debug)]
pub struct Configuration<T>(OnceLock<Result<T, BrokenConfiguration>>);

impl<T> Configuration<T> {
    /// Nothing read yet.
    #[must_use]
    #[allow(clippy::new_without_default, reason = "made in a static only")]
    pub const fn new() -> Self {
        Self(OnceLock::new())
    }

    /// The configuration, read by `read` if this is the first call; see [`configuration`].
    ///
    /// # Errors
    ///
    /// When `read` refused it. The error turns into the verdict to give: `Err(broken) => broken.clone().into()`.
    pub fn get(&self, read: impl FnOnce(&Json) -> Result<T, Wrong>) -> Result<&T, &BrokenConfiguration> {
        self.0.get_or_init(|| configuration(read)).as_ref()
    }
}

/// Read this policy's configuration by `read`, which is given [`Json::Null`] when the operator wrote none.
///
/// # Errors
///
/// When `read` refuses it. The error turns into the verdict to give: `Err(broken) => broken.into()`.
pub fn configuration<T>(read: impl FnOnce(&Json) -> Result<T, Wrong>) -> Result<T, BrokenConfiguration> {
    read_configuration(&config::get(), read)
}

/// [`configuration`] of a text that is given; for tests.
///
/// # Errors
///
/// When `read` refuses it, or it is not JSON.
pub fn read_configuration<T>(
    text: &str,
    read: impl FnOnce(&Json) -> Result<T, Wrong>,
) -> Result<T, BrokenConfiguration> {
    Json::parse(text).and_then(|json| read(&json)).map_err(BrokenConfiguration)
}

/// The configuration is not what the policy takes. As a verdict it is a denial: a policy that does not know what it
/// enforces lets nothing pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokenConfiguration(Wrong);

impl fmt::Display for BrokenConfiguration {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "the policy's configuration is broken: {}", self.0)
    }
}

impl std::error::Error for BrokenConfiguration {}

impl From<BrokenConfiguration> for Verdict {
    fn from(broken: BrokenConfiguration) -> Self {
        Verdict::Deny(broken.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_configuration_denies_with_its_reason() {
        let broken =
            read_configuration(r#"{"limit":"7"}"#, |json| json.object(&["limit"])?.get("limit", Json::integer));
        let Verdict::Deny(reason) = broken.expect_err("no integer").into() else { panic!("not a denial") };
        assert_eq!(reason, "the policy's configuration is broken: `limit`: expected an integer, not a text");
    }
}
