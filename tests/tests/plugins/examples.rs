//! The example of a plugin that is committed as a component, in its own folder, as an operator would install it.

use crate::stage::{Stage, put_whole};
use gavel_tests::repository;
use serde_json::json;

#[test]
fn prompt_guard_stands_before_completions() {
    let stage = Stage::new(&json!({
        "completion_service": {"provider": "stub"},
        "prompt-guard": {"forbidden": ["nightshade"], "secrets": []},
    }));
    let (examples, folder) = (repository().join("guest-examples/plugins/rust"), stage.folder().join("prompt-guard"));
    std::fs::create_dir(&folder).unwrap();
    let component = std::fs::read(repository().join("tests/data/guests/prompt-guard.wasm")).unwrap();
    put_whole(&folder.join("prompt-guard.wasm"), &component);
    put_whole(&folder.join("plugin.yaml"), &std::fs::read(examples.join("plugin.yaml")).unwrap());
    let (_server, mut client) = stage.serve();
    let status = client.ask("system:plugin_status", json!({}));
    assert_eq!(status["plugins"]["prompt-guard"]["state"], "idle", "it has no instance before an event: {status}");

    let prompt = "the key is sk-abcdefghijklmnopqrstuvwxyz123456, keep it";
    let answer = client.ask("completion:request", json!({"prompt": prompt}));
    assert_eq!(answer["response"], "echo: the key is [REDACTED], keep it", "{answer}");
    let answer = client.ask("completion:request", json!({"prompt": "tell me of nightshade"}));
    assert_eq!(answer["code"], "FORBIDDEN", "{answer}");
    let stats = client.ask("prompt_guard:stats", json!({}));
    assert_eq!((&stats["redacted"], &stats["cancelled"]), (&json!(1), &json!(1)), "{stats}");
}
