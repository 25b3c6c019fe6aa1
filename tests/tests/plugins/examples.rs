//! The examples of plugins, each in its own folder, as an operator would install it.
//!
//! The one in Rust is committed as it is built. With `GAVEL_PLUGIN_EXAMPLES` naming a folder that `guest-examples/build`
//! filled, the ones in it are tested, in every language.

use crate::stage::{Client, Stage, put_whole};
use gavel_tests::repository;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

fn built() -> Option<PathBuf> {
    std::env::var_os("GAVEL_PLUGIN_EXAMPLES").map(PathBuf::from)
}

/// Put an example's manifest and its component into the folder of plugins.
fn install(stage: &Stage, language: &str, name: &str, component: &Path) {
    let (examples, folder) = (repository().join("guest-examples/plugins").join(language), stage.folder().join(name));
    std::fs::create_dir(&folder).unwrap();
    put_whole(&folder.join(format!("{name}.wasm")), &std::fs::read(component).unwrap());
    put_whole(&folder.join("plugin.yaml"), &std::fs::read(examples.join("plugin.yaml")).unwrap());
}

#[test]
fn prompt_guard_stands_before_completions() {
    let stage = Stage::new(&json!({
        "completion_service": {"provider": "stub"},
        "prompt-guard": {"forbidden": ["nightshade"], "secrets": []},
    }));
    let committed = repository().join("tests/data/guests/prompt-guard.wasm");
    let component = built().map_or(committed, |built| built.join("plugins-rust/prompt-guard.wasm"));
    install(&stage, "rust", "prompt-guard", &component);
    let (_server, mut client) = stage.serve();
    let status = client.ask("system:plugin_status", json!({}));
    assert_eq!(status["plugins"]["prompt-guard"]["state"], "idle", "it has no instance before an event: {status}");

    let prompt = "the key is sk-abcdefghijklmnopqrstuvwxyz123456, keep it";
    let answer = client.ask("completion:request", json!({"prompt": prompt}));
    assert_eq!(answer["response"], "echo: the key is [REDACTED], keep it", "{answer}");
    let answer = client.ask("completion:request", json!({"prompt": "tell me of nightshade"}));
    assert_eq!(answer["code"], "FORBIDDEN", "{answer}");
    let counted = client.ask("prompt_guard:stats", json!({}));
    assert_eq!((&counted["redacted"], &counted["cancelled"]), (&json!(1), &json!(1)), "{counted}");
}

/// The ids of the notes that an answer lists.
fn ids(answer: &Value) -> Vec<&str> {
    answer["notes"].as_array().unwrap().iter().map(|note| note["id"].as_str().unwrap()).collect()
}

fn add(client: &mut Client, id: &str, text: &str) -> Value {
    client.ask("notes:add", json!({"id": id, "text": text, "tags": ["garden"]}))
}

#[test]
#[allow(clippy::print_stderr, reason = "what was not tested must be seen")]
fn notes_in_javascript_are_kept_summarised_and_exported() {
    let Some(built) = built() else {
        return eprintln!("NOT TESTED: the plugin in JavaScript, because GAVEL_PLUGIN_EXAMPLES names no folder");
    };
    let plugins = json!({"completion_service": {"provider": "stub"}, "notes": {"notes_max": 2}});
    let stage = Stage::new(&plugins);
    install(&stage, "js", "notes", &built.join("plugins-js/notes.wasm"));
    let (server, mut client) = stage.serve();
    let kept = add(&mut client, "roses", "prune the roses in March");
    assert_eq!((&kept["id"], &kept["tags"]), (&json!("roses"), &json!(["garden"])), "{kept}");
    assert_eq!(add(&mut client, "roses", "again")["code"], "EXISTS");
    assert_eq!(add(&mut client, "beans", "sow the beans in May")["id"], "beans");
    let full = add(&mut client, "leeks", "no room for leeks");
    assert_eq!(full["code"], "FULL", "{full}");
    assert!(full["error"].as_str().unwrap().contains("(notes_max)"), "the host's configuration reached it: {full}");
    assert_eq!(ids(&client.ask("notes:search", json!({"query": "MARCH roses"}))), ["roses"]);
    let summary = client.ask("notes:summarise", json!({"tag": "garden"}));
    let text = summary["summary"].as_str().unwrap_or_else(|| panic!("{summary}"));
    assert!(text.starts_with("echo: Summarise") && text.contains("sow the beans"), "another plugin answered: {text}");
    let told = client.ask("notes:export", json!({"path": "notes.jsonl"}));
    assert_eq!(told["exported"], 2, "{told}");
    let exported = std::fs::read_to_string(stage.site.workspace().join("notes.jsonl")).unwrap();
    assert_eq!(exported.lines().count(), 2, "{exported}");

    // What it keeps is the host's: another process finds it, by a new instance.
    let (status, log) = server.terminate();
    assert!(status.success(), "{log}");
    let (server, mut client) = stage.serve();
    let mut found = client.ask("notes:list", json!({"tag": "garden"}));
    assert_eq!((ids(&found), &found["total"]), (vec!["roses", "beans"], &json!(2)));
    assert_eq!(client.ask("notes:remove", json!({"id": "roses"}))["status"], "removed");
    found = client.ask("notes:get", json!({"id": "roses"}));
    assert_eq!(found["code"], "NOT_FOUND", "{found}");
    let requests = server.get("/kernels/k/records?limit=100").expect(200).to_string();
    assert!(requests.contains("plugin:notes") && requests.contains("write_file"), "its tool was governed: {requests}");
}
