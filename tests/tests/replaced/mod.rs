//! What the tests of kernels that are replaced share: a kernel that counts, and what is told of those before it.

use gavel_tests::{Config, Server, Site, repository};
use serde_json::{Value, json};

pub(crate) fn hostile() -> String {
    repository().join("tests/data/guests/hostile.wasm").to_str().unwrap().to_owned()
}

/// A kernel whose policy counts every request, up to `max` of them.
pub(crate) fn counting(max: u64) -> Config {
    let count = json!({"do": "count", "key": "calls", "amount": 1, "window_ms": 36_000_000, "max": max});
    let gate = json!({"component": hostile(), "config": count, "limits": {"deadline_ms": 30_000}});
    Config::of(json!([Config::ruled_kernel("k", &["gate"])]))
        .policy("gate", gate)
        .with("limits", json!({"decision_deadline_ms": 60_000}))
}

pub(crate) fn replace(server: &Server, body: &Value) -> Value {
    server.post("/kernels/k/replace", body).expect(200)
}

/// The id of the kernel that answers under `k`.
pub(crate) fn serving(server: &Server) -> String {
    server.get("/kernels/k/status").expect(200)["kernel_id"].as_str().unwrap().to_owned()
}

/// Wait until every kernel that was replaced is closed; what is told of those of `k` then.
pub(crate) fn settled(server: &Server) -> Vec<Value> {
    let of_k = |told: &Value| {
        let k = told["kernels"].as_array().unwrap().iter().find(|kernel| kernel["name"] == "k").unwrap();
        k["predecessors"].as_array().unwrap().clone()
    };
    server.wait_for("/kernels", |told| of_k(told).iter().all(|before| before["stage"] == "retired"));
    of_k(&server.get("/kernels").expect(200))
}

/// What an allowed and a denied request are told.
pub(crate) fn error(server: &Server, request: &Value) -> String {
    server.submit(request)["error"].as_str().unwrap_or_default().to_owned()
}

/// The `meta` of every event of a kind in a ledger, in order.
pub(crate) fn events(site: &Site, kernel: &str, event: &str) -> Vec<Value> {
    let (_, records) = gavel_ledger::read_dir(&site.ledger(kernel)).unwrap();
    let events = records.map(Result::unwrap).filter(|record| record.kind() == "event");
    let metas = events.map(|record| serde_json::from_str::<Value>(record.meta()).unwrap());
    metas.filter(|meta| meta["event"] == event).collect()
}
