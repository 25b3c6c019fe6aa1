//! What outlives a restart, a kill, and a checkpoint's way out and in again.

use crate::{Layers, config, definition, graft, rows};
use gavel_tests::Server;
use serde_json::{Value, json};

#[test]
fn a_restart_keeps_a_layer_bit_for_bit() {
    let server = Server::start(&config());
    server.create(&definition("a"));
    graft(&server, "a");
    server.forward("a", "", &rows(8));
    let boundary = server.epoch("a");
    let (saved, y) = (server.saved("a"), server.forward("a", "&telemetry=false", &rows(3)));
    let server = server.stop().serve();
    assert!(server.saved("a") == saved);
    assert_eq!(server.forward("a", "&telemetry=false", &rows(3)), y);
    let resumed = resumed(&server);
    assert_eq!(resumed["boundary_sha256"], boundary["boundary_sha256"]);
    assert_eq!(resumed["epoch"], server.get("/kasmina/layers/a").expect(200)["epoch"]);
}

/// What the ledger says of the layer that was taken up last.
fn resumed(server: &Server) -> Value {
    server.wait_for("/records?kind=event&limit=1000", |told| told["complete"] == true);
    let told = server.get("/records?kind=event&limit=1000").expect(200);
    let events = told["records"].as_array().unwrap().iter();
    let mut resumed = events.filter(|record| record["meta"]["type"] == "LAYER_RESUMED");
    resumed.next().expect("a layer was resumed")["meta"]["details"].clone()
}

#[test]
fn a_kill_loses_nothing_but_the_epoch_that_ran() {
    let server = Server::start(&config());
    server.create(&definition("a"));
    server.command("a", 0, "germinate", &json!({"blueprint_id": "adapter"}));
    let boundary = server.epoch("a");
    let saved = server.saved("a");
    server.command("a", 0, "train", &json!({}));
    server.forward("a", "", &rows(4));
    let site = server.site().clone();
    server.kill();
    let server = site.serve();
    assert!(server.saved("a") == saved, "as after the last boundary");
    assert_eq!(resumed(&server)["boundary_sha256"], boundary["boundary_sha256"]);
    assert_eq!(server.stages("a")[0], "GERMINATED");
}

#[test]
fn a_checkpoint_restores_the_layer_and_the_kernel_is_asked() {
    let server = Server::start(&config());
    server.create(&definition("a"));
    graft(&server, "a");
    let (checkpoint, y) = (server.saved("a"), server.forward("a", "&telemetry=false", &rows(3)));
    server.command("a", 0, "rollback", &json!({"reason": "by hand"}));
    server.epoch("a");
    assert_ne!(server.forward("a", "&telemetry=false", &rows(3)), y);
    let told = server.send("POST", "/kasmina/layers/a/checkpoint", &[], Some(&checkpoint)).expect(200);
    assert!(told["epoch"].as_u64() < told["epoch_before"].as_u64(), "{told}");
    assert!(server.saved("a") == checkpoint);
    assert_eq!(server.forward("a", "&telemetry=false", &rows(3)), y);
    server.wait_for("/records?tool=kasmina.restore", |told| told["complete"] == true);
    let found = server.get("/records?tool=kasmina.restore").expect(200);
    assert_eq!(found["records"].as_array().unwrap().len(), 2, "{found}");
    let server = server.stop().serve();
    assert!(server.saved("a") == checkpoint, "restored for good");
}

#[test]
fn a_layer_that_cannot_be_taken_up_does_not_stop_the_others() {
    let server = Server::start(&config());
    server.create(&definition("a"));
    server.create(&definition("b"));
    server.epoch("a");
    server.epoch("b");
    let site = server.stop();
    let boundary = site.data().join("kasmina/layers/a/boundary");
    let mut bytes = std::fs::read(&boundary).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&boundary, &bytes).unwrap();
    let server = site.serve();
    let told = server.get("/kasmina/layers/a").error(503);
    assert!(told.starts_with("layer 'a' is out of service: checkpoint: "), "{told}");
    let listed = server.get("/kasmina/layers").expect(200);
    assert!(listed["layers"][0]["out_of_service"].is_string(), "{listed}");
    assert_eq!(server.epoch("b")["epoch"], 1);
    assert_eq!(std::fs::read(&boundary).unwrap(), bytes, "what is damaged is left for whoever looks into it");
    let _ = server.send("DELETE", "/kasmina/layers/a", &[], None).expect(200);
    server.create(&definition("a"));
}

#[test]
fn a_layer_that_was_not_made_to_the_end_is_put_away_and_recorded() {
    let server = Server::start(&config());
    server.create(&definition("a"));
    let site = server.stop();
    let layers = site.data().join("kasmina/layers");
    assert!(layers.join("a").exists() && !layers.join(".new-a").exists());
    // As after a stop before the folder had its name.
    std::fs::rename(layers.join("a"), layers.join(".new-a")).unwrap();
    let server = site.serve();
    assert_eq!(server.get("/kasmina/layers").expect(200)["layers"], json!([]));
    assert!(!layers.join(".new-a").exists());
    server.wait_for("/records?kind=event&limit=1000", |told| told["complete"] == true);
    let told = server.get("/records?kind=event&limit=1000").expect(200);
    let mut removed = told["records"].as_array().unwrap().iter();
    let removed = removed.find(|record| record["meta"]["type"] == "LAYER_REMOVED").expect("it is on record");
    assert_eq!(removed["meta"]["details"]["layer_id"], "a");
    server.create(&definition("a"));
}

#[test]
fn a_name_means_the_same_blueprint_after_a_restart() {
    let server = Server::start(&config());
    let adapter = |rank: u32| json!({"name": "mine", "function": {"kind": "adapter", "rank": rank}});
    let _ = server.post("/kasmina/blueprints", &adapter(2)).expect(201);
    // A second description of the name is taken or refused; either way the name means one of them.
    let _ = server.post("/kasmina/blueprints", &adapter(3));
    let germinate = |server: &Server, seed: usize| {
        server.command("a", seed, "germinate", &json!({"blueprint_id": "mine"}));
        server.epoch("a");
        server.seed("a", seed)["blueprint_id"].clone()
    };
    server.create(&definition("a"));
    let meant = germinate(&server, 0);
    assert!(meant.is_string(), "{meant}");
    let server = server.stop().serve();
    assert_eq!(germinate(&server, 1), meant);
}

#[test]
fn a_kill_between_the_landing_and_its_outcome_leaves_both_told() {
    let server = Server::start(&config());
    server.create(&definition("a"));
    let site = server.stop();
    let ledger = site.ledger("kasmina");
    let mark = std::fs::read(ledger.join("mark")).unwrap();
    let server = site.serve();
    server.command("a", 0, "germinate", &json!({"blueprint_id": "adapter"}));
    let boundary = server.epoch("a");
    let saved = server.saved("a");
    let site = server.site().clone();
    server.kill();
    // The outcome is the last record: a kill while it is written leaves it not whole, and the mark behind it.
    let log = ledger.join("segment-000000.log");
    let whole = std::fs::read(&log).unwrap();
    std::fs::write(&log, &whole[..whole.len() - 1]).unwrap();
    std::fs::write(ledger.join("mark"), mark).unwrap();
    let server = site.serve();
    assert!(server.saved("a") == saved, "as after the boundary");
    assert_eq!(resumed(&server)["boundary_sha256"], boundary["boundary_sha256"]);
    let page = "/records?limit=1000&request_id=kasmina.a.0.0.germinate";
    let records = server.get(page).expect(200)["records"].clone();
    let errors: Vec<_> = records.as_array().unwrap().iter().map(|record| &record["entry"]["error"]).collect();
    assert!(errors.contains(&&json!(gavel_tests::receipts::OUTCOME_UNKNOWN)), "{records}");
}
