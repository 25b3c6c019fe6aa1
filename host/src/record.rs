//! What a ledger record says beside the KERNELS entry: its `meta`, and reading it back.
//!
//! `meta` is canonical JSON. It holds what the entry's fixed nineteen fields cannot: who called,
//! which policy set judged and what each policy said, what the counters answered, what the policies
//! were asked (so that they can be asked again), and the use of a permit.

use crate::approvals::Asked;
use crate::policies::statute;
use gavel_kernel::{Evidence, Jurisdiction, PermitUse, Request, Stage, json};
use gavel_ledger::{BlobId, MAX_RECORD_BYTES, RecordView};
use gavel_runtime::{CounterOperation, Evaluation, FailedClosed, Isolation, Policy, PolicySet, ToolCall, Verdict};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::borrow::Cow;
use std::fmt::Write;

/// The error of a request whose tool may or may not have run when the host stopped.
pub(crate) const OUTCOME_UNKNOWN: &str = "outcome unknown: host stopped";

/// Bytes of an id, an actor or a tool's name in a record.
const NAME_BYTES_MAX: usize = 1_024;
/// Bytes of an intent or a halt's reason in a record, in canonical (ASCII) form: 8,192 characters
/// of any script but emoji, and 4,096 of those.
const INTENT_BYTES_MAX: usize = 48 << 10;
/// Characters of an error in a record.
const ERROR_CHARS_MAX: usize = 1_024;
/// Bytes that the ledger itself adds to a record, at most.
const FRAME_BYTES_MAX: usize = 1_024;

/// Whether the request is to be carried out or only judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Mode {
    Submit,
    Decide,
    /// Judged to see that the kernel judges: nothing runs, and no counter but its own is touched.
    Smoke,
}

impl Mode {
    /// The word in records.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Submit => "submit",
            Self::Decide => "decide",
            Self::Smoke => "smoke",
        }
    }
}

/// What the `meta` of a smoke test's decision has, and that of nothing else.
const SMOKE: &str = "\"mode\":\"smoke\"";

/// The `meta` of a decision.
pub(crate) struct DecisionMeta<'a> {
    pub(crate) request: &'a Request,
    pub(crate) caller: &'a str,
    pub(crate) mode: Mode,
    /// The stage that denied.
    pub(crate) stage: Option<Stage>,
    /// Whether a tool is about to run, so that an outcome will follow: the record then names the
    /// request itself, for the case that the host stops before it does.
    pub(crate) open: bool,
    /// What the policies are asked, if the request came so far.
    pub(crate) asked: Option<&'a gavel_runtime::Request>,
    pub(crate) policy_set: &'a PolicySet,
    pub(crate) evaluations: &'a [Evaluation],
    pub(crate) permit_use: Option<&'a PermitUse>,
    /// How it stands with the human that a policy asked for.
    pub(crate) approval: Option<&'a Asked>,
}

impl DecisionMeta<'_> {
    /// As canonical JSON text, without what the policies were asked.
    pub(crate) fn to_json(&self) -> String {
        let mut meta = json!({
            "caller": self.caller,
            "mode": self.mode,
            "policy_set": **self.policy_set.digest(),
        });
        if let Some(stage) = self.stage {
            meta["stage"] = json!(stage.as_str());
        }
        if !self.evaluations.is_empty() {
            // Policies are asked in the set's order, up to the one that denied or failed.
            let asked = self.evaluations.iter().zip(self.policy_set.policies());
            meta["policies"] = asked.map(|(evaluation, policy)| evaluated(evaluation, policy)).collect();
        }
        if let Some(call) = self.request.tool_call() {
            meta["tool_name"] = json!(call.name);
            let known = self.asked.and_then(|asked| asked.tool_call.as_ref()).map(|call| Cow::from(&call.params));
            let params = known.unwrap_or_else(|| json::canonical(&Value::Object(call.params.clone())).into());
            meta["tool_params_hash"] = json!(json::sha256_hex(params.as_bytes()));
        }
        if self.open {
            let (id, actor, intent) = (self.request.request_id(), self.request.actor(), self.request.intent());
            meta["request"] = json!({"request_id": id, "actor": actor, "intent": intent});
        }
        if let Some(permit_use) = self.permit_use {
            meta["permit_use"] = json!(permit_use);
        }
        if let Some(approval) = self.approval {
            meta["approval"] = approval.to_meta();
        }
        json::canonical(&meta)
    }
}

fn evaluated(evaluation: &Evaluation, policy: &Policy) -> Value {
    debug_assert_eq!(*evaluation.policy, *policy.name(), "an evaluation stands where its policy does");
    let mut value = json!({"name": *evaluation.policy, "verdict": verdict_label(&evaluation.verdict)});
    if policy.limits().isolation != Isolation::Fresh {
        value["isolation"] = json!(policy.limits().isolation);
    }
    if !evaluation.counters.is_empty() {
        value["counters"] = evaluation.counters.iter().map(counter).collect();
    }
    value
}

fn counter(answer: &gavel_runtime::CounterAnswer) -> Value {
    match answer.operation {
        CounterOperation::Read => json!({"key": answer.key, "window_ms": answer.window_ms, "answer": answer.answer}),
        CounterOperation::Add(amount) => {
            json!({"key": answer.key, "window_ms": answer.window_ms, "answer": answer.answer, "added": amount})
        }
    }
}

/// A verdict as one word, for records and metrics.
pub(crate) fn verdict_label(verdict: &Result<Verdict, FailedClosed>) -> &'static str {
    match verdict {
        Ok(Verdict::Allow) => "allow",
        Ok(Verdict::Deny(_)) => "deny",
        Ok(Verdict::Abstain) => "abstain",
        Ok(Verdict::Escalate(_)) => "escalate",
        Err(why) => why.as_label(),
    }
}

/// The bytes that are left for what the policies were asked, in a record with this `meta` and an
/// entry of `entry_bytes`.
pub(crate) fn room_for_asked(meta: &str, entry_bytes: usize) -> usize {
    MAX_RECORD_BYTES.saturating_sub(meta.len() + entry_bytes + FRAME_BYTES_MAX)
}

/// The same `meta` with what the policies were asked.
pub(crate) fn with_asked(meta: &str, asked: &str) -> String {
    // `asked` sorts before every other key, and what it holds is canonical already.
    format!("{{\"asked\":{asked},{}", &meta[1..])
}

/// The same `meta` with the name of the blob that holds what the policies were asked.
pub(crate) fn with_asked_blob(meta: &str, id: BlobId, bytes: usize) -> String {
    // It sorts where `asked` would.
    format!("{{\"asked_blob\":{{\"bytes\":{bytes},\"sha256\":\"{id}\"}},{}", &meta[1..])
}

/// What the policies were asked, beside what the entry and the tool's name say: canonical JSON.
pub(crate) fn asked(request: &gavel_runtime::Request) -> String {
    let mut text = String::from("{");
    // Writing to a string cannot fail.
    if let Some(constraints) = &request.constraints {
        let _ = write!(text, "\"constraints\":{constraints},");
    }
    if !request.evidence.is_empty() {
        let _ = write!(text, "\"evidence\":{},", json::canonical(&json!(request.evidence)));
    }
    let _ = write!(text, "\"now_ms\":{},\"params\":{},", request.now_ms, request.params);
    if let Some(call) = &request.tool_call {
        let _ = write!(text, "\"tool_params\":{},", call.params);
    }
    let _ = write!(text, "\"ts_ms\":{}}}", request.ts_ms);
    text
}

/// A step in the life of a kernel's policies.
pub(crate) struct PolicyEvent<'a> {
    pub(crate) action: &'static str,
    pub(crate) who: &'a str,
    pub(crate) why: &'a str,
    /// The digest of the set that served before the step.
    pub(crate) old_set: &'a str,
    /// The digest of the set that the step is about.
    pub(crate) new_set: &'a str,
    /// Its policies: name and digest of the component.
    pub(crate) policies: Vec<(&'a str, &'a str)>,
    /// The one policy that it is about, if it is about one.
    pub(crate) policy: Option<&'a str>,
    /// The jurisdictions before and after, where the step changes that.
    pub(crate) law: Option<(&'a Jurisdiction, &'a Jurisdiction)>,
    /// What requests are judged by after the step; absent where it did not change.
    pub(crate) line: Option<Value>,
}

/// What begins the `meta` of a [`PolicyEvent`], and of nothing else.
const POLICY_EVENT: &str = "\"event\":\"policies\"";

impl PolicyEvent<'_> {
    /// As canonical JSON text.
    pub(crate) fn to_json(&self) -> String {
        let policies = self.policies.iter().map(|(name, component)| json!({"name": name, "component": component}));
        let mut meta = json!({
            "event": "policies",
            "action": self.action,
            "who": self.who,
            "why": self.why,
            "old_set": self.old_set,
            "new_set": self.new_set,
            "policies": policies.collect::<Vec<_>>(),
        });
        if let Some(line) = &self.line {
            meta["line"] = line.clone();
        }
        if let Some(policy) = self.policy {
            meta["policy"] = json!(policy);
        }
        if let Some((old, new)) = self.law {
            meta["old_policy_digest"] = json!(statute::digest(old));
            meta["new_policy_digest"] = json!(statute::digest(new));
            let text = json::canonical(&meta);
            meta["old_policy"] = json!(old);
            meta["new_policy"] = json!(new);
            let whole = json::canonical(&meta);
            // Longer ones are in the catalogue, where their digests lead.
            return if whole.len() + FRAME_BYTES_MAX > MAX_RECORD_BYTES { text } else { whole };
        }
        json::canonical(&meta)
    }
}

/// Whether an event's `meta` is that of a [`PolicyEvent`].
pub(crate) fn is_policy_event(meta: &str) -> bool {
    // Quickly no for most; the text of an author cannot hold an unescaped quote.
    meta.contains(POLICY_EVENT)
}

/// Whether it also says what requests are judged by from then on.
pub(crate) fn is_policy_change(meta: &str) -> bool {
    is_policy_event(meta) && meta.contains("\"line\":{")
}

/// The state that the last step left, as the ledger tells it.
pub(crate) fn line_of<T: for<'de> Deserialize<'de>>(meta: &str) -> Option<T> {
    let meta: Value = serde_json::from_str(meta).ok()?;
    serde_json::from_value(meta.get("line")?.clone()).ok()
}

/// The `meta` of an outcome.
pub(crate) fn outcome(decision_index: u64) -> String {
    json::canonical(&json!({"decision_index": decision_index}))
}

/// The `meta` of an outcome that nobody saw.
pub(crate) fn outcome_unknown(decision_index: u64) -> String {
    json::canonical(&json!({"decision_index": decision_index, "recovered": true}))
}

/// The `meta` of a halt.
pub(crate) fn halt(caller: &str) -> String {
    json::canonical(&json!({"caller": caller}))
}

/// Check that a record of this request would be within the ledger's limit.
pub(crate) fn check_lengths(request: &Request) -> Result<(), String> {
    let permit = request.permit().and_then(Value::as_object);
    let permit_texts = permit.into_iter().flatten().filter_map(|(name, value)| Some((name.as_str(), value.as_str()?)));
    let tool = request.tool_call().map(|call| ("tool_call.name", call.name.as_str()));
    let names =
        [("request_id", request.request_id()), ("actor", request.actor())].into_iter().chain(tool).chain(permit_texts);
    for (field, text) in names {
        check(field, text, NAME_BYTES_MAX)?;
    }
    check("intent", request.intent(), INTENT_BYTES_MAX)
}

/// Check that a halt's reason fits a record.
pub(crate) fn check_reason(reason: &str) -> Result<(), String> {
    check("reason", reason, INTENT_BYTES_MAX)
}

fn check(field: &str, text: &str, limit: usize) -> Result<(), String> {
    // A character takes at most 6 bytes for each UTF-8 byte; most texts are decided by that.
    if text.len() <= limit / 6 {
        return Ok(());
    }
    let bytes = json::canonical(&Value::String(text.to_owned())).len();
    if bytes <= limit {
        return Ok(());
    }
    Err(format!("{field} takes {bytes} bytes in canonical JSON, a record has room for {limit}"))
}

/// An error as it goes into record and receipt.
pub(crate) fn shortened(mut error: String) -> String {
    if let Some((end, _)) = error.char_indices().nth(ERROR_CHARS_MAX) {
        error.truncate(end);
        error.push('…');
    }
    error
}

/// The request as a policy sees it.
pub(crate) fn guest_request(request: &Request, now_ms: u64) -> gavel_runtime::Request {
    let object = |map: &Map<String, Value>| json::canonical(&Value::Object(map.clone()));
    gavel_runtime::Request {
        id: request.request_id().to_owned(),
        now_ms,
        ts_ms: u64::try_from(request.ts_ms()).unwrap_or(0),
        actor: request.actor().to_owned(),
        intent: request.intent().to_owned(),
        tool_call: request.tool_call().map(|call| ToolCall { name: call.name.clone(), params: object(&call.params) }),
        params: request.params().map_or_else(|| "{}".to_owned(), object),
        evidence: match request.evidence() {
            None => Vec::new(),
            Some(Evidence::Text(text)) => vec![text.clone()],
            Some(Evidence::List(texts)) => texts.clone(),
        },
        constraints: request.constraints().map(json::canonical),
    }
}

/// The permit use that a record notes.
pub(crate) fn permit_use(record: &RecordView) -> Option<PermitUse> {
    // Quickly no for most.
    if !record.meta().contains("\"permit_use\":{") {
        return None;
    }
    let meta: Value = serde_json::from_str(record.meta()).ok()?;
    serde_json::from_value(meta.get("permit_use")?.clone()).ok()
}

/// What a policy did with a counter.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Counted {
    pub(crate) policy: String,
    pub(crate) key: String,
    pub(crate) added: Option<u64>,
    pub(crate) window_ms: u64,
}

/// What the policies of a decision did with their counters: reads before additions, so that whoever
/// does it again knows the longest window first.
pub(crate) fn counted(record: &RecordView) -> Vec<Counted> {
    #[derive(Deserialize)]
    struct Meta {
        policies: Vec<Said>,
    }
    #[derive(Deserialize)]
    struct Said {
        name: String,
        #[serde(default)]
        counters: Vec<Answer>,
    }
    #[derive(Deserialize)]
    struct Answer {
        key: String,
        window_ms: u64,
        added: Option<u64>,
    }
    // Quickly no for most. A smoke test has counters of its own.
    if !record.meta().contains("\"counters\":[") || record.meta().contains(SMOKE) {
        return Vec::new();
    }
    let Ok(meta) = serde_json::from_str::<Meta>(record.meta()) else { return Vec::new() };
    let said = meta.policies.into_iter().flat_map(|Said { name: policy, counters }| {
        counters.into_iter().map(move |answer| {
            let Answer { key, window_ms, added } = answer;
            Counted { policy: policy.clone(), key, added, window_ms }
        })
    });
    let mut counted: Vec<Counted> = said.collect();
    counted.sort_by_key(|counted| counted.added.is_some());
    counted
}

/// The reason of a halt record.
pub(crate) fn halt_reason(record: &RecordView) -> Option<String> {
    let entry = record.entry().filter(|_| record.kind() == "halt")?;
    let data: Value = serde_json::from_str(entry.data).ok()?;
    Some(data.get("intent")?.as_str()?.to_owned())
}

/// The request that a decision without outcome was about, as far as the record knows it.
pub(crate) fn request_of(record: &RecordView) -> Option<Request> {
    let meta: Value = serde_json::from_str(record.meta()).ok()?;
    Request::from_value(meta.get("request")?.clone(), 0).ok()
}
