//! The clients, and a kernel that somebody else's application serves.
//!
//! What belongs here: what users of the Rust and the Python client see of a server that is well, of one that is not, and of
//! one that is none; the router mounted in another application; and every example of `docs/clients.md`, run. The Python
//! client's own tests are run from here, against a real server.
#![allow(clippy::unwrap_used, reason = "a test that cannot set its case up has failed")]

use gavel_client::blocking::Client;
use gavel_client::{Decision, Error, Options, Refusal, Request, Status, ToolCall};
use gavel_tests::{
    Config, FakeServer, Gavel, Output, Script, Server, Site, blocks, call, example, in_time, intent, repository,
};
use serde_json::{Value, json};
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

// --- a server that is well ---

/// A server whose kernel `k` knows two tools, and others that may be halted.
fn server() -> Server {
    let mut kernel = Config::open_kernel("k");
    kernel["policy"]["allowed_tools"] = json!(["echo", "add"]);
    let others = ["sync", "async"].map(Config::open_kernel);
    Server::start(&Config::of(json!([kernel, others[0], others[1]])))
}

fn hello(id: &str) -> Request {
    Request::new(id, "agent-001", "Say hello").tool_call(ToolCall::new("echo").param("text", "héllo"))
}

fn client(url: &str) -> Client {
    Client::new(url).unwrap()
}

#[test]
fn requests_are_judged() {
    let server = server();
    let client = client(&server.url);
    let receipt = client.submit(&hello("r1").evidence("e-1").constraints(json!({"scope": "x"}))).unwrap();
    assert_eq!((receipt.decision, receipt.status), (Decision::Allow, Status::Accepted));
    assert_eq!((receipt.request_id.as_str(), receipt.tool_result.clone()), ("r1", Some(json!("héllo"))));
    assert_eq!(receipt.evidence_hash.as_ref().map(String::len), Some(64));
    let denied = client.submit(&Request::new("r2", "agent-001", "Read").tool_call(ToolCall::new("read_file"))).unwrap();
    assert_eq!((denied.decision, denied.is_allowed()), (Decision::Deny, false));
    assert!(denied.error.unwrap().contains("read_file"));
    let unreadable = client.submit(&Request::new("x".repeat(2_000), "a", "i")).unwrap_err();
    assert_eq!(unreadable.refusal().unwrap().status, 413);
    assert!(unreadable.is_certainly_undone());
}

#[test]
fn a_batch_is_answered_in_order() {
    let server = server();
    let client = client(&server.url);
    let add = |n: u64| {
        Request::new(format!("s{n}"), "agent-001", "Add").tool_call(ToolCall::new("add").param("a", n).param("b", n))
    };
    let mut sums: Vec<Request> = (0..20).map(add).collect();
    sums.insert(10, Request::new("x".repeat(2_000), "a", "i"));
    let mut results = client.submit_batch(&sums).unwrap();
    assert_eq!(results.remove(10).unwrap_err().status, 413);
    for (n, receipt) in results.into_iter().map(Result::unwrap).enumerate() {
        assert_eq!((receipt.request_id, receipt.tool_result), (format!("s{n}"), Some(json!(2 * n))));
    }
    let refused = client.submit_batch(&vec![hello("r"); 257]).unwrap_err();
    assert!(refused.to_string().contains("limits.max_batch_requests"), "{refused}");
}

#[test]
fn a_kernel_is_seen_and_halted() {
    let server = server();
    let first = client(&server.url);
    assert!(first.health().unwrap().is_healthy());
    let status = first.status().unwrap();
    assert_eq!((status.kernel_id.as_str(), status.state.as_str(), status.ledger.entries), ("k", "IDLE", 0));
    let policy = first.policy().unwrap();
    assert_eq!((policy.allowed_tools, policy.policy_set), (vec!["echo".into(), "add".into()], status.policy_set));

    let other = Options::new(&server.url).kernel("sync").blocking().unwrap();
    assert!(other.submit(&hello("before")).unwrap().is_allowed());
    let halted = other.halt("drill").unwrap();
    assert_eq!((halted.kernel_id.as_str(), halted.reason.as_str()), ("sync", "drill"));
    assert_eq!(other.health().unwrap().status, "halted");
    for why in [other.submit(&hello("after")).unwrap_err(), other.halt("again").unwrap_err()] {
        assert!(why.refusal().is_some_and(Refusal::is_halted), "{why}");
    }
    assert!(other.submit_batch(&[hello("after")]).unwrap().remove(0).unwrap_err().is_halted());
    let entries = other.evidence().unwrap().ledger_entries;
    assert_eq!(entries.last().map(|entry| entry.decision), Some(Decision::Halt));
    let nobody = Options::new(&server.url).kernel("nobody").blocking().unwrap().status().unwrap_err();
    assert_eq!(nobody.refusal().unwrap().status, 404);
}

#[test]
fn evidence_is_typed_or_streamed_as_it_is() {
    let server = server();
    let client = client(&server.url);
    let receipt = client.submit(&hello("for the record")).unwrap();
    let evidence = client.evidence().unwrap();
    let last = evidence.ledger_entries.last().unwrap();
    assert_eq!((Some(&last.entry_hash), &evidence.root_hash), (receipt.evidence_hash.as_ref(), &last.entry_hash));
    assert_eq!((last.request_id.as_str(), evidence.entry_count), ("for the record", 1));
    let path = server.site().path().join("evidence.json");
    let bytes = client.evidence_to(&mut fs::File::create(&path).unwrap()).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().len(), bytes);
    let verified = Gavel::new(["verify", "--json", gavel_tests::path(&path)]).run().code(0).json();
    assert_eq!(verified["root_hash"], json!(evidence.root_hash));
}

#[tokio::test]
async fn the_async_client_does_the_same() {
    let server = server();
    let client = gavel_client::Client::new(&server.url).unwrap();
    let calls: Vec<_> = (0..20)
        .map(|n| {
            let client = client.clone();
            tokio::spawn(async move { client.submit(&hello(&format!("r{n}"))).await })
        })
        .collect();
    for call in calls {
        assert!(call.await.unwrap().unwrap().is_allowed());
    }
    let mut bundle = Vec::new();
    assert_eq!(client.evidence_to(&mut bundle).await.unwrap(), bundle.len() as u64);
    let bundle: Value = serde_json::from_slice(&bundle).unwrap();
    assert_eq!(bundle["entry_count"], json!(client.evidence().await.unwrap().entry_count));
    assert_eq!(client.submit_batch(&[hello("b")]).await.unwrap().len(), 1);
    // A blocking client may be dropped where it may not be used.
    drop(Client::new(&server.url).unwrap());
}

#[test]
fn a_server_with_tls_is_trusted_by_its_authority_only() {
    let site = Site::new(&Config::open().with("tls", json!({"certificate": "server.pem", "key": "server.key"})));
    let authority = include_bytes!("tls/ca.pem");
    fs::write(site.path().join("server.pem"), include_bytes!("tls/server.pem")).unwrap();
    fs::write(site.path().join("server.key"), include_bytes!("tls/server.key")).unwrap();
    let server = site.serve();
    let trusting = Options::new(&server.url).certificate_authority(*authority).blocking().unwrap();
    assert!(trusting.submit(&hello("r1")).unwrap().is_allowed());
    fs::write(site.path().join("ca.pem"), authority).unwrap();
    let python = format!(
        "import ssl\nfrom gavel.sdk import KernelClient\n\
         trusted = ssl.create_default_context(cafile='ca.pem')\n\
         assert KernelClient('{0}', ssl_context=trusted).health().is_healthy\n\
         try: KernelClient('{0}', tries=1).health()\n\
         except Exception as why: print(type(why).__name__, why)\n",
        server.url
    );
    let told = run_python(&python, site.path());
    assert!(told.stdout.starts_with("Unreachable") && told.stdout.to_lowercase().contains("certificate"), "{told:?}");
}

// --- a server that is not well, or none ---

const RECEIPT: &str = r#"{"request_id": "r1", "status": "ACCEPTED", "decision": "ALLOW", "state_from": "IDLE",
    "state_to": "IDLE", "ts_ms": 1, "error": null, "evidence_hash": "00", "tool_result": "hello"}"#;

/// A client whose tries follow each other at once.
fn quick(url: &str) -> Options {
    Options::new(url).tries(3).backoff(Duration::from_millis(1), Duration::from_millis(1))
}

/// What `submit` comes to on a server that answers so, and how often it was sent.
fn submitted(scripts: &[Script]) -> (Result<gavel_client::Receipt, Error>, usize) {
    let server = FakeServer::start(scripts);
    let done = quick(&server.url).blocking().unwrap().submit(&hello("r1"));
    (done, server.requests().len())
}

#[test]
fn nobody_listens() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let why = quick(&url).blocking().unwrap().submit(&hello("r1")).unwrap_err();
    assert!(matches!(why, Error::Unreachable { .. }), "{why}");
    assert!(why.is_certainly_undone() && why.to_string().contains(&url), "{why}");
}

#[test]
fn what_never_comes_is_not_waited_for_nor_sent_again() {
    let trickle = Script::Say(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{".to_vec());
    for script in [Script::Never, trickle] {
        let server = FakeServer::start(&[script]);
        let patient = quick(&server.url).timeout(Duration::from_secs(1)).blocking().unwrap();
        let why = patient.submit(&hello("r1")).unwrap_err();
        assert!(matches!(why, Error::TimedOut { .. }) && !why.is_certainly_undone(), "{why}");
        assert_eq!(server.requests().len(), 1, "it may have run");
    }
}

#[test]
fn what_was_turned_away_is_sent_again() {
    for status in [429, 503] {
        let busy = Script::answer(status, r#"{"error": "busy"}"#, &["retry-after: 0"]);
        let (done, sent) = submitted(&[busy.clone(), busy.clone(), Script::answer(200, RECEIPT, &[])]);
        assert!(done.unwrap().is_allowed());
        assert_eq!(sent, 3);
        let (done, sent) = submitted(&[busy]);
        let why = done.unwrap_err();
        assert_eq!((why.refusal().unwrap().status, sent), (status, 3), "there is a last try");
        assert!(why.is_certainly_undone());
    }
    let later = Script::answer(429, r#"{"error": "busy"}"#, &["retry-after: 3600"]);
    let (done, sent) = submitted(&[later]);
    assert_eq!(done.unwrap_err().refusal().unwrap().retry_after, Some(Duration::from_hours(1)));
    assert_eq!(sent, 1, "a wait beyond the time-out is not begun");
}

#[test]
fn what_may_have_run_is_not_sent_again() {
    for script in [
        Script::SayAndClose(Vec::new()),
        Script::SayAndClose(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{".to_vec()),
        Script::answer(503, r#"{"error": "who knows"}"#, &[]),
        Script::answer(500, r#"{"error": "the tool may have run"}"#, &[]),
        Script::answer(503, "<html>", &["retry-after: 0"]),
    ] {
        let (done, sent) = submitted(std::slice::from_ref(&script));
        let why = done.unwrap_err();
        assert_eq!((sent, why.is_certainly_undone()), (1, false), "{script:?}: {why}");
    }
}

#[test]
fn what_only_reads_is_sent_again() {
    for script in [
        Script::SayAndClose(Vec::new()),
        Script::answer(503, r#"{"error": "busy"}"#, &[]),
        Script::answer(502, "<html>", &[]),
    ] {
        let server = FakeServer::start(std::slice::from_ref(&script));
        let client = quick(&server.url).blocking().unwrap();
        let why = client.status().unwrap_err();
        assert_eq!(server.requests().len(), 3, "{script:?}: {why}");
        client.evidence_to(&mut Vec::new()).unwrap_err();
        assert_eq!(server.requests().len(), 6, "{script:?}");
    }
}

#[test]
fn a_halted_kernel_says_so() {
    let halted = r#"{"error": "kernel 'k' is halted: drill", "kernel_state": "HALTED"}"#;
    let (done, sent) = submitted(&[Script::answer(409, halted, &[])]);
    let why = done.unwrap_err();
    assert!(why.refusal().is_some_and(Refusal::is_halted) && why.is_certainly_undone());
    assert_eq!((why.to_string().as_str(), sent), ("the server answered 409: kernel 'k' is halted: drill", 1));
}

#[test]
fn answers_of_somebody_else() {
    let cut = RECEIPT.replace("\"decision\": \"ALLOW\",", "");
    for (status, body) in
        [(200, ""), (200, "hello"), (200, "[1]"), (200, &cut), (404, "<html>not here</html>"), (301, "")]
    {
        let (done, sent) = submitted(&[Script::answer(status, body, &[])]);
        let why = done.unwrap_err();
        let Error::Malformed { status: told, .. } = why else { panic!("{body:?}: {why}") };
        assert_eq!((told, sent), (status, 1), "{body:?}");
    }
    let (done, _) = submitted(&[Script::SayAndClose(b"SSH-2.0-OpenSSH\r\n".to_vec())]);
    assert!(!done.unwrap_err().is_certainly_undone());
    let server = FakeServer::start(&[Script::answer(200, r#"{"results": []}"#, &[])]);
    let why = client(&server.url).submit_batch(&[hello("r1")]).unwrap_err();
    assert!(why.to_string().contains("0 results to 1 requests"), "{why}");
    let server = FakeServer::start(&[Script::answer(200, &"x".repeat(200_000), &[])]);
    let why = Options::new(&server.url).answer_bytes_max(1_000).blocking().unwrap().status().unwrap_err();
    assert!(why.to_string().contains("more than 1000 bytes (answer_bytes_max)"), "{why}");
}

#[test]
fn a_bundle_that_breaks_off_is_no_bundle() {
    let cut = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n".to_vec();
    let server = FakeServer::start(&[Script::SayAndClose(cut)]);
    let why = quick(&server.url).blocking().unwrap().evidence_to(&mut Vec::new()).unwrap_err();
    assert!(matches!(why, Error::Interrupted { .. }), "{why}");
    assert_eq!(server.requests().len(), 1, "what has begun is not begun again");
}

#[test]
fn a_connection_is_kept_and_a_key_is_shown() {
    let server = FakeServer::start(&[Script::answer(200, RECEIPT, &[])]);
    let options = Options::new(format!("{}/governance/", server.url)).key("s3cret").kernel("prod-001");
    let client = options.blocking().unwrap();
    for _ in 0..3 {
        client.submit(&hello("r1")).unwrap();
    }
    assert_eq!((server.connections(), server.requests().len()), (1, 3));
    let request = server.requests().remove(0);
    assert!(request.starts_with("POST /governance/kernels/prod-001/submit HTTP/1.1\r\n"), "{request}");
    assert!(request.contains("\r\nauthorization: Bearer s3cret\r\n"), "{request}");
}

// --- Python ---

/// Run a program in Python, with the client at hand.
fn run_python(program: &str, folder: &Path) -> Output {
    let path = folder.join("program.py");
    fs::write(&path, program).unwrap();
    python("python3 program.py", folder).run()
}

/// A command line that runs Python.
fn python(line: &str, folder: &Path) -> Gavel {
    // Where versions are told apart by the home directory, that of who runs the tests counts.
    let home = std::env::var_os("HOME").unwrap_or_default();
    let package = repository().join("host/client/python");
    Gavel::shell(line, folder).env("HOME", home).env("PYTHONPATH", package).env("PYTHONDONTWRITEBYTECODE", "1")
}

/// Run one file of the Python client's tests, which must find this many, and skip none.
fn python_tests(name: &str, at_least: u32, server: Option<&Server>) {
    let folder = repository().join("host/client/python");
    let mut command = python(&format!("python3 -W ignore -m unittest tests.{name}"), &folder);
    if let Some(server) = server {
        let document = server.site().path().join("openapi.json");
        fs::write(&document, server.get("/openapi.json").body).unwrap();
        command = command.env("GAVEL_URL", &server.url).env("GAVEL_OPENAPI", document);
    }
    let told = command.run().code(0).stderr;
    let ran = told.lines().find_map(|line| line.strip_prefix("Ran ")?.split(' ').next()?.parse::<u32>().ok());
    assert!(ran >= Some(at_least) && !told.contains("skipped"), "{told}");
}

#[test]
fn the_python_client_keeps_to_what_the_server_describes() {
    python_tests("test_contract", 6, Some(&server()));
}

#[test]
fn the_python_client_is_served() {
    python_tests("test_server", 19, Some(&server()));
}

#[test]
fn the_python_client_withstands_faults() {
    python_tests("test_faults", 40, None);
}

// --- mounted in another application ---

/// The example application, serving with its data in this site.
fn mounted(site: &Site) -> Server {
    let data = site.data();
    let command = Gavel::program(&example("gavel", "mounted"), ["127.0.0.1:0", gavel_tests::path(&data)]);
    Server::spawn(command, site.clone())
}

#[test]
fn a_mounted_kernel_is_governed_below_its_prefix() {
    let site = Site::new(&Config::open());
    let server = mounted(&site);
    assert_eq!(server.get("/").text(), "my own page");
    let url = format!("{}/governance", server.url);
    let client = client(&url);
    assert!(client.submit(&hello("r1")).unwrap().is_allowed());
    let stranger = client.submit(&Request::new("r2", "somebody", "Look")).unwrap();
    assert_eq!(stranger.decision, Decision::Deny);
    let named = Options::new(&url).kernel("prod-001").blocking().unwrap();
    assert!(named.submit_batch(&[hello("r3")]).unwrap().remove(0).unwrap().is_allowed());
    let before = client.evidence().unwrap();
    assert_eq!(before.entry_count, 3);
    // What stays the application's, and what is Gavel's.
    assert_eq!(server.get("/submit").status, 404);
    assert_eq!(server.get("/governance/nowhere").error(404), "Not found");
    assert_eq!(server.get("/governance/submit").error(405), "Method not allowed");
    let named = [("host", "evil.test")];
    assert_eq!(server.send("GET", "/governance/status", &named, None).status, 403, "the guard stands there too");
    // It is closed well, and opens where it was.
    let site = server.stop();
    let again = mounted(&site);
    let after = client_of(&again).evidence().unwrap();
    assert_eq!((after.root_hash, after.entry_count), (before.root_hash, 3));
}

fn client_of(server: &Server) -> Client {
    client(&format!("{}/governance", server.url))
}

#[test]
fn a_mounted_kernel_says_where_its_paths_begin() {
    let server = mounted(&Site::new(&Config::open()));
    let document = server.get("/governance/openapi.json").expect(200);
    assert_eq!(document["servers"], json!([{"url": "/governance"}]));
    assert!(document["paths"]["/submit"].is_object());
    for path in ["/governance/status", "/governance/kernels/prod-001/status", "/governance"] {
        assert_eq!(server.get(path).status, 200, "{path}");
    }
    let samples = gavel_tests::Samples::read(&server.get("/governance/metrics").text());
    for route in ["/status", "/kernels/{id}/status", "/"] {
        let found = samples.names().any(|name| name.contains(&format!("route=\"{route}\"")));
        assert!(found, "{route}: {:?}", samples.names().filter(|name| name.contains("route=")).collect::<Vec<_>>());
    }
    let unmounted = Server::start(&Config::open()).get("/openapi.json").expect(200);
    assert_eq!((unmounted.get("servers"), &unmounted["paths"]), (None, &document["paths"]));
}

#[test]
fn a_mounted_kernel_carries_what_is_in_flight_to_its_end() {
    let site = Site::new(&Config::open());
    let server = mounted(&site);
    let mut connection = server.connect();
    let body = call("r1", "echo", json!({"text": "x"})).to_string();
    let head = connection.head("POST", "/governance/submit", &[("expect", "100-continue")], Some(body.len()));
    connection.send(&head).unwrap();
    assert_eq!(connection.answer().unwrap().status, 100, "it is in flight");
    server.ask_to_stop();
    connection.send(body.as_bytes()).unwrap();
    assert_eq!(connection.answer().unwrap().expect(200)["decision"], "ALLOW");
    let _ = server.stop();
    assert_eq!(client_of(&mounted(&site)).evidence().unwrap().entry_count, 1);
}

// --- the document ---

fn document() -> String {
    fs::read_to_string(repository().join("docs/clients.md")).unwrap()
}

#[test]
fn the_rust_of_the_document_is_that_of_examples_that_run() {
    let server = server();
    let command = Gavel::program(&example("gavel-client", "submit"), [""; 0]).env("GAVEL_URL", &server.url);
    let told = command.run().code(0).stdout;
    let lines: Vec<&str> = told.lines().collect();
    assert_eq!(lines[..4], ["\"hello\"", "sum-1: Allow", "sum-2: Allow", "sum-3: Allow"]);
    assert!(lines[4].starts_with("evidence: "), "{told}");

    let trimmed = |text: &str| text.lines().map(str::trim).collect::<Vec<_>>().join("\n");
    let read = |path: &str| trimmed(&fs::read_to_string(repository().join(path)).unwrap());
    let examples = [read("host/client/examples/submit.rs"), read("host/examples/mounted.rs")];
    let shown = blocks(&document(), "rust");
    assert!(shown.len() >= 3);
    for block in shown {
        let found = examples.iter().any(|example| example.contains(&trimmed(&block)));
        assert!(found, "in no example:\n{block}");
    }
}

#[test]
fn the_python_of_the_document_runs() {
    let server = Site::new(&Config::text("")).serve();
    let programs = blocks(&document(), "python");
    let expected = ["hello\n", "0\n2\n4\n"];
    assert_eq!(programs.len(), expected.len());
    for (program, expected) in programs.iter().zip(expected) {
        let program = program.replace("http://127.0.0.1:8080", &server.url);
        let told = in_time(|| run_python(&program, server.site().path()));
        assert_eq!((told.code, told.stdout.as_str()), (Some(0), expected), "{}", told.stderr);
    }
    let bundle = server.site().path().join("evidence.json");
    let _ = Gavel::new(["verify", gavel_tests::path(&bundle)]).run().code(0);
    assert!(server.submit(&intent("last"))["decision"].is_string());
}

#[test]
fn the_commands_of_the_document_exist() {
    let commands: Vec<String> = blocks(&document(), "sh")
        .iter()
        .flat_map(|block| block.lines().map(str::to_owned).collect::<Vec<_>>())
        .collect();
    for command in &commands {
        let words: Vec<&str> = command.split_whitespace().collect();
        let there = match words[..] {
            ["cargo", "run", "-p", "gavel-client", "--example", name] => format!("host/client/examples/{name}.rs"),
            ["cargo", "run", "--example", name, ..] => format!("host/examples/{name}.rs"),
            ["pip", "install", folder] => format!("{folder}/pyproject.toml"),
            _ => panic!("a command that no test knows: {command}"),
        };
        assert!(repository().join(&there).is_file(), "{command}: there is no {there}");
    }
    assert!(commands.len() >= 3, "{commands:?}");
}
