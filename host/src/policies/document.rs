//! What a policy set is made of, as a document: the thing that has a digest.
//!
//! A set is an ordered list of members: a name, the digest of a component, its configuration and
//! limits. Written as canonical JSON it has a SHA-256, and that is the set's digest, which every
//! decision's record names. The catalogue keeps document and components, so a digest in a ledger
//! leads back to the exact bytes that judged.
//!
//! Limits that have their default value are left out, so that a version of Gavel which adds a limit
//! gives the same set the same digest.

use super::package::digest_of;
use crate::config::Quarantine;
use anyhow::{Result, bail, ensure};
use gavel_kernel::json;
use gavel_runtime::Limits;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// One policy of a set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// Its name in decisions.
    pub name: String,
    /// `sha256:` and the digest of its component.
    pub component: String,
    /// What it gets as its configuration; `Null` for none.
    #[serde(default)]
    pub config: Value,
    /// What it may use.
    #[serde(default)]
    pub limits: Limits,
    /// When it is no longer asked because it keeps failing.
    #[serde(default)]
    pub quarantine: Option<Quarantine>,
}

/// A policy set as a document.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetDocument {
    /// In the order in which they are asked.
    pub policies: Vec<Member>,
}

/// One change to a set.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Edit {
    /// The policy that is changed, or added at the end if the set has none of that name.
    pub name: String,
    /// Its new component: `sha256:…` as an upload answered, or `builtin:NAME`. Absent: as before.
    pub component: Option<String>,
    /// Its new configuration. Absent: as before.
    pub config: Option<Value>,
    /// Its new limits. Absent: as before.
    pub limits: Option<Limits>,
    /// When it is no longer asked because it keeps failing. Absent: as before.
    pub quarantine: Option<Quarantine>,
    /// Take it out of the set.
    pub remove: bool,
}

impl SetDocument {
    /// As canonical JSON.
    #[must_use]
    pub fn to_json(&self) -> String {
        let policies: Vec<Value> = self.policies.iter().map(Member::to_value).collect();
        json::canonical(&json!({"format": 1, "policies": policies}))
    }

    /// `sha256:` and the hex digest of the canonical JSON.
    #[must_use]
    pub fn digest(&self) -> String {
        digest_of(self.to_json().as_bytes())
    }

    /// Read what [`SetDocument::to_json`] wrote.
    ///
    /// # Errors
    /// When it is no such document, or of a later format.
    pub fn from_json(text: &str) -> Result<Self> {
        let mut value: Value = serde_json::from_str(text)?;
        let format = value.as_object_mut().and_then(|keys| keys.remove("format"));
        ensure!(format == Some(json!(1)), "a policy set of format {}, this version reads 1", json!(format));
        Ok(serde_json::from_value(value)?)
    }

    /// This set with `edits` made to it, in the order `order` if one is given.
    ///
    /// # Errors
    /// When an edit removes what is not there, adds without a component, or the order does not name
    /// each policy once.
    pub fn edited(&self, edits: &[Edit], order: Option<&[String]>) -> Result<Self> {
        let mut set = self.clone();
        for edit in edits {
            set.apply(edit)?;
        }
        if let Some(order) = order {
            set.reorder(order)?;
        }
        Ok(set)
    }

    fn apply(&mut self, edit: &Edit) -> Result<()> {
        ensure!(!edit.name.is_empty(), "an edit needs the `name` of its policy");
        let at = self.policies.iter().position(|member| member.name == edit.name);
        if edit.remove {
            let Some(at) = at else { bail!("policy {}: is not in the set, so it cannot be removed", edit.name) };
            self.policies.remove(at);
            return Ok(());
        }
        let at = match (at, &edit.component) {
            (Some(at), _) => at,
            (None, Some(component)) => {
                self.policies.push(Member::new(edit.name.clone(), component.clone()));
                self.policies.len() - 1
            }
            (None, None) => {
                bail!("policy {}: is not in the set; to add it, give its `component`", edit.name)
            }
        };
        let member = &mut self.policies[at];
        member.component = edit.component.clone().unwrap_or_else(|| member.component.clone());
        member.config = edit.config.clone().unwrap_or_else(|| member.config.take());
        member.limits = edit.limits.clone().unwrap_or_else(|| member.limits.clone());
        member.quarantine = edit.quarantine.or(member.quarantine);
        Ok(())
    }

    fn reorder(&mut self, order: &[String]) -> Result<()> {
        let mut ordered = Vec::with_capacity(self.policies.len());
        for name in order {
            let Some(at) = self.policies.iter().position(|member| member.name == *name) else {
                bail!("`order` names {name}, which is not in the set or stands there twice");
            };
            ordered.push(self.policies.remove(at));
        }
        ensure!(self.policies.is_empty(), "`order` leaves out {}", self.policies[0].name);
        self.policies = ordered;
        Ok(())
    }
}

impl Member {
    /// A policy without configuration, under the default limits.
    #[must_use]
    pub fn new(name: String, component: String) -> Self {
        Self { name, component, config: Value::Null, limits: Limits::default(), quarantine: None }
    }

    fn to_value(&self) -> Value {
        let mut value = json!({"name": self.name, "component": self.component, "config": self.config});
        let limits = limits_changed(&self.limits);
        if !limits.is_empty() {
            value["limits"] = Value::Object(limits);
        }
        if let Some(quarantine) = self.quarantine {
            value["quarantine"] = json!(quarantine);
        }
        value
    }
}

/// The limits that differ from their default.
fn limits_changed(limits: &Limits) -> Map<String, Value> {
    let fields = |limits: &Limits| match json!(limits) {
        Value::Object(fields) => fields,
        _ => Map::new(),
    };
    let default = fields(&Limits::default());
    fields(limits).into_iter().filter(|(name, value)| default.get(name) != Some(value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(name: &str) -> Member {
        Member::new(name.into(), digest_of(name.as_bytes()))
    }

    fn names(set: &SetDocument) -> Vec<&str> {
        set.policies.iter().map(|member| member.name.as_str()).collect()
    }

    fn set(names: &[&str]) -> SetDocument {
        SetDocument { policies: names.iter().map(|name| member(name)).collect() }
    }

    #[test]
    fn what_is_written_is_read_back_with_its_digest() {
        let mut set = set(&["a", "b"]);
        set.policies[0].config = json!({"n": 1, "é": [null]});
        set.policies[1].limits.deadline_ms = 77;
        set.policies[1].quarantine = Some(Quarantine { failures: 3, within_ms: 1_000 });
        let read = SetDocument::from_json(&set.to_json()).unwrap();
        assert_eq!((&read, read.digest()), (&set, set.digest()));
        assert!(SetDocument::from_json(&set.to_json().replace("\"format\":1", "\"format\":2")).is_err());
    }

    #[test]
    fn limits_at_their_default_do_not_count() {
        assert!(!set(&["a"]).to_json().contains("limits"));
    }

    #[test]
    fn everything_that_could_change_a_judgement_changes_the_digest() {
        let base = set(&["a", "b"]);
        let changes: [fn(&mut SetDocument); 6] = [
            |set| set.policies[0].name = "z".into(),
            |set| set.policies[0].component = digest_of(b"z"),
            |set| set.policies[0].config = json!(1),
            |set| set.policies[0].limits.max_output_bytes = 1,
            |set| set.policies[0].quarantine = Some(Quarantine { failures: 1, within_ms: 1 }),
            |set| set.policies.reverse(),
        ];
        for change in changes {
            let mut other = base.clone();
            change(&mut other);
            assert_ne!(other.digest(), base.digest(), "{other:?}");
        }
    }

    #[test]
    fn edits_replace_add_remove_and_reorder() {
        let edit = |name: &str| Edit { name: name.into(), ..Edit::default() };
        let edits = [
            Edit { config: Some(json!(7)), ..edit("a") },
            Edit { component: Some(digest_of(b"new")), ..edit("c") },
            Edit { remove: true, ..edit("b") },
        ];
        let order = ["c".to_owned(), "a".to_owned()];
        let edited = set(&["a", "b"]).edited(&edits, Some(&order)).unwrap();
        assert_eq!(names(&edited), ["c", "a"]);
        assert_eq!((&edited.policies[1].config, &edited.policies[1].component), (&json!(7), &member("a").component));
        let refused =
            |edits: &[Edit], order: Option<&[String]>| set(&["a", "b"]).edited(edits, order).unwrap_err().to_string();
        assert!(refused(&[edit("new")], None).contains("give its `component`"));
        assert!(refused(&[Edit { remove: true, ..edit("x") }], None).contains("cannot be removed"));
        assert!(refused(&[], Some(&["a".to_owned()])).contains("leaves out b"));
        assert!(refused(&[], Some(&["a".to_owned(), "a".to_owned(), "b".to_owned()])).contains("twice"));
    }
}
