//! The doors of the policy engine.
//!
//! A change is carried to its end, also if whoever asked has gone: it is never on disk and not in service.

use super::deploy::Deploy;
use super::engine::{Back, Engine, Swap, shown};
use super::judge::{Batch, Comparison, Question};
use super::load::Upload;
use axum::Json;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, header};
use gavel_kinds::{ANY, Body, Caller, Door, Doors, Fault, OPERATING, Params, SEEING};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::sync::Arc;

type Answer = Result<Json<Value>, Fault>;

/// What every WebAssembly file begins with; no JSON does.
const MAGIC: &[u8] = b"\0asm";

pub(super) fn doors() -> Doors<Arc<Engine>> {
    kept(Doors::new())
        .post("/evaluate", evaluate_door(), evaluate)
        .post("/evaluate/batch", batch_door(), evaluate_batch)
        .post("/compare", compare_door(), compare)
}

fn kept(doors: Doors<Arc<Engine>>) -> Doors<Arc<Engine>> {
    doors
        .get("/policies", list_door(), list)
        .get("/policies/{name}", policy_door(), policy)
        .post("/policies/{name}", upload_door(), upload)
        .post("/policies/{name}/swap", swap_door(), swap)
        .post("/policies/{name}/rollback", rollback_door(), roll_back)
        .post("/policies/{name}/deploy", deploy_door(), deploy)
}

fn list_door() -> Door {
    Door {
        roles: SEEING,
        summary: "All policies, each with its active version",
        query: &[],
        body: "",
        answer: r#"{"policies": [{"policy": "no-deletes", "version": 2, "digest": "sha256:…", "since_ms": 0}]}"#,
    }
}

fn policy_door() -> Door {
    Door {
        roles: SEEING,
        summary: "One policy: its versions, which is active since when and by whom, and what was done with it",
        query: &[],
        body: "",
        answer: r#"{"policy": "no-deletes", "version": 2, "since_ms": 0, "by": "ann", "all": [], "steps": []}"#,
    }
}

fn upload_door() -> Door {
    Door {
        roles: OPERATING,
        summary: "Add a version: a component as the body, or one that is named; the first version is active at once",
        query: &[
            ("config", "its configuration as JSON, where the body is a component"),
            ("limits", "its limits as JSON, where the body is a component"),
            ("why", "why, where the body is a component"),
        ],
        body: r#"{"component": "builtin:rate-limit", "config": {}, "limits": {"deadline_ms": 20}, "why": "first"}"#,
        answer: r#"{"policy": "no-deletes", "version": 1, "digest": "sha256:…", "active": true, "new": true}"#,
    }
}

fn swap_door() -> Door {
    Door {
        roles: OPERATING,
        summary: "Let another version judge; evaluations under way end with the one that they began with",
        query: &[],
        body: r#"{"version": 2, "expected": 1, "why": "stricter"}"#,
        answer: r#"{"policy": "no-deletes", "version": 2, "changed": true, "rollback_to": 1}"#,
    }
}

fn rollback_door() -> Door {
    Door {
        roles: OPERATING,
        summary: "Let judge what judged before",
        query: &[],
        body: r#"{"expected": 2, "why": "too strict"}"#,
        answer: r#"{"policy": "no-deletes", "version": 1, "changed": true, "rollback_to": null}"#,
    }
}

fn deploy_door() -> Door {
    Door {
        roles: OPERATING,
        summary: "Let a kernel of governance judge by a version, through that kernel's own stage and promote",
        query: &[],
        body: r#"{"kernel": "default", "version": 2, "why": "it has proved itself"}"#,
        answer: r#"{"policy": "no-deletes", "version": 2, "kernel": "default", "promoted": {"set": "sha256:…"}}"#,
    }
}

fn evaluate_door() -> Door {
    Door {
        roles: ANY,
        summary: "What policies say to a request; nothing is decided, recorded or run",
        query: &[],
        body: r#"{"policy": "no-deletes", "request": {"request_id": "r1", "actor": "agent-1", "intent": "tidy up"}}"#,
        answer: r#"{"verdict": "deny", "decided_by": "no-deletes", "reason": "…", "judged": [], "recorded": false}"#,
    }
}

fn batch_door() -> Door {
    Door {
        roles: ANY,
        summary: "What policies say to many requests, in their order",
        query: &[],
        body: r#"{"policies": ["no-deletes"], "requests": [], "shared_counters": false}"#,
        answer: r#"{"evaluated": 1, "results": [], "recorded": false}"#,
    }
}

fn compare_door() -> Door {
    Door {
        roles: SEEING,
        summary: "Where two versions of a policy differ on these requests",
        query: &[],
        body: r#"{"policy": "no-deletes", "from": 1, "to": 2, "requests": []}"#,
        answer: r#"{"compared": 1, "same": 0, "differences": [{"index": 0, "verdict_differs": true}]}"#,
    }
}

async fn list(State(engine): State<Arc<Engine>>) -> Json<Value> {
    let policies: Vec<Value> = engine.live().values().map(|live| shown(live)).collect();
    Json(json!({"policies": policies}))
}

async fn policy(State(engine): State<Arc<Engine>>, Path(name): Path<String>) -> Answer {
    let live = engine.find(&name)?;
    let mut told = shown(&live);
    told["all"] = json!(live.book.versions);
    told["steps"] = json!(live.book.steps);
    told["steps_forgotten"] = json!(live.book.steps_forgotten);
    Ok(Json(told))
}

/// What stands in the query beside a component that is the body.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Beside {
    config: Option<String>,
    limits: Option<String>,
    why: String,
}

async fn upload(
    State(engine): State<Arc<Engine>>,
    Path(name): Path<String>,
    caller: Caller,
    Params(beside): Params<Beside>,
    request: Request,
) -> Answer {
    let Ok(_room) = engine.uploads.try_acquire() else {
        return Err(Fault::too_many("other components are on their way in: send it again"));
    };
    let most = engine.admission.max_component_bytes();
    let limit = usize::try_from(most).unwrap_or(usize::MAX);
    let bytes = axum::body::to_bytes(request.into_body(), limit).await.map_err(|why| {
        Fault::too_large(format!(
            "the body did not come whole, or has more than {most} bytes (limits.max_component_bytes): {why}"
        ))
    })?;
    let upload = if bytes.starts_with(MAGIC) { beside.with(bytes.to_vec())? } else { named(&bytes)? };
    let engine = Arc::clone(&engine);
    to_the_end(async move { engine.upload(&name, upload, caller).await }).await
}

impl Beside {
    fn with(self, bytes: Vec<u8>) -> Result<Upload, Fault> {
        let config = self.config.as_deref().map(|text| parsed("config", text)).transpose()?;
        let limits = self.limits.as_deref().map(|text| parsed("limits", text)).transpose()?;
        Ok(Upload {
            config: config.unwrap_or_default(),
            limits: limits.unwrap_or_default(),
            why: self.why,
            bytes: Some(bytes),
            ..Upload::default()
        })
    }
}

fn parsed<T: DeserializeOwned>(key: &str, text: &str) -> Result<T, Fault> {
    serde_json::from_str(text).map_err(|why| Fault::unreadable(format!("{key}: {why}")))
}

fn named(bytes: &[u8]) -> Result<Upload, Fault> {
    let value: Value = serde_json::from_slice(bytes)
        .map_err(|why| Fault::unreadable(format!("the body is neither WebAssembly nor JSON: {why}")))?;
    serde_path_to_error::deserialize(value).map_err(|why| Fault::not_accepted(why.to_string()))
}

async fn swap(
    State(engine): State<Arc<Engine>>,
    Path(name): Path<String>,
    caller: Caller,
    Body(wish): Body<Swap>,
) -> Answer {
    to_the_end(async move { engine.swap(&name, wish, caller).await }).await
}

async fn roll_back(
    State(engine): State<Arc<Engine>>,
    Path(name): Path<String>,
    caller: Caller,
    Body(wish): Body<Back>,
) -> Answer {
    to_the_end(async move { engine.roll_back(&name, wish, caller).await }).await
}

async fn deploy(
    State(engine): State<Arc<Engine>>,
    Path(name): Path<String>,
    caller: Caller,
    headers: HeaderMap,
    Body(wish): Body<Deploy>,
) -> Answer {
    let shown = headers.get(header::AUTHORIZATION).cloned();
    to_the_end(async move { engine.deploy(&name, wish, caller, shown).await }).await
}

async fn evaluate(State(engine): State<Arc<Engine>>, caller: Caller, Body(question): Body<Question>) -> Answer {
    engine.evaluate(question, &caller).await.map(Json)
}

async fn evaluate_batch(State(engine): State<Arc<Engine>>, caller: Caller, Body(batch): Body<Batch>) -> Answer {
    engine.evaluate_batch(batch, &caller).await.map(Json)
}

async fn compare(State(engine): State<Arc<Engine>>, caller: Caller, Body(asked): Body<Comparison>) -> Answer {
    engine.compare(asked, &caller).await.map(Json)
}

async fn to_the_end(change: impl Future<Output = Result<Value, Fault>> + Send + 'static) -> Answer {
    let done = tokio::spawn(change).await;
    done.map_err(|_| Fault::broken("the change broke off by a fault of the engine: look at the policy"))?.map(Json)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_example_is_json() {
        let doors = [
            list_door(),
            policy_door(),
            upload_door(),
            swap_door(),
            rollback_door(),
            deploy_door(),
            evaluate_door(),
            batch_door(),
            compare_door(),
        ];
        for example in doors.iter().flat_map(|door| [door.body, door.answer]).filter(|text| !text.is_empty()) {
            serde_json::from_str::<Value>(example).unwrap_or_else(|why| panic!("{example}: {why}"));
        }
    }

    #[test]
    fn a_body_that_is_no_component_names_one() {
        assert_eq!(named(br#"{"component": "builtin:budget"}"#).unwrap().component, "builtin:budget");
        assert_eq!(named(b"hello").unwrap_err().status, 400);
        let unknown = named(br#"{"componentt": "x"}"#).unwrap_err();
        assert!(unknown.status == 422 && unknown.message.contains("componentt"), "{unknown}");
    }
}
