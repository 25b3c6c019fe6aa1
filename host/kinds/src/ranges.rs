//! Numbers of settings, and between what they may lie.

/// Check that each of these (name, value, least, most) lies where it may; else which does not.
pub(crate) fn check(ranges: &[(&str, u64, u64, u64)]) -> Result<(), String> {
    match ranges.iter().find(|(_, value, least, most)| !(least..=most).contains(&value)) {
        Some((name, value, least, most)) => Err(format!("{name}: {value} is not from {least} to {most}")),
        None => Ok(()),
    }
}
