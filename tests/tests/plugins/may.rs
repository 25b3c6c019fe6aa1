//! What a plugin may: what the operator granted, under its own name, on record.

use crate::guest::{Deed, Guest};
use crate::stage::{Client, Stage, put_whole, test_plugin};
use gavel_tests::{Config, Server, Site, gavel, path};
use serde_json::{Value, json};

/// What the ledger of a kernel shows of requests by an actor.
fn entries(server: &Server, kernel: &str, actor: &str) -> Vec<Value> {
    let told = server.get(&format!("/kernels/{kernel}/evidence")).expect(200);
    let entries = told["ledger_entries"].as_array().unwrap_or_else(|| panic!("{told}")).clone();
    entries.into_iter().filter(|entry| entry["actor"] == json!(actor)).collect()
}

/// Stop a server, and check a ledger of it as an auditor would.
fn verified(server: Server, kernel: &str) -> Site {
    let site = server.stop();
    let _ = gavel(["verify", path(&site.ledger(kernel))]).code(0);
    site
}

#[test]
fn what_was_not_granted_is_refused_and_listed() {
    let stage = Stage::new(&json!({}));
    stage.put("test", &test_plugin());
    let (_server, mut client) = stage.serve();
    let withheld = client.plugin("test-plugin")["not_granted"].clone();
    assert_eq!(withheld, json!(["to emit other:*", "the state's namespace shared", "the tool read_file"]));
    for (deed, data) in
        [("emit", json!({})), ("call", json!({})), ("get", json!("k")), ("set", json!(1)), ("tool", json!({}))]
    {
        let (code, error) = client.refused(&format!("test:{deed}"), data);
        assert_eq!(code, "FORBIDDEN", "{deed}: {error}");
        assert!(error.contains("test-plugin"), "{deed}: {error}");
    }
}

#[test]
fn nobody_speaks_for_another() {
    let stage = Stage::new(&json!({"teller": {"grants": {"emits": ["told:*"]}}}));
    let teller = Guest { emits: &["told:*"], deed: Deed::Emit("told:lie"), ..Guest::named("teller", &["teller"]) };
    stage.put("teller", &teller.component());
    stage.put("hearer", &Guest::named("hearer", &["told"]).component());
    let (_server, mut client) = stage.serve();
    let claim = json!({"sender": "host", "event_id": "1", "timestamp_ms": 1, "plugin": "state_service"});
    assert!(client.ask("teller:go", claim.clone()).get("error").is_none());
    let query = json!({"event_patterns": ["told:lie"]});
    let told = client.until("system:event_history", &query, |told| told["count"] == json!(1));
    let event = &told["events"][0];
    assert_eq!((&event["sender"], &event["data"]), (&json!("plugin:teller"), &claim));
    assert_ne!(event["event_id"], json!("1"));
    // A client cannot be a plugin either, whatever it says.
    let (code, _) =
        client.refused("state:get", json!({"namespace": "plugin/teller", "key": "k", "sender": "plugin:teller"}));
    assert_eq!(code, "FORBIDDEN");
}

#[test]
fn a_tool_call_is_a_request_to_a_kernel() {
    let kernel = |id: &str, tools: &[&str]| json!({"id": id, "policy": {"allowed_actors": ["plugin:test-plugin"], "allowed_tools": tools}});
    let config = || Config::of(json!([kernel("strict", &["echo"]), kernel("open", &["read_file"])]));
    let plugins = json!({"test-plugin": {"grants": {"tools": ["read_file"]}}});
    let stage = Stage::with(&plugins, &json!({}), config());
    stage.put("test", &test_plugin());
    let (server, mut client) = stage.serve();
    std::fs::write(stage.site.workspace().join("notes.txt"), "hello").unwrap();
    // Without a word it is the first kernel, which does not allow this tool.
    let (code, error) = client.refused("test:tool", json!({"path": "notes.txt"}));
    assert_eq!(code, "DENIED");
    assert!(error.contains("read_file"), "{error}");
    let denied = entries(&server, "strict", "plugin:test-plugin");
    assert_eq!(denied.len(), 1, "{denied:?}");
    let site = verified(server, "strict");
    let mut file: Value = serde_json::from_slice(&std::fs::read(site.config()).unwrap()).unwrap();
    file["bus"]["tools_kernel"] = json!("open");
    std::fs::write(site.config(), file.to_string()).unwrap();
    let (server, mut client) = stage.serve();
    let answer = client.ask("test:tool", json!({"path": "notes.txt"}));
    assert!(answer.to_string().contains("hello"), "{answer}");
    let (code, error) = client.refused("test:tool", json!({"path": "missing.txt"}));
    assert_eq!(code, "TOOL_FAILED", "{error}");
    let _ = server.post("/kernels/open/halt", &json!({"reason": "enough"})).expect(200);
    let (code, error) = client.refused("test:tool", json!({"path": "notes.txt"}));
    assert_eq!(code, "DENIED");
    assert!(error.contains("halted: enough"), "{error}");
    let asked = entries(&server, "open", "plugin:test-plugin");
    assert_eq!(asked.len(), 2, "{asked:?}");
    let _ = verified(server, "open");
}

#[test]
fn nobody_claims_to_be_a_plugin_or_another_sender() {
    let stage = Stage::new(&json!({}));
    let (server, mut client) = stage.serve();
    for actor in ["plugin:x", "client:unix:0/1", "peer:other", "host"] {
        let request = json!({"request_id": actor, "actor": actor, "intent": "x"});
        let receipt = server.post("/submit", &request).expect(200);
        assert_eq!(receipt["decision"], json!("DENY"), "{actor}: {receipt}");
        assert!(receipt["error"].as_str().unwrap().contains("is the host's to say"), "{receipt}");
    }
    let receipt = server.post("/submit", &json!({"request_id": "r", "actor": "hosts", "intent": "x"})).expect(200);
    assert_eq!(receipt["decision"], json!("ALLOW"), "{receipt}");
    assert!(client.ask("state:set", json!({"namespace": "a", "key": "k", "value": 1})).get("error").is_none());
    let hash = format!("sha256:{}", "0".repeat(64));
    let key = json!([{"name": "k", "hash": hash, "roles": ["agent"], "actor": "plugin:x"}]);
    stage.site.configure(&Config::open().with("auth", json!({"keys": key})));
    let (code, text) = stage.validated();
    assert!(code != Some(0) && text.contains("is the host's to say"), "{text}");
}

#[test]
fn before_others_events_a_plugin_stands_only_where_it_is_granted() {
    let granted = json!({"grants": {"before": ["completion:*"]}});
    let stage = Stage::new(&json!({"granted": granted}));
    let before: &[&str] = &["state:set", "completion:*", "own:*", "*"];
    stage.put("plain", &Guest { before, ..Guest::named("plain", &["own"]) }.component());
    stage.put("granted", &Guest { before, ..Guest::named("granted", &["other"]) }.component());
    let (_server, mut client) = stage.serve();
    let plain = client.plugin("plain");
    assert_eq!(plain["capabilities"]["before"], json!(["own:*"]));
    let withheld: Vec<String> =
        ["state:set", "completion:*", "*"].map(|it| format!("to see {it} before its handler")).to_vec();
    assert_eq!(plain["not_granted"], json!(withheld));
    assert_eq!(client.plugin("granted")["capabilities"]["before"], json!(["completion:*"]));
}

#[test]
fn what_a_new_configuration_takes_is_taken_whatever_the_files_are() {
    let shared = json!({"keeper": {"grants": {"state": ["shared"]}}});
    let stage = Stage::new(&shared);
    let keeper = Guest { state: &["shared"], deed: Deed::Keep("shared"), ..Guest::named("keeper", &["keeper"]) };
    stage.put("keeper", &keeper.component());
    let needing = Guest { dependencies: &["keeper"], ..Guest::named("needing", &["needing"]) };
    stage.put("needing", &needing.component());
    let (server, mut client) = stage.serve();
    assert!(client.ask("keeper:x", json!({})).get("error").is_none());
    stage.put("keeper", b"no component");
    client.broken("keeper");
    stage.configure(&json!({}), &json!({}), Config::open());
    server.hang_up();
    client.until("keeper:x", &json!({}), |answer| answer["code"] == json!("FORBIDDEN"));
    assert!(client.broken("keeper").contains("not WebAssembly"), "it goes on, and its files are broken");
    let daemon = json!({"plugin_signatures": {"required": true}});
    stage.configure(&json!({}), &daemon, Config::open());
    server.hang_up();
    for event in ["keeper:x", "needing:x"] {
        client.until(event, &json!({}), |answer| answer["code"] == json!("NO_HANDLER"));
    }
}

#[test]
fn state_is_a_plugins_own_and_on_record() {
    let stage = Stage::new(&json!({"sharer": {"grants": {"state": ["shared"]}}}));
    let own = Guest {
        deed: Deed::Keep("owner"),
        other: Some(("tell", Deed::Recall("owner"))),
        ..Guest::named("owner", &["owner"])
    };
    stage.put("owner", &own.component());
    let sharer = Guest { state: &["shared"], deed: Deed::Keep("shared"), ..Guest::named("sharer", &["sharer"]) };
    stage.put("sharer", &sharer.component());
    let prying =
        Guest { state: &["plugin/owner"], deed: Deed::Recall("plugin/owner"), ..Guest::named("pryer", &["pryer"]) };
    stage.put("pryer", &prying.component());
    let (server, mut client) = stage.serve();
    assert!(client.ask("owner:keep", json!({"secret": 7})).get("error").is_none());
    assert!(client.ask("sharer:keep", json!({"open": 8})).get("error").is_none());
    let place = |namespace: &str| json!({"namespace": namespace, "key": "k"});
    assert_eq!(client.ask("state:get", place("shared"))["value"], json!({"open": 8}));
    for namespace in ["plugin/owner", "plugin/sharer"] {
        assert_eq!(client.refused("state:get", place(namespace)).0, "FORBIDDEN");
    }
    assert_eq!(client.ask("state:get", place("owner"))["found"], json!(false), "its name is no namespace of others");
    assert_eq!(client.refused("pryer:x", json!({})).0, "FORBIDDEN");
    for plugin in ["owner", "sharer"] {
        let kept = entries(&server, "bus", &format!("plugin:{plugin}"));
        assert_eq!(kept.len(), 1, "{kept:?}");
        assert_eq!(kept[0]["tool_name"], json!("bus.state"));
        assert!(!kept[0].to_string().contains("secret"), "values are not in the ledger");
    }
    let _ = verified(server, "bus");
    let (_server, mut client) = stage.serve();
    assert_eq!(client.ask("owner:tell", json!({})), json!({"secret": 7}), "durable");
}

#[test]
fn only_what_a_trusted_key_signed_is_taken_where_that_is_required() {
    let stage = Stage::new(&json!({}));
    let keys = stage.site.path().join("key.pem");
    let made = gavel(["policy", "key", "--out", path(&keys), "--json"]).code(0).json();
    let daemon = json!({"plugin_signatures": {"required": true, "keys": {"release": made["key"]}}});
    stage.configure(&json!({}), &daemon, Config::open());
    let signed = stage.site.path().join("signed.wasm");
    put_whole(&signed, &test_plugin());
    let _ = gavel(["policy", "sign", path(&signed), "--key", path(&keys)]).code(0);
    stage.put("unsigned", &Guest::named("unsigned", &["unsigned"]).component());
    let grants = json!({"grants": {"tools": ["read_file"]}});
    stage.put_with("test", &std::fs::read(&signed).unwrap(), &grants);
    let (_server, mut client) = stage.serve();
    let why = client.broken("unsigned");
    assert!(why.contains("it is not signed") && why.contains("plugin_signatures.keys"), "{why}");
    assert_eq!(client.ask("test:count", json!({}))["result"], json!(1));
    let told = client.plugin("test-plugin");
    assert_eq!(told["signed_by"], json!(["release"]));
    assert!(told["not_granted"].to_string().contains("what its manifest grants"), "{told}");
    assert_eq!(told["capabilities"]["tools"], json!([]));
    forged(&stage, &mut client, &signed);
}

/// One byte of what was signed is another.
fn forged(stage: &Stage, client: &mut Client, signed: &std::path::Path) {
    let mut bytes = std::fs::read(signed).unwrap();
    let at = bytes
        .windows(12)
        .position(|window| window == b"test-plugin\0")
        .or_else(|| bytes.windows(11).position(|window| window == b"test-plugin"));
    bytes[at.unwrap()] = b'b';
    stage.put("forged", &bytes);
    let why = client.broken("forged");
    assert!(why.contains("changed after it was signed"), "{why}");
}
