//! The entry: one finished request in the hash chain.
//!
//! [`EntryData`] is what is hashed, exactly nineteen fields; [`Entry`] adds its place in the chain. How a request ended
//! decides what its entry shows (derived from the recordings): only an allowed one names its tool, params and evidence;
//! a denial shows the permit only if the permit was the reason; a failure shows none of it.

use crate::{
    json::{write_canonical_string, write_canonical_strings},
    permit::{PermitFindings, PermitVerification},
    receipt::Decision,
    request::Request,
    state::State,
};
use serde::{Deserialize, Serialize, Serializer, ser::SerializeStruct};
use sha2::{Digest, Sha256};

/// The previous hash of the first entry, and the root of an empty chain.
pub const GENESIS_HASH: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// The hashed fields of an entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EntryData {
    /// When, by the kernel's clock, in Unix milliseconds.
    pub ts_ms: u64,
    /// The request's name.
    pub request_id: String,
    /// Who asked.
    pub actor: String,
    /// What for.
    pub intent: String,
    /// What was decided.
    pub decision: Decision,
    /// The kernel's state before.
    pub state_from: State,
    /// The kernel's state after.
    pub state_to: State,
    /// The tool that ran.
    pub tool_name: Option<String>,
    /// SHA-256 hex of the canonical `params`.
    pub params_hash: Option<String>,
    /// SHA-256 hex of the canonical `{"evidence": E}`.
    pub evidence_hash: Option<String>,
    /// Why it was denied or failed.
    pub error: Option<String>,
    /// The permit's id.
    pub permit_digest: Option<String>,
    /// What the permit stage concluded.
    pub permit_verification: Option<PermitVerification>,
    /// Why the permit was denied; null rather than empty.
    pub permit_denial_reasons: Option<Vec<String>>,
    /// The proposal that the permit answers.
    pub proposal_hash: Option<String>,
    /// The permit's nonce.
    pub permit_nonce: Option<String>,
    /// Who issued the permit.
    pub permit_issuer: Option<String>,
    /// Whom the permit is for.
    pub permit_subject: Option<String>,
    /// How often the permit may be used.
    pub permit_max_executions: Option<u64>,
}

/// An entry with its place in the chain.
///
/// In JSON it has the export's keys in the export's order, every one present. A key that it does not know is refused
/// when it is read: the hash would not cover it, and a reader might believe it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "ExportedEntry")]
pub struct Entry {
    /// Its place, from 0.
    pub ledger_seq: u64,
    /// The hash of the entry before, 64 hexadecimal digits.
    pub prev_hash: String,
    /// This entry's hash, 64 hexadecimal digits.
    pub entry_hash: String,
    /// What is hashed.
    pub data: EntryData,
}

impl EntryData {
    /// The entry of a request that some stage denied with `error`.
    ///
    /// `permit` is what the permit stage found, if anything; it is recorded only if it is a denial.
    #[must_use]
    pub fn denied(request: &Request, now_ms: u64, error: impl Into<String>, permit: Option<&PermitFindings>) -> Self {
        let mut data = Self { error: Some(error.into()), ..Self::of(request, now_ms, Decision::Deny) };
        if let Some(permit) = permit.filter(|permit| !permit.is_allowed()) {
            data.permit_digest.clone_from(&permit.digest);
            data.proposal_hash.clone_from(&permit.proposal_hash);
            data.permit_verification = Some(permit.verification);
            data.permit_denial_reasons = Some(permit.reasons.clone());
        }
        data
    }

    /// The entry of a request that was allowed and, if it asked for a tool, has run.
    #[must_use]
    pub fn allowed(request: &Request, now_ms: u64, permit: Option<&PermitFindings>) -> Self {
        let mut data = Self {
            tool_name: request.tool_call().map(|call| call.name.clone()),
            params_hash: request.params_hash(),
            evidence_hash: request.evidence_hash(),
            ..Self::of(request, now_ms, Decision::Allow)
        };
        if let Some(permit) = permit {
            data.permit_digest.clone_from(&permit.digest);
            data.permit_verification = Some(permit.verification);
            data.proposal_hash.clone_from(&permit.proposal_hash);
            data.permit_nonce.clone_from(&permit.nonce);
            data.permit_issuer.clone_from(&permit.issuer);
            data.permit_subject.clone_from(&permit.subject);
            data.permit_max_executions = permit.max_executions;
        }
        data
    }

    /// The entry of a request that was allowed, but whose tool failed with `error`.
    #[must_use]
    pub fn failed(request: &Request, now_ms: u64, error: impl Into<String>) -> Self {
        Self::denied(request, now_ms, error, None)
    }

    /// The entry of a halt.
    #[must_use]
    pub fn halt(reason: impl Into<String>, now_ms: u64) -> Self {
        Self {
            state_to: State::Halted,
            ..Self::bare("HALT".to_owned(), "SYSTEM".to_owned(), reason.into(), now_ms, Decision::Halt)
        }
    }

    /// Gives the data its place after the entry whose hash is `prev_hash`.
    #[must_use]
    pub fn seal(self, ledger_seq: u64, prev_hash: &str) -> Entry {
        Entry {
            ledger_seq,
            entry_hash: hex::encode(entry_hash(prev_hash, &self.canonical())),
            prev_hash: prev_hash.to_owned(),
            data: self,
        }
    }

    /// The canonical JSON that is hashed.
    #[must_use]
    pub fn canonical(&self) -> String {
        let mut out = String::with_capacity(768);
        // The keys in their sorted order; a test holds this against the general writer.
        let mut members = Members { out: &mut out, separator: '{' };
        members.text("actor", &self.actor);
        members.word("decision", self.decision.as_str());
        members.optional_text("error", self.error.as_deref());
        members.optional_text("evidence_hash", self.evidence_hash.as_deref());
        members.text("intent", &self.intent);
        members.optional_text("params_hash", self.params_hash.as_deref());
        members.optional_texts("permit_denial_reasons", self.permit_denial_reasons.as_deref());
        members.optional_text("permit_digest", self.permit_digest.as_deref());
        members.optional_text("permit_issuer", self.permit_issuer.as_deref());
        members.optional_integer("permit_max_executions", self.permit_max_executions);
        members.optional_text("permit_nonce", self.permit_nonce.as_deref());
        members.optional_text("permit_subject", self.permit_subject.as_deref());
        let verification = self.permit_verification.map(PermitVerification::as_str);
        members.optional_text("permit_verification", verification);
        members.optional_text("proposal_hash", self.proposal_hash.as_deref());
        members.text("request_id", &self.request_id);
        members.word("state_from", self.state_from.as_str());
        members.word("state_to", self.state_to.as_str());
        members.optional_text("tool_name", self.tool_name.as_deref());
        members.optional_integer("ts_ms", Some(self.ts_ms));
        out.push('}');
        out
    }

    fn of(request: &Request, now_ms: u64, decision: Decision) -> Self {
        let [request_id, actor, intent] = [request.request_id(), request.actor(), request.intent()].map(str::to_owned);
        Self::bare(request_id, actor, intent, now_ms, decision)
    }

    fn bare(request_id: String, actor: String, intent: String, ts_ms: u64, decision: Decision) -> Self {
        Self {
            ts_ms,
            request_id,
            actor,
            intent,
            decision,
            state_from: State::Idle,
            state_to: State::Idle,
            tool_name: None,
            params_hash: None,
            evidence_hash: None,
            error: None,
            permit_digest: None,
            permit_verification: None,
            permit_denial_reasons: None,
            proposal_hash: None,
            permit_nonce: None,
            permit_issuer: None,
            permit_subject: None,
            permit_max_executions: None,
        }
    }
}

/// The hash of an entry: SHA-256 of `PREV_HASH:ENTRY_DATA`.
#[must_use]
pub fn entry_hash(prev_hash_hex: &str, entry_data: &str) -> [u8; 32] {
    let hash = Sha256::new().chain_update(prev_hash_hex).chain_update(":");
    hash.chain_update(entry_data).finalize().into()
}

/// Writes the members of an object in canonical JSON.
struct Members<'a> {
    out: &'a mut String,
    separator: char,
}

impl Members<'_> {
    fn key(&mut self, key: &str) {
        self.out.push(self.separator);
        self.separator = ',';
        self.word_alone(key);
        self.out.push(':');
    }

    /// A text that is known to need no escape.
    fn word(&mut self, key: &str, word: &str) {
        self.key(key);
        self.word_alone(word);
    }

    fn word_alone(&mut self, word: &str) {
        self.out.push('"');
        self.out.push_str(word);
        self.out.push('"');
    }

    fn text(&mut self, key: &str, text: &str) {
        self.key(key);
        write_canonical_string(text, self.out);
    }

    fn optional_text(&mut self, key: &str, text: Option<&str>) {
        match text {
            Some(text) => self.text(key, text),
            None => self.null(key),
        }
    }

    fn optional_texts(&mut self, key: &str, texts: Option<&[String]>) {
        match texts {
            Some(texts) => {
                self.key(key);
                write_canonical_strings(texts, self.out);
            }
            None => self.null(key),
        }
    }

    fn optional_integer(&mut self, key: &str, integer: Option<u64>) {
        match integer {
            Some(integer) => {
                self.key(key);
                self.out.push_str(&integer.to_string());
            }
            None => self.null(key),
        }
    }

    fn null(&mut self, key: &str) {
        self.key(key);
        self.out.push_str("null");
    }
}

// Not `#[serde(flatten)]` for the data: it cannot carry exact numbers, and would not keep the order.
impl Serialize for Entry {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let data = &self.data;
        let mut export = serializer.serialize_struct("Entry", 22)?;
        export.serialize_field("ledger_seq", &self.ledger_seq)?;
        export.serialize_field("prev_hash", &self.prev_hash)?;
        export.serialize_field("entry_hash", &self.entry_hash)?;
        export.serialize_field("ts_ms", &data.ts_ms)?;
        export.serialize_field("request_id", &data.request_id)?;
        export.serialize_field("actor", &data.actor)?;
        export.serialize_field("intent", &data.intent)?;
        export.serialize_field("decision", &data.decision)?;
        export.serialize_field("state_from", &data.state_from)?;
        export.serialize_field("state_to", &data.state_to)?;
        export.serialize_field("tool_name", &data.tool_name)?;
        export.serialize_field("params_hash", &data.params_hash)?;
        export.serialize_field("evidence_hash", &data.evidence_hash)?;
        export.serialize_field("error", &data.error)?;
        export.serialize_field("permit_digest", &data.permit_digest)?;
        export.serialize_field("permit_verification", &data.permit_verification)?;
        export.serialize_field("permit_denial_reasons", &data.permit_denial_reasons)?;
        export.serialize_field("proposal_hash", &data.proposal_hash)?;
        export.serialize_field("permit_nonce", &data.permit_nonce)?;
        export.serialize_field("permit_issuer", &data.permit_issuer)?;
        export.serialize_field("permit_subject", &data.permit_subject)?;
        export.serialize_field("permit_max_executions", &data.permit_max_executions)?;
        export.end()
    }
}

/// The flat form of an entry in a bundle, for reading only.
#[derive(Deserialize)]
#[serde(rename = "Entry", deny_unknown_fields)]
struct ExportedEntry {
    ledger_seq: u64,
    prev_hash: String,
    entry_hash: String,
    ts_ms: u64,
    request_id: String,
    actor: String,
    intent: String,
    decision: Decision,
    state_from: State,
    state_to: State,
    tool_name: Option<String>,
    params_hash: Option<String>,
    evidence_hash: Option<String>,
    error: Option<String>,
    permit_digest: Option<String>,
    permit_verification: Option<PermitVerification>,
    permit_denial_reasons: Option<Vec<String>>,
    proposal_hash: Option<String>,
    permit_nonce: Option<String>,
    permit_issuer: Option<String>,
    permit_subject: Option<String>,
    permit_max_executions: Option<u64>,
}

impl From<ExportedEntry> for Entry {
    fn from(export: ExportedEntry) -> Self {
        let data = EntryData {
            ts_ms: export.ts_ms,
            request_id: export.request_id,
            actor: export.actor,
            intent: export.intent,
            decision: export.decision,
            state_from: export.state_from,
            state_to: export.state_to,
            tool_name: export.tool_name,
            params_hash: export.params_hash,
            evidence_hash: export.evidence_hash,
            error: export.error,
            permit_digest: export.permit_digest,
            permit_verification: export.permit_verification,
            permit_denial_reasons: export.permit_denial_reasons,
            proposal_hash: export.proposal_hash,
            permit_nonce: export.permit_nonce,
            permit_issuer: export.permit_issuer,
            permit_subject: export.permit_subject,
            permit_max_executions: export.permit_max_executions,
        };
        Self { ledger_seq: export.ledger_seq, prev_hash: export.prev_hash, entry_hash: export.entry_hash, data }
    }
}

#[cfg(test)]
mod tests;
