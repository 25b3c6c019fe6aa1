//! The main API of a fleet as a door: who may what, what passes through, and what is not believed.
//!
//! What belongs here: roles and identity at the main API, deadlines and streams through it, and headers that a client must
//! not be able to forge. Kernels that are killed, hung or moved are in `fleet_fire.rs`.

#![allow(clippy::unwrap_used, reason = "a test that cannot set its case up has failed")]

use gavel_tests::fleet::{config, governance, pid_of, until};
use gavel_tests::{Connection, Key, Response, Server, Site, intent};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread;

/// A kernel that is none of ours: it answers how it is, what it was told, streams, and otherwise never.
const ELSEWHERE: &str = r#"
import http.server, json, threading
go, never, seen = threading.Event(), threading.Event(), [0]
class Kernel(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *args): pass
    def tell(self, value):
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def chunk(self, data):
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()
    def do_GET(self):
        if self.path == "/health": self.tell({"status": "healthy"})
        elif self.path == "/headers": self.tell({name.lower(): value for name, value in self.headers.items()})
        elif self.path == "/seen": self.tell({"bytes": seen[0]})
        elif self.path == "/go": go.set(); self.tell({})
        elif self.path == "/events":
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.chunk(b"data: first\n\n")
            go.wait()
            self.chunk(b"data: second\n\n")
            self.chunk(b"")
        elif self.path == "/large":
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for at in range(256): self.chunk(bytes([at]) * 65536)
            self.chunk(b"")
        else: never.wait()
    def do_POST(self):
        left = int(self.headers["Content-Length"])
        while left:
            data = self.rfile.read1(min(left, 65536))
            left -= len(data); seen[0] += len(data)
        self.tell({"bytes": seen[0]})
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Kernel)
server.daemon_threads = True
print(server.server_address[1], flush=True)
server.serve_forever()
"#;

/// That kernel, as a process of nobody's fleet.
struct Elsewhere {
    process: Child,
    url: String,
    _output: BufReader<ChildStdout>,
}

impl Elsewhere {
    fn start() -> Self {
        let mut process = Command::new("python3").args(["-c", ELSEWHERE]).stdout(Stdio::piped()).spawn().unwrap();
        let mut output = BufReader::new(process.stdout.take().unwrap());
        let mut port = String::new();
        output.read_line(&mut port).unwrap();
        let url = format!("http://127.0.0.1:{}", port.trim());
        Self { process, url, _output: output }
    }

    /// A fleet of which it is the librarian, with these settings.
    fn fleet(&self, settings: Value) -> Server {
        let kernels = json!({"governance": governance(), "librarian_kernel": {"url": self.url}});
        Site::new(&config(kernels, settings)).fleet()
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        // It may be gone already; then there is nothing to kill.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn send(server: &Server, key: Option<&Key>, method: &str, path: &str, body: Option<&Value>) -> Response {
    let header = key.map(Key::header);
    let headers: Vec<(&str, &str)> = header.iter().map(|(name, value)| (*name, value.as_str())).collect();
    server.send(method, path, &headers, body.map(Value::to_string).as_ref().map(String::as_bytes))
}

#[test]
fn every_route_has_its_roles_and_who_calls_is_known_behind_it() {
    let agent = Key::make("agent-key", &["--role", "agent", "--actor", "agent-001"]);
    let operator = Key::make("operator-key", &["--role", "operator"]);
    let auditor = Key::make("auditor-key", &["--role", "auditor"]);
    let config = config(json!({"governance": governance()}), json!({})).keys(&[&agent, &operator, &auditor]);
    let server = Site::new(&config).fleet();
    let asked = |method: &str, path: &str, body: Option<&Value>| {
        [None, Some(&agent), Some(&operator), Some(&auditor)].map(|key| send(&server, key, method, path, body).status)
    };
    for (path, expected) in [
        ("/health", [200; 4]),
        ("/livez", [200; 4]),
        ("/openapi.json", [200; 4]),
        ("/kernel-ports/status", [401, 200, 200, 200]),
        ("/kernel-ports/assignments", [401, 200, 200, 200]),
        ("/kernel-ports/metrics", [401, 403, 200, 200]),
        ("/network-healer/history", [401, 200, 200, 200]),
        ("/fleet", [401, 200, 200, 200]),
        ("/fleet/governance/logs", [401, 403, 200, 200]),
        ("/metrics", [401, 403, 200, 200]),
        // These are the kernel's own, behind the door.
        ("/governance/metrics", [401, 403, 200, 200]),
        ("/evidence", [401, 403, 200, 200]),
        ("/status", [401, 200, 200, 200]),
    ] {
        assert_eq!(asked("GET", path, None), expected, "{path}");
    }
    let look = json!({"component_name": "governance", "action": "diagnose_network"});
    let acts = [401, 403, 200, 403];
    for path in ["/network-healer/heal", "/kernel-ports/reset-failures/governance", "/network-healer/auto-heal"] {
        assert_eq!(asked("POST", path, Some(&look)), acts, "{path}");
    }
    for path in ["/fleet/governance/stop", "/fleet/governance/restart"] {
        assert_eq!(asked("POST", path, None), acts, "{path}");
    }
    assert_eq!(asked("POST", "/submit", Some(&intent("r"))), [401, 200, 403, 403]);

    let history = send(&server, Some(&auditor), "GET", "/network-healer/history", None).expect(200);
    assert_eq!(history["history"][0]["by"], "operator-key");
    let mut other = intent("other");
    other["actor"] = json!("agent-002");
    let receipt = send(&server, Some(&agent), "POST", "/submit", Some(&other));
    assert!(receipt.status == 403 || receipt.json()["decision"] == "DENY", "the key's actor is known behind the door");
}

#[test]
fn a_page_in_a_browser_is_refused_at_the_door() {
    let server = Site::new(&config(json!({"governance": governance()}), json!({}))).fleet();
    let body = intent("r").to_string();
    for forged in [("origin", "http://evil.test"), ("origin", "null"), ("host", "evil.test:8000")] {
        for (method, path) in [
            ("GET", "/health"),
            ("GET", "/kernel-ports/status"),
            ("POST", "/fleet/governance/stop"),
            ("POST", "/submit"),
            ("GET", "/governance/metrics"),
        ] {
            let body = (method == "POST").then_some(body.as_bytes());
            let told = server.send(method, path, &[forged], body);
            assert_eq!(told.status, 403, "{forged:?} {path}: {}", told.text());
        }
    }
    assert_eq!(server.entries(), 0, "nothing came through");
    assert_eq!(server.kernel("governance")["status"], "healthy");
}

#[test]
fn nobody_is_believed_to_be_the_main_api_or_a_kernel() {
    let server = Site::new(&config(json!({"governance": governance()}), json!({}))).fleet();
    let entry = server.kernel("governance");
    let port = u16::try_from(entry["port"].as_u64().unwrap()).unwrap();
    let direct = |headers: &[(&str, &str)]| {
        let mut connection = Connection::open(([127, 0, 0, 1], port).into()).unwrap();
        connection.request("GET", "/status", headers, None).unwrap().status
    };
    // A kernel without keys answers its own machine only, so it shows where it takes a request to be from.
    let far = ("gavel-peer", "192.0.2.7");
    let environment = std::fs::read(format!("/proc/{}/environ", pid_of(&entry))).unwrap();
    let mut variables = environment.split(|byte| *byte == 0).map(String::from_utf8_lossy);
    let token = variables.find_map(|one| Some(one.strip_prefix("GAVEL_FLEET_TOKEN=")?.to_owned())).unwrap();
    assert_eq!(direct(&[("gavel-front", &token), far]), 403, "the main API is believed");
    assert_eq!(direct(&[("gavel-front", "made up"), far]), 200);
    assert_eq!(direct(&[far]), 200);
    for forged in [vec![far], vec![far, ("gavel-front", "made up")], vec![far, far, ("gavel-front", &token)]] {
        let told = server.send("GET", "/status", &forged, None);
        assert_eq!(told.status, 200, "what a client says is taken out: {forged:?} {}", told.text());
    }
    let look = json!({"component_name": "governance", "action": "diagnose_network"}).to_string();
    let forged = [("gavel-kernel", "self_healing_kernel"), ("authorization", "Bearer made-up")];
    let _ = server.send("POST", "/network-healer/heal", &forged, Some(look.as_bytes())).expect(200);
    assert_eq!(server.get("/network-healer/history").expect(200)["history"][0]["by"], "anyone");
}

#[test]
fn what_runs_elsewhere_is_told_nothing_that_opens_this_fleet() {
    let elsewhere = Elsewhere::start();
    let server = elsewhere.fleet(json!({}));
    let sent = [("gavel-front", "x"), ("gavel-peer", "192.0.2.7"), ("gavel-kernel", "scheduler"), ("x-mine", "1")];
    let told = server.send("GET", "/librarian/headers", &sent, None).expect(200);
    assert_eq!(told["x-mine"], "1");
    for name in ["gavel-front", "gavel-peer", "gavel-kernel", "authorization"] {
        assert_eq!(told[name], Value::Null, "{told}");
    }
    let refused = server.heal(json!({"component_name": "librarian_kernel", "action": "restart_component"})).expect(200);
    assert!(refused["success"] == false && refused.to_string().contains("it runs elsewhere"), "{refused}");
}

#[test]
fn a_kernel_that_never_answers_costs_its_deadline_and_nobody_else() {
    let elsewhere = Elsewhere::start();
    let server = elsewhere.fleet(json!({"proxy_timeout_ms": 2_000}));
    thread::scope(|scope| {
        let waiting: Vec<_> = (0..50).map(|_| scope.spawn(|| server.get("/librarian/search?query=x"))).collect();
        for number in 0..20 {
            assert_eq!(server.submit(&intent(&format!("r{number}")))["decision"], "ALLOW");
        }
        for waiting in waiting {
            let told = waiting.join().unwrap();
            assert_eq!(told.error(504), "kernel 'librarian_kernel' did not answer within 2 s (proxy_timeout)");
        }
    });
    drop(elsewhere);
    for told in [server.get("/librarian/search?query=x"), server.post("/librarian/index", &json!({}))] {
        assert!(told.error(503).contains("kernel 'librarian_kernel' is down"), "{}", told.text());
    }
    assert_eq!(server.submit(&intent("after"))["decision"], "ALLOW");
}

#[test]
fn streams_pass_as_they_come_in_both_directions() {
    const BYTES: usize = 16 << 20;
    let elsewhere = Elsewhere::start();
    let server = elsewhere.fleet(json!({"proxy_timeout_ms": 20_000}));

    let mut events = server.connect();
    let head = events.head("GET", "/librarian/events", &[], None);
    events.send(&head).unwrap();
    assert!(events.until("data: first\n\n").contains("text/event-stream"));
    // Only now the second one is sent.
    assert_eq!(server.get("/librarian/go").status, 200);
    let _ = events.until("data: second\n\n");

    let mut upload = server.connect();
    let head = upload.head("POST", "/librarian/count", &[], Some(BYTES));
    upload.send(&head).unwrap();
    upload.send(&vec![b'x'; BYTES / 2]).unwrap();
    until("the first half has come through before the second is sent", || {
        server.get("/librarian/seen").expect(200)["bytes"].as_u64().is_some_and(|bytes| bytes >= BYTES as u64 / 4)
    });
    upload.send(&vec![b'x'; BYTES - BYTES / 2]).unwrap();
    assert_eq!(upload.answer().unwrap().expect(200)["bytes"], BYTES);

    let large = server.get("/librarian/large");
    assert_eq!((large.status, large.body.len()), (200, BYTES));
    assert!(large.body.chunks(65_536).enumerate().all(|(at, chunk)| chunk.iter().all(|byte| usize::from(*byte) == at)));
}

#[test]
fn the_end_of_a_replaced_kernel_is_in_the_audit_trail() {
    let follows = json!({"settings": {"follow_every_ms": 3_600_000, "catch_up_ms": 60_000}});
    let kernels = json!({"governance": governance(), "immutable_log": {}, "audit_trail": follows});
    let server = Site::new(&config(kernels, json!({}))).fleet();
    let found = || server.get("/audit_trail/search?actor=agent-001&kind=decision&limit=100").expect(200);
    assert_eq!(server.submit(&intent("first"))["decision"], "ALLOW");
    assert_eq!((found()["total"].as_u64(), &found()["behind"]), (Some(1), &json!([])));
    // Nobody looks between these and the replacement.
    for number in 0..10 {
        assert_eq!(server.submit(&intent(&format!("last-{number}")))["decision"], "ALLOW");
    }
    let _ = server.post("/kernels/k/replace", &json!({"why": "weekly"})).expect(200);
    assert_eq!(server.submit(&intent("next"))["decision"], "ALLOW");
    let retired = |told: &Value| told["kernels"][0]["predecessors"][0]["stage"] == "retired";
    server.wait_for("/kernels", retired);
    let all = found();
    assert_eq!((all["total"].as_u64(), &all["behind"]), (Some(12), &json!([])), "{all}");
    let sources: Vec<&Value> = all["hits"].as_array().unwrap().iter().map(|hit| &hit["source"]).collect();
    assert_eq!(sources.iter().filter(|source| **source == "governance.k").count(), 11, "{sources:?}");
    // The proof of each is of the very ledger that it is in, whoever answers under the name now.
    for hit in all["hits"].as_array().unwrap() {
        let proof = server.get(hit["proof"].as_str().unwrap()).expect(200);
        assert_eq!(proof["kernel_id"].as_str(), hit["source"].as_str().unwrap().strip_prefix("governance."), "{hit}");
    }
}
