//! Who may call: keys, roles, bound actors and kernels, and what holds without any keys.
//!
//! What belongs here: requests that are refused, or denied, because of who sends them, and TLS.
//! How much a caller may ask for is in `limits.rs`.

use gavel_tests::{Config, Connection, Gavel, Key, Response, Server, Site, call, gavel, intent, read_response};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::{Value, json};
use std::fs;
use std::io::{BufReader, Write};
use std::net::TcpStream;
use std::sync::Arc;

/// One key of each role, on a server with the kernels `k` and `other`.
struct Keys {
    agent: Key,
    operator: Key,
    auditor: Key,
    /// An auditor of `other` only.
    elsewhere: Key,
}

impl Keys {
    fn make() -> Self {
        Self {
            agent: Key::make("agent-key", &["--role", "agent", "--actor", "agent-001"]),
            operator: Key::make("operator-key", &["--role", "operator"]),
            auditor: Key::make("auditor-key", &["--role", "auditor"]),
            elsewhere: Key::make("elsewhere-key", &["--role", "auditor", "--kernel", "other"]),
        }
    }

    fn config(&self) -> Config {
        let config = Config::of(json!([Config::open_kernel("k"), Config::open_kernel("other")]));
        config.keys(&[&self.agent, &self.operator, &self.auditor, &self.elsewhere])
    }
}

fn send(server: &Server, key: Option<&Key>, method: &str, path: &str, body: Option<&Value>) -> Response {
    let header = key.map(Key::header);
    let headers: Vec<(&str, &str)> = header.iter().map(|(name, value)| (*name, value.as_str())).collect();
    server.send(method, path, &headers, body.map(Value::to_string).as_ref().map(String::as_bytes))
}

/// What a route answers to nobody, the agent, the operator, the auditor, and to the auditor of
/// another kernel.
fn statuses(server: &Server, keys: &Keys, method: &str, path: &str, body: Option<&Value>) -> [u16; 5] {
    [None, Some(&keys.agent), Some(&keys.operator), Some(&keys.auditor), Some(&keys.elsewhere)]
        .map(|key| send(server, key, method, path, body).status)
}

#[test]
fn every_route_has_its_roles() {
    let keys = Keys::make();
    let server = Server::start(&keys.config());
    let request = intent("r1");
    for (path, expected) in [
        ("/", [200; 5]),
        ("/health", [200; 5]),
        ("/livez", [200; 5]),
        ("/readyz", [200; 5]),
        ("/openapi.json", [200; 5]),
        ("/verify.html", [200; 5]),
        ("/kernels/k", [200; 5]),
        ("/kernels", [401, 200, 200, 200, 200]),
        ("/status", [401, 200, 200, 200, 403]),
        ("/policy", [401, 200, 200, 200, 403]),
        ("/evidence", [401, 403, 200, 200, 403]),
        ("/kernels/other/evidence", [401, 403, 200, 200, 200]),
        ("/records", [401, 403, 200, 200, 403]),
        ("/kernels/other/records/0", [401, 403, 200, 200, 200]),
        ("/tile/0/000.p/1", [401, 403, 200, 200, 403]),
        ("/kernels/other/tile/entries/000.p/1", [401, 403, 200, 200, 200]),
        ("/metrics", [401, 403, 200, 200, 200]),
        ("/archive", [401, 403, 200, 200, 403]),
        ("/kernels/k/retention", [401, 403, 200, 200, 403]),
        ("/nothing", [404; 5]),
        // Who may not know does not learn which kernels there are.
        ("/kernels/nobody/status", [401, 404, 404, 404, 404]),
    ] {
        assert_eq!(statuses(&server, &keys, "GET", path, None), expected, "{path}");
    }
    for path in ["/submit", "/decide", "/kernels/k/submit", "/kernels/k/decide"] {
        assert_eq!(statuses(&server, &keys, "POST", path, Some(&request)), [401, 200, 403, 403, 403], "{path}");
    }
    let dry = json!({"dry_run": true});
    assert_eq!(statuses(&server, &keys, "POST", "/retention", Some(&dry)), [401, 403, 200, 403, 403]);
    assert_eq!(
        statuses(&server, &keys, "POST", "/archive", None),
        [401, 403, 409, 403, 403],
        "no archive is configured"
    );
    let halt = json!({"reason": "x"});
    assert_eq!(statuses(&server, &keys, "POST", "/halt", Some(&halt)), [401, 403, 200, 403, 403]);
    assert_eq!(statuses(&server, &keys, "POST", "/kernels/other/halt", Some(&halt)), [401, 403, 200, 403, 403]);
}

#[test]
fn refusals_say_what_is_missing() {
    let keys = Keys::make();
    let server = Server::start(&keys.config());
    let refused = send(&server, None, "GET", "/status", None);
    assert_eq!(refused.error(401), "a valid key is needed: send `Authorization: Bearer KEY`");
    assert_eq!(refused.header("www-authenticate"), Some("Bearer"));
    let refused = send(&server, Some(&keys.agent), "GET", "/evidence", None);
    assert_eq!(refused.error(403), "key 'agent-key' has not the role operator or auditor that this needs");
    let refused = send(&server, Some(&keys.elsewhere), "GET", "/status", None);
    assert_eq!(refused.error(403), "key 'elsewhere-key' is not for kernel 'k'");
    let listed = send(&server, Some(&keys.elsewhere), "GET", "/kernels", None).expect(200);
    assert_eq!(listed["kernels"].as_array().unwrap().len(), 1, "{listed}");
}

#[test]
fn a_wrong_key_is_no_key() {
    let keys = Keys::make();
    let server = Server::start(&keys.config());
    let secret = &keys.operator.secret;
    let hash = keys.operator.entry["hash"].as_str().unwrap();
    for header in [
        String::new(),
        secret.clone(),
        format!("Basic {secret}"),
        format!("Bearer {secret}x"),
        format!("Bearer {}", &secret[..secret.len() - 1]),
        format!("Bearer {hash}"),
        format!("Bearer {}", hash.trim_start_matches("sha256:")),
        "Bearer".to_owned(),
        "Bearer ".to_owned(),
        format!("Bearer {}", "x".repeat(7_000)),
    ] {
        let answer = server.send("GET", "/status", &[("authorization", &header)], None);
        assert_eq!(answer.status, 401, "{header:.100}");
    }
    for header in [format!("Bearer {secret}"), format!("bearer {secret}"), format!("BEARER   {secret}")] {
        assert_eq!(server.send("GET", "/status", &[("authorization", &header)], None).status, 200, "{header}");
    }
}

#[test]
fn an_agent_speaks_for_its_actor_only() {
    let keys = Keys::make();
    let server = Server::start(&keys.config());
    let own = call("r1", "echo", json!({"text": "x"}));
    assert_eq!(send(&server, Some(&keys.agent), "POST", "/submit", Some(&own)).expect(200)["decision"], "ALLOW");
    let mut foreign = call("r2", "write_file", json!({"path": "a", "content": "x"}));
    foreign["actor"] = json!("agent-002");
    let denied = send(&server, Some(&keys.agent), "POST", "/submit", Some(&foreign)).expect(200);
    let reason = "Jurisdiction denied: Actor 'agent-002' is not the actor of key 'agent-key'";
    assert_eq!((&denied["decision"], &denied["error"]), (&json!("DENY"), &json!(reason)));
    assert!(!server.site().workspace().join("a").exists());
    let bundle = send(&server, Some(&keys.auditor), "GET", "/evidence", None).expect(200);
    let entry = &bundle["ledger_entries"][1];
    assert_eq!((&entry["actor"], &entry["error"]), (&json!("agent-002"), &json!(reason)));
    assert_eq!((&entry["decision"], &entry["entry_hash"]), (&json!("DENY"), &denied["evidence_hash"]));
}

#[test]
fn keys_are_kept_hashed_and_never_shown() {
    let made = gavel(["key", "--json", "--name", "a", "--role", "agent", "--actor", "x"]).code(0).json();
    let secret = made["key"].as_str().unwrap();
    assert!(secret.len() > 64, "{secret}");
    assert!(!made["configuration"].to_string().contains(secret));
    let keys = Keys::make();
    let server = Server::start(&keys.config().with("limits", json!({"max_in_flight": 10})));
    let config = fs::read_to_string(server.site().config()).unwrap();
    assert!(!config.contains(&keys.agent.secret));
    let _ = send(&server, Some(&keys.agent), "POST", "/submit", Some(&intent("r"))).expect(200);
    let seen = send(&server, Some(&keys.auditor), "GET", "/evidence", None).text()
        + &send(&server, Some(&keys.auditor), "GET", "/metrics", None).text()
        + &server.announcement;
    let (_, log) = server.terminate();
    for key in [&keys.agent, &keys.auditor] {
        assert!(!seen.contains(&key.secret) && !log.contains(&key.secret));
    }
}

#[test]
fn only_with_keys_is_anything_but_loopback_served() {
    let refused = Site::new(&Config::open()).command("0.0.0.0:0").run().code(2);
    assert!(
        refused.stderr.contains("0.0.0.0:0 is not loopback: configure keys first (`gavel key --help`)"),
        "{}",
        refused.stderr
    );
    let keys = Keys::make();
    let server = Site::new(&keys.config()).serve_on("0.0.0.0:0");
    assert_eq!(server.get("/status").status, 401);
    let host = [("host", "gavel.example.com"), ("origin", "https://gavel.example.com")];
    assert_eq!(server.send("GET", "/health", &host, None).status, 200, "names are for servers without keys");
}

#[test]
fn without_keys_pages_and_foreign_names_are_refused() {
    let server = Server::start(&Config::open());
    assert!(server.announcement.contains("no keys are configured: loopback only, and every caller has every role"));
    let body = intent("r1").to_string();
    for headers in [
        [("origin", "https://evil.example"), ("accept", "*/*")],
        [("origin", "null"), ("accept", "*/*")],
        [("origin", &server.url), ("accept", "*/*")],
        [("host", "evil.example"), ("accept", "*/*")],
        [("host", "evil.example:8080"), ("accept", "*/*")],
        [("host", "localhost.evil.example"), ("accept", "*/*")],
        [("host", "127.0.0.1.evil.example"), ("accept", "*/*")],
    ] {
        let refused = server.send("POST", "/submit", &headers, Some(body.as_bytes()));
        assert!(refused.error(403).contains("while no keys are configured"), "{headers:?}");
        assert_eq!(server.send("GET", "/evidence", &headers, None).status, 403, "{headers:?}");
    }
    assert_eq!(server.entries(), 0);
    for host in ["localhost", "LOCALHOST:1", "127.0.0.1", "[::1]:8080"] {
        assert_eq!(server.send("GET", "/health", &[("host", host)], None).status, 200, "{host}");
    }
}

/// Made once, for nothing but this test, and good until the year 4096: an authority, a certificate
/// of it for `localhost` and `127.0.0.1`, its key, and a key that belongs to nothing.
const AUTHORITY: &str = include_str!("tls/ca.pem");
const CERTIFICATE: &str = include_str!("tls/server.pem");
const KEY: &str = include_str!("tls/server.key");
const OTHER_KEY: &str = include_str!("tls/other.key");

fn tls_site() -> Site {
    let tls = json!({"certificate": "server.pem", "key": "server.key"});
    let site = Site::new(&Config::open().with("tls", tls));
    for (name, content) in [("ca.pem", AUTHORITY), ("server.pem", CERTIFICATE), ("server.key", KEY)] {
        fs::write(site.path().join(name), content).expect("written");
    }
    site
}

#[test]
fn tls_is_served_to_who_trusts_the_authority() {
    let site = tls_site();
    let server = site.serve();
    assert!(server.url.starts_with("https://127.0.0.1:"));
    let ca = site.path().join("ca.pem");
    let submit = |more: &[&str]| {
        let args = ["submit", "--json", "--actor", "a", "--intent", "x", "--url", &server.url];
        Gavel::new(args.iter().chain(more)).run()
    };
    let receipt = submit(&["--ca", ca.to_str().unwrap()]).code(0).json();
    assert_eq!(receipt["decision"], "ALLOW");
    let untrusted = submit(&[]).code(2);
    assert!(untrusted.stderr.to_lowercase().contains("certificate"), "{}", untrusted.stderr);
}

#[test]
fn a_tls_port_answers_nothing_in_the_clear() {
    let server = tls_site().serve();
    let mut connection = Connection::open(server.address).unwrap();
    assert!(connection.request("GET", "/health", &[], None).is_err(), "plain HTTP on a TLS port");
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(AUTHORITY.as_bytes()).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let client = ClientConnection::new(Arc::new(config), ServerName::try_from("localhost").unwrap()).unwrap();
    let mut stream = StreamOwned::new(client, TcpStream::connect(server.address).unwrap());
    stream.write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").unwrap();
    assert_eq!(read_response(&mut BufReader::new(stream)).unwrap().expect(200)["status"], "healthy");
}

#[test]
fn unusable_certificates_are_refused_at_start() {
    let site = tls_site();
    let refused = |name: &str, content: &[u8]| {
        let path = site.path().join(name);
        let good = fs::read(&path).unwrap();
        fs::write(&path, content).unwrap();
        let told = site.refused().stderr;
        fs::write(&path, good).unwrap();
        told
    };
    assert!(refused("server.pem", b"").contains("server.pem"));
    assert!(refused("server.pem", b"\xff\xfe garbage").contains("server.pem"));
    assert!(refused("server.key", b"no key").contains("server.key"));
    assert!(refused("server.key", OTHER_KEY.as_bytes()).contains("do not belong together"));
    fs::remove_file(site.path().join("server.key")).unwrap();
    assert!(site.refused().stderr.contains("server.key"));
}
