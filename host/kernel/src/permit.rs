//! Permits: signed leave to run one action, a bounded number of times, within a time.
//!
//! An operator's key signs a permit; the kernel's [`Keyring`] says whose signatures count. The reasons and their order
//! are the package's, so that its denials keep their hashes. Three checks are ours, where
//! the package's leave a gap; no recorded permit is judged differently by them:
//! - `ACTION_MISMATCH`: the permit's action is not the tool asked for.
//! - `PARAMS_MISMATCH` also looks at the tool call's own params: a permit that names any of them must name them all,
//!   with these values. One that names none leaves them open, as every recorded permit does.
//! - `FORBIDDEN_PARAM_DETECTED` also looks at the tool call's own params.
//!
//! A permit that cannot be read as one is denied with `PERMIT_MALFORMED` or `PERMIT_MALFORMED:FIELD` before anything
//! else. A use is counted as soon as the cryptography holds, whatever else denies: a permit shown is a permit used.

mod keyring;
mod uses;

pub use keyring::{Keyring, KeyringError};
pub use uses::{MemoryPermitUses, PERMIT_USES_MAX, PermitUse, PermitUses, PermitUsesFull};

use crate::{
    json,
    jurisdiction::Jurisdiction,
    request::{Request, ToolCall},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The error, and the one reason, of a tool call without a permit.
pub const MISSING_PERMIT: &str = "MISSING_PERMIT";

/// What the permit stage concluded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum PermitVerification {
    /// The permit covers the request.
    Allow,
    /// It does not, or there is none.
    Deny,
}

impl PermitVerification {
    /// The word in an entry.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "ALLOW",
            Self::Deny => "DENY",
        }
    }
}

/// What the permit stage found, for the entry. Which of it an entry shows depends on how the request ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PermitFindings {
    /// The verdict on the permit alone.
    pub verification: PermitVerification,
    /// Why it was denied, in the specification's order; empty when it was not.
    pub reasons: Vec<String>,
    /// The `permit_id` that the permit claims.
    pub digest: Option<String>,
    /// The proposal that the permit says it answers.
    pub proposal_hash: Option<String>,
    /// The permit's nonce.
    pub nonce: Option<String>,
    /// Who issued it.
    pub issuer: Option<String>,
    /// Whom it is for.
    pub subject: Option<String>,
    /// How often it may be used.
    pub max_executions: Option<u64>,
}

impl PermitFindings {
    /// Whether the permit covers the request.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        self.verification == PermitVerification::Allow
    }

    /// The stage's error text, when it denies.
    #[must_use]
    pub fn error(&self) -> Option<String> {
        match self.reasons.as_slice() {
            _ if self.is_allowed() => None,
            [reason] if reason == MISSING_PERMIT => Some(reason.clone()),
            reasons => Some(format!("Permit verification failed: {}", reasons.join(", "))),
        }
    }

    fn missing() -> Self {
        Self::of(None, vec![MISSING_PERMIT.to_owned()])
    }

    fn of(permit: Option<&Value>, reasons: Vec<String>) -> Self {
        let text = |field| Some(permit?.get(field)?.as_str()?.to_owned());
        let verification = if reasons.is_empty() { PermitVerification::Allow } else { PermitVerification::Deny };
        Self {
            verification,
            reasons,
            digest: text("permit_id"),
            proposal_hash: text("proposal_hash"),
            nonce: text("nonce"),
            issuer: text("issuer"),
            subject: text("subject"),
            max_executions: permit.and_then(|permit| permit.get("max_executions")?.as_u64()),
        }
    }
}

/// What a permit is held against.
pub(crate) struct PermitCheck<'a> {
    pub(crate) keyring: &'a Keyring,
    pub(crate) jurisdiction: &'a Jurisdiction,
    pub(crate) permit_jurisdiction: &'a str,
    pub(crate) request: &'a Request,
    pub(crate) call: &'a ToolCall,
    pub(crate) now_ms: u64,
}

impl PermitCheck<'_> {
    /// Verifies the request's permit, and counts its use if the cryptography holds.
    pub(crate) fn verify(&self, uses: &mut dyn PermitUses) -> (PermitFindings, Option<PermitUse>) {
        let Some(value) = self.request.permit() else {
            return (PermitFindings::missing(), None);
        };
        let permit = match Permit::read(value) {
            Ok(permit) => permit,
            Err(malformed) => return (PermitFindings::of(Some(value), malformed), None),
        };
        if let Some(reason) = permit.cryptographic_flaw(self.keyring) {
            return (PermitFindings::of(Some(value), vec![reason.to_owned()]), None);
        }
        let mut reasons = self.scope_violations(&permit);
        let counted = self.count_use(&permit, uses, &mut reasons);
        self.add_constraint_violations(&permit, &mut reasons);
        (PermitFindings::of(Some(value), reasons), counted)
    }

    fn scope_violations(&self, permit: &Permit<'_>) -> Vec<String> {
        let now_ms = i128::from(self.now_ms);
        [
            (now_ms < i128::from(permit.valid_from_ms), "NOT_YET_VALID"),
            (now_ms > i128::from(permit.valid_until_ms), "EXPIRED"),
            (permit.jurisdiction != self.permit_jurisdiction, "JURISDICTION_MISMATCH"),
            (!self.jurisdiction.allows_tool(permit.action), "ACTION_NOT_ALLOWED"),
            (permit.action != self.call.name, "ACTION_MISMATCH"),
            (permit.subject != self.request.actor(), "SUBJECT_MISMATCH"),
            (!self.params_match(permit), "PARAMS_MISMATCH"),
        ]
        .into_iter()
        .filter(|(violated, _)| *violated)
        .map(|(_, reason)| reason.to_owned())
        .collect()
    }

    fn params_match(&self, permit: &Permit<'_>) -> bool {
        let covers = |params: &Map<String, Value>| {
            params
                .iter()
                .all(|(name, value)| permit.params.get(name).is_some_and(|permitted| json::same(permitted, value)))
        };
        let tool_params = &self.call.params;
        let speaks_of_tool = tool_params.keys().any(|name| permit.params.contains_key(name));
        self.request.params().is_none_or(covers) && (!speaks_of_tool || covers(tool_params))
    }

    fn count_use(
        &self,
        permit: &Permit<'_>,
        uses: &mut dyn PermitUses,
        reasons: &mut Vec<String>,
    ) -> Option<PermitUse> {
        let this_use = PermitUse {
            nonce: permit.nonce.to_owned(),
            issuer: permit.issuer.to_owned(),
            subject: permit.subject.to_owned(),
            valid_until_ms: u64::try_from(permit.valid_until_ms).unwrap_or(0),
            used_at_ms: self.now_ms,
        };
        let before = uses.count_use(&this_use);
        if before >= permit.max_executions {
            reasons.push("REPLAY_DETECTED".to_owned());
        }
        (before < u64::MAX).then_some(this_use)
    }

    fn add_constraint_violations(&self, permit: &Permit<'_>, reasons: &mut Vec<String>) {
        let Some(forbidden) = permit.constraints.and_then(|it| it.get("forbidden_params")) else {
            return;
        };
        let names = forbidden.as_array().map(Vec::as_slice);
        for name in names.unwrap_or_default().iter().filter_map(Value::as_str) {
            let asked = self.request.params().is_some_and(|params| params.contains_key(name));
            if asked || self.call.params.contains_key(name) {
                reasons.push(format!("FORBIDDEN_PARAM_DETECTED:{name}"));
            }
        }
        if !names.is_some_and(|names| names.iter().all(Value::is_string)) {
            reasons.push("CONSTRAINT_MALFORMED_FORBIDDEN_PARAMS".to_owned());
        }
    }
}

/// A permit whose fields have the right types; nothing of it is true yet.
struct Permit<'a> {
    /// All of it, known fields or not: what is signed is what was sent.
    fields: &'a Map<String, Value>,
    id: &'a str,
    issuer: &'a str,
    subject: &'a str,
    jurisdiction: &'a str,
    action: &'a str,
    params: &'a Map<String, Value>,
    constraints: Option<&'a Map<String, Value>>,
    max_executions: u64,
    valid_from_ms: i64,
    valid_until_ms: i64,
    nonce: &'a str,
    signature: &'a str,
    key_id: &'a str,
}

impl<'a> Permit<'a> {
    fn read(value: &'a Value) -> Result<Self, Vec<String>> {
        let fields = value.as_object().ok_or_else(|| vec!["PERMIT_MALFORMED".to_owned()])?;
        let mut malformed = Vec::new();
        let permit = Self::read_fields(fields, &mut malformed);
        match permit {
            Some(permit) if malformed.is_empty() => Ok(permit),
            _ => Err(malformed.iter().map(|field| format!("PERMIT_MALFORMED:{field}")).collect()),
        }
    }

    /// Nothing unless every field could be read; `malformed` then names all that could not.
    fn read_fields(fields: &'a Map<String, Value>, malformed: &mut Vec<&'static str>) -> Option<Self> {
        let mut reader = FieldReader { fields, malformed };
        let id = reader.read("permit_id", Value::as_str);
        let issuer = reader.read("issuer", Value::as_str);
        let subject = reader.read("subject", Value::as_str);
        let jurisdiction = reader.read("jurisdiction", Value::as_str);
        let action = reader.read("action", Value::as_str);
        let params = reader.read("params", Value::as_object);
        let constraints = reader.read_optional("constraints", Value::as_object);
        let max_executions = reader.read("max_executions", Value::as_u64);
        let valid_from_ms = reader.read("valid_from_ms", Value::as_i64);
        let valid_until_ms = reader.read("valid_until_ms", Value::as_i64);
        reader.read_optional("proposal_hash", Value::as_str);
        let nonce = reader.read("nonce", Value::as_str);
        let signature = reader.read("signature", Value::as_str);
        let key_id = reader.read("key_id", Value::as_str);
        Some(Self {
            fields,
            id: id?,
            issuer: issuer?,
            subject: subject?,
            jurisdiction: jurisdiction?,
            action: action?,
            params: params?,
            constraints,
            max_executions: max_executions?,
            valid_from_ms: valid_from_ms?,
            valid_until_ms: valid_until_ms?,
            nonce: nonce?,
            signature: signature?,
            key_id: key_id?,
        })
    }

    /// The first cryptographic reason to refuse this permit.
    fn cryptographic_flaw(&self, keyring: &Keyring) -> Option<&'static str> {
        let Some(key) = keyring.key(self.key_id) else {
            return Some("UNKNOWN_KEY_ID");
        };
        if !key.has_signed(&signed_text(self.fields), self.signature) {
            return Some("SIGNATURE_INVALID");
        }
        let permit_id = json::sha256_hex(identified_text(self.fields).as_bytes());
        (!keyring::equal_in_constant_time(&permit_id, self.id)).then_some("PERMIT_ID_MISMATCH")
    }
}

struct FieldReader<'a, 'm> {
    fields: &'a Map<String, Value>,
    malformed: &'m mut Vec<&'static str>,
}

impl<'a> FieldReader<'a, '_> {
    fn read<T>(&mut self, field: &'static str, read: fn(&'a Value) -> Option<T>) -> Option<T> {
        let value = self.fields.get(field).and_then(read);
        if value.is_none() {
            self.malformed.push(field);
        }
        value
    }

    fn read_optional<T>(&mut self, field: &'static str, read: fn(&'a Value) -> Option<T>) -> Option<T> {
        let is_present = self.fields.get(field).is_some_and(|value| !value.is_null());
        if is_present { self.read(field, read) } else { None }
    }
}

/// What a permit's signature covers: all but the signature itself.
fn signed_text(fields: &Map<String, Value>) -> String {
    text_without(fields, &["signature"])
}

/// What a permit's id is the hash of: all but the id and the signature.
fn identified_text(fields: &Map<String, Value>) -> String {
    text_without(fields, &["permit_id", "signature"])
}

fn text_without(fields: &Map<String, Value>, omitted: &[&str]) -> String {
    let mut text = String::with_capacity(768);
    let kept = fields.iter().filter(|(name, _)| !omitted.contains(&name.as_str()));
    json::write_permit_form(kept, &mut text);
    text
}

#[cfg(test)]
mod tests;
