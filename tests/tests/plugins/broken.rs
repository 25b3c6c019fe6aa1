//! What cannot be a plugin is left out and named, before a host serves and while it does; the host and the others serve.

use crate::guest::{Deed, Guest};
use crate::stage::{Stage, put_whole, test_plugin};
use gavel_tests::{gavel, path};
use serde_json::json;
use std::os::unix::fs::PermissionsExt;

/// A folder of broken plugins with a good one in it: for each name, a word of the reason.
fn stage_of_broken() -> (Stage, Vec<(&'static str, &'static str)>) {
    let stage = Stage::new(&json!({}));
    let named = |name| Guest::named(name, &[]).component();
    let good = Guest { deed: Deed::Answer(r#"{"well":true}"#), ..Guest::named("a-good", &["good"]) };
    stage.put("a-good", &good.component());
    stage.put("garbage", b"this is no component");
    stage.put("half", &test_plugin()[..1_000]);
    stage.put("policy", &std::fs::read(gavel_tests::repository().join("tests/data/guests/hostile.wasm")).unwrap());
    stage.put_with("unknown-key", &named("unknown-key"), &json!({"confg": {}}));
    stage.put_with("unknown-grant", &named("unknown-grant"), &json!({"grants": {"emit": []}}));
    stage.put_with("digest", &named("digest"), &json!({"digest": format!("sha256:{}", "0".repeat(64))}));
    stage.put_with("config", &named("config"), &json!({"config": {"x": 1}}));
    stage.put_with("greedy", &named("greedy"), &json!({"grants": {"memory_bytes": 1_u64 << 40}}));
    stage.put("rival", &Guest::named("rival", &["good"]).component());
    stage.put("lonely", &Guest { dependencies: &["nobody"], ..Guest::named("lonely", &[]) }.component());
    stage.put("follower", &Guest { dependencies: &["garbage"], ..Guest::named("follower", &[]) }.component());
    stage.put("usurper", &Guest::named("usurper", &["state"]).component());
    stage.put("thief", &Guest { commands: &["system:health"], ..Guest::named("thief", &[]) }.component());
    stage.put("carrier", &Guest::named("carrier", &["transport"]).component());
    stage.put("state_service", &named("state_service"));
    stage.put("writable", &named("writable"));
    let writable = stage.folder().join("writable.wasm");
    std::fs::set_permissions(writable, std::fs::Permissions::from_mode(0o666)).unwrap();
    stage.put("nats_bridge", &named("nats_bridge"));
    let pipe = stage.folder().join("pipe.wasm");
    assert!(std::process::Command::new("mkfifo").arg(pipe).status().unwrap().success());
    let elsewhere = stage.site.path().join("elsewhere.wasm");
    put_whole(&elsewhere, &named("linked"));
    std::os::unix::fs::symlink(elsewhere, stage.folder().join("linked.wasm")).unwrap();
    let reasons = vec![
        ("garbage", "not WebAssembly"),
        ("half", "truncated"),
        ("policy", "plugin"),
        ("unknown-key", "the nearest known key is `config`"),
        ("unknown-grant", "the nearest known key is `emits`"),
        ("digest", "the manifest wants sha256:0000"),
        ("config", "takes no configuration"),
        ("greedy", "max_memory_bytes"),
        ("rival", "plugins 'a-good' and 'rival' both own namespace 'good'"),
        ("lonely", "depends on 'nobody', which is not there"),
        ("follower", "depends on 'garbage', which is left out: "),
        ("usurper", "both own namespace 'state'"),
        ("thief", "both own event 'system:health'"),
        ("carrier", "claims namespace 'transport'"),
        ("state_service", "a plugin named 'state_service' is registered"),
        ("writable", "everybody may write it"),
        ("nats_bridge", "the name 'nats_bridge' is the host's"),
        ("pipe", "no plain file"),
        ("linked", "which is outside"),
    ];
    (stage, reasons)
}

#[test]
fn a_folder_of_broken_plugins_hurts_nobody_and_each_says_why() {
    let (stage, reasons) = stage_of_broken();
    let (server, mut client) = stage.serve();
    assert_eq!(client.ask("good:thing", json!({}))["well"], json!(true));
    assert_eq!(client.ask("system:health", json!({}))["status"], json!("healthy"));
    let told = client.ask("system:plugins", json!({}));
    let broken = told["broken"].as_object().unwrap();
    for (name, why) in &reasons {
        let reason = broken.get(*name).unwrap_or_else(|| panic!("{name} is not there: {told}")).as_str().unwrap();
        assert!(reason.contains(why), "{name}: {reason}");
        // A long reason is in the log as it is.
        server.wait_for_log(&format!("plugin=\"{name}\""));
    }
    assert_eq!(broken.len(), reasons.len(), "{broken:?}");
    let (code, text) = stage.plugins_of_validate();
    assert_eq!(code, Some(1));
    for (name, why) in &reasons {
        assert!(text.contains(&format!("plugin {name} is left out: ")) && text.contains(why), "{name}: {text}");
    }
}

#[test]
fn an_author_is_told_what_a_host_would_say() {
    let (stage, _) = stage_of_broken();
    let told = gavel(["plugin", "check", path(&stage.folder()), "--json"]).code(1).json();
    let of = |name: &str| told["plugins"].as_array().unwrap().iter().find(|it| it["name"] == name).unwrap().clone();
    assert!(of("garbage")["broken"].as_str().unwrap().contains("not WebAssembly"));
    assert_eq!(of("a-good")["granted"]["event_namespaces"], json!(["good"]));
    let file = stage.folder().join("test.wasm");
    put_whole(&file, &test_plugin());
    let text = gavel(["plugin", "inspect", path(&file)]).code(0).stdout;
    for line in
        ["test-plugin", "answers        test, extra:command", "not granted    to emit other:*", "the tool read_file"]
    {
        assert!(text.contains(line), "{line}: {text}");
    }
    let granting = stage.site.path().join("granting.yaml");
    std::fs::write(&granting, json!({"plugins": {"test-plugin": {"grants": {"tools": ["read_file"]}}}}).to_string())
        .unwrap();
    let granted = gavel(["plugin", "inspect", path(&file), "--config", path(&granting), "--json"]).code(0).json();
    assert_eq!(granted["plugins"][0]["granted"]["tools"], json!(["read_file"]));
    assert_eq!(gavel(["plugin", "inspect", path(&stage.folder().join("garbage.wasm"))]).code(1).stderr, "");
    let _ = gavel(["plugin", "check", path(&stage.folder().join("nowhere"))]).code(2);
}

#[test]
fn what_is_mended_comes_into_service_with_those_that_waited_for_it() {
    let stage = Stage::new(&json!({}));
    let follower = Guest { dependencies: &["leader"], ..Guest::named("follower", &["follower"]) };
    let leader = Guest { dependencies: &["follower"], ..Guest::named("leader", &["leader"]) };
    stage.put("follower", &follower.component());
    let component = leader.component();
    stage.put("leader", &component[..component.len() / 2]);
    let (_server, mut client) = stage.serve();
    assert!(client.broken("follower").contains("'leader', which is left out"));
    assert_eq!(client.refused("leader:x", json!({})).0, "NO_HANDLER");
    // Written in place, as a plain copy does: what is there in between is never taken for whole.
    std::fs::write(stage.folder().join("leader.wasm"), &component).unwrap();
    client.until_well("leader:x", &json!({}));
    client.until_well("follower:x", &json!({}));
    assert_eq!(client.ask("system:plugins", json!({}))["broken"], json!({}));
}
