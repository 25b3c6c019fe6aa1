//! Components that the configuration of a host names: layers that are served choose them by name.

use gavel_tests::{Config, Server, repository};
use serde_json::{Value, json};

fn component(name: &str, config: &Value) -> Value {
    let file = repository().join("tests/data/guests").join(name);
    json!({"component": file, "config": config, "limits": {"deadline_ms": 10_000}})
}

fn config() -> Config {
    let kernel =
        json!({"id": "kasmina", "policy": {"allowed_actors": ["tamiyo"], "allowed_tools": ["kasmina.transition"]}});
    let caution = json!({"blueprints": ["adapter"], "every": 1, "growing_max": 2, "strategy": "slowly"});
    let mut strategy = component("patient-ramp.wasm", &Value::Null);
    strategy["name"] = json!("slowly");
    let kasmina =
        json!({"backend": "cpu", "strategies": [strategy], "tamiyo": component("cautious-tamiyo.wasm", &caution)});
    Config::of(json!([kernel])).with("kasmina", kasmina)
}

#[test]
fn a_served_layer_is_led_by_a_component() {
    let server = Server::start(&config());
    let layer =
        json!({"config": {"id": "a", "width": 16, "seeds": 4, "strategy": "slowly"}, "tamiyo": "cautious-tamiyo"});
    assert_eq!(server.post("/kasmina/layers", &layer).status, 201);
    let mut stages = Value::Null;
    for _ in 0..3 {
        let boundary = server.post("/kasmina/layers/a/epoch", &json!({"loss": 0.5, "metric": 0.7}));
        assert_eq!(boundary.status, 200, "{}", boundary.text());
        stages = server.get("/kasmina/layers/a/seeds").expect(200);
    }
    let seeds = stages["seeds"].as_array().unwrap();
    let growing: Vec<_> = seeds.iter().filter(|seed| seed["stage"] == "TRAINING").collect();
    assert_eq!(growing.len(), 2, "one germinated in each epoch, until two were growing: {stages}");
    assert!(growing.iter().all(|seed| seed["strategy"] == "slowly"), "{stages}");
    // The component's own words are what the kernel judged.
    server.wait_for("/records?tool=kasmina.transition", |told| told["complete"] == true);
    let told = server.get("/records?tool=kasmina.transition").expect(200).to_string();
    assert!(told.contains("its chunk varies most") && told.contains("its gate is open"), "{told}");
    let counted = |what: &str| {
        let labels = r#"{kind="tamiyo",component="cautious-tamiyo"}"#;
        server.metrics().get(&format!("gavel_kasmina_component_{what}_total{labels}"))
    };
    assert_eq!((counted("calls"), counted("failures")), (3.0, 0.0));
    // A strategy that a component is stays what it is over a restart.
    let server = server.stop().serve();
    let again = server.get("/kasmina/layers/a/seeds").expect(200);
    assert_eq!(again["seeds"], stages["seeds"]);
}
