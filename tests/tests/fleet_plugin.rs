//! The kernel kind `plugin`, as its own process: one plugin component on a port of its own.
//!
//! Here belongs what is particular to it: how it is asked, that a new file serves without a restart, and that its state
//! and the record of it survive a kill. What a plugin may do at all is tested in `plugins`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use gavel_tests::{Config, PATIENCE, Response, Server, Site, repository};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::Instant;

const SECRET: &str = "the key is sk-abcdefghijklmnopqrstuvwxyz123456, keep it";

/// A site with the example's plugin in `guard`, beside the configuration.
struct Stage {
    site: Site,
}

impl Stage {
    fn new() -> Self {
        let settings = json!({
            "folder": "guard",
            "config": {"forbidden": ["nightshade"]},
            "grants": {"deadline_ms": 20_000},
            "watch_every_ms": 1_000,
        });
        let guard = json!({"kind": "plugin", "tier": "agentic", "needs": [], "settings": settings});
        let alone = json!({"needs": []});
        let kernels = json!({"my_guard": guard, "governance": alone, "policy_engine": alone});
        let site = Site::new(&Config::open().with("fleet", json!({"kernels": kernels})));
        let stage = Self { site };
        std::fs::create_dir(stage.folder()).unwrap();
        let manifest = repository().join("guest-examples/plugins/rust/plugin.yaml");
        std::fs::copy(manifest, stage.folder().join("plugin.yaml")).unwrap();
        stage.put(&component());
        stage
    }

    fn folder(&self) -> PathBuf {
        self.site.path().join("guard")
    }

    /// Put the component there at once, as a careful tool does.
    fn put(&self, component: &[u8]) {
        let aside = self.folder().join("prompt-guard.part");
        std::fs::write(&aside, component).unwrap();
        std::fs::rename(aside, self.folder().join("prompt-guard.wasm")).unwrap();
    }

    fn run(&self) -> Server {
        self.site.run_kernel("my_guard")
    }
}

fn component() -> Vec<u8> {
    std::fs::read(repository().join("tests/data/guests/prompt-guard.wasm")).unwrap()
}

/// Another version: it puts another text in the place of a secret.
fn other_component() -> Vec<u8> {
    let (old, new) = (b"[REDACTED]", b"[REMOVED!]");
    let mut bytes = component();
    let places: Vec<usize> = (0..bytes.len() - old.len()).filter(|at| bytes[*at..].starts_with(old)).collect();
    assert!(!places.is_empty(), "the text stands in the component");
    for at in places {
        bytes[at..at + new.len()].copy_from_slice(new);
    }
    bytes
}

fn ask(server: &Server, event: &str, data: &Value) -> Response {
    server.post(&format!("/events/{event}"), &json!({"data": data}))
}

/// What became of a prompt with a secret.
fn prompt(server: &Server) -> String {
    let told = ask(server, "completion:request", &json!({"prompt": SECRET})).expect(200);
    assert_eq!(told["answer"]["passed"], true, "{told}");
    told["answer"]["data"]["prompt"].as_str().unwrap().to_owned()
}

fn redacted(server: &Server) -> u64 {
    let told = ask(server, "prompt_guard:stats", &json!({})).expect(200);
    told["answer"]["redacted"].as_u64().unwrap_or_else(|| panic!("{told}"))
}

#[test]
fn it_is_asked_over_http() {
    let stage = Stage::new();
    let server = stage.run();
    let described = server.get("/describe").expect(200);
    assert_eq!(described["plugin"], "prompt-guard", "{described}");
    assert_eq!(described["events"]["answers"], json!(["prompt_guard:stats"]), "{described}");
    assert_eq!(described["events"]["before"], json!(["completion:*"]), "{described}");
    assert_eq!(described["manifest"]["grants"]["before"], json!(["completion:*"]), "{described}");
    assert_eq!(server.get("/status").expect(200)["status"]["state"], "idle", "no instance before an event");

    assert_eq!(prompt(&server), "the key is [REDACTED], keep it");
    let forbidden = ask(&server, "completion:request", &json!({"prompt": "tell me of nightshade"}));
    assert_eq!(forbidden.expect(403)["code"], "FORBIDDEN");
    let stats = ask(&server, "prompt_guard:stats", &json!({})).expect(200);
    assert_eq!((&stats["answer"]["redacted"], &stats["answer"]["cancelled"]), (&json!(1), &json!(1)), "{stats}");

    for not_its_own in ["state:set", "chat:send", "nothing"] {
        assert_eq!(ask(&server, not_its_own, &json!({})).expect(404)["code"], "NO_HANDLER", "{not_its_own}");
    }
    let events = server.get("/events?limit=10").expect(200);
    assert_eq!(events["events"][0]["event_name"], "prompt_guard:stats", "{events}");
    assert_eq!(server.get("/health").expect(200)["plugin"], "prompt-guard");
    let counted = server.get("/metrics").text();
    assert!(counted.contains("gavel_bus_answers_total"), "{counted}");
}

#[test]
fn a_new_file_serves_without_a_restart_and_a_kill_loses_nothing() {
    let stage = Stage::new();
    let server = stage.run();
    assert_eq!(prompt(&server), "the key is [REDACTED], keep it");
    let before = server.get("/describe").expect(200)["digest"].clone();
    stage.put(&other_component());
    let until = Instant::now() + PATIENCE;
    while prompt(&server) != "the key is [REMOVED!], keep it" {
        assert!(Instant::now() < until, "{}", server.get("/status").expect(200));
    }
    assert_ne!(server.get("/describe").expect(200)["digest"], before);
    let count = redacted(&server);
    assert!(count >= 2, "the new one has the state of the old one");

    server.kill();
    let ledger = stage.site.data().join("fleet/my_guard/kernels/bus/ledger");
    let report = gavel_ledger::verify_dir(&ledger).expect("the record of its state holds");
    assert!(report.records >= count, "every change is on record: {} of {count}", report.records);
    let server = stage.run();
    assert_eq!(redacted(&server), count);
    assert_eq!(prompt(&server), "the key is [REMOVED!], keep it");
    assert_eq!(redacted(&server), count + 1);
}

#[test]
fn a_broken_file_is_told_and_what_served_goes_on() {
    let stage = Stage::new();
    let server = stage.run();
    assert_eq!(prompt(&server), "the key is [REDACTED], keep it");
    stage.put(b"no component");
    let why = server.post("/reload", &json!({})).error(422);
    assert!(why.contains("not WebAssembly"), "{why}");
    assert_eq!(prompt(&server), "the key is [REDACTED], keep it");
    assert_eq!(server.get("/health").expect(200)["as_its_files_are"], false);
    stage.put(&other_component());
    assert_eq!(server.post("/reload", &json!({})).expect(200)["broken"], json!({}));
    assert_eq!(prompt(&server), "the key is [REMOVED!], keep it");

    let _ = server.stop();
    stage.put(b"no component");
    let refused = stage.site.kernel_command("my_guard").run_unless("serving").stderr;
    assert!(refused.contains("kernel `my_guard` cannot be opened") && refused.contains("not WebAssembly"), "{refused}");
}
