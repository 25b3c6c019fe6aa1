//! What a layer refuses, how it says so, and that it is as it was.

use crate::{Layers, config, definition, rows};
use gavel_tests::Server;
use serde_json::{Value, json};

/// A server with a layer `a` whose seed 0 is germinated, and what the layer is.
fn server() -> (Server, Vec<u8>) {
    let server = Server::start(&config());
    server.create(&definition("a"));
    server.command("a", 0, "germinate", &json!({"blueprint_id": "adapter"}));
    server.epoch("a");
    let saved = server.saved("a");
    (server, saved)
}

fn with(key: &str, value: Value) -> Value {
    let mut changed = definition("b");
    changed["config"][key] = value;
    changed
}

#[test]
fn a_layer_that_cannot_be_is_not_made() {
    let (server, _) = server();
    for (definition, status, message) in [
        (definition("a"), 409, "there is a layer 'a' already"),
        (with("id", json!("../x")), 422, "layer id `../x`: use 1 to 64 letters"),
        (with("seeds", json!(17)), 422, "17 seeds cannot tile a layer of width 16"),
        (with("seeds", json!(3)), 422, "3 seeds cannot tile a layer of width 16: a layer has from 4 seeds"),
        (with("width", json!(65_537)), 422, "width = 65537: this host allows 65536 (kasmina.width_max)"),
        (
            with("candidates_max", json!(1_u64 << 62)),
            422,
            "candidates_max = 4611686018427387904: this host allows 16384 (kasmina.candidates_max)",
        ),
        (with("checkpoints_kept", json!(65)), 422, "this host allows 64 (kasmina.checkpoints_kept_max)"),
        (with("command_ids_kept", json!(1_000_001)), 422, "this host allows 1000000 (kasmina.command_ids_max)"),
        (with("blueprints_max", json!(4_097)), 422, "this host allows 4096 (kasmina.layer_blueprints_max)"),
        (
            with("strategy", json!("leap")),
            422,
            "grafting strategy `leap` is not registered; registered are: fixed_ramp",
        ),
        (with("depth", json!(3)), 400, "unknown field `depth`"),
        (with("width", json!("wide")), 400, "config.width"),
        (
            json!({"config": {"id": "b"}, "tamiyo": "urza"}),
            422,
            "tamiyo `urza` is not known; known are: none, standard",
        ),
        (json!({"config": {"id": "b"}, "backend": "abacus"}), 400, "unknown variant `abacus`"),
    ] {
        let told = server.post("/kasmina/layers", &definition).error(status);
        assert!(told.contains(message), "{definition}: {told}");
    }
    let told = server.get("/kasmina/layers").expect(200);
    assert_eq!(told["layers"].as_array().unwrap().len(), 1, "{told}");
    assert!(!server.site().data().join("kasmina/layers/b").exists());
}

#[test]
fn values_that_do_not_fit_change_nothing() {
    let (server, saved) = server();
    let full: Vec<f32> = rows(1);
    for (body, status, message) in [
        (json!({"x": [[1.0, 2.0]]}).to_string(), 422, "row 0 of `x` has 2 values, the layer is 16 wide"),
        (json!({"x": [full, [1.0]]}).to_string(), 422, "row 1 of `x` has 1 values"),
        (json!({"x": []}).to_string(), 422, "`x` has 0 rows: give 1 to 65536 (kasmina.rows_max)"),
        ("{\"x\": [[1], [".to_owned(), 422, "row 0 of `x` has 1 values, the layer is 16 wide"),
        (format!("{{\"x\": [[{}1e39]]}}", "0, ".repeat(15)), 400, "the body: number out of range"),
        (format!("{{\"x\": [[{}null]]}}", "0, ".repeat(15)), 400, "the body: invalid type: null"),
        (json!({"x": [full], "dy": [full]}).to_string(), 400, "`dy` is of a backward pass"),
        (json!({"rows": 1}).to_string(), 400, "unknown field `rows`"),
        ("[".to_owned(), 400, "the body: "),
    ] {
        let told = server.post_bytes("/kasmina/layers/a/forward", body.as_bytes()).error(status);
        assert!(told.contains(message), "{body:.100}: {told}");
    }
    let bytes = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
    let mut broken = rows(2);
    broken[20] = f32::NAN;
    for (query, body, status, message) in [
        ("", bytes(&rows(1)), 400, "application/octet-stream needs rows=N in the query"),
        ("?rows=2", bytes(&rows(1)), 422, "the body has 64 bytes where 2 rows of 16 f32 need 128 (x)"),
        ("?rows=0", Vec::new(), 422, "the body has 0 bytes"),
        ("?rows=2", bytes(&broken), 422, "`x` holds NaN at row 1, column 4: every value must be finite"),
        ("?rows=many", bytes(&rows(1)), 400, "rows"),
        ("?rows=1&fast=true", bytes(&rows(1)), 400, "unknown field `fast`"),
    ] {
        let path = format!("/kasmina/layers/a/forward{query}");
        let headers = [("content-type", "application/octet-stream")];
        let told = server.send("POST", &path, &headers, Some(&body)).error(status);
        assert!(told.contains(message), "{query}: {told}");
    }
    assert!(server.saved("a") == saved, "bit for bit");
}

#[test]
fn commands_that_make_no_sense_change_nothing() {
    let (server, saved) = server();
    let missing = server.post("/kasmina/layers/x/commands", &json!({"data": {"target_seed_id": 0, "command": "cull"}}));
    assert_eq!(missing.error(404), "there is no layer 'x'");
    for (message, status, told) in [
        (json!({"data": {"target_seed_id": 0, "command": "explode"}}), 400, "unknown variant `explode`"),
        (json!({"data": {"target_seed_id": -1, "command": "cull"}}), 400, "target_seed_id"),
        (json!({"target_seed_id": 0, "command": "cull"}), 400, "missing field `data`"),
        (
            json!({"schema": "gavel.kasmina/2", "data": {"target_seed_id": 0, "command": "cull"}}),
            422,
            "schema `gavel.kasmina/2` is not understood here: use gavel.kasmina/1",
        ),
    ] {
        let answer = server.post("/kasmina/layers/a/commands", &message).error(status);
        assert!(answer.contains(told), "{message}: {answer}");
    }
    for (seed, command, more, told) in [
        (9, "germinate", json!({"blueprint_id": "adapter"}), "layer `a` has no seed 9"),
        (1, "germinate", json!({"blueprint_id": "tower"}), "blueprint `tower` is not registered"),
        (1, "germinate", json!({}), "seed 1 cannot go from DORMANT to GERMINATED"),
        (1, "graft", json!({}), "seed 1 cannot go from DORMANT to GRAFTING"),
        (1, "rollback", json!({}), "seed 1 cannot go from DORMANT to ROLLED_BACK"),
        (0, "fossilize", json!({}), "seed 0 cannot go from GERMINATED to FOSSILIZED"),
        (
            1,
            "germinate",
            json!({"blueprint_id": "adapter", "grafting_strategy": "leap"}),
            "grafting strategy `leap` is not registered",
        ),
    ] {
        server.command("a", seed, command, &more);
        let _ = server.stages("a");
        let responses = server.events("control.kasmina.responses");
        let data = &responses.last().unwrap()["data"];
        assert_eq!(data["success"], false, "{command} {seed}: {data}");
        assert!(data["error"].as_str().unwrap().contains(told), "{command} {seed}: {data}");
    }
    assert!(server.saved("a") == saved, "bit for bit");
}

#[test]
fn what_is_no_end_of_an_epoch_ends_none() {
    let (server, saved) = server();
    for (body, status, message) in [
        (r#"{"loss": 0.5}"#, 400, "missing field `metric`"),
        (r#"{"loss": 0.5, "metric": 1e999}"#, 400, ""),
        (r#"{"loss": "low", "metric": 0.5}"#, 400, "loss"),
        (
            r#"{"loss": 0.5, "metric": 0.5, "evaluations": {"0": {"delta": 1, "improvement": 0, "error_rate": 0}}}"#,
            422,
            "seed 0",
        ),
        (
            r#"{"loss": 0.5, "metric": 0.5, "evaluations": {"9": {"delta": 1, "improvement": 0, "error_rate": 0}}}"#,
            404,
            "has no seed 9",
        ),
    ] {
        let told = server.post_bytes("/kasmina/layers/a/epoch", body.as_bytes()).error(status);
        assert!(told.contains(message), "{body}: {told}");
    }
    assert!(server.saved("a") == saved, "bit for bit");
}

#[test]
fn what_is_refused_leaves_what_the_epoch_measured() {
    let (server, saved) = server();
    server.forward("a", "", &rows(8));
    let before = server.seed("a", 0);
    assert!(before["telemetry"]["variance"].as_f64().unwrap() > 0.0, "{before}");
    server.command("a", 1, "rollback", &json!({}));
    let evaluations = json!({"0": {"delta": 1, "improvement": 0, "error_rate": 0}});
    let body = json!({"loss": 0.5, "metric": 0.5, "evaluations": evaluations});
    let _ = server.post("/kasmina/layers/a/epoch", &body).error(422);
    let _ = server.send("POST", "/kasmina/layers/a/checkpoint", &[], Some(&saved[1..])).error(422);
    assert_eq!(server.seed("a", 0), before);
    server.epoch("a");
    assert_eq!(server.get("/kasmina/layers/a/telemetry").expect(200)["rows"], 8);
}

#[test]
fn a_checkpoint_that_is_not_of_this_layer_is_refused() {
    let (server, saved) = server();
    let mut other = definition("b");
    other["config"]["width"] = json!(20);
    server.create(&other);
    let damaged = {
        let mut damaged = saved.clone();
        let middle = damaged.len() / 2;
        damaged[middle] ^= 1;
        damaged
    };
    for (bytes, message) in [
        (server.saved("b"), "checkpoint: "),
        (damaged, "checkpoint: "),
        (saved[..saved.len() - 1].to_vec(), "checkpoint: "),
        (Vec::new(), "checkpoint: "),
        (b"not a checkpoint at all".to_vec(), "checkpoint: "),
    ] {
        let told = server.send("POST", "/kasmina/layers/a/checkpoint", &[], Some(&bytes)).error(422);
        assert!(told.contains(message), "{told}");
    }
    assert!(server.saved("a") == saved, "bit for bit");
}

#[test]
fn what_is_asked_for_and_is_not_there_is_told() {
    let (server, _) = server();
    for (path, status, message) in [
        ("/kasmina/layers/x", 404, "there is no layer 'x'"),
        ("/kasmina/layers/a/seeds/4", 404, "layer `a` has no seed 4: its seeds are 0 to 3"),
        ("/kasmina/layers/a/seeds/one", 400, "one"),
        ("/kasmina/layers/a/seeds?stage=ASLEEP", 400, "unknown variant `ASLEEP`"),
        ("/kasmina/layers/a/seeds?limit=0", 422, "limit=0: give 1 to 1000 (kasmina.page_seeds_max)"),
        ("/kasmina/layers/a/seeds?form=1", 400, "unknown field `form`"),
        ("/kasmina/events?limit=0", 400, "limit=0: give 1 to 1000"),
        ("/kasmina/payloads/..%2Fsecret", 404, "there is no data"),
    ] {
        let told = server.get(path).error(status);
        assert!(told.contains(message), "{path}: {told}");
    }
    for (blueprint, status, message) in [
        (json!({"name": "x", "function": {"kind": "adapter", "rank": 0}}), 422, "rank = 0"),
        (json!({"name": "x", "function": {"kind": "tower"}}), 400, "unknown variant `tower`"),
        (json!({"name": "X", "function": {"kind": "mlp"}}), 422, "1 to 64 characters"),
    ] {
        let told = server.post("/kasmina/blueprints", &blueprint).error(status);
        assert!(told.contains(message), "{blueprint}: {told}");
    }
}

#[test]
fn limits_of_the_host_hold() {
    let limits = json!({"backend": "cpu", "layers_max": 1, "rows_max": 3, "values_max": 40, "blueprints_max": 3});
    let server = Server::start(&config().with("kasmina", limits));
    server.create(&definition("a"));
    let told = server.post("/kasmina/layers", &definition("b")).error(422);
    assert_eq!(told, "1 layers are served already (kasmina.layers_max)");
    let bytes = |count: usize| {
        let x: Vec<u8> = rows(count).iter().flat_map(|value| value.to_le_bytes()).collect();
        let path = format!("/kasmina/layers/a/forward?rows={count}");
        server.send("POST", &path, &[("content-type", "application/octet-stream")], Some(&x)).error(422)
    };
    let lists = json!({"x": rows(3).chunks(16).collect::<Vec<_>>()});
    let told = server.post("/kasmina/layers/a/forward", &lists).error(422);
    assert_eq!(told, "`x` has more than 40 values (kasmina.values_max)");
    assert_eq!(bytes(4), "`x` has 4 rows: give 1 to 3 (kasmina.rows_max)");
    let told = bytes(3);
    assert_eq!(told, "3 rows of 16 are 48 values, one pass may have 40 (kasmina.values_max)");
    let blueprint = json!({"name": "small", "function": {"kind": "adapter", "rank": 3}});
    let told = server.post("/kasmina/blueprints", &blueprint).error(422);
    assert_eq!(told, "3 blueprints are known already (kasmina.blueprints_max)");
    let invalid = gavel_tests::Site::new(&config().with("kasmina", json!({"queue": 0}))).refused();
    assert!(invalid.stderr.contains("kasmina.queue is 0: give at least 1"), "{}", invalid.stderr);
    let invalid = gavel_tests::Site::new(&config().with("kasmina", json!({"kernel": "other"}))).refused();
    assert!(invalid.stderr.contains("kasmina.kernel: there is no kernel `other`"), "{}", invalid.stderr);
}
