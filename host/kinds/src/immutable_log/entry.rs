//! An entry: what a caller appends, and how it lies in a record of the ledger.
//!
//! The ledger knows no free entries, but a record of kind `event` holds any object (`docs/formats/ledger.md`). An entry is
//! that object, in canonical JSON:
//!
//! ```text
//! {"by":SENDER,"data":ANY,"key":KEY,"kind":KIND}
//! ```
//!
//! `key` is absent where none was given. So every tool that verifies a ledger verifies this one.

use crate::caller::Caller;
use crate::fault::Fault;
use gavel_kernel::json::{self, canonical};
use gavel_ledger::{Kind, RecordView, tree::leaf_hash};
use gavel_proof::record::push_record;
use serde::Deserialize;
use serde_json::{Value, json};

/// What records of the ledger itself are called in a list; no entry may have such a kind.
const RESERVED: [&str; 2] = ["opened", "key"];
/// Kinds by which the fleet says what it did; only its parts append such entries.
const OF_THE_FLEET: [&str; 2] = ["healing", "given_up"];
const KIND_BYTES_MAX: usize = 64;
const KEY_BYTES_MAX: usize = 128;

/// What a caller wants appended.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entry {
    pub(super) kind: String,
    pub(super) data: Value,
    #[serde(default)]
    pub(super) key: Option<String>,
}

impl Entry {
    /// Reads a body, strictly: what cannot be written back canonically is refused.
    pub(super) fn read(body: &[u8]) -> Result<Self, Fault> {
        let value = json::parse(body).map_err(|why| Fault::unreadable(format!("the body is not JSON: {why}")))?;
        let entry: Self = serde_path_to_error::deserialize(value).map_err(|why| {
            let place = if why.path().to_string() == "." { String::new() } else { format!("{}: ", why.path()) };
            Fault::not_accepted(format!("{place}{}", why.inner()))
        })?;
        check_kind(&entry.kind)?;
        if RESERVED.contains(&entry.kind.as_str()) {
            let kind = &entry.kind;
            return Err(Fault::not_accepted(format!("kind: `{kind}` is what the log's own records are called")));
        }
        entry.key.as_deref().map_or(Ok(()), check_key)?;
        Ok(entry)
    }

    /// 403 for an entry of a kind that only parts of the fleet append, from anybody else.
    pub(super) fn may_be_of(&self, caller: &Caller) -> Result<(), Fault> {
        if OF_THE_FLEET.contains(&self.kind.as_str()) && !caller.is_of_the_fleet() {
            let kind = &self.kind;
            return Err(Fault::forbidden(format!(
                "kind: only Guardian and the kernels of the fleet append entries of the kind `{kind}`: choose another"
            )));
        }
        Ok(())
    }

    /// What the record holds.
    pub(super) fn meta(&self, by: &str) -> String {
        let mut meta = json!({"by": by, "data": self.data, "kind": self.kind});
        if let Some(key) = &self.key {
            meta["key"] = json!(key);
        }
        canonical(&meta)
    }
}

/// 422 for what is no kind.
pub(super) fn check_kind(kind: &str) -> Result<(), Fault> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"_.:/-".contains(&byte);
    if (1..=KIND_BYTES_MAX).contains(&kind.len()) && kind.bytes().all(good) {
        return Ok(());
    }
    let shown = shown(kind);
    Err(Fault::not_accepted(format!("kind: `{shown}` is not 1 to {KIND_BYTES_MAX} letters, digits or any of `_.:/-`")))
}

fn check_key(key: &str) -> Result<(), Fault> {
    if (1..=KEY_BYTES_MAX).contains(&key.len()) && !key.chars().any(char::is_control) {
        return Ok(());
    }
    let shown = shown(key);
    Err(Fault::not_accepted(format!(
        "key: `{shown}` has {} bytes: it must have 1 to {KEY_BYTES_MAX}, without control characters",
        key.len()
    )))
}

/// The beginning of a text, for a message.
fn shown(text: &str) -> String {
    text.chars().take(80).flat_map(char::escape_debug).collect()
}

/// The leaf hash of the record that holds `meta`, in hex.
pub(super) fn leaf_of(index: u64, ts_ms: u64, meta: &str) -> String {
    let mut record = Vec::with_capacity(meta.len() + 80);
    push_record(&mut record, index, Kind::Event, ts_ms, meta, None);
    hex::encode(leaf_hash(&record))
}

/// Who appended a record; `None` for those of the ledger itself.
pub(super) fn sender_of(record: &RecordView) -> Option<String> {
    serde_json::from_str(entry_member(record, "by")?).ok()
}

/// The idempotency key of a record.
pub(super) fn key_of(record: &RecordView) -> Option<String> {
    serde_json::from_str(entry_member(record, "key")?).ok()
}

/// Whether a record is an entry of this kind, or a record of the ledger itself that is called so.
pub(super) fn is_of_kind(record: &RecordView, kind: &str) -> bool {
    match entry_member(record, "kind") {
        // A kind has no characters that are escaped.
        Some(found) => found.strip_prefix('"').and_then(|found| found.strip_suffix('"')) == Some(kind),
        None => record.kind() == kind,
    }
}

fn entry_member<'a>(record: &'a RecordView, name: &str) -> Option<&'a str> {
    if record.known_kind() == Some(Kind::Event) { gavel_proof::json::member(record.meta(), name) } else { None }
}

/// A record as an answer shows it.
pub(super) fn told(record: &RecordView) -> Value {
    let mut meta: Value = serde_json::from_str(record.meta()).unwrap_or_default();
    let mut told = json!({
        "index": record.index(),
        "ts_ms": record.ts_ms(),
        "leaf_hash": hex::encode(leaf_hash(record.as_str().as_bytes())),
    });
    if record.known_kind() == Some(Kind::Event) {
        for name in ["by", "kind", "data", "key"] {
            if let Some(value) = meta.get_mut(name) {
                told[name] = value.take();
            }
        }
    } else {
        told["by"] = json!("ledger");
        told["kind"] = json!(record.kind());
        told["data"] = meta;
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(index: u64, meta: &str) -> RecordView {
        let mut text = Vec::new();
        push_record(&mut text, index, Kind::Event, 5, meta, None);
        RecordView::parse(String::from_utf8(text).unwrap()).unwrap()
    }

    #[test]
    fn an_entry_comes_back_as_it_was() {
        let body =
            r#"{"data": {"z": [1.50, "ü\n"], "a": 123456789012345678901234567890}, "kind": "healing", "key": "k\"1"}"#;
        let meta = Entry::read(body.as_bytes()).unwrap().meta("kernel:governance");
        assert_eq!(
            meta,
            r#"{"by":"kernel:governance","data":{"a":123456789012345678901234567890,"z":[1.5,"\u00fc\n"]},"key":"k\"1","kind":"healing"}"#
        );
        let record = record(7, &meta);
        assert_eq!(sender_of(&record).as_deref(), Some("kernel:governance"));
        assert_eq!(key_of(&record).as_deref(), Some("k\"1"));
        assert!(is_of_kind(&record, "healing") && !is_of_kind(&record, "heal"));
        let told = told(&record);
        assert_eq!(told["data"]["a"].to_string(), "123456789012345678901234567890");
        assert_eq!(told["leaf_hash"], leaf_of(7, 5, &meta));
    }

    #[test]
    fn what_the_fleet_did_only_the_fleet_says() {
        for (kind, caller, status) in [
            ("healing", Caller::of_the_fleet("guardian"), None),
            ("given_up", Caller::of_the_fleet("kernel:self_healing_kernel"), None),
            // A name is no proof.
            ("healing", Caller::trusted("guardian"), Some(403)),
            ("given_up", Caller::trusted("anyone"), Some(403)),
            ("note", Caller::trusted("ops"), None),
        ] {
            let entry = Entry { kind: kind.to_owned(), data: Value::Null, key: None };
            let refused = entry.may_be_of(&caller).err().map(|fault| fault.status.as_u16());
            assert_eq!(refused, status, "{kind} of {}", caller.name);
        }
    }

    #[test]
    fn what_is_no_entry_is_told() {
        for (body, status, why) in [
            ("{", 400, "the body is not JSON"),
            (r#"{"kind":"k","data":1E400}"#, 400, "beyond the range"),
            (r#"{"kind":"k","data":{"$serde_json::private::Number":"5"}}"#, 400, "reserved prefix"),
            (r#"{"kind":"k"}"#, 422, "missing field `data`"),
            (r#"{"kind":"k","data":1,"by":"me"}"#, 422, "unknown field `by`"),
            (r#"{"kind":"a kind","data":1}"#, 422, "kind: `a kind`"),
            (r#"{"kind":"opened","data":1}"#, 422, "log's own records"),
            (r#"{"kind":"k","data":1,"key":""}"#, 422, "key: `` has 0 bytes"),
        ] {
            let fault = Entry::read(body.as_bytes()).unwrap_err();
            assert_eq!(fault.status.as_u16(), status, "{body}: {fault}");
            assert!(fault.message.contains(why), "{body}: {fault}");
        }
    }
}
