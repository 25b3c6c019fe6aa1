//! What is told: topics, schemas, references, idempotence, and listening.

use crate::{Layers, config, definition, graft, rows};
use gavel_tests::{Server, repository};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;

/// The JSON Schema of what a topic carries.
fn schema_of(topic: &str) -> Value {
    let text = std::fs::read_to_string(repository().join("docs/formats/kasmina.schema.json")).unwrap();
    let mut schema: Value = serde_json::from_str(&text).unwrap();
    let name = schema["topics"][topic].as_str().unwrap_or_else(|| panic!("no schema for {topic}")).to_owned();
    schema["$ref"] = json!(format!("#/$defs/{name}"));
    schema
}

fn check(schema: &Value, value: &Value) {
    let validator = jsonschema::validator_for(schema).expect("a schema");
    let errors: Vec<String> = validator.iter_errors(value).map(|error| error.to_string()).collect();
    assert!(errors.is_empty(), "{value}: {errors:?}");
}

#[test]
fn every_event_is_as_its_schema_says() {
    let server = Server::start(&config());
    server.create(&definition("a"));
    graft(&server, "a");
    server.forward("a", "", &rows(4));
    server.command("a", 9, "germinate", &json!({"blueprint_id": "adapter"}));
    server.command("a", 0, "rollback", &json!({"reason": "by hand"}));
    server.epoch("a");
    let mut envelope = schema_of("telemetry.seed.health");
    envelope["$ref"] = json!("#/$defs/Event");
    for topic in [
        "telemetry.seed.health",
        "control.kasmina.commands",
        "control.kasmina.responses",
        "innovation.field_reports",
        "system.events.epoch",
        "system.events.rollback",
    ] {
        let events = server.events(topic);
        assert!(!events.is_empty(), "{topic}");
        for event in events {
            check(&envelope, &event);
            check(&schema_of(topic), &event["data"]);
        }
    }
    let refused = server.events("control.kasmina.responses");
    let refused = refused.iter().find(|event| event["data"]["success"] == false).expect("there is no seed 9");
    assert_eq!(refused["data"]["error"], "layer `a` has no seed 9: its seeds are 0 to 3");
    let broken = json!({"command_id": "c", "success": "yes", "timestamp": 1});
    let validator = jsonschema::validator_for(&schema_of("control.kasmina.responses")).unwrap();
    assert!(!validator.is_valid(&broken), "the schema can refuse");
}

#[test]
fn telemetry_is_the_last_report() {
    let server = Server::start(&config());
    server.create(&definition("a"));
    let told = server.get("/kasmina/layers/a/telemetry").error(404);
    assert_eq!(told, "layer 'a' has ended no epoch since it was taken up");
    server.forward("a", "", &rows(4));
    server.epoch("a");
    let report = server.get("/kasmina/layers/a/telemetry").expect(200);
    assert_eq!((&report["layer_id"], &report["rows"]), (&json!("a"), &json!(4)));
    assert_eq!(report["seed_states"].as_array().unwrap().len(), 4);
    assert!(report["health_metrics_by_seed"]["0"]["variance"].is_number(), "{report}");
    assert_eq!(server.events("telemetry.seed.health")[0]["data"], report);
}

#[test]
fn a_large_report_goes_by_reference() {
    let config = config().with("events", json!({"reference_above_bytes": 300}));
    let server = Server::start(&config);
    server.create(&definition("a"));
    server.forward("a", "", &rows(4));
    server.epoch("a");
    let report = server.get("/kasmina/layers/a/telemetry");
    let data = server.events("telemetry.seed.health")[0]["data"].clone();
    assert_eq!(data["bytes"], json!(report.body.len()));
    check(&schema_of("telemetry.seed.health"), &data);
    let fetch = format!("/kasmina/payloads/{}", data["ref"].as_str().unwrap());
    assert_eq!(server.get(&fetch).body, report.body);
    let server = server.stop().serve();
    assert_eq!(server.get(&fetch).body, report.body, "it outlives a restart");
    let none = "0".repeat(64);
    let told = server.get(&format!("/kasmina/payloads/{none}")).error(404);
    assert_eq!(told, format!("there is no data '{none}', or it is no longer kept"));
}

#[test]
fn the_same_command_is_carried_out_once() {
    let server = Server::start(&config());
    server.create(&definition("a"));
    let command = |seed: usize| {
        let data = json!({"target_seed_id": seed, "command": "germinate", "blueprint_id": "adapter"});
        server.post("/kasmina/layers/a/commands", &json!({"event_id": "e1", "trace_id": "t1", "data": data}))
    };
    assert_eq!(command(1).expect(202), json!({"command_id": "e1", "duplicate": false}));
    assert_eq!(command(1).expect(202), json!({"command_id": "e1", "duplicate": true}));
    assert_eq!(command(2).error(409), "event_id `e1` came before with another command");
    let boundary = server.epoch("a");
    assert_eq!(boundary["transitions"].as_array().unwrap().len(), 1);
    let responses = server.events("control.kasmina.responses");
    assert_eq!(responses.len(), 1);
    assert_eq!((&responses[0]["data"]["command_id"], &responses[0]["data"]["success"]), (&json!("e1"), &json!(true)));
    assert_eq!(responses[0]["envelope"]["trace_id"], "t1");
    assert_eq!(server.events("control.kasmina.commands").len(), 1);
}

#[test]
fn the_history_is_paged_and_says_what_is_gone() {
    let config = config().with("events", json!({"history": 4}));
    let server = Server::start(&config);
    server.create(&definition("a"));
    for _ in 0..4 {
        server.epoch("a");
    }
    let page = server.get("/kasmina/events?limit=3").expect(200);
    assert_eq!((page["events"].as_array().unwrap().len(), &page["missed"]), (3, &json!(4)), "two events an epoch");
    let rest = server.get(&format!("/kasmina/events?since={}", page["next"])).expect(200);
    assert_eq!((rest["events"].as_array().unwrap().len(), &rest["missed"]), (1, &json!(0)));
    let told = server.get("/kasmina/events?topic=gossip").error(400);
    assert!(told.starts_with("there is no topic `gossip`; topics are: telemetry.seed.health"), "{told}");
}

#[test]
fn whoever_listens_hears_at_once_and_the_end() {
    let server = Server::start(&config());
    server.create(&definition("a"));
    let mut stream = BufReader::new(TcpStream::connect(server.address).unwrap());
    stream.get_ref().set_read_timeout(Some(gavel_tests::PATIENCE)).unwrap();
    let ask = format!(
        "GET /kasmina/events/stream?topic=system.events.epoch HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n",
        server.address
    );
    stream.get_mut().write_all(ask.as_bytes()).unwrap();
    let mut until = |wanted: &str| {
        let mut line = String::new();
        while !line.starts_with(wanted) {
            line.clear();
            assert!(stream.read_line(&mut line).unwrap() > 0, "the stream ended before {wanted}");
        }
        line
    };
    until(": listening");
    server.epoch("a");
    until("event: system.events.epoch");
    let event: Value = serde_json::from_str(until("data: ").trim_start_matches("data: ")).unwrap();
    assert_eq!((&event["data"]["layer_id"], &event["data"]["epoch"]), (&json!("a"), &json!(0)));
    let _ = server.stop();
    let mut rest = String::new();
    while stream.read_line(&mut rest).unwrap() > 0 {}
    assert!(!rest.contains("event:"), "{rest}");
}
