//! What is no plugin, or not this plugin's to have: refused before it is instantiated, with what mends it.

use super::given::{PLUGIN, described, patient, sandbox, source};
use gavel_runtime::plugin::Limits;
use gavel_runtime::{Error, Sandbox};
use serde_json::json;

const HOSTILE: &[u8] = include_bytes!("../../../../tests/data/guests/hostile.wasm");

/// The plugin with one text replaced by another of the same length.
fn with(from: &[u8], to: &[u8]) -> Vec<u8> {
    assert_eq!(from.len(), to.len(), "a text's length stands before it");
    let mut bytes = PLUGIN.to_vec();
    let at: Vec<usize> = (0..=bytes.len() - from.len()).filter(|at| &bytes[*at..at + from.len()] == from).collect();
    assert!(!at.is_empty(), "{} is not in the plugin", String::from_utf8_lossy(from));
    for at in at {
        bytes[at..at + from.len()].copy_from_slice(to);
    }
    bytes
}

fn told(sandbox: &Sandbox, bytes: &[u8]) -> String {
    sandbox.describe_plugin("p", bytes).unwrap_err().to_string()
}

#[test]
fn what_is_no_plugin_says_why() {
    let sandbox = sandbox();
    let half = sandbox.describe_plugin("p", &PLUGIN[..PLUGIN.len() / 2]).unwrap_err();
    assert!(matches!(half, Error::NotAComponent { .. }), "{half}");
    let core = told(&sandbox, b"\0asm\x01\0\0\0");
    assert!(core.contains("they are a core module; make a component of it"), "{core}");
    let policy = told(&sandbox, HOSTILE);
    assert!(policy.starts_with("plugin p: imports gavel:policy/"), "{policy}");
    assert!(policy.contains("a plugin may import only gavel:plugin/bus, state, tools, log and config"), "{policy}");
    let wasi = told(&sandbox, &with(b"gavel:plugin/state@0.1.0", b"wasi:clocks/clocks@0.2.6"));
    assert!(wasi.contains("imports wasi:clocks/clocks@0.2.6, which world gavel:plugin/plugin@0.1.0"), "{wasi}");
    assert!(wasi.contains("a plugin has no WASI (no clock, randomness, files or network)"), "{wasi}");
    let newer = told(&sandbox, &with(b"gavel:plugin/state@0.1.0", b"gavel:plugin/state@0.2.0"));
    assert!(newer.contains("is built against gavel:plugin@0.2.0, this sandbox speaks gavel:plugin@0.1.0"), "{newer}");
    let export = told(&sandbox, &with(b"hear-event", b"bear-event"));
    assert!(export.contains("does not implement world gavel:plugin/plugin@0.1.0: it exports "), "{export}");
}

#[test]
fn a_name_that_cannot_be_one_is_refused() {
    let bytes = with(b"test-plugin", b"Test plugin");
    let told = told(&sandbox(), &bytes);
    assert!(told.starts_with("plugin p: describe gave name: \"Test plugin\" must begin with"), "{told}");
}

#[test]
fn configuration_and_limits_are_checked_when_it_is_loaded() {
    let sandbox = sandbox();
    let described = described(&sandbox);
    let load = |config, limits| sandbox.load_plugin(source(config, limits), &described).unwrap_err().to_string();
    let list = load(json!([1]), patient());
    assert!(list.starts_with("plugin p: configuration: [1] is not of types"), "{list}");
    let none = Limits { deadline_ms: 0, ..Limits::default() };
    assert_eq!(load(json!({}), none), "plugin p: limit deadline_ms is 0, the sandbox allows 1 to 300000");
    let much = Limits { max_memory_bytes: 1 << 40, ..Limits::default() };
    let told = load(json!({}), much);
    assert!(told.starts_with("plugin p: limit max_memory_bytes is 1099511627776, the sandbox allows 1 to "), "{told}");
    let mut plain = described.clone();
    plain.metadata.config_schema = None;
    let told = sandbox.load_plugin(source(json!({"a": 1}), patient()), &plain).unwrap_err().to_string();
    assert_eq!(told, "plugin p: configuration: this plugin takes no configuration");
    let mut long = described.clone();
    long.metadata.name = "x".repeat(65);
    let told = sandbox.load_plugin(source(json!({}), patient()), &long).unwrap_err().to_string();
    assert_eq!(told, "plugin p: describe gave name: 65 bytes, at most 64 are allowed", "what was kept is not trusted");
}
