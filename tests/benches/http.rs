//! What a governed request costs over HTTP: a fresh sandbox and a durable record each time.
//!
//! Reference in the same run: a bare axum handler that parses the same body, compares actor and
//! tool natively, and answers. Both servers are processes of their own; what is compared is the CPU
//! time that each spends on a request (`/proc/PID/task/*/schedstat`), so that the load generator and other
//! programs on the machine count for neither. Aim: at most 5 x. Also: time from start to ready.

#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]

mod measure;

use axum::Json;
use axum::routing::post;
use measure::{cpu_of, percentile};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

const CONNECTIONS: usize = 16;
const REQUESTS: usize = 40_000;
const REFERENCE: &str = "GAVEL_BENCH_REFERENCE";

const CONFIG: &str = r#"
kernels:
  - id: bench
    policy:
      allowed_actors: [agent-001]
      allowed_tools: [read_file]
      custom_rules: [business-hours]
policies:
  business-hours: {config: {from: "00:00", to: "24:00"}}
limits: {max_requests_per_second: 10000000}
"#;

fn main() {
    if std::env::var_os(REFERENCE).is_some() {
        return serve_reference();
    }
    let temporary = tempfile::tempdir().expect("a temporary folder");
    let config = temporary.path().join("gavel.yaml");
    std::fs::write(&config, CONFIG).expect("a configuration");
    let mut bare = Server::start(Command::new(std::env::current_exe().expect("this program")).env(REFERENCE, "1"));
    let mut command = Command::new(gavel_tests::gavel_path());
    command.args(["serve", "--listen", "127.0.0.1:0", "--config"]).arg(&config);
    command.arg("--data").arg(temporary.path().join("data")).args(["--log", "error"]);
    // The first start compiles the policy; what is measured is the second, with the cache filled.
    drop(Server::start(&mut command));
    let started = Instant::now();
    let mut governed = Server::start(&mut command);
    let ready_ms = started.elapsed().as_secs_f64() * 1e3;
    let reference = bare.measure("reference: bare axum handler", "/", None);
    governed.measure("gavel /decide: fresh sandbox, durable (aim 5 x)", "/decide", Some(reference));
    let again = bare.measure("reference again", "/", Some(reference));
    println!("{:<52} {:>10.2} x", "drift of the reference", again / reference);
    println!("{:<52} {ready_ms:>10.1} ms  (goal 100 ms)", "gavel serve: start to listening and open");
}

/// A server process and where it listens.
struct Server {
    process: Child,
    address: SocketAddr,
}

impl Server {
    /// Start a server that prints its address, and wait until it has.
    fn start(command: &mut Command) -> Self {
        let mut process = command.stdout(Stdio::piped()).spawn().expect("the server starts");
        let mut lines = BufReader::new(process.stdout.take().expect("its output")).lines();
        let address = lines.find_map(|line| {
            let line = line.expect("text");
            line.split("http://").nth(1)?.split_whitespace().next()?.parse().ok()
        });
        // Keep reading, so that the server never blocks on a full pipe.
        std::thread::spawn(move || lines.for_each(drop));
        Self { process, address: address.expect("the server prints its address") }
    }

    /// Put load on it; print and return CPU microseconds per request.
    fn measure(&mut self, what: &str, path: &str, reference: Option<f64>) -> f64 {
        self.load(path, REQUESTS / 10);
        let (before, started) = (cpu_of(self.process.id()), Instant::now());
        let mut times = self.load(path, REQUESTS);
        let (cpu, wall) =
            (cpu_of(self.process.id()).saturating_sub(before).as_secs_f64(), started.elapsed().as_secs_f64());
        let count = f64::from(u32::try_from(times.len()).expect("fewer than 2^32 requests"));
        let micros = cpu * 1e6 / count;
        println!(
            "{what:<52} {micros:>10.2} us CPU {:>8.2} x   {:>7.0}/s   p50 {:>6.0} us   p99 {:>6.0} us",
            micros / reference.unwrap_or(micros),
            count / wall,
            percentile(&mut times, 0.5),
            percentile(&mut times, 0.99),
        );
        micros
    }

    /// Send so many requests over all connections; the time of each in microseconds.
    fn load(&self, path: &str, requests: usize) -> Vec<f64> {
        let each = requests / CONNECTIONS;
        let threads: Vec<_> = (0..CONNECTIONS)
            .map(|connection| {
                let (address, path) = (self.address, path.to_owned());
                std::thread::spawn(move || call(address, &path, connection, each))
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("a caller")).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn body(id: &str) -> String {
    json!({"request_id": id, "actor": "agent-001", "intent": "Read the quarterly report",
        "tool_call": {"name": "read_file", "params": {"path": "reports/2025/q1.md"}}})
    .to_string()
}

/// One connection, one request after the other.
fn call(address: SocketAddr, path: &str, connection: usize, requests: usize) -> Vec<f64> {
    let mut stream = TcpStream::connect(address).expect("a connection");
    stream.set_nodelay(true).expect("an option");
    let mut answer = vec![0; 16 << 10];
    let times = (0..requests).map(|number| {
        let body = body(&format!("req-{connection}-{number}"));
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        let started = Instant::now();
        stream.write_all((head + &body).as_bytes()).expect("sent");
        let read = read_answer(&mut stream, &mut answer);
        assert!(read.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(read));
        started.elapsed().as_secs_f64() * 1e6
    });
    times.collect()
}

/// Read one answer: its head, and as much body as that announces.
fn read_answer<'a>(stream: &mut TcpStream, buffer: &'a mut [u8]) -> &'a [u8] {
    let mut filled = 0;
    loop {
        let read = stream.read(&mut buffer[filled..]).expect("an answer");
        assert!(read > 0, "the connection was closed");
        filled += read;
        let Some(end) = buffer[..filled].windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&buffer[..end]).to_lowercase();
        let length =
            head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next()?.trim().parse::<usize>().ok());
        if filled >= end + 4 + length.expect("a content-length") {
            return &buffer[..filled];
        }
    }
}

/// The reference: axum with nothing around it.
fn serve_reference() {
    async fn handle(Json(request): Json<Value>) -> Json<Value> {
        let allowed = request["actor"] == "agent-001" && request["tool_call"]["name"] == "read_file";
        Json(json!({"request_id": request["request_id"], "decision": if allowed { "ALLOW" } else { "DENY" }}))
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        println!("http://{}", listener.local_addr().expect("its address"));
        axum::serve(listener, axum::Router::new().route("/", post(handle))).await.expect("serves");
    });
}
