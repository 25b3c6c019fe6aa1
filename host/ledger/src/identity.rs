//! Whose ledger it is: what its first record says, and the name that its checkpoints bear.

use crate::frame::{FORMAT_VERSION, LedgerId};
use serde::Deserialize;
use std::fmt::Write as _;

/// The longest kernel id or variant, in bytes.
pub const IDENTITY_BYTES_MAX: usize = 256;

/// Whose ledger it is; written into its first record.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Identity {
    /// The kernel. A ledger opens for this kernel only.
    pub kernel_id: String,
    /// The kernel's variant when the ledger was created.
    pub variant: String,
}

impl Identity {
    /// The `meta` of the record `opened`.
    pub(crate) fn to_meta(&self) -> String {
        let mut meta = format!("{{\"format\":{FORMAT_VERSION},\"kernel_id\":");
        gavel_proof::json::push_string(&mut meta, &self.kernel_id);
        meta.push_str(",\"variant\":");
        gavel_proof::json::push_string(&mut meta, &self.variant);
        meta.push('}');
        meta
    }

    /// Reads the `meta` of the record `opened`.
    pub(crate) fn of_meta(meta: &str) -> Result<Self, String> {
        serde_json::from_str(meta).map_err(|why| why.to_string())
    }

    /// The origin of a ledger's checkpoints (C2SP tlog-checkpoint): `gavel/KERNEL_ID/LEDGER_ID`, with the first eight
    /// bytes of the ledger's id in hex. So no two ledgers share one, not even those of one kernel. What may not stand
    /// in the name of a key is written `%XX`.
    #[must_use]
    pub fn origin(&self, ledger_id: &LedgerId) -> String {
        let mut origin = String::from("gavel/");
        for byte in self.kernel_id.bytes() {
            // Writing to a string cannot fail.
            let _ = match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                    origin.push(byte.into());
                    Ok(())
                }
                _ => write!(origin, "%{byte:02X}"),
            };
        }
        origin.push('/');
        ledger_id[..8].iter().for_each(|byte| {
            let _ = write!(origin, "{byte:02x}");
        });
        origin
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_can_name_a_key() {
        let identity = Identity { kernel_id: "k 1+ü".into(), variant: "strict".into() };
        assert_eq!(identity.origin(&[0xab; 16]), "gavel/k%201%2B%C3%BC/abababababababab");
        assert_eq!(Identity::of_meta(&identity.to_meta()), Ok(identity));
    }
}
