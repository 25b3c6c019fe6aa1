//! A record as it was read, and what it says.

use super::{Origin, Source};
use gavel_proof::hash::HexHash;
use gavel_proof::tree::leaf_hash;
use serde_json::{Value, json};

/// A record of a ledger of governance, or an entry of the immutable log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    /// Its place in the ledger.
    pub(crate) index: u64,
    /// When, by the clock of whoever wrote it.
    pub(crate) ts_ms: u64,
    /// What kind of record it is: `decision`, `outcome`, `halt`; or what the author of an entry calls it.
    pub(crate) kind: String,
    /// The request that it is about.
    pub(crate) request_id: Option<String>,
    /// Who asked, or who appended the entry.
    pub(crate) actor: Option<String>,
    /// The tool that was asked for.
    pub(crate) tool: Option<String>,
    /// `ALLOW`, `DENY` or `HALT`.
    pub(crate) decision: Option<String>,
    /// The policy that decided; of a step in the life of policies, the one that it is about.
    pub(crate) policy: Option<String>,
    /// Why it was denied, failed, halted or changed.
    pub(crate) reason: Option<String>,
    /// Whether it is whole in itself: a decision whose tool is about to run is not, an outcome must follow it.
    pub(crate) closed: bool,
    /// The hash of its leaf in the log's tree, in hexadecimal digits.
    pub(crate) hash: String,
    /// The record, byte for byte.
    pub(crate) text: String,
}

impl Record {
    /// A record of the source of this name.
    pub(crate) fn read(source: &str, text: &str) -> Result<Self, String> {
        match Source::named(source).map(|source| source.origin) {
            Some(Origin::Kernel(_)) => Self::of_ledger(text),
            Some(Origin::Log) => Self::of_log(text),
            None => Err(format!("`{source}` is no source")),
        }
    }

    /// A record of a ledger of governance.
    pub(super) fn of_ledger(text: &str) -> Result<Self, String> {
        let value: Value = serde_json::from_str(text).map_err(|why| format!("a record is no JSON: {why}"))?;
        let (entry, meta) = (&value["entry"], &value["meta"]);
        let kind = kind_of(&value)?;
        let asked = &meta["request"];
        let open = kind == "decision" && entry.is_null();
        let either = |name: &str| said(&entry[name]).or_else(|| said(&asked[name]));
        let tool = said(&entry["tool_name"]).or_else(|| said(&meta["tool_name"]).filter(|_| kind == "decision"));
        let why = said(&entry["error"]).or_else(|| said(&entry["intent"]).filter(|_| kind == "halt"));
        Ok(Self {
            index: number(&value, "index")?,
            ts_ms: number(&value, "ts_ms")?,
            request_id: either("request_id"),
            actor: either("actor"),
            tool,
            decision: said(&entry["decision"]).or_else(|| (open && !asked.is_null()).then(|| "ALLOW".to_owned())),
            policy: policy_of(meta),
            reason: why.or_else(|| said(&meta["why"])).or_else(|| said(&meta["reason"])),
            closed: !open,
            hash: hashed(text),
            text: text.to_owned(),
            kind,
        })
    }

    /// An entry of the immutable log.
    pub(super) fn of_log(text: &str) -> Result<Self, String> {
        let value: Value = serde_json::from_str(text).map_err(|why| format!("an entry is no JSON: {why}"))?;
        let data = &value["data"];
        let (index, ts_ms) = (number(&value, "index")?, number(&value, "ts_ms")?);
        let (kind, by) = (kind_of(&value)?, said(&value["by"]));
        // Of an entry without a leaf's hash, what it consists of is hashed: an answer may grow by other members.
        let own = || hashed(&json!({"by": by, "data": data, "index": index, "kind": kind, "ts_ms": ts_ms}).to_string());
        let why = ["reason", "why", "message"].into_iter().find_map(|name| said(&data[name]));
        Ok(Self {
            index,
            ts_ms,
            request_id: said(&data["request_id"]),
            actor: by.clone(),
            tool: said(&data["tool"]),
            decision: said(&data["decision"]),
            policy: said(&data["policy"]),
            reason: why,
            closed: true,
            hash: said(&value["leaf_hash"]).unwrap_or_else(own),
            text: text.to_owned(),
            kind,
        })
    }

    /// Every text in it, names of members aside.
    pub(crate) fn texts(&self) -> Vec<String> {
        let mut found = Vec::new();
        if let Ok(value) = serde_json::from_str(&self.text) {
            gather(value, &mut found);
        }
        found
    }
}

/// Every text in a record's JSON, in its order.
fn gather(value: Value, found: &mut Vec<String>) {
    match value {
        Value::String(text) => found.push(text),
        Value::Array(values) => values.into_iter().for_each(|value| gather(value, found)),
        Value::Object(members) => members.into_iter().for_each(|(_, value)| gather(value, found)),
        _ => {}
    }
}

/// The policy whose verdict decided: policies are asked up to that one, and it neither allowed nor abstained.
fn policy_of(meta: &Value) -> Option<String> {
    let of_event = said(&meta["policy"]);
    let asked = meta["policies"].as_array().and_then(|policies| policies.last());
    let decided =
        asked.filter(|last| last["verdict"].as_str().is_some_and(|said| !["allow", "abstain"].contains(&said)));
    of_event.or_else(|| said(&decided?["name"]))
}

fn said(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

fn number(value: &Value, name: &str) -> Result<u64, String> {
    value[name].as_u64().ok_or_else(|| format!("a record has no whole number under `{name}`"))
}

fn kind_of(value: &Value) -> Result<String, String> {
    said(&value["kind"]).ok_or_else(|| "a record does not say its kind".to_owned())
}

fn hashed(text: &str) -> String {
    HexHash::of(&leaf_hash(text.as_bytes())).as_str().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_says_what_it_is_about() {
        let denied = r#"{"entry":{"actor":"a","decision":"DENY","error":"too fast","intent":"i","request_id":"r","tool_name":null},"entry_hash":"0","index":4,"kind":"decision","ledger_seq":1,"meta":{"policies":[{"name":"first","verdict":"abstain"},{"name":"pace","verdict":"deny"}],"tool_name":"rm"},"prev_hash":"0","ts_ms":9}"#;
        let record = Record::of_ledger(denied).unwrap();
        assert_eq!((record.index, record.ts_ms, record.closed), (4, 9, true));
        let told = [&record.actor, &record.tool, &record.decision, &record.request_id, &record.policy, &record.reason];
        let told: Vec<_> = told.into_iter().map(|said| said.as_deref().unwrap()).collect();
        assert_eq!(told, ["a", "rm", "DENY", "r", "pace", "too fast"]);
        assert_eq!(record.hash, HexHash::of(&leaf_hash(denied.as_bytes())).as_str());
        assert!(record.texts().contains(&"pace".to_owned()) && !record.texts().contains(&"verdict".to_owned()));
    }

    #[test]
    fn a_decision_whose_tool_runs_is_open() {
        let text = r#"{"index":2,"kind":"decision","meta":{"request":{"actor":"a","intent":"i","request_id":"r"},"tool_name":"echo"},"ts_ms":9}"#;
        let record = Record::of_ledger(text).unwrap();
        assert_eq!((record.decision.as_deref(), record.closed), (Some("ALLOW"), false));
        assert_eq!((record.request_id.as_deref(), record.tool.as_deref()), (Some("r"), Some("echo")));
        let event = r#"{"index":2,"kind":"event","meta":{"event":"policies","policy":"pace","policies":[{"component":"c","name":"x"}],"why":"because","who":"op"},"ts_ms":9}"#;
        let event = Record::of_ledger(event).unwrap();
        assert_eq!((event.policy.as_deref(), event.reason.as_deref()), (Some("pace"), Some("because")));
    }

    #[test]
    fn an_entry_is_known_by_its_leaf() {
        let with = r#"{"by":"guardian","data":{"reason":"x"},"index":1,"kind":"healing","leaf_hash":"ab","ts_ms":3}"#;
        assert_eq!(Record::of_log(with).unwrap().hash, "ab");
        let without = r#"{"index":1,"kind":"healing","by":"guardian","ts_ms":3,"data":{"reason":"x"}}"#;
        let grown = r#"{"index":1,"kind":"healing","by":"guardian","ts_ms":3,"data":{"reason":"x"},"size":7}"#;
        let (without, grown) = (Record::of_log(without).unwrap(), Record::of_log(grown).unwrap());
        assert_eq!((without.hash.len(), &without.hash), (64, &grown.hash));
        assert_eq!((without.actor.as_deref(), without.reason.as_deref()), (Some("guardian"), Some("x")));
        for wrong in ["", "[]", r#"{"index":1,"ts_ms":3}"#, r#"{"index":-1,"kind":"k","ts_ms":3}"#] {
            assert!(Record::of_log(wrong).is_err() && Record::of_ledger(wrong).is_err(), "{wrong}");
        }
    }
}
