//! The judgement: the first five stages of the order of judgement, and the wording of the last two.
//!
//! A request passes the stages in [`Stage`]'s order; the first that finds a violation denies, with all that it found.
//! What stands here is pure and takes about a microsecond; the custom rules and the tool run in the host, which words
//! their denials with [`policy_denial`] and [`tool_failure`].
//!
//! Always holds: a request is [`Verdict::Cleared`] only when every stage found nothing.

use crate::{
    json,
    jurisdiction::Jurisdiction,
    permit::{Keyring, PermitCheck, PermitFindings, PermitUse, PermitUses},
    request::{Evidence, Request},
    text::{is_blank, length_over},
    variant::Variant,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::fmt;

/// The longest intent, in characters, that a permissive kernel takes for unambiguous, whatever is configured.
pub const PERMISSIVE_INTENT_LENGTH_MAX: usize = 8192;

/// What the dual-channel variant demands of the constraints, sorted.
const REQUIRED_CONSTRAINTS: [&str; 3] = ["non_goals", "scope", "success_criteria"];

/// Everything that a kernel judges by.
#[derive(Debug, Clone)]
pub struct Law {
    /// The kernel's kind.
    pub variant: Variant,
    /// Its policy.
    pub jurisdiction: Jurisdiction,
    /// The kernel's own limit on an intent, in characters; a permissive kernel ignores it.
    pub max_intent_length: usize,
    /// Whose permits count. Without a keyring no permit is asked for.
    pub keyring: Option<Keyring>,
    /// The jurisdiction that permits must name.
    pub permit_jurisdiction: String,
}

impl Law {
    /// A law with the default limits, asking for no permits.
    #[must_use]
    pub fn new(variant: Variant, jurisdiction: Jurisdiction) -> Self {
        Self {
            variant,
            jurisdiction,
            max_intent_length: 4096,
            keyring: None,
            permit_jurisdiction: "default".to_owned(),
        }
    }

    fn intent_length_max(&self) -> usize {
        match self.variant {
            Variant::Permissive => PERMISSIVE_INTENT_LENGTH_MAX,
            _ => self.max_intent_length,
        }
    }
}

/// A stage of the order of judgement, in that order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Fields are missing or of the wrong type.
    Validation,
    /// The intent or the tool is not clear.
    Ambiguity,
    /// The permit is missing or does not cover the request.
    Permit,
    /// The policy does not allow it.
    Jurisdiction,
    /// The kernel's variant demands more.
    Variant,
    /// A policy component denied.
    Policy,
    /// The tool failed.
    Execution,
}

impl Stage {
    /// The name in metrics: `jurisdiction`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Validation => "validation",
            Self::Ambiguity => "ambiguity",
            Self::Permit => "permit",
            Self::Jurisdiction => "jurisdiction",
            Self::Variant => "variant",
            Self::Policy => "policy",
            Self::Execution => "execution",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// How the five stages ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// No stage objects; the custom rules are next.
    Cleared,
    /// A stage denied.
    Denied {
        /// Which.
        stage: Stage,
        /// The receipt's error text.
        error: String,
    },
}

/// What [`judge`] concluded.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Judgement {
    /// The conclusion.
    pub verdict: Verdict,
    /// What the permit stage found, if it was reached and applies.
    pub permit: Option<PermitFindings>,
    /// The use of a permit that was counted, to be kept in the ledger whatever the verdict.
    pub counted_use: Option<PermitUse>,
}

/// Judges `request` at `now_ms`, the kernel's clock in Unix milliseconds.
///
/// Counts a use in `uses` when a permit's cryptography holds, even if the request is denied.
pub fn judge(law: &Law, request: &Request, now_ms: u64, uses: &mut dyn PermitUses) -> Judgement {
    let mut judgement = Judgement { verdict: Verdict::Cleared, permit: None, counted_use: None };
    judgement.verdict = denial(Stage::Validation, &validation(request))
        .or_else(|| denial(Stage::Ambiguity, &ambiguity(law, request)))
        .or_else(|| permit(law, request, now_ms, uses, &mut judgement))
        .or_else(|| denial(Stage::Jurisdiction, &jurisdiction(&law.jurisdiction, request)))
        .or_else(|| denial(Stage::Variant, &variant(law.variant, request)))
        .unwrap_or(Verdict::Cleared);
    judgement
}

/// The error text of a request that the custom rule `name` denied.
#[must_use]
pub fn policy_denial(name: &str, reason: &str) -> String {
    format!("Policy denied: {name}: {reason}")
}

/// The error text of a request whose tool failed.
#[must_use]
pub fn tool_failure(reason: &str) -> String {
    format!("Tool execution failed: {reason}")
}

/// The error text of a request for a tool that nobody registered.
#[must_use]
pub fn unregistered_tool(name: &str) -> String {
    tool_failure(&format!("Tool '{name}' is not registered"))
}

fn denial(stage: Stage, violations: &[String]) -> Option<Verdict> {
    if violations.is_empty() {
        return None;
    }
    let heading = match stage {
        Stage::Validation => "Validation failed",
        Stage::Ambiguity => "Ambiguity detected",
        Stage::Permit => "Permit verification failed",
        Stage::Jurisdiction => "Jurisdiction denied",
        Stage::Variant => "Variant requirements not met",
        Stage::Policy => "Policy denied",
        Stage::Execution => "Tool execution failed",
    };
    Some(Verdict::Denied { stage, error: format!("{heading}: {}", violations.join("; ")) })
}

fn validation(request: &Request) -> Vec<String> {
    let mut violations = Vec::new();
    let mut check = |field: &str, unmet: Option<&str>| {
        let mut wrong_types = request.type_violations().iter();
        match wrong_types.find(|violation| violation.field == field) {
            Some(violation) => violations.push(violation.to_string()),
            None => violations.extend(unmet.map(|unmet| format!("{field} {unmet}"))),
        }
    };
    let required = |missing: bool| missing.then_some("is required");
    let unnamed = request.tool_call().is_some_and(|call| call.name.is_empty());
    check("request_id", required(is_blank(request.request_id())));
    check("ts_ms", (request.ts_ms() < 0).then_some("must be non-negative"));
    check("actor", required(is_blank(request.actor())));
    check("intent", None);
    check("tool_call", None);
    check("tool_call.name", required(unnamed));
    check("tool_call.params", None);
    check("params", None);
    check("evidence", None);
    if request.constraints_differ() {
        violations.push("constraints and params.constraints differ".to_owned());
    }
    violations
}

fn ambiguity(law: &Law, request: &Request) -> Vec<String> {
    let mut violations = Vec::new();
    if is_blank(request.intent()) {
        violations.push("Empty intent is ambiguous".to_owned());
    }
    let max = law.intent_length_max();
    if length_over(request.intent(), max).is_some() {
        violations.push(format!("Intent exceeds maximum length of {max}"));
    }
    // Of a wholly empty name validation has already disposed; this is one of white space only.
    let unnamed = request.tool_call().is_some_and(|call| is_blank(&call.name));
    if unnamed && law.variant != Variant::Permissive {
        violations.push("Tool call with empty name is ambiguous".to_owned());
    }
    violations
}

fn permit(
    law: &Law,
    request: &Request,
    now_ms: u64,
    uses: &mut dyn PermitUses,
    judgement: &mut Judgement,
) -> Option<Verdict> {
    let check = PermitCheck {
        keyring: law.keyring.as_ref()?,
        jurisdiction: &law.jurisdiction,
        permit_jurisdiction: &law.permit_jurisdiction,
        request,
        call: request.tool_call()?,
        now_ms,
    };
    let (findings, counted_use) = check.verify(uses);
    let error = findings.error();
    judgement.permit = Some(findings);
    judgement.counted_use = counted_use;
    error.map(|error| Verdict::Denied { stage: Stage::Permit, error })
}

fn jurisdiction(policy: &Jurisdiction, request: &Request) -> Vec<String> {
    let mut violations = missing_fields(policy, request);
    let actor = request.actor();
    if !policy.allows_actor(actor) {
        violations.push(format!("Actor '{actor}' is not in allowed actors"));
    }
    let tool = request.tool_call().map(|call| call.name.as_str());
    if let Some(tool) = tool.filter(|tool| !policy.allows_tool(tool)) {
        violations.push(format!("Tool '{tool}' is not in allowed tools"));
    }
    let max = policy.max_param_bytes;
    if let Some(size) = request.params().map(json::canonical_length).filter(|&size| size > max) {
        violations.push(format!("Params size ({size} bytes) exceeds maximum ({max} bytes)"));
    }
    let max = policy.max_intent_length;
    if let Some(length) = length_over(request.intent(), max) {
        violations.push(format!("Intent length ({length}) exceeds maximum ({max})"));
    }
    if tool.is_some_and(is_blank) {
        violations.push("Tool call name is empty".to_owned());
    }
    if policy.require_tool_call && tool.is_none() {
        violations.push("Tool call is required".to_owned());
    }
    violations
}

fn missing_fields(policy: &Jurisdiction, request: &Request) -> Vec<String> {
    let required = policy.required_fields.iter();
    let mut missing: Vec<_> = required.filter(|field| !has_field(request, field)).collect();
    missing.sort_unstable();
    missing.dedup();
    missing.iter().map(|field| format!("Required field '{field}' is missing or empty")).collect()
}

/// Whether `field` is present and not empty. A name that no request has is always missing.
fn has_field(request: &Request, field: &str) -> bool {
    match field {
        "request_id" => !is_blank(request.request_id()),
        "actor" => !is_blank(request.actor()),
        "intent" => !is_blank(request.intent()),
        // The clock fills it in; 0 is a time like any other.
        "ts_ms" => true,
        "tool_call" => request.tool_call().is_some(),
        "params" => request.params().is_some_and(|params| !params.is_empty()),
        "evidence" => request.evidence().is_some_and(|evidence| !is_blank_evidence(evidence)),
        "constraints" => request.constraints().is_some_and(|it| !is_empty_value(it)),
        "permit" => request.permit().is_some_and(|permit| !is_empty_value(permit)),
        _ => false,
    }
}

fn variant(variant: Variant, request: &Request) -> Vec<String> {
    match variant {
        Variant::Strict | Variant::Permissive => Vec::new(),
        Variant::EvidenceFirst => missing_evidence(request),
        Variant::DualChannel => missing_constraints(request),
    }
}

fn missing_evidence(request: &Request) -> Vec<String> {
    let violation = match request.evidence() {
        None => "Evidence field is required for this kernel variant",
        Some(evidence) if is_blank_evidence(evidence) => "Evidence field cannot be empty",
        Some(_) => return Vec::new(),
    };
    vec![violation.to_owned()]
}

fn missing_constraints(request: &Request) -> Vec<String> {
    match request.constraints() {
        None => vec!["Constraints dict is required in params".to_owned()],
        Some(Value::Object(constraints)) => unmet_constraints(constraints),
        Some(_) => vec!["Constraints must be a dictionary".to_owned()],
    }
}

fn unmet_constraints(constraints: &Map<String, Value>) -> Vec<String> {
    let mut missing = Vec::new();
    let mut violations = Vec::new();
    for key in REQUIRED_CONSTRAINTS {
        match constraints.get(key) {
            None => missing.push(key),
            Some(value) if is_null_or_blank(value) => {
                violations.push(format!("Constraint '{key}' cannot be empty"));
            }
            Some(_) => {}
        }
    }
    if !missing.is_empty() {
        let missing = missing.join(", ");
        violations.insert(0, format!("Missing required constraint keys: {missing}"));
    }
    violations
}

fn is_blank_evidence(evidence: &Evidence) -> bool {
    match evidence {
        Evidence::Text(text) => is_blank(text),
        Evidence::List(list) => list.iter().all(|text| is_blank(text)),
    }
}

fn is_null_or_blank(value: &Value) -> bool {
    value.is_null() || value.as_str().is_some_and(is_blank)
}

fn is_empty_value(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.is_empty(),
        Value::Object(members) => members.is_empty(),
        _ => is_null_or_blank(value),
    }
}

#[cfg(test)]
mod tests;
