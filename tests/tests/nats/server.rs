//! A NATS server with JetStream, which may be killed and started again where it was.

use gavel_tests::PATIENCE;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Instant;
use tempfile::TempDir;

/// The server; killed when dropped, and its messages with it.
pub(crate) struct Nats {
    folder: TempDir,
    port: u16,
    args: Vec<String>,
    running: Option<Child>,
}

impl Nats {
    /// A place for a server on a port of its own, not started. `None`, and a line that says so, where the machine has no
    /// `nats-server`, unless `GAVEL_REQUIRE_NATS=1`.
    pub(crate) fn place() -> Option<Self> {
        if let Err(why) = Command::new("nats-server").arg("--version").stdout(Stdio::null()).status() {
            let required = std::env::var_os("GAVEL_REQUIRE_NATS").is_some_and(|value| value == "1");
            assert!(!required, "GAVEL_REQUIRE_NATS=1, but there is no nats-server: {why}");
            println!("NOT TESTED: there is no nats-server here ({why}); on Debian: apt-get install nats-server");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        Some(Self { folder, port, args: Vec::new(), running: None })
    }

    /// A server that is up.
    pub(crate) fn start() -> Option<Self> {
        let mut nats = Self::place()?;
        nats.run();
        Some(nats)
    }

    /// With more arguments from the next start on.
    pub(crate) fn with(mut self, args: &[&str]) -> Self {
        self.args = args.iter().map(ToString::to_string).collect();
        self
    }

    /// Start it where it was, and wait until it says that it is ready.
    pub(crate) fn run(&mut self) {
        let port = self.port.to_string();
        let store = self.folder.path().to_str().unwrap();
        let mut child = Command::new("nats-server")
            .args(["-js", "-sd", store, "-a", "127.0.0.1", "-p", &port])
            .args(&self.args)
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut said = String::new();
        while !said.contains("Server is ready") {
            assert!(log.read_line(&mut said).unwrap() > 0, "nats-server did not start: {said}");
        }
        // The pipe is read to its end, or the server would wait for it.
        thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        self.running = Some(child);
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.running.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Where clients find it.
    pub(crate) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Send a message as anybody can who reaches the server, and wait until it has it.
    pub(crate) fn publish(&self, subject: &str, headers: &str, payload: &str) {
        let header = format!("NATS/1.0\r\n{headers}\r\n");
        let total = header.len() + payload.len();
        self.say(&format!("HPUB {subject} {} {total}\r\n{header}{payload}\r\n", header.len()));
    }

    /// Take all messages out of a stream.
    pub(crate) fn purge(&self, stream: &str) {
        self.say(&format!("SUB answers 1\r\nPUB $JS.API.STREAM.PURGE.{stream} answers 0\r\n\r\n"));
    }

    /// Say something to the server, and wait until it has done it.
    fn say(&self, text: &str) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let hello = r#"CONNECT {"verbose":false,"headers":true,"no_responders":true,"echo":true}"#;
        stream.write_all(format!("{hello}\r\n{text}PING\r\n").as_bytes()).unwrap();
        let mut told = String::new();
        let wants_answer = text.contains(" answers ");
        while !told.contains("PONG") || wants_answer && !told.contains("\"success\"") {
            let mut some = [0; 4_096];
            let count = stream.read(&mut some).unwrap();
            assert!(count > 0, "the server hung up: {told}");
            told.push_str(&String::from_utf8_lossy(&some[..count]));
            assert!(!told.contains("-ERR"), "{told}");
        }
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Wait until something holds.
pub(crate) fn until(what: &str, holds: impl FnMut() -> bool) {
    until_or(|| what.to_owned(), holds);
}

/// Wait until something holds; say how it stands if it never does.
pub(crate) fn until_or(what: impl Fn() -> String, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "not within {PATIENCE:?}: {}", what());
        thread::sleep(std::time::Duration::from_millis(2));
    }
}
