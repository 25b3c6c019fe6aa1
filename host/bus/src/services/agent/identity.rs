//! Identities: what is known of an agent beyond its presence, kept in the store.

use super::super::{invalid, read};
use super::roster::refused;
use crate::event::{Event, Sender};
use crate::plugin::Fault;
use crate::store::{Change, Store};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::path::Path;
use tokio::sync::Mutex;

/// Where they are kept.
const NAMESPACE: &str = "plugin/agent_service:identities";
/// Where it is kept that a file of the older daemon was taken over.
const IMPORTS: &str = "plugin/agent_service:imports";
/// What no client may change of an identity.
const FIXED: [&str; 4] = ["agent_id", "identity_uuid", "created_at", "created_at_ms"];
/// The most identities that one answer gives, and that the store is searched for.
const LISTED_MAX: usize = 10_000;
/// The largest file of identities that is taken over, in bytes.
const FILE_BYTES_MAX: u64 = 256 << 20;

#[derive(Deserialize)]
struct Wish {
    agent_id: String,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

#[derive(Deserialize)]
struct Listing {
    #[serde(default)]
    filter_role: Option<String>,
    #[serde(default)]
    sort_by: Option<String>,
    #[serde(default)]
    order: Order,
}

#[derive(Deserialize, serde::Serialize, Clone, Copy, Default, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Order {
    #[default]
    Asc,
    Desc,
}

/// Answer `agent:create_identity`, `update_identity`, `get_identity`, `remove_identity` and `identities`.
///
/// `changing` is held from what is known to what is kept: of two changes at once, the second is made to the first.
pub(super) async fn answer(store: &Store, changing: &Mutex<()>, event: &Event) -> Result<Value, Fault> {
    let operation = match event.name.as_str() {
        "agent:identities" | "agent:list_identities" => return list(store, read(event)?),
        "agent:create_identity" => "create",
        "agent:get_identity" => "get",
        "agent:update_identity" => "update",
        "agent:remove_identity" | "agent:delete_identity" => "remove",
        _ => return Err(Fault::Unhandled),
    };
    let Wish { agent_id, rest } = read(event)?;
    if agent_id.is_empty() {
        return Err(invalid("`agent_id` is empty"));
    }
    let _alone = if operation == "get" { None } else { Some(changing.lock().await) };
    let known = store.get(NAMESPACE, &agent_id).map_err(refused)?;
    if operation == "create" {
        return create(store, event, &agent_id, rest, known.is_some()).await;
    }
    let known = known.ok_or_else(|| Fault::Refused {
        message: format!("no identity of agent '{agent_id}'"),
        code: Some("IDENTITY_NOT_FOUND".to_owned()),
    })?;
    match operation {
        "get" => Ok(json!({ "identity": known })),
        "update" => update(store, event, &agent_id, rest, known).await,
        _ => {
            let change = Change::Delete { namespace: NAMESPACE.to_owned(), key: agent_id.clone() };
            store.change(&event.event_id, &event.sender, change).await.map_err(refused)?;
            Ok(json!({ "status": "removed", "agent_id": agent_id, "identity": known, "deleted": true }))
        }
    }
}

async fn create(store: &Store, event: &Event, id: &str, rest: Map<String, Value>, known: bool) -> Result<Value, Fault> {
    if known {
        let message = format!("agent '{id}' has an identity: update it instead");
        return Err(Fault::Refused { message, code: Some("IDENTITY_EXISTS".to_owned()) });
    }
    let mut identity = rest;
    identity.insert("agent_id".to_owned(), json!(id));
    identity.insert("created_at".to_owned(), crate::unix::timestamp(event.timestamp_ms));
    let identity = keep(store, event, id, Value::Object(identity)).await?;
    Ok(json!({ "status": "created", "created": true, "identity": identity }))
}

async fn update(
    store: &Store,
    event: &Event,
    id: &str,
    rest: Map<String, Value>,
    known: Value,
) -> Result<Value, Fault> {
    // Both ways are in use: the changes under `updates`, or beside the id.
    let wanted = match rest.get("updates") {
        Some(Value::Object(updates)) => updates.clone(),
        Some(_) => return Err(invalid("agent:update_identity: `updates` is no object")),
        None => rest,
    };
    let mut identity = known;
    let mut changes = Map::new();
    for (key, value) in wanted {
        let before = identity[&key].clone();
        if before == value {
            continue;
        }
        if FIXED.contains(&key.as_str()) {
            return Err(invalid(&format!("`{key}` of an identity cannot be changed")));
        }
        changes.insert(key.clone(), json!({ "before": before, "after": value }));
        identity[&key] = value;
    }
    identity["updated_at"] = crate::unix::timestamp(event.timestamp_ms);
    let identity = keep(store, event, id, identity).await?;
    Ok(json!({ "status": "updated", "updated": true, "changes": changes, "identity": identity }))
}

async fn keep(store: &Store, event: &Event, id: &str, identity: Value) -> Result<Value, Fault> {
    let change = Change::Set { namespace: NAMESPACE.to_owned(), key: id.to_owned(), value: identity.clone() };
    store.change(&event.event_id, &event.sender, change).await.map_err(refused)?;
    Ok(identity)
}

fn list(store: &Store, listing: Listing) -> Result<Value, Fault> {
    let Listing { filter_role, sort_by, order } = listing;
    let sort_by = sort_by.unwrap_or_else(|| "agent_id".to_owned());
    let (kept, more) = store.entries(NAMESPACE, LISTED_MAX).map_err(refused)?;
    let mut items: Vec<Value> = kept.into_iter().map(|(_, identity)| identity).collect();
    items.retain(|identity| filter_role.as_ref().is_none_or(|role| identity["role"] == json!(role)));
    // By name already; of equals that order stays.
    items.sort_by_key(|identity| identity[&sort_by].as_str().unwrap_or_default().to_owned());
    if order == Order::Desc {
        items.reverse();
    }
    let metadata = json!({
        "more": more, "filtered": filter_role.is_some(), "filter_role": filter_role, "sort": sort_by, "order": order,
    });
    Ok(json!({ "total": items.len(), "items": items, "metadata": metadata }))
}

/// What came of taking over a file of identities.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Imported {
    /// So many were taken over, and so many were known already and stayed as they were.
    Now {
        /// New ones.
        taken: usize,
        /// Those that stayed.
        known: usize,
    },
    /// This file was taken over at an earlier start.
    Before,
}

/// Take over the identities of the older daemon: a JSON object of identities by agent. This is done once for a file's
/// path; the file is read and never changed. One that the store knows already stays as it is.
///
/// # Errors
/// If the file cannot be read, or what is in it is something else: with the file and the agent; or the store fails.
pub async fn import_identities(store: &Store, file: &Path) -> Result<Imported, String> {
    let at = file.display().to_string();
    let named = |why: &dyn std::fmt::Display| format!("identities_file {at}: {why}");
    let place = file.canonicalize().map_err(|why| named(&why))?.display().to_string();
    // A path may be longer than a key.
    let key = if place.len() <= 200 {
        place
    } else {
        format!("…{}", &place[place.ceil_char_boundary(place.len() - 190)..])
    };
    if store.get(IMPORTS, &key).map_err(|why| named(&why))?.is_some() {
        return Ok(Imported::Before);
    }
    let identities = read_file(file).map_err(|why| named(&why))?;
    let (mut taken, mut known) = (0, 0);
    for (id, mut identity) in identities {
        if store.get(NAMESPACE, &id).map_err(|why| named(&why))?.is_some() {
            known += 1;
            continue;
        }
        identity.insert("agent_id".to_owned(), json!(id));
        set(store, NAMESPACE, &id, Value::Object(identity)).await.map_err(|why| named(&why))?;
        taken += 1;
    }
    // Last: what a crash interrupts is gone on with at the next start.
    let note = json!({ "file": at, "taken": taken, "known": known });
    set(store, IMPORTS, &key, note).await.map_err(|why| named(&why))?;
    Ok(Imported::Now { taken, known })
}

async fn set(store: &Store, namespace: &str, key: &str, value: Value) -> Result<usize, crate::store::StoreError> {
    let change = Change::Set { namespace: namespace.to_owned(), key: key.to_owned(), value };
    store.change("identities_file", &Sender::Host, change).await
}

/// Agents, each with what is known of it.
type Known = Vec<(String, Map<String, Value>)>;

fn read_file(file: &Path) -> Result<Known, String> {
    let bytes = std::fs::metadata(file).map_err(|why| why.to_string())?.len();
    if bytes > FILE_BYTES_MAX {
        return Err(format!("{bytes} bytes are more than {FILE_BYTES_MAX}"));
    }
    let text = std::fs::read_to_string(file).map_err(|why| why.to_string())?;
    let all: Map<String, Value> =
        serde_json::from_str(&text).map_err(|why| format!("it must be a JSON object of identities by agent: {why}"))?;
    let checked = all.into_iter().map(|(id, identity)| match identity {
        _ if id.is_empty() => Err("an identity has an empty key".to_owned()),
        Value::Object(identity) => match identity.get("agent_id").and_then(Value::as_str) {
            Some(other) if other != id => Err(format!("identity '{id}' says that its agent_id is '{other}'")),
            _ => Ok((id, identity)),
        },
        _ => Err(format!("identity '{id}' is no object")),
    });
    checked.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{NoAudit, StoreLimits};
    use std::sync::Arc;

    #[tokio::test]
    async fn a_file_is_taken_over_once_and_stays_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("identities.json");
        let text = r#"{"ann": {"agent_id": "ann", "role": "analyst", "stats": {"messages_sent": 42}}, "bob": {}}"#;
        std::fs::write(&file, text).unwrap();
        let store = Store::open(None, StoreLimits::default(), Arc::new(NoAudit)).await.unwrap();
        set(&store, NAMESPACE, "bob", json!({ "agent_id": "bob", "mine": true })).await.unwrap();
        assert_eq!(import_identities(&store, &file).await, Ok(Imported::Now { taken: 1, known: 1 }));
        let ann = json!({ "agent_id": "ann", "role": "analyst", "stats": { "messages_sent": 42 } });
        assert_eq!(store.get(NAMESPACE, "ann"), Ok(Some(ann)));
        assert_eq!(store.get(NAMESPACE, "bob").unwrap().unwrap()["mine"], true);
        // Removed later, it does not come back with the next start.
        let gone = Change::Delete { namespace: NAMESPACE.to_owned(), key: "ann".to_owned() };
        store.change("e", &Sender::Host, gone).await.unwrap();
        assert_eq!(import_identities(&store, &file).await, Ok(Imported::Before));
        assert_eq!(store.get(NAMESPACE, "ann"), Ok(None));
        assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
    }

    #[tokio::test]
    async fn a_bad_file_is_refused_with_its_name_and_the_agent() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(None, StoreLimits::default(), Arc::new(NoAudit)).await.unwrap();
        for (text, part) in [
            ("[]", "must be a JSON object"),
            ("{", "must be a JSON object"),
            (r#"{"good": {}, "ann": 7}"#, "identity 'ann' is no object"),
            (r#"{"ann": {"agent_id": "eve"}}"#, "identity 'ann' says that its agent_id is 'eve'"),
        ] {
            let file = folder.path().join("identities.json");
            std::fs::write(&file, text).unwrap();
            let why = import_identities(&store, &file).await.unwrap_err();
            assert!(why.contains(part) && why.contains("identities.json"), "{why}");
        }
        assert_eq!(store.entries(NAMESPACE, 10), Ok((Vec::new(), false)), "all or none");
    }
}
