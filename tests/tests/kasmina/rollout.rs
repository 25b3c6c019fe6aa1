//! The rollout of layers to models: who serves whom, what is on record, and that a bad candidate goes by itself.

use crate::{Layers, definition, floats, policy, rows, with_kernel};
use gavel_tests::{Config, Server};
use serde_json::{Value, json};

fn config(actors: &[&str], tools: &[&str]) -> Config {
    let mut law = policy(&[]);
    law["allowed_actors"] = json!(actors);
    law["allowed_tools"] = json!(tools);
    with_kernel(json!({"id": "kasmina", "policy": law}))
}

/// A server with two layers of one width, `old` with nothing and `new` with everything.
fn server() -> Server {
    let server = Server::start(&config(&["tamiyo", "anyone", "kasmina"], &["kasmina.rollout"]));
    for (id, flags) in [("old", json!({"chunks": false, "messages": false})), ("new", json!({}))] {
        let mut layer = definition(id);
        layer["flags"] = flags;
        server.create(&layer);
    }
    server
}

fn put(server: &Server, body: &Value) -> gavel_tests::Response {
    server.send("PUT", "/kasmina/rollout", &[("content-type", "application/json")], Some(body.to_string().as_bytes()))
}

/// Half of the models, at once, and no further steps; gates that look from the first pass on.
fn halves() -> Value {
    json!({
        "incumbent": "old", "candidate": "new", "why": "to see",
        "schedule": {"canary": 0.5, "step": 0.0},
        "gates": {"passes_min": 1, "latency_ratio": 1e9, "error_rate_excess": 1.0},
    })
}

fn served_by(server: &Server, layer: &str) -> Option<String> {
    let models = (0..64).map(|number| format!("model-{number}"));
    models.into_iter().find(|model| server.get(&format!("/kasmina/models/{model}")).expect(200)["layer_id"] == layer)
}

#[test]
fn models_are_divided_and_a_worse_candidate_is_reverted_by_itself() {
    let server = server();
    assert_eq!(server.get("/kasmina/rollout").expect(200), json!({"rollout": null}));
    let rollout = put(&server, &halves()).expect(200)["rollout"].take();
    assert_eq!((&rollout["share"], &rollout["trial"]["candidate"]), (&json!(0.5), &json!("new")));
    let (old, new) = (served_by(&server, "old").unwrap(), served_by(&server, "new").unwrap());
    let x: Vec<u8> = rows(2).iter().flat_map(|value| value.to_le_bytes()).collect();
    for model in [&old, &new] {
        let route = format!("/kasmina/models/{model}/forward?rows=2");
        let answer = server.send("POST", &route, &[("content-type", "application/octet-stream")], Some(&x));
        assert_eq!(floats(&answer), rows(2), "a fresh layer is the identity");
    }
    let trial = server.get("/kasmina/rollout").expect(200)["rollout"]["trial"].take();
    assert_eq!(
        (&trial["incumbent_health"]["passes"], &trial["candidate_health"]["passes"]),
        (&json!(1.0), &json!(1.0))
    );
    let removed = server.send("DELETE", "/kasmina/layers/new", &[], None);
    assert_eq!(removed.status, 409, "{}", removed.text());
    let metric =
        |model: &str, metric: f64| server.post(&format!("/kasmina/models/{model}/metric"), &json!({"metric": metric}));
    let _ = metric(&old, 0.9).expect(200);
    assert_eq!(metric(&new, 0.8).expect(200)["layer_id"], "new");
    let rollout = server.get("/kasmina/rollout").expect(200)["rollout"].take();
    assert_eq!((&rollout["trial"], &rollout["share"]), (&Value::Null, &json!(0.0)));
    let last = rollout["history"].as_array().unwrap().last().unwrap();
    assert_eq!((&last["change"], &last["by"]), (&json!("revert"), &json!("kasmina")));
    assert!(last["why"].as_str().unwrap().contains("metric is 0.8000, the incumbent's 0.9000"), "{last}");
    assert_eq!(server.get(&format!("/kasmina/models/{new}")).expect(200)["layer_id"], "old");
    server.wait_for("/records?kind=event&limit=1000", |told| told.to_string().contains("ROLLOUT_REVERTED"));
}

#[test]
fn changes_are_requests_on_record_and_outlive_a_restart() {
    let server = server();
    let mut whole = halves();
    whole["schedule"] = json!({"canary": 1.0});
    let _ = put(&server, &whole).expect(200);
    let _ = server.post("/kasmina/rollout/promote", &json!({"why": "it is better"})).expect(200);
    let page = "/records?limit=1000&tool=kasmina.rollout";
    server.wait_for(page, |told| told["complete"] == true);
    let told = server.get(page).expect(200).to_string();
    for expected in ["assign: no candidate", "start: candidate 'new'", "promote: candidate 'new'", "it is better"] {
        assert!(told.contains(expected), "{expected}: {told}");
    }
    let server = server.stop().serve();
    let rollout = server.get("/kasmina/rollout").expect(200)["rollout"].take();
    assert_eq!((&rollout["incumbent"], &rollout["previous"]), (&json!("new"), &json!("old")));
    let reverted = server.post("/kasmina/rollout/revert", &json!({})).expect(200);
    assert_eq!(reverted["rollout"]["incumbent"], "old");
}

#[test]
fn what_cannot_be_or_is_denied_changes_nothing() {
    let server = server();
    let status = |body: Value| put(&server, &body).status;
    assert_eq!(server.get("/kasmina/models/m").status, 404, "there is no rollout");
    assert_eq!(status(json!({"candidate": "new"})), 404, "nor an incumbent");
    assert_eq!(status(json!({"incumbent": "none"})), 404);
    assert_eq!(status(json!({"incumbent": "old", "candidate": "new", "schedule": {"canary": 0.0}})), 422);
    assert_eq!(status(json!({"incumbent": "old", "candidates": "new"})), 400);
    assert_eq!(status(json!({})), 422);
    let mut other = definition("wider");
    other["config"]["width"] = json!(20);
    server.create(&other);
    assert_eq!(status(json!({"incumbent": "old", "candidate": "wider"})), 422);
    assert_eq!(server.get("/kasmina/rollout").expect(200), json!({"rollout": null}), "not even the incumbent");
    let _ = put(&server, &halves()).expect(200);
    assert_eq!(status(json!({"candidate": "wider"})), 422);
    assert_eq!(server.post("/kasmina/rollout/promote", &json!({})).status, 409, "it has half of the models");
    drop(server);
    let strict = Server::start(&config(&["tamiyo"], &["kasmina.rollout"]));
    strict.create(&definition("old"));
    let denied = put(&strict, &json!({"incumbent": "old"}));
    assert_eq!(denied.status, 409);
    assert!(denied.text().contains("Actor 'anyone' is not in"), "{}", denied.text());
    assert_eq!(strict.get("/kasmina/rollout").expect(200), json!({"rollout": null}));
}

#[test]
fn a_candidate_that_is_out_of_service_is_reverted_and_a_wild_metric_is_refused() {
    let server = server();
    let mut strict = halves();
    strict["gates"]["error_rate_excess"] = json!(0.1);
    let _ = put(&server, &strict).expect(200);
    let new = served_by(&server, "new").unwrap();
    let metric = format!("/kasmina/models/{new}/metric");
    for wild in [json!(1e308), json!(-1e101)] {
        let told = server.post(&metric, &json!({"metric": wild})).error(422);
        assert!(told.contains("give a number from -1e100 to 1e100"), "{told}");
    }
    let site = server.stop();
    std::fs::write(site.data().join("kasmina/layers/new/boundary"), "no layer").unwrap();
    let server = site.serve();
    let x: Vec<u8> = rows(1).iter().flat_map(|value| value.to_le_bytes()).collect();
    let route = format!("/kasmina/models/{new}/forward?rows=1");
    let pass = || server.send("POST", &route, &[("content-type", "application/octet-stream")], Some(&x));
    assert_eq!(pass().status, 503, "the layer is out of service");
    assert_eq!(floats(&pass()), rows(1), "the incumbent serves again");
}

#[test]
fn a_file_that_cannot_be_read_or_written_stops_no_host_and_no_reversion() {
    let server = server();
    assert_eq!(put(&server, &halves()).expect(200)["rollout"]["kept"], true);
    let file = server.site().data().join("kasmina/rollout.json");
    std::fs::remove_file(&file).unwrap();
    std::fs::create_dir_all(file.join("in the way")).unwrap();
    let reverted = server.post("/kasmina/rollout/revert", &json!({})).expect(200)["rollout"].take();
    assert_eq!((&reverted["trial"], &reverted["kept"]), (&Value::Null, &json!(false)), "done, and not on disk");
    assert_eq!(put(&server, &halves()).status, 409, "nothing new begins that cannot be kept");
    std::fs::remove_dir_all(&file).unwrap();
    let site = server.stop();
    std::fs::write(&file, r#"{"incumbent": null}"#).unwrap();
    let server = site.serve();
    let told = server.get("/kasmina/rollout").error(409);
    assert!(told.starts_with("the rollout is out of service: its file cannot be read"), "{told}");
    assert_eq!(put(&server, &halves()).status, 409);
    assert_eq!(server.get("/kasmina/models/m").status, 409);
    assert_eq!(server.forward("new", "", &rows(1)), rows(1), "layers serve");
}

#[test]
fn flags_say_what_of_a_layer_is_used() {
    let server = server();
    let old = server.get("/kasmina/layers/old").expect(200);
    assert_eq!((&old["config"]["mode"], &old["config"]["seeds"]), (&json!("legacy"), &json!(1)));
    server.epoch("old");
    assert_eq!(server.events("telemetry.seed.health").len(), 0, "it was told to send no messages");
    server.epoch("new");
    assert_eq!(server.events("telemetry.seed.health").len(), 1);
}
