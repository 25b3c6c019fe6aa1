//! Numbers of settings, and between what they may lie.

use crate::kind::SettingsError;

/// Check that each of these (name, value, least, most) lies where it may.
pub(crate) fn check(ranges: &[(&str, u64, u64, u64)]) -> Result<(), SettingsError> {
    match ranges.iter().find(|(_, value, least, most)| !(least..=most).contains(&value)) {
        Some((name, value, least, most)) => {
            Err(SettingsError(format!("{name}: {value} is not allowed: it may be {least} to {most}")))
        }
        None => Ok(()),
    }
}
