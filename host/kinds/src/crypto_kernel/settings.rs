//! The settings of a crypto kernel.

use crate::kind::SettingsError;
use serde::Deserialize;
use serde_json::Value;

/// The settings; each limit has its range in [`read`].
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::struct_field_names, reason = "upper limits end in `_max`")]
pub(super) struct Settings {
    /// Named keys.
    pub(super) keys_max: usize,
    /// Versions of one key, the revoked ones among them.
    pub(super) versions_max: usize,
    /// Senders that one key may name.
    pub(super) senders_max: usize,
    /// Bytes of what is signed or verified.
    pub(super) payload_bytes_max: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { keys_max: 64, versions_max: 32, senders_max: 64, payload_bytes_max: 256 << 10 }
    }
}

/// The settings of `value`, if each is in its range.
pub(super) fn read(value: &Value) -> Result<Settings, SettingsError> {
    let settings: Settings = crate::kind::settings(value)?;
    crate::ranges::check(&[
        ("keys_max", settings.keys_max as u64, 1, 1_024),
        ("versions_max", settings.versions_max as u64, 1, 256),
        ("senders_max", settings.senders_max as u64, 1, 1_024),
        ("payload_bytes_max", settings.payload_bytes_max as u64, 1, 1 << 20),
    ])?;
    Ok(settings)
}

/// [`crate::Kind::check`].
pub(super) fn check(value: &Value) -> Result<(), SettingsError> {
    read(value).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_setting_has_a_range() {
        check(&Value::Null).unwrap();
        for (wrong, why) in [
            (json!({"keys_max": 0}), "keys_max: 0 is not from 1 to 1024"),
            (json!({"payload_bytes_max": 2_000_000}), "payload_bytes_max: 2000000 is not from 1 to 1048576"),
            (json!({"key": 1}), "unknown field"),
        ] {
            let told = check(&wrong).unwrap_err().to_string();
            assert!(told.contains(why), "{told}");
        }
    }
}
