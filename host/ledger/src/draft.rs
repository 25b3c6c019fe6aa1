//! A record on its way in: what its author supplies, and what is checked before it is queued.

use crate::error::AppendError;
use gavel_proof::json::{self, Malformed};
use gavel_proof::record::{Facts, Kind, MAX_RECORD_BYTES, closes};

/// A record as its author hands it in; the ledger adds index, position in the chain and hashes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    /// What it records; not [`Kind::Opened`], which the ledger writes itself.
    pub kind: Kind,
    /// The kernel's clock, in milliseconds since 1970.
    pub ts_ms: u64,
    /// A canonical JSON object. An outcome's holds `decision_index`, equal to `closes`.
    pub meta: String,
    /// The canonical entry data of the KERNELS chain: required for an outcome and a halt, optional
    /// for a decision, forbidden otherwise.
    pub entry: Option<String>,
    /// For an outcome, and only there: the index of the decision that it closes.
    pub closes: Option<u64>,
}

impl Draft {
    /// Everything that can be checked without knowing the ledger's state; done in the caller's
    /// thread.
    pub(crate) fn check(&self) -> Result<(), AppendError> {
        let size = self.bytes();
        if size > MAX_RECORD_BYTES {
            return Err(AppendError::TooLarge { size, limit: MAX_RECORD_BYTES });
        }
        if matches!(self.kind, Kind::Opened | Kind::Key) {
            return Err(AppendError::invalid("`opened` and `key` are written by the ledger itself"));
        }
        let texts = [("meta", Some(&self.meta)), ("entry", self.entry.as_ref())];
        for (name, text) in texts.into_iter().filter_map(|(name, text)| Some((name, text?))) {
            json::check_object(text).map_err(|Malformed { at, what }| {
                AppendError::invalid(format!("{name} is not a canonical JSON object: byte {at} should be {what}"))
            })?;
        }
        if closes(Some(self.kind), &self.meta) != self.closes {
            return Err(AppendError::invalid(format!(
                "closes is {:?}, which only an outcome may have and its meta must repeat as `decision_index`",
                self.closes
            )));
        }
        Ok(self.facts().check_form()?)
    }

    /// The bytes of the texts that the caller supplied.
    pub(crate) fn bytes(&self) -> usize {
        self.meta.len() + self.entry.as_ref().map_or(0, String::len)
    }

    pub(crate) fn facts(&self) -> Facts {
        Facts { closes: self.closes, ..Facts::of(Some(self.kind), self.entry.is_some(), &self.meta, self.ts_ms) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_draft_cannot_forge_fields_or_break_the_form() {
        let good = Draft {
            kind: Kind::Outcome,
            ts_ms: 1,
            meta: r#"{"decision_index":4}"#.into(),
            entry: Some("{}".into()),
            closes: Some(4),
        };
        assert_eq!(good.check(), Ok(()));
        let smuggled = r#"{"decision_index":4},"prev_hash":"x","z":{}"#.to_owned();
        for bad in [
            Draft { meta: smuggled, ..good.clone() },
            Draft { closes: Some(5), ..good.clone() },
            Draft { closes: None, meta: "{}".into(), ..good.clone() },
            Draft { entry: None, ..good.clone() },
            Draft { kind: Kind::Opened, entry: None, closes: None, ..good.clone() },
            Draft { kind: Kind::Event, closes: None, ..good.clone() },
            Draft { kind: Kind::Decision, ..good.clone() },
        ] {
            assert!(matches!(bad.check(), Err(AppendError::Invalid { .. })), "{bad:?}");
        }
        let large = Draft { meta: " ".repeat(MAX_RECORD_BYTES + 1), ..good };
        assert!(matches!(large.check(), Err(AppendError::TooLarge { .. })));
    }
}
