//! What a record can be found by.
//!
//! A record that closes a request says it in its entry; a decision whose tool is about to run has no entry
//! yet and says it in its `meta`; anything else (an event, the opening record) is found by its time alone.

use gavel_ledger::RecordView;
use serde::{Deserialize, Serialize};

/// What a record says about its request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Facts {
    /// What kind of record it is: `decision`, `outcome`, `event`, `halt` and so on.
    pub kind: String,
    /// The request's name.
    pub request_id: Option<String>,
    /// Who asked.
    pub actor: Option<String>,
    /// The tool that was asked for; an entry names it only where it ran.
    pub tool: Option<String>,
    /// `ALLOW`, `DENY` or `HALT`.
    pub decision: Option<String>,
}

#[derive(Deserialize)]
struct Entry {
    request_id: String,
    actor: String,
    decision: String,
    tool_name: Option<String>,
}

#[derive(Deserialize)]
struct Meta {
    request: Option<Asked>,
    tool_name: Option<String>,
}

#[derive(Deserialize)]
struct Asked {
    request_id: String,
    actor: String,
}

impl Facts {
    /// What `record` can be found by.
    #[must_use]
    pub fn of(record: &RecordView) -> Self {
        Self { kind: record.kind().to_owned(), ..Self::of_request(record) }
    }

    fn of_request(record: &RecordView) -> Self {
        let meta = || serde_json::from_str::<Meta>(record.meta()).ok();
        match (record.kind(), record.entry()) {
            (kind, Some(entry)) => {
                let Ok(entry) = serde_json::from_str::<Entry>(entry.data) else { return Self::default() };
                // A denial's entry keeps silent about the tool; the decision beside it does not.
                let tool = entry.tool_name.or_else(|| (kind == "decision").then(meta)??.tool_name);
                Self {
                    kind: String::new(),
                    request_id: Some(entry.request_id),
                    actor: Some(entry.actor),
                    tool,
                    decision: Some(entry.decision),
                }
            }
            ("decision", None) => {
                let Some(Meta { request: Some(asked), tool_name }) = meta() else { return Self::default() };
                Self {
                    kind: String::new(),
                    request_id: Some(asked.request_id),
                    actor: Some(asked.actor),
                    tool: tool_name,
                    decision: Some("ALLOW".to_owned()),
                }
            }
            _ => Self::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gavel_ledger::{Draft, Identity, Kind, Ledger, Options};
    use serde_json::json;

    #[test]
    fn every_kind_of_record_says_what_it_can() {
        let identity = Identity { kernel_id: "k".into(), variant: "strict".into() };
        let ledger = Ledger::in_memory(Options::new(identity, 1)).unwrap();
        let entry = |decision: &str, tool: Option<&str>| {
            json!({"actor": "a", "decision": decision, "request_id": "r\u{e9}", "tool_name": tool}).to_string()
        };
        let open = r#"{"request":{"actor":"a","intent":"i","request_id":"r"},"tool_name":"echo"}"#;
        let drafts = [
            (Kind::Decision, r#"{"tool_name":"rm"}"#, Some(entry("DENY", None)), None),
            (Kind::Decision, open, None, None),
            (Kind::Outcome, r#"{"decision_index":2,"tool_name":"other"}"#, Some(entry("ALLOW", Some("echo"))), Some(2)),
            (Kind::Event, r#"{"request":{"actor":"a","request_id":"r"}}"#, None, None),
        ];
        for (kind, meta, entry, closes) in drafts {
            let entry = entry.map(|entry| entry.replace('\u{e9}', "\\u00e9"));
            ledger.append_wait(Draft { kind, ts_ms: 2, meta: meta.into(), entry, closes }).unwrap();
        }
        let told: Vec<Facts> = ledger.records(&ledger.snapshot()).map(|record| Facts::of(&record.unwrap())).collect();
        let facts = |kind: &str, id: &str, tool: &str, decision: &str| Facts {
            kind: kind.into(),
            request_id: Some(id.into()),
            actor: Some("a".into()),
            tool: Some(tool.into()),
            decision: Some(decision.into()),
        };
        let expected = [
            Facts { kind: "opened".into(), ..Facts::default() },
            facts("decision", "r\u{e9}", "rm", "DENY"),
            facts("decision", "r", "echo", "ALLOW"),
            facts("outcome", "r\u{e9}", "echo", "ALLOW"),
            Facts { kind: "event".into(), ..Facts::default() },
        ];
        assert_eq!(told, expected);
    }
}
