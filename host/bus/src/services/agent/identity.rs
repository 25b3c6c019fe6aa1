//! Identities: what is known of an agent beyond its presence, kept in the store.

use super::super::{invalid, read};
use super::roster::refused;
use crate::event::Event;
use crate::plugin::Fault;
use crate::store::{Change, Store};
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// Where they are kept.
const NAMESPACE: &str = "plugin/agent_service:identities";

#[derive(Deserialize)]
struct Wish {
    agent_id: String,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

/// Answer `agent:create_identity`, `update_identity`, `get_identity`, `remove_identity` and `identities`.
pub(super) async fn answer(store: &Store, event: &Event) -> Result<Value, Fault> {
    if matches!(event.name.as_str(), "agent:identities" | "agent:list_identities") {
        return list(store);
    }
    let Wish { agent_id, rest } = read(event)?;
    if agent_id.is_empty() {
        return Err(invalid("`agent_id` is empty"));
    }
    let known = store.get(NAMESPACE, &agent_id).map_err(refused)?;
    let Some(operation) = event.name.strip_prefix("agent:").and_then(|name| name.strip_suffix("_identity")) else {
        return Err(Fault::Unhandled);
    };
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
        "remove" | "delete" => {
            let change = Change::Delete { namespace: NAMESPACE.to_owned(), key: agent_id.clone() };
            store.change(&event.event_id, &event.sender, change).await.map_err(refused)?;
            Ok(json!({ "status": "removed", "agent_id": agent_id, "identity": known, "deleted": true }))
        }
        _ => Err(Fault::Unhandled),
    }
}

async fn create(store: &Store, event: &Event, id: &str, rest: Map<String, Value>, known: bool) -> Result<Value, Fault> {
    if known {
        let message = format!("agent '{id}' has an identity: update it instead");
        return Err(Fault::Refused { message, code: Some("IDENTITY_EXISTS".to_owned()) });
    }
    let mut identity = rest;
    identity.insert("agent_id".to_owned(), json!(id));
    identity.insert("created_at_ms".to_owned(), json!(event.timestamp_ms));
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
        _ => rest,
    };
    let mut identity = known;
    let mut changes = Map::new();
    for (key, value) in wanted {
        if matches!(key.as_str(), "agent_id" | "created_at_ms") {
            return Err(invalid(&format!("`{key}` of an identity cannot be changed")));
        }
        let before = identity[&key].clone();
        if before != value {
            changes.insert(key.clone(), json!({ "before": before, "after": value }));
            identity[&key] = value;
        }
    }
    identity["updated_at_ms"] = json!(event.timestamp_ms);
    let identity = keep(store, event, id, identity).await?;
    Ok(json!({ "status": "updated", "updated": true, "changes": changes, "identity": identity }))
}

async fn keep(store: &Store, event: &Event, id: &str, identity: Value) -> Result<Value, Fault> {
    let change = Change::Set { namespace: NAMESPACE.to_owned(), key: id.to_owned(), value: identity.clone() };
    store.change(&event.event_id, &event.sender, change).await.map_err(refused)?;
    Ok(identity)
}

fn list(store: &Store) -> Result<Value, Fault> {
    let (ids, more) = store.keys(NAMESPACE, "*").map_err(refused)?;
    let mut items = Vec::with_capacity(ids.len());
    for id in ids {
        items.extend(store.get(NAMESPACE, &id).map_err(refused)?);
    }
    let total = items.len();
    Ok(json!({ "items": items, "total": total, "metadata": { "more": more } }))
}
