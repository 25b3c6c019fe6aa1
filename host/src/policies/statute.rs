//! The law that a kernel applies, and its jurisdiction as a thing that can be changed while the kernel runs.
//!
//! A jurisdiction has a digest like a policy set: SHA-256 over its canonical JSON, without what has its default value,
//! so that a version of Gavel which adds a key gives the same jurisdiction the same digest. The catalogue keeps the
//! text. It stands in the kernel's [`Line`](super::life::Line) beside the sets: a request takes both by one pointer.

use super::package::digest_of;
use anyhow::{Context, Result, ensure};
use gavel_kernel::{Jurisdiction, Law, json};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// What a kernel applies before it asks its policies.
#[derive(Debug, Clone)]
pub struct Statute {
    /// The law, with the jurisdiction in force.
    pub law: Arc<Law>,
    /// The digest of that jurisdiction.
    pub digest: Arc<str>,
    /// The jurisdiction that was in force before, if it was changed while the kernel ran.
    pub previous: Option<Arc<Jurisdiction>>,
    /// The digest of the jurisdiction that the kernel's definition names: when it changes, the definition wins over
    /// what was changed before.
    pub configured: Arc<str>,
}

/// What [`Statute::to_state`] wrote.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct SavedStatute {
    pub(crate) configured: String,
    pub(crate) serving: String,
    pub(crate) previous: Option<String>,
}

impl Statute {
    /// The law of a kernel as its definition says it.
    #[must_use]
    pub fn of(law: Law) -> Self {
        let digest: Arc<str> = digest(&law.jurisdiction).into();
        Self { law: Arc::new(law), configured: Arc::clone(&digest), digest, previous: None }
    }

    /// The same law with another jurisdiction. The one in force again changes nothing.
    pub(super) fn amended(&self, jurisdiction: Jurisdiction) -> Self {
        if jurisdiction == self.law.jurisdiction {
            return self.clone();
        }
        let previous = Some(Arc::new(self.law.jurisdiction.clone()));
        self.with(jurisdiction, previous)
    }

    /// The same law with these jurisdictions.
    pub(super) fn with(&self, jurisdiction: Jurisdiction, previous: Option<Arc<Jurisdiction>>) -> Self {
        let digest = digest(&jurisdiction).into();
        let law = Arc::new(Law { jurisdiction, ..Law::clone(&self.law) });
        Self { law, digest, previous, configured: Arc::clone(&self.configured) }
    }

    /// What the next process needs to apply the same.
    pub(super) fn to_state(&self) -> Value {
        json!({
            "configured": *self.configured,
            "serving": *self.digest,
            "previous": self.previous.as_deref().map(digest),
        })
    }
}

/// `sha256:` and the digest of a jurisdiction.
#[must_use]
pub fn digest(jurisdiction: &Jurisdiction) -> String {
    digest_of(to_json(jurisdiction).as_bytes())
}

/// A jurisdiction as canonical JSON, without what has its default value.
#[must_use]
pub fn to_json(jurisdiction: &Jurisdiction) -> String {
    let fields = |jurisdiction: &Jurisdiction| match json!(jurisdiction) {
        Value::Object(fields) => fields,
        _ => Map::new(),
    };
    let default = fields(&Jurisdiction::default());
    let mut kept: Map<String, Value> =
        fields(jurisdiction).into_iter().filter(|(name, value)| default.get(name) != Some(value)).collect();
    kept.insert("format".into(), json!(1));
    json::canonical(&Value::Object(kept))
}

/// Read what [`to_json`] wrote.
///
/// # Errors
/// When it is no jurisdiction, or of a later format.
pub fn from_json(text: &str) -> Result<Jurisdiction> {
    let mut value: Value = serde_json::from_str(text)?;
    let format = value.as_object_mut().and_then(|keys| keys.remove("format"));
    ensure!(format == Some(json!(1)), "a jurisdiction of format {}, this version reads 1", json!(format));
    serde_json::from_value(value).context("not a jurisdiction")
}

#[cfg(test)]
mod tests {
    use super::*;
    use gavel_kernel::Variant;

    fn jurisdiction(actor: &str) -> Jurisdiction {
        Jurisdiction { allowed_actors: vec![actor.into()], ..Jurisdiction::default() }
    }

    #[test]
    fn what_is_written_is_read_back_and_defaults_are_left_out() {
        let text = to_json(&jurisdiction("ä"));
        assert_eq!(text, "{\"allowed_actors\":[\"\\u00e4\"],\"format\":1}");
        assert_eq!(from_json(&text).unwrap(), jurisdiction("ä"));
        assert!(from_json("{\"format\":2}").unwrap_err().to_string().contains("format 2"));
        assert_ne!(digest(&jurisdiction("a")), digest(&jurisdiction("b")));
    }

    #[test]
    fn a_change_remembers_what_was_in_force() {
        let statute = Statute::of(Law::new(Variant::Strict, jurisdiction("a")));
        let amended = statute.amended(jurisdiction("b"));
        assert_eq!((&amended.configured, amended.previous.as_deref()), (&statute.digest, Some(&jurisdiction("a"))));
        let again = amended.amended(jurisdiction("b"));
        assert_eq!(again.previous.as_deref(), Some(&jurisdiction("a")), "the same again leaves the way back open");
        let saved: SavedStatute = serde_json::from_value(amended.to_state()).unwrap();
        assert_eq!((saved.configured.as_str(), saved.serving.as_str()), (&*statute.digest, &*amended.digest));
        assert_eq!(saved.previous.as_deref(), Some(&*statute.digest));
    }
}
