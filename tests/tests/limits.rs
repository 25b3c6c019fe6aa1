//! How much a caller may ask for: size, rate, concurrency, time.
//!
//! What belongs here: that each limit of the server's configuration holds and is named in what the
//! caller is told. The limits of tools are in `governed.rs`, those of policies in `policies.rs`.

#![allow(clippy::unwrap_used, reason = "a test that cannot set its case up has failed")]

use gavel_tests::{Config, Connection, Key, Server, intent};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

fn limited(limits: Value) -> Server {
    Server::start(&Config::open().with("limits", limits))
}

/// Send the head and half the body of a request, and wait until the server has begun to serve it.
fn half_a_request(server: &Server) -> Connection {
    let mut connection = server.connect();
    let head = connection.head("POST", "/submit", &[("expect", "100-continue")], Some(1_000));
    connection.send(&head).unwrap();
    assert_eq!(connection.answer().unwrap().status, 100, "the server wants the body: the request is in flight");
    connection.send(&[b' '; 500]).unwrap();
    connection
}

#[test]
fn a_caller_above_its_rate_is_told_when_to_come_back() {
    let keys = ["a", "b"].map(|name| Key::make(name, &["--role", "auditor"]));
    let server = Server::start(
        &Config::open().keys(&[&keys[0], &keys[1]]).with("limits", json!({"max_requests_per_second": 5})),
    );
    let mut connection = server.connect();
    let mut ask = |key: &Key| {
        let (name, value) = key.header();
        connection.request("GET", "/status", &[(name, &value)], None).unwrap()
    };
    let answers: Vec<_> = (0..100).map(|_| ask(&keys[0])).collect();
    let refused = answers.iter().find(|answer| answer.status != 200).expect("a burst of 100 is above 5 per second");
    assert_eq!(refused.error(429), "more than 5 requests per second (limits.max_requests_per_second)");
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_eq!(ask(&keys[1]).status, 200, "another key has a rate of its own");
    assert_eq!(answers[..5].iter().filter(|answer| answer.status == 200).count(), 5, "a second's worth at once");
}

#[test]
fn requests_above_those_in_flight_are_refused() {
    let server = limited(json!({"max_in_flight": 1}));
    let mut first = half_a_request(&server);
    let busy = server.get("/status");
    assert_eq!(busy.error(503), "1 requests are being served already (limits.max_in_flight)");
    assert_eq!(busy.header("retry-after"), Some("1"));
    first.send(&[b' '; 500]).unwrap();
    assert_eq!(first.answer().unwrap().status, 400);
    assert_eq!(server.get("/status").status, 200);
}

#[test]
fn a_caller_that_goes_away_gives_its_place_back() {
    let server = limited(json!({"max_in_flight": 2}));
    for _ in 0..5 {
        drop(half_a_request(&server));
        // The place is free as soon as the server has seen that nobody is there any more.
        let until = Instant::now() + gavel_tests::PATIENCE;
        while server.metrics_or_busy().is_none_or(|in_flight| in_flight > 1.0) {
            assert!(Instant::now() < until, "the place is not given back");
            std::thread::yield_now();
        }
    }
}

/// The gauge of requests in flight, unless there is no place to ask for it.
trait InFlight {
    fn metrics_or_busy(&self) -> Option<f64>;
}

impl InFlight for Server {
    fn metrics_or_busy(&self) -> Option<f64> {
        let answer = self.get("/metrics");
        (answer.status == 200).then(|| gavel_tests::Samples::read(&answer.text()).get("gavel_http_in_flight"))
    }
}

#[test]
fn a_body_above_the_limit_is_refused() {
    let server = limited(json!({"max_body_bytes": 1000}));
    let mut request = intent("r1");
    request["evidence"] = json!("x".repeat(1000 - request.to_string().len() - ",\"evidence\":\"\"".len()));
    assert_eq!(request.to_string().len(), 1000);
    assert_eq!(server.post("/submit", &request).status, 200);
    let told = "the body is larger than 1000 bytes (limits.max_body_bytes)";
    request["evidence"] = json!("x".repeat(1000));
    assert_eq!(server.post("/submit", &request).error(413), told);
    let mut connection = server.connect();
    let mut chunked = connection.head("POST", "/submit", &[("transfer-encoding", "chunked")], None);
    chunked.extend_from_slice(format!("3e9\r\n{}\r\n0\r\n\r\n", "x".repeat(1001)).as_bytes());
    connection.send(&chunked).unwrap();
    assert_eq!(connection.answer().unwrap().error(413), told);
    // What a length promises need not be sent to be refused.
    let mut connection = server.connect();
    let head = connection.head("POST", "/submit", &[], Some(1 << 40));
    connection.send(&head).unwrap();
    assert_eq!(connection.answer().unwrap().error(413), told);
    assert_eq!(server.entries(), 1);
}

#[test]
fn a_head_that_does_not_come_is_not_waited_for() {
    let server = limited(json!({"header_timeout_ms": 200}));
    let preface: &[u8] = b"PRI * HTTP/2.0\r\n";
    for sent in [b"".as_slice(), b"G", b"GET /health HTTP/1.1\r\nhost: localhost\r\n", preface] {
        let mut connection = server.connect();
        connection.send(sent).unwrap();
        let started = Instant::now();
        let told = String::from_utf8_lossy(&connection.rest()).into_owned();
        assert!(started.elapsed() < Duration::from_secs(20), "{sent:?} was waited for");
        assert!(!told.contains("200 OK"), "{told}");
    }
    // A connection that is kept but not used again is not kept for ever.
    let mut connection = server.connect();
    assert_eq!(connection.request("GET", "/health", &[], None).unwrap().status, 200);
    let _ = connection.rest();
    assert_eq!(server.get("/health").status, 200);
}

#[test]
fn a_body_that_does_not_come_is_not_waited_for() {
    let server = limited(json!({"request_timeout_ms": 200}));
    let mut connection = half_a_request(&server);
    let told = connection.answer().unwrap();
    assert_eq!(told.error(408), "the request was not complete within 200 ms (limits.request_timeout_ms)");
    assert_eq!(server.entries(), 0);
}

#[test]
fn more_connections_than_allowed_wait_their_turn() {
    let server = limited(json!({"max_connections": 2}));
    let mut first = server.connect();
    let mut second = server.connect();
    for connection in [&mut first, &mut second] {
        assert_eq!(connection.request("GET", "/health", &[], None).unwrap().status, 200);
    }
    let mut third = server.connect();
    let head = third.head("GET", "/health", &[], None);
    third.send(&head).unwrap();
    drop(first);
    assert_eq!(third.answer().unwrap().status, 200, "served once there is a place");
    assert_eq!(second.request("GET", "/health", &[], None).unwrap().status, 200);
}
