//! Plugins come, change and go while the host serves.

use crate::guest::{Deed, Guest};
use crate::stage::{Stage, test_plugin};
use gavel_tests::Config;
use serde_json::json;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// A plugin that answers its version, and keeps what it is told.
fn keeper(version: &str) -> Vec<u8> {
    let answer = format!(r#"{{"version":"{version}"}}"#);
    let guest = Guest { version, deed: Deed::Answer(&answer), ..Guest::named("keeper", &["keeper"]) };
    let keep = Guest { other: Some(("keep", Deed::Keep("keeper"))), ..guest.clone() };
    let recall = Guest { other: Some(("tell", Deed::Recall("keeper"))), ..guest };
    if version.starts_with('1') { keep.component() } else { recall.component() }
}

#[test]
fn a_new_version_takes_over_under_load_and_no_event_fails() {
    let stage = Stage::new(&json!({}));
    stage.put("keeper", &keeper("1.0.0"));
    let (_server, mut client) = stage.serve();
    assert!(client.ask("keeper:keep", json!({"kept": true})).get("error").is_none());
    let (stop, asked) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut client = stage.client();
                while !stop.load(Ordering::Relaxed) {
                    let answer = client.ask("keeper:version", json!({}));
                    assert!(answer["version"].is_string(), "{answer}");
                    asked.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        // Whatever fails here must end the others too.
        let swapped = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for version in ["2.0.0", "2.1.0", "2.2.0"] {
                stage.put("keeper", &keeper(version));
                client.until("keeper:version", &json!({}), |answer| answer["version"] == json!(version));
            }
        }));
        stop.store(true, Ordering::Relaxed);
        if let Err(panic) = swapped {
            std::panic::resume_unwind(panic);
        }
    });
    assert!(asked.into_inner() > 0);
    assert_eq!(client.ask("keeper:tell", json!({})), json!({"kept": true}), "its state is the same");
    assert_eq!(client.plugin("keeper")["version"], json!("2.2.0"));
    assert_eq!(client.status("keeper")["errors"], json!(0));
}

#[test]
fn a_broken_new_version_leaves_the_old_one_in_service() {
    let stage = Stage::new(&json!({}));
    stage.put("keeper", &keeper("1.0.0"));
    let (_server, mut client) = stage.serve();
    assert_eq!(client.ask("keeper:version", json!({}))["version"], json!("1.0.0"));
    stage.put("keeper", b"no component");
    let why = client.broken("keeper");
    assert!(why.contains("not WebAssembly") && why.contains("version 1.0.0 goes on serving"), "{why}");
    let failing = Guest { version: "3.0.0", startup: Some("no database"), ..Guest::named("keeper", &["keeper"]) };
    stage.put("keeper", &failing.component());
    let starting =
        |told: &serde_json::Value| told["broken"]["keeper"].as_str().is_some_and(|why| why.contains("no database"));
    client.until("system:plugins", &json!({}), starting);
    assert_eq!(client.ask("keeper:version", json!({}))["version"], json!("1.0.0"));
    let taking = Guest { version: "4.0.0", ..Guest::named("keeper", &["keeper", "state"]) };
    stage.put("keeper", &taking.component());
    let claiming = |told: &serde_json::Value| {
        told["broken"]["keeper"].as_str().is_some_and(|why| why.contains("namespace 'state'"))
    };
    client.until("system:plugins", &json!({}), claiming);
    assert_eq!(client.ask("keeper:version", json!({}))["version"], json!("1.0.0"));
    stage.put("keeper", &keeper("2.0.0"));
    client.until("keeper:version", &json!({}), |answer| answer["version"] == json!("2.0.0"));
    client.until("system:plugins", &json!({}), |told| told["broken"] == json!({}));
}

#[test]
fn an_idle_plugin_whose_file_breaks_still_has_its_code() {
    let stage = Stage::new(&json!({}));
    stage.put("keeper", &keeper("1.0.0"));
    let (_server, mut client) = stage.serve();
    client.plugin("keeper");
    stage.put("keeper", b"no component");
    client.broken("keeper");
    assert_eq!(client.status("keeper")["state"], json!("idle"));
    assert_eq!(client.ask("keeper:version", json!({}))["version"], json!("1.0.0"));
}

#[test]
fn plugins_come_and_go_without_a_restart() {
    let stage = Stage::new(&json!({}));
    let (server, mut client) = stage.serve();
    assert_eq!(client.refused("late:x", json!({})).0, "NO_HANDLER");
    stage.put("late", &Guest::named("late", &["late"]).component());
    client.until_well("late:x", &json!({}));
    stage.put("user", &Guest { dependencies: &["late"], ..Guest::named("user", &["user"]) }.component());
    client.plugin("user");
    stage.remove("late");
    let why = client.broken("late");
    assert!(why.contains("its files are gone") && why.contains("'user' depends on 'late'"), "{why}");
    assert!(client.ask("late:x", json!({})).get("error").is_none(), "it goes on serving");
    stage.remove("user");
    client.until("late:x", &json!({}), |answer| answer["code"] == json!("NO_HANDLER"));
    let told = client.ask("system:plugins", json!({}));
    assert!(told["plugins"]["user"].is_null() && told["broken"] == json!({}), "{told}");
    server.wait_for_log("removed: its files are gone");
}

#[test]
fn one_that_cannot_come_under_its_new_name_serves_under_the_old() {
    let stage = Stage::new(&json!({}));
    stage.put("a", &Guest::named("first", &["first"]).component());
    stage.put("b", &Guest::named("second", &["second"]).component());
    let (server, mut client) = stage.serve();
    client.until_well("first:x", &json!({}));
    stage.put("a", &Guest::named("second", &["first"]).component());
    let place = stage.folder().join("a.wasm").display().to_string();
    assert!(client.broken(&place).contains("is there already"));
    stage.put("a", &Guest { dependencies: &["nobody"], ..Guest::named("third", &["first"]) }.component());
    assert!(client.broken("third").contains("depends on 'nobody'"));
    stage.put("a", &Guest::named("third", &["second"]).component());
    let rival = |told: &serde_json::Value| told["broken"]["third"].as_str().is_some_and(|why| why.contains("both own"));
    client.until("system:plugins", &json!({}), rival);
    client.until_well("first:x", &json!({}));
    stage.put("a", &Guest::named("third", &["first"]).component());
    client.plugin("third");
    assert!(client.ask("first:x", json!({})).get("error").is_none());
    server.wait_for_log("renamed");
}

#[test]
fn one_that_waits_keeps_its_code() {
    let stage = Stage::new(&json!({}));
    let waiting = Guest { dependencies: &["late"], ..Guest::named("waiting", &["waiting"]) };
    stage.put("waiting", &waiting.component());
    let (_server, mut client) = stage.serve();
    client.broken("waiting");
    stage.put("other", &Guest::named("other", &["other"]).component());
    client.plugin("other");
    stage.put("late", &Guest::named("late", &["late"]).component());
    client.until_well("waiting:x", &json!({}));
}

#[test]
fn a_folder_that_is_not_trusted_for_a_while_takes_no_plugin_away() {
    use std::fs::{Permissions, set_permissions};
    use std::os::unix::fs::PermissionsExt;
    let stage = Stage::new(&json!({}));
    stage.put("keeper", &keeper("1.0.0"));
    let (_server, mut client) = stage.serve();
    assert_eq!(client.ask("keeper:version", json!({}))["version"], json!("1.0.0"));
    set_permissions(stage.folder(), Permissions::from_mode(0o777)).unwrap();
    assert!(client.broken(&stage.folder().display().to_string()).contains("everybody may write it"));
    assert!(client.ask("system:reload_module", json!({"module_name": "keeper"}))["error"].is_string());
    assert_eq!(client.ask("keeper:version", json!({}))["version"], json!("1.0.0"));
    set_permissions(stage.folder(), Permissions::from_mode(0o755)).unwrap();
    client.until("system:plugins", &json!({}), |told| told["broken"] == json!({}));
    stage.remove("keeper");
    client.until("keeper:version", &json!({}), |answer| answer["code"] == json!("NO_HANDLER"));
}

#[test]
fn a_plugin_is_looked_at_again_when_that_is_asked_for() {
    let never = json!({"plugin_watch_interval": 0});
    let stage = Stage::with(&json!({}), &never, Config::open());
    stage.put("test", &test_plugin());
    let (server, mut client) = stage.serve();
    assert_eq!(client.ask("test:count", json!({}))["result"], json!(1));
    assert_eq!(client.ask("test:count", json!({}))["result"], json!(2));
    let reload = |name: &str| json!({"module_name": name});
    assert_eq!(client.ask("system:reload_module", reload("test-plugin"))["status"], json!("reloaded"));
    assert_eq!(client.ask("test:count", json!({}))["result"], json!(1), "it is made anew, though it is the same");
    let error = client.ask("system:reload_module", reload("state_service"))["error"].as_str().unwrap().to_owned();
    assert!(error.contains("part of the host"), "{error}");
    let error = client.ask("system:reload_module", reload("nobody"))["error"].as_str().unwrap().to_owned();
    assert!(error.contains("there is no plugin 'nobody'"), "{error}");
    stage.put("test", b"no component");
    let error = client.ask("system:reload_module", reload("test-plugin"))["error"].as_str().unwrap().to_owned();
    assert!(error.contains("not WebAssembly"), "{error}");
    assert_eq!(client.ask("test:count", json!({}))["result"], json!(2));
    // A signal looks at everything, and takes what the configuration says of plugins.
    stage.put("test", &test_plugin());
    stage.put("late", &Guest::named("late", &["late"]).component());
    stage.configure(&json!({"test-plugin": {"x": 7}}), &never, Config::open());
    server.hang_up();
    client.until("test:config", &json!({}), |answer| answer["x"] == json!(7));
    client.until_well("late:x", &json!({}));
}
