//! Candidates that are not admitted: each refused with its reason and what would mend it, and the
//! set that serves untouched.
//!
//! What belongs here: what stands between a file and a policy that judges. How an admitted
//! candidate comes to serve is in `life.rs`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed; its helpers are part of it")]
#![allow(clippy::needless_pass_by_value, reason = "a `json!` is written where it is used")]

use gavel::policies::manifest::Manifest;
use gavel::policies::package::Package;
use gavel::policies::suite::Suite;
use gavel_tests::{Config, Server, Site, gavel, intent, path, repository};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

fn hostile() -> Vec<u8> {
    fs::read(repository().join("tests/data/guests/hostile.wasm")).unwrap()
}

fn config() -> Config {
    let gate = json!({
        "component": repository().join("tests/data/guests/hostile.wasm"),
        "config": {"do": "deny", "reason": "as ever"},
        "limits": {"deadline_ms": 5_000},
    });
    Config::of(json!([Config::ruled_kernel("k", &["gate"])]))
        .policy("gate", gate)
        .with("limits", json!({"decision_deadline_ms": 10_000}))
}

/// The hostile guest with a manifest and tests in it.
fn package(needs: Value, tests: Value) -> Vec<u8> {
    let manifest = json!({
        "name": "hostile", "version": "0.1.0", "description": "Misbehaves.", "language": "rust",
        "build": "./build", "component": "hostile.wasm", "needs": needs,
    });
    let manifest = Manifest::from_value(Path::new("policy.yaml"), manifest).unwrap();
    let tests = (!tests.is_null()).then(|| Suite::from_value(Path::new("tests.yaml"), tests).unwrap());
    Package::read(&hostile()).unwrap().with_manifest_and_tests(&manifest, tests.as_ref()).unwrap().to_bytes()
}

/// Upload a component; its digest.
fn upload(server: &Server, bytes: &[u8]) -> String {
    let answer = server.post_bytes("/policies/components", bytes).expect(200);
    answer["component"].as_str().unwrap().to_owned()
}

fn staged(server: &Server, edit: Value) -> gavel_tests::Response {
    server.post("/policies/stage", &json!({"edits": [edit]}))
}

/// The reason of a refusal, after which everything is as it was.
fn refused(server: &Server, edit: Value) -> String {
    let before = server.get("/policies").expect(200)["serving"]["set"].clone();
    let why = staged(server, edit).error(422);
    let after = server.get("/policies").expect(200);
    assert_eq!((&after["serving"]["set"], &after["candidate"]), (&before, &Value::Null));
    assert!(server.submit(&intent("r"))["error"].as_str().unwrap().contains("as ever"));
    why
}

#[test]
fn what_is_no_policy_is_refused() {
    let server = Server::start(&config());
    let upload_refused = |bytes: &[u8]| server.post_bytes("/policies/components", bytes).error(422);
    assert!(upload_refused(b"\0asm\x01\0\0\0").contains("gavel policy componentize"));
    assert!(upload_refused(b"PK\x03\x04 something else").contains("not WebAssembly"));
    assert!(upload_refused(&hostile()[..5_000]).contains("truncated"));
    let empty = upload(&server, b"\0asm\x0d\0\x01\0");
    let told = refused(&server, json!({"name": "gate", "component": empty}));
    assert!(told.contains("gavel:policy"), "{told}");
    let known = "sha256:".to_owned() + &"0".repeat(64);
    assert!(refused(&server, json!({"name": "gate", "component": known})).contains("is not in the catalogue"));
    assert!(refused(&server, json!({"name": "gate", "component": "../../x"})).contains("is no digest"));
    assert!(refused(&server, json!({"name": "gate", "component": "builtin:nothing"})).contains("no builtin policy"));
    assert!(refused(&server, json!({"name": "other"})).contains("give its `component`"));
    let told = staged(&server, json!({"name": "gate", "confg": 1})).error(400);
    assert!(told.contains("confg"), "{told}");
}

#[test]
fn a_configuration_against_the_schema_is_refused_with_its_place() {
    let server = Server::start(&config());
    let edit = json!({"name": "gate", "component": "builtin:path-allow-list", "config": {"rules": [{"tools": 7}]}});
    let told = refused(&server, edit);
    assert!(told.contains("/rules/0"), "{told}");
}

#[test]
fn one_name_is_one_policy() {
    let server = Server::start(&config());
    let twice = json!({"edits": [{"name": "gate", "config": {"do": "allow"}}], "order": ["gate", "gate"]});
    assert!(server.post("/policies/stage", &twice).error(422).contains("twice"));
    let kernel = Config::ruled_kernel("k", &["business-hours", "business-hours"]);
    let told = Site::new(&Config::of(json!([kernel]))).refused().stderr;
    assert!(told.contains("custom rule `business-hours` is there twice"), "{told}");
}

#[test]
fn needs_beyond_the_grant_are_refused_until_they_are_granted() {
    let server = Server::start(&config());
    let hungry = upload(&server, &package(json!({"max_memory_bytes": 33_554_432}), Value::Null));
    let told = refused(&server, json!({"name": "gate", "component": hungry}));
    for text in ["max_memory_bytes 33554432", "granted 16777216", "policies.gate.limits.max_memory_bytes"] {
        assert!(told.contains(text), "{told}");
    }
    let granted = json!({"name": "gate", "component": hungry, "limits": {"max_memory_bytes": 33_554_432}});
    drop(staged(&server, granted).expect(200));
}

#[test]
fn shipped_tests_that_fail_keep_a_candidate_out() {
    let server = Server::start(&config());
    let tests = |expect: &str| {
        json!({"config": {"do": "deny", "reason": "no"}, "cases": [
            {"name": "denies", "request": {}, "expect": "deny", "reason": "no"},
            {"name": "the second one", "request": {}, "expect": expect},
        ]})
    };
    let failing = upload(&server, &package(json!({}), tests("allow")));
    let told = refused(&server, json!({"name": "gate", "component": failing}));
    for text in ["1 of the 2 tests", "`the second one`", "gavel policy test"] {
        assert!(told.contains(text), "{told}");
    }
    let passing = upload(&server, &package(json!({}), tests("deny")));
    drop(staged(&server, json!({"name": "gate", "component": passing})).expect(200));
}

#[test]
fn a_manifest_that_is_not_of_its_component_is_refused() {
    let manifest = json!({
        "name": "gentle", "version": "9.9.9", "description": "Behaves.", "language": "rust",
        "build": "./build", "component": "gentle.wasm",
    });
    let manifest = Manifest::from_value(Path::new("policy.yaml"), manifest).unwrap();
    let package = Package::read(&hostile()).unwrap().with_manifest_and_tests(&manifest, None).unwrap();
    let server = Server::start(&config());
    let component = upload(&server, &package.to_bytes());
    let told = refused(&server, json!({"name": "gate", "component": component}));
    assert!(told.contains("gentle") && told.contains("hostile"), "{told}");
}

/// A key of `gavel policy key`: its file and its public text.
fn key(folder: &Path, name: &str) -> (String, String) {
    let file = path(&folder.join(name)).to_owned();
    let made = gavel(["policy", "key", "--json", "--out", &file]).code(0).json();
    (file, made["key"].as_str().unwrap().to_owned())
}

#[test]
fn signatures_count_where_they_are_required() {
    let folder = tempfile::tempdir().unwrap();
    let (ours, public) = key(folder.path(), "ours.pem");
    let (theirs, _) = key(folder.path(), "theirs.pem");
    let component = path(&folder.path().join("gate.wasm")).to_owned();
    let sign = |key: &str| drop(gavel(["policy", "sign", &component, "--key", key]).code(0));
    fs::write(&component, hostile()).unwrap();
    let signatures = json!({"required": true, "keys": {"release": public}});
    let gate = json!({"component": component, "config": {"do": "deny", "reason": "as ever"}, "limits": {"deadline_ms": 5_000}});
    let config = config().policy("gate", gate).with("signatures", signatures);

    let told = Site::new(&config).refused().stderr;
    assert!(told.contains("it is not signed") && told.contains("gavel policy sign"), "{told}");
    sign(&theirs);
    let told = Site::new(&config).refused().stderr;
    assert!(told.contains("none of the trusted keys (release)"), "{told}");
    sign(&ours);
    let server = Server::start(&config);
    let signed = fs::read(&component).unwrap();
    let answer = server.post_bytes("/policies/components", &signed).expect(200);
    assert_eq!(answer["signed_by"], json!(["release"]));
    // Signing changed no digest: it is the component that serves.
    assert_eq!(server.get("/policies").expect(200)["serving"]["policies"][0]["component"], answer["component"]);
    // A component that was changed after it was signed.
    let mut changed = signed.clone();
    changed[100] ^= 1;
    let told = server.post_bytes("/policies/components", &changed).error(422);
    assert!(told.contains("changed after it was signed"), "{told}");
    // Built-in policies need no signature.
    drop(staged(&server, json!({"name": "hours", "component": "builtin:business-hours"})).expect(200));
    let unsigned = package(json!({}), Value::Null);
    assert!(server.post_bytes("/policies/components", &unsigned).error(422).contains("signatures are required"));
}

#[test]
fn a_component_that_is_too_large_is_not_read() {
    let server =
        Server::start(&config().with("limits", json!({"max_component_bytes": 60_000, "decision_deadline_ms": 10_000})));
    assert!(
        server.post_bytes("/policies/components", &vec![0; 60_001]).error(413).contains("limits.max_component_bytes")
    );
}
