//! The settings of an immutable log.

use crate::kind::SettingsError;
use serde::Deserialize;
use serde_json::Value;

/// The settings; each limit has its range in [`check`].
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Settings {
    /// Idempotency keys that are remembered, the newest ones. One takes some 80 bytes of memory.
    pub(super) keys_max: usize,
    /// Appends that may wait for the disk.
    pub(super) appends_waiting_max: usize,
    /// Bytes of them.
    pub(super) append_bytes_waiting_max: usize,
    /// Entries of a page.
    pub(super) page_entries_max: usize,
    /// Bytes of the records of a page.
    pub(super) page_bytes_max: usize,
    /// Records that are looked at for a page, where a kind is asked for.
    pub(super) page_scan_max: u64,
    /// The key that signs the checkpoints is lost: a new one takes its place, and the log says so for ever.
    pub(super) checkpoint_key_is_lost: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            keys_max: 65_536,
            appends_waiting_max: 4_096,
            append_bytes_waiting_max: 16 << 20,
            page_entries_max: 1_000,
            page_bytes_max: 4 << 20,
            page_scan_max: 16_384,
            checkpoint_key_is_lost: false,
        }
    }
}

/// The settings of `value`, if each is in its range.
pub(super) fn read(value: &Value) -> Result<Settings, SettingsError> {
    let settings: Settings = crate::kind::settings(value)?;
    crate::ranges::check(&[
        ("keys_max", settings.keys_max as u64, 1, 1 << 20),
        ("appends_waiting_max", settings.appends_waiting_max as u64, 1, 1 << 16),
        ("append_bytes_waiting_max", settings.append_bytes_waiting_max as u64, 1 << 16, 1 << 30),
        ("page_entries_max", settings.page_entries_max as u64, 1, 10_000),
        ("page_bytes_max", settings.page_bytes_max as u64, 1 << 16, 64 << 20),
        ("page_scan_max", settings.page_scan_max, 1, 1 << 20),
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
            (json!({"keys_max": 0}), "keys_max: 0 is not from 1 to 1048576"),
            (json!({"page_bytes_max": 1}), "page_bytes_max: 1 is not from 65536"),
            (json!({"keys": 1}), "unknown field"),
            (json!({"keys_max": "many"}), "keys_max: invalid type"),
        ] {
            let told = check(&wrong).unwrap_err().to_string();
            assert!(told.contains(why), "{told}");
        }
    }
}
