//! What strangers send: malformed, huge, deeply nested, wrong-typed and undecodable requests.
//!
//! What belongs here: input over HTTP that no honest client sends. Each gets a clear 4xx or a judged
//! receipt, never a 5xx and never a panic; what is judged leaves one entry, what cannot be read
//! leaves none and is counted. Files of that kind are in `bad_files.rs`.

use gavel_tests::{Config, Response, Server, intent};
use serde_json::{Value, json};

const POSTS: [&str; 6] = ["/submit", "/decide", "/halt", "/kernels/k/submit", "/kernels/k/decide", "/kernels/k/halt"];

/// The server must have said no, clearly.
fn check_refused(answer: &Response, about: &str) {
    assert!((400..500).contains(&answer.status), "{about}: {} {}", answer.status, answer.text());
    assert!(answer.error(answer.status).len() > 5, "{about}: {}", answer.text());
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a counter counts from 0, by ones")]
fn unreadable_bodies(server: &Server) -> u64 {
    server.metrics().get("gavel_unreadable_bodies_total") as u64
}

/// Bodies that no route can read, halts included.
fn unreadable() -> Vec<(&'static str, Vec<u8>)> {
    let deep = |open: &str, count: usize| open.repeat(count).into_bytes();
    let closed = [deep("[", 121), deep("]", 121)].concat();
    vec![
        ("white space", b" \r\n\t".to_vec()),
        ("no JSON", b"hello".to_vec()),
        ("truncated", br#"{"request_id": "r", "actor": "a", "int"#.to_vec()),
        ("truncated escape", br#"{"reason": "\u12"#.to_vec()),
        ("two values", br#"{"reason": "x"} {"reason": "y"}"#.to_vec()),
        ("trailing comma", br#"{"reason": "x",}"#.to_vec()),
        ("single quotes", b"{'reason': 'x'}".to_vec()),
        ("comment", b"{\"reason\": \"x\"} // why".to_vec()),
        ("not a number", br#"{"reason": "x", "ts_ms": NaN}"#.to_vec()),
        ("infinity", br#"{"reason": "x", "ts_ms": -Infinity}"#.to_vec()),
        ("number beyond floats", br#"{"reason": "x", "ts_ms": 1e400}"#.to_vec()),
        ("huge exponent", br#"{"reason": "x", "ts_ms": 1e99999999999999999999}"#.to_vec()),
        ("leading zero", br#"{"reason": "x", "ts_ms": 007}"#.to_vec()),
        ("bare key", br#"{reason: "x"}"#.to_vec()),
        ("control in text", b"{\"reason\": \"a\nb\"}".to_vec()),
        ("unpaired high surrogate", br#"{"reason": "\ud800"}"#.to_vec()),
        ("unpaired low surrogate", br#"{"reason": "\udc00x"}"#.to_vec()),
        ("surrogates in the wrong order", br#"{"reason": "\udc00\ud800"}"#.to_vec()),
        ("surrogate in a key", br#"{"reason": "x", "\ud800": 1}"#.to_vec()),
        ("not UTF-8", b"{\"reason\": \"\xff\xfe\"}".to_vec()),
        ("overlong UTF-8", b"{\"reason\": \"\xc0\xaf\"}".to_vec()),
        ("surrogate as UTF-8", b"{\"reason\": \"\xed\xa0\x80\"}".to_vec()),
        ("UTF-16", "{\"reason\": \"x\"}".encode_utf16().flat_map(u16::to_le_bytes).collect()),
        ("byte order mark", b"\xef\xbb\xbf{\"reason\": \"x\"}".to_vec()),
        ("NUL bytes", vec![0; 1000]),
        ("a private number", br#"{"$serde_json::private::Number": "1"}"#.to_vec()),
        ("a private number inside", br#"{"reason": {"$serde_json::private::Number": "1"}}"#.to_vec()),
        ("a private raw value", br#"{"$serde_json::private::RawValue": "{}"}"#.to_vec()),
        ("null", b"null".to_vec()),
        ("a number", b"5".to_vec()),
        ("a text", b"\"reason\"".to_vec()),
        ("an array", br#"["request_id", "actor", "intent"]"#.to_vec()),
        ("one level too deep", closed),
        ("arrays 100,000 deep", deep("[", 100_000)),
        ("objects 100,000 deep", deep("{\"a\":", 100_000)),
        ("pairs 100,000 deep", deep("[{\"a\":", 100_000)),
        ("2 MiB of spaces", vec![b' '; 2 << 20]),
        ("2 MiB of text", format!("{{\"reason\": \"{}\"}}", "x".repeat(2 << 20)).into_bytes()),
        ("one byte more than allowed", format!("{{\"reason\": \"{}\"}}", "x".repeat((1 << 20) - 13)).into_bytes()),
    ]
}

#[test]
fn what_cannot_be_read_is_refused_and_counted_and_leaves_no_record() {
    let server = Server::start(&Config::open());
    let mut sent = 0;
    for path in POSTS {
        for (name, body) in unreadable() {
            check_refused(&server.post_bytes(path, &body), &format!("{path}: {name}"));
            sent += 1;
        }
    }
    assert_eq!(server.entries(), 0);
    assert_eq!(unreadable_bodies(&server), sent);
    assert_eq!(server.submit(&intent("r"))["decision"], "ALLOW", "the server still serves");
}

#[test]
fn a_request_without_its_fields_is_no_request() {
    let server = Server::start(&Config::open());
    for path in POSTS.into_iter().filter(|path| !path.ends_with("halt")) {
        check_refused(&server.post_bytes(path, b""), path);
        for field in ["request_id", "actor", "intent"] {
            let mut request = intent("r");
            request.as_object_mut().unwrap().remove(field);
            assert_eq!(server.post(path, &request).error(400), format!("Missing field: '{field}'"));
        }
    }
    assert_eq!((server.entries(), unreadable_bodies(&server)), (0, 16));
}

#[test]
fn a_halt_for_no_good_reason_is_refused() {
    let server = Server::start(&Config::open());
    let reasons = [json!(5), json!(""), json!("  \n"), json!([]), json!({}), json!(true), json!("x".repeat(100_000))];
    for reason in reasons {
        check_refused(&server.post("/halt", &json!({"reason": reason})), "a reason");
    }
    assert_eq!(unreadable_bodies(&server), 7);
    assert_eq!(server.get("/status").expect(200)["state"], "IDLE");
}

/// Requests that can be read, however strange, and the error of their receipts; an empty one for
/// those that are allowed.
fn judged() -> Vec<(String, &'static str)> {
    let with = |field: &str, value: &str| {
        let base = r#""request_id": "r", "actor": "a", "intent": "i""#;
        let kept: Vec<&str> = base.split(", ").filter(|pair| !pair.starts_with(&format!("\"{field}\""))).collect();
        format!("{{{}, \"{field}\": {value}}}", kept.join(", "))
    };
    let mut bodies = Vec::new();
    for wrong in ["null", "5", "true", "[]", "{}", "1.5e300", "[\"x\"]"] {
        bodies.push((with("request_id", wrong), "Validation failed: request_id must be a string"));
        bodies.push((with("actor", wrong), "Validation failed: actor must be a string"));
        bodies.push((with("intent", wrong), "Validation failed: intent must be a string"));
    }
    for wrong in ["\"1\"", "true", "[]", "{}", "1.0", "1e3"] {
        bodies.push((with("ts_ms", wrong), "Validation failed: ts_ms must be an integer"));
    }
    for wrong in ["\"echo\"", "5", "[]", "false"] {
        bodies.push((with("tool_call", wrong), "Validation failed: tool_call must be a dictionary"));
        bodies.push((with("params", wrong), "Validation failed: params must be a dictionary"));
    }
    bodies.push((with("tool_call", "{\"name\": 5}"), "Validation failed: tool_call.name must be a string"));
    bodies.push((with("tool_call", "{}"), "Validation failed: tool_call.name is required"));
    let params = with("tool_call", "{\"name\": \"echo\", \"params\": []}");
    bodies.push((params, "Validation failed: tool_call.params must be a dictionary"));
    for wrong in ["5", "{}", "[1]", "[\"a\", null]", "true"] {
        bodies.push((with("evidence", wrong), "Validation failed: evidence must be a string or a list of strings"));
    }
    let nines = "9".repeat(300);
    bodies.push((with("ts_ms", &format!("-{nines}")), "Validation failed: ts_ms must be non-negative"));
    bodies.push((with("ts_ms", &nines), ""));
    bodies.push((with("request_id", "\"\""), "Validation failed: request_id is required"));
    bodies.push((with("intent", "\"\\u2003 \\t\""), "Ambiguity detected: Empty intent is ambiguous"));
    bodies.push((with("params", &format!("{{\"n\": {nines}}}")), ""));
    bodies.push((with("params", "{\"tiny\": 1e-400, \"zero\": -0.0}"), ""));
    bodies.push((with("params", &format!("{}5{}", "{\"a\":".repeat(118), "}".repeat(118))), ""));
    bodies.push((with("actor", "\"x\", \"actor\": \"\""), "Validation failed: actor is required"));
    bodies.push((with("actor", "\"\", \"actor\": \"the last of two counts\""), ""));
    bodies.push((with("actor", "\"\\ud83d\\ude00 \\u0000 \\u202e \u{10ffff}\""), ""));
    bodies.push((with("permit", "[[[5]]]"), ""));
    bodies.push((with("unknown", "[1, {\"x\": null}]"), ""));
    bodies
}

#[test]
fn what_can_be_read_is_judged_and_leaves_one_entry() {
    let server = Server::start(&Config::open());
    let bodies = judged();
    for (number, (body, expected)) in bodies.iter().enumerate() {
        let path = ["/submit", "/decide"][number % 2];
        let receipt = server.post_bytes(path, body.as_bytes()).expect(200);
        assert_eq!(receipt["error"].as_str().unwrap_or_default(), *expected, "{body:.300}");
        assert_eq!(receipt["decision"], if expected.is_empty() { "ALLOW" } else { "DENY" }, "{body:.300}");
        assert_eq!(server.entries(), number as u64 + 1, "{body:.300}");
    }
    assert_eq!(unreadable_bodies(&server), 0);
    let bundle = serde_json::from_value(server.evidence()).unwrap();
    assert_eq!(gavel_kernel::verify_bundle(&bundle).unwrap().entries_verified, bodies.len() as u64);
}

#[test]
fn texts_that_no_record_has_room_for_are_refused_and_counted() {
    let server = Server::start(&Config::open());
    let long = "x".repeat(2_000);
    let mut requests = vec![];
    for field in ["request_id", "actor"] {
        let mut request = intent("r");
        request[field] = json!(long);
        requests.push((field, request));
    }
    let mut request = intent("r");
    request["intent"] = json!("é".repeat(100_000));
    requests.push(("intent", request));
    let mut request = intent("r");
    request["tool_call"] = json!({"name": long});
    requests.push(("tool_call.name", request));
    for (field, request) in &requests {
        for path in ["/submit", "/decide"] {
            let told = server.post(path, request).error(413);
            assert!(told.starts_with(&format!("{field} takes ")), "{told}");
        }
    }
    assert_eq!(server.entries(), 0);
    assert_eq!(unreadable_bodies(&server), 2 * requests.len() as u64);
}

#[test]
fn a_huge_number_of_keys_is_judged() {
    let server = Server::start(&Config::open());
    let params: serde_json::Map<String, Value> = (0..50_000).map(|key| (format!("k{key}"), json!(key))).collect();
    let mut request = intent("r");
    request["params"] = Value::Object(params);
    let receipt = server.submit(&request);
    let error = receipt["error"].as_str().expect("denied");
    assert!(error.starts_with("Jurisdiction denied: Params size ("), "{error}");
}

#[test]
fn bodies_that_break_off_are_refused() {
    let server = Server::start(&Config::open().with("limits", json!({"request_timeout_ms": 300})));
    let start = |headers: &[(&str, &str)], length: Option<usize>, sent: &[u8]| {
        let mut connection = server.connect();
        let mut bytes = connection.head("POST", "/submit", headers, length);
        bytes.extend_from_slice(sent);
        connection.send(&bytes).unwrap();
        connection
    };
    let chunked = [("transfer-encoding", "chunked")];
    // Chunks without an end, and a body shorter than it said: waited for as long as the limit says.
    assert_eq!(start(&chunked, None, b"5\r\n{\"req\r\n").answer().unwrap().status, 408);
    assert_eq!(start(&[], Some(500), b"{\"request_id\"").answer().unwrap().status, 408);
    // Broken chunks are known to be broken at once.
    for sent in [b"zz\r\nhello".as_slice(), b"ffffffffffffffffffff\r\nx", b"5\r\nhello!!\r\n", b"-5\r\nhello\r\n"] {
        check_refused(&start(&chunked, None, sent).answer().unwrap(), "chunks");
    }
    // The caller goes away in the middle: there is nobody to answer, and nothing to record.
    for (headers, length) in [(chunked.as_slice(), None), (&[], Some(500))] {
        let mut connection = start(headers, length, b"5\r\nhello\r\n");
        connection.half_close();
        let _ = connection.rest();
    }
    // A body longer than it said: its rest is no request.
    let mut connection = start(&[], Some(2), b"{}{}{}\r\n\r\n");
    assert_eq!(connection.answer().unwrap().status, 400);
    assert!(connection.answer().is_err() || connection.answer().is_err(), "the rest is not served");
    assert_eq!(server.entries(), 0);
}

#[test]
fn what_is_no_http_is_answered_or_cut_off() {
    let server = Server::start(&Config::open());
    let binary: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    let long_path = format!("GET /{} HTTP/1.1\r\nhost: localhost\r\n\r\n", "x".repeat(100_000));
    let long_header = format!("GET / HTTP/1.1\r\nhost: localhost\r\nx: {}\r\n\r\n", "x".repeat(1_000_000));
    let headers = "x: y\r\n".repeat(10_000);
    let many_headers = format!("GET / HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n");
    let requests: [&[u8]; 16] = [
        b"\r\n\r\n\r\n\r\n",
        b"hello\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET / HTTP/1.1\r\n: no name\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: \xff\xfe\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"POST /submit HTTP/1.1\r\nhost: localhost\r\ncontent-length: -1\r\n\r\n",
        b"POST /submit HTTP/1.1\r\nhost: localhost\r\ncontent-length: 99999999999999999999999\r\n\r\n",
        b"POST /submit HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\ngarbage that is no frame of HTTP/2 whatever it says",
        &binary,
        long_path.as_bytes(),
        long_header.as_bytes(),
        many_headers.as_bytes(),
    ];
    for request in requests {
        let mut connection = server.connect();
        // It may be cut off before all of it is sent.
        if connection.send(request).is_ok() {
            connection.half_close();
        }
        let told = String::from_utf8_lossy(&connection.rest()).into_owned();
        let refused = told.starts_with("HTTP/1.1 4") || told.starts_with("HTTP/1.0 4") || !told.starts_with("HTTP/1");
        assert!(refused, "{:.60}: {told:.200}", String::from_utf8_lossy(request));
    }
    assert_eq!(server.submit(&intent("r"))["decision"], "ALLOW", "the server still serves");
}

#[test]
fn strange_paths_and_methods_are_not_found() {
    let server = Server::start(&Config::open());
    let long = format!("/kernels/{}/status", "x".repeat(8_000));
    for path in [
        "/kernels/%ff/status",
        "/kernels/%c0%af/status",
        "/kernels/%ff",
        "/kernels/%00/status",
        "/kernels/%2e%2e/status",
        "/kernels/..%2fk/status",
        "/kernels/k%/status",
        "/kernels/%zz/status",
        "/kernels/k%2fstatus",
        "/%73tatus%00",
        "/../../etc/passwd",
        "/kernels/../status",
        "*",
        "/\u{fffd}",
        &long,
    ] {
        for method in ["GET", "POST"] {
            let body: Option<&[u8]> = (method == "POST").then_some(b"{}");
            let answer = server.send(method, path, &[], body);
            check_refused(&answer, &format!("{method} {path:.60}"));
            assert!(answer.body.len() < 1_000, "{path:.60}: {} bytes", answer.body.len());
        }
    }
    for method in ["PATCH", "TRACE", "CONNECT", "PROPFIND", "get", "X-Y.Z"] {
        let answer = server.send(method, "/submit", &[], None);
        assert!((400..500).contains(&answer.status), "{method}: {}", answer.status);
    }
    // A query means nothing here, whatever it is; it changes nothing either.
    assert_eq!(server.get("/health?id=%ff&&=&kernel[]=../x").status, 200);
}

#[test]
fn any_content_type_is_read_as_json() {
    let server = Server::start(&Config::open());
    let body = intent("r").to_string();
    for kind in ["application/json", "text/plain", "application/x-www-form-urlencoded", "\u{1F980}", ""] {
        let answer = server.send("POST", "/submit", &[("content-type", kind)], Some(body.as_bytes()));
        assert_eq!(answer.status, 200, "{kind}: {}", answer.text());
    }
}
