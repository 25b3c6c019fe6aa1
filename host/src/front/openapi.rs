//! One document for the whole API: the main process's own routes, and those of every kernel that is up, as it describes them.

use super::Front;
use axum::Json;
use axum::extract::State;
use gavel_fleet::Place;
use gavel_kinds::Peers;
use serde_json::{Map, Value, json};

/// The document. Kernels that do not answer are named in `x-not-described`.
pub(super) async fn document(State(front): State<Front>, own: Map<String, Value>) -> Json<Value> {
    let plan = front.inner.fleet.plan();
    let there = plan.in_order().filter(|component| component.place != Place::NotStarted);
    let asked = there.map(|component| async {
        let name = component.name.as_str();
        (name, described(front.inner.reports.peers(), name).await)
    });
    let (mut paths, mut missing, mut components) = (Map::new(), Vec::new(), json!({}));
    for (name, described) in futures_util::future::join_all(asked).await {
        let Some(mut described) = described else {
            missing.push(name);
            continue;
        };
        let prefix = if name == "governance" { String::new() } else { format!("/{name}") };
        if name == "governance" {
            components = described["components"].take();
        }
        if let Value::Object(of_kernel) = described["paths"].take() {
            paths.extend(of_kernel.into_iter().map(|(path, operations)| (format!("{prefix}{path}"), operations)));
        }
    }
    paths.extend(own);
    Json(json!({
        "openapi": "3.1.0",
        "info": {"title": "Gavel: a fleet", "version": env!("CARGO_PKG_VERSION")},
        "paths": paths,
        "components": components,
        "x-not-described": missing,
    }))
}

async fn described(peers: &Peers, kernel: &str) -> Option<Value> {
    peers.get(&format!("/{kernel}/openapi.json")).await.ok()
}
