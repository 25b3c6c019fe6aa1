//! A real `gavel serve` in a folder of its own.

use crate::binary::{Gavel, Output, end_of};
use crate::{Config, Connection, PATIENCE, Response, Samples, Volume, path};
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Instant;
use tempfile::TempDir;

/// A configuration and a data folder, in which servers may come and go. Cheap to clone; the folder
/// is gone with the last clone.
#[derive(Debug, Clone)]
pub struct Site {
    folder: Arc<TempDir>,
}

/// A server that is up. Killed when dropped.
#[derive(Debug)]
pub struct Server {
    child: Child,
    site: Site,
    log: Arc<Log>,
    reading: Option<JoinHandle<()>>,
    /// Where it listens.
    pub address: SocketAddr,
    /// `http://ADDRESS` or `https://ADDRESS`.
    pub url: String,
    /// What it printed at start.
    pub announcement: String,
}

/// Standard error of a server, as it comes.
#[derive(Debug, Default)]
struct Log {
    text: Mutex<(String, bool)>,
    more: Condvar,
}

impl Site {
    /// A new folder with this configuration.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let site = Self { folder: Arc::new(tempfile::tempdir().expect("a temporary folder")) };
        site.configure(config);
        site
    }

    /// Write another configuration; the next server takes it.
    pub fn configure(&self, config: &Config) {
        std::fs::write(self.config(), config.to_bytes()).expect("the configuration can be written");
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The configuration file.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.path().join("gavel.yaml")
    }

    /// The data folder.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.path().join("data")
    }

    /// The workspace of the file tools.
    #[must_use]
    pub fn workspace(&self) -> PathBuf {
        self.data().join("workspace")
    }

    /// The ledger of a kernel.
    #[must_use]
    pub fn ledger(&self, kernel: &str) -> PathBuf {
        self.data().join("kernels").join(kernel).join("ledger")
    }

    /// The command that serves here.
    #[must_use]
    pub fn command(&self, listen: &str) -> Gavel {
        let (config, data) = (self.config(), self.data());
        let args = ["serve", "--listen", listen, "--config", path(&config), "--data", path(&data)];
        Gavel::new(args)
    }

    /// Put the data folder on a volume; before anything was served.
    ///
    /// # Panics
    /// When there is a data folder.
    pub fn keep_data_on(&self, volume: &Volume) {
        std::os::unix::fs::symlink(volume.path(), self.data()).expect("nothing was served here");
    }

    /// Start a server whose files can be kept from growing, see [`Server::let_files_grow`]: it is not ended for trying.
    #[must_use]
    pub fn serve_with_a_quota(&self) -> Server {
        let (config, data) = (self.config(), self.data());
        let line = format!(
            "trap '' XFSZ; exec gavel serve --listen 127.0.0.1:0 --config '{}' --data '{}'",
            path(&config),
            path(&data)
        );
        Server::spawn(Gavel::shell(&line, self.path()), self.clone())
    }

    /// Start a server that must come up.
    #[must_use]
    pub fn serve(&self) -> Server {
        self.serve_on("127.0.0.1:0")
    }

    /// Start a server on an address of one's own.
    #[must_use]
    pub fn serve_on(&self, listen: &str) -> Server {
        Server::spawn(self.command(listen), self.clone())
    }

    /// The command that runs one kernel of a fleet by itself here.
    #[must_use]
    pub fn kernel_command(&self, kernel: &str) -> Gavel {
        let (config, data) = (self.config(), self.data());
        let whole = ["--listen", "127.0.0.1:0", "--config", path(&config), "--data", path(&data)];
        Gavel::new(["kernel", "run", kernel].into_iter().chain(whole))
    }

    /// Start one kernel of a fleet by itself, which must come up.
    #[must_use]
    pub fn run_kernel(&self, kernel: &str) -> Server {
        Server::of_kernel(self.kernel_command(kernel), self.clone())
    }

    /// Start a whole fleet, which must come up.
    #[must_use]
    pub fn fleet_up(&self) -> Server {
        let (config, data) = (self.config(), self.data());
        let whole = ["--listen", "127.0.0.1:0", "--first-port", "0", "--config", path(&config), "--data", path(&data)];
        Server::spawn(Gavel::new(["fleet", "up"].into_iter().chain(whole)), self.clone())
    }

    /// Start a server that must not come up.
    #[must_use]
    pub fn refused(&self) -> Output {
        self.command("127.0.0.1:0").run_unless("serves http").code(2)
    }
}

/// What a server prints when it is up: it ends with a line to try, or is one JSON object. A server
/// that fails closes the pipe.
fn announcement(pipe: impl Read) -> String {
    let (mut pipe, mut text) = (BufReader::new(pipe), String::new());
    while pipe.read_line(&mut text).expect("the pipe can be read") > 0 {
        if text.lines().last().is_some_and(|line| line.contains("curl") || line == "}") {
            break;
        }
    }
    text
}

/// Start a process whose log is read as it comes.
fn begin(command: &mut Gavel) -> (Child, Arc<Log>, JoinHandle<()>) {
    let mut child = command.spawn();
    let log = Arc::new(Log::default());
    let reading = thread::spawn({
        let (log, pipe) = (Arc::clone(&log), child.stderr.take().expect("piped"));
        move || log.fill(pipe)
    });
    (child, log, reading)
}

impl Server {
    /// A server in a new folder with this configuration.
    #[must_use]
    pub fn start(config: &Config) -> Self {
        Site::new(config).serve()
    }

    /// Start `command`, which must be a `gavel serve`, and wait until it says where it listens.
    #[must_use]
    pub fn spawn(mut command: Gavel, site: Site) -> Self {
        let (mut child, log, reading) = begin(&mut command);
        let announcement = announcement(child.stdout.take().expect("piped"));
        let told = announcement.split(|c: char| c.is_whitespace() || c == '"').find(|word| word.contains("://"));
        let Some(url) = told.map(str::to_owned) else {
            panic!("the server did not start: {announcement}{}", log.until(|_| false))
        };
        let address = url.split_once("://").and_then(|(_, address)| address.parse().ok()).expect("an address");
        Self { child, site, log, reading: Some(reading), address, url, announcement }
    }

    /// Start `command`, which must be a `gavel kernel run`: it says where it listens in its log.
    fn of_kernel(mut command: Gavel, site: Site) -> Self {
        let (child, log, reading) = begin(&mut command);
        let told = log.until(|log| log.contains(" address="));
        let address = told.split_once(" address=").and_then(|(_, rest)| rest.split_whitespace().next()?.parse().ok());
        let Some(address) = address else { panic!("the kernel did not start: {told}") };
        let url = format!("http://{address}");
        Self { child, site, log, reading: Some(reading), address, url, announcement: String::new() }
    }

    /// Where it lives.
    #[must_use]
    pub fn site(&self) -> &Site {
        &self.site
    }

    /// A new connection to it.
    #[must_use]
    pub fn connect(&self) -> Connection {
        Connection::open(self.address).expect("the server listens")
    }

    /// One request on a connection of its own.
    #[must_use]
    pub fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Option<&[u8]>) -> Response {
        let answer = self.connect().request(method, path, headers, body);
        answer.unwrap_or_else(|why| panic!("{method} {path}: {why}\n{}", self.log()))
    }

    /// GET.
    #[must_use]
    pub fn get(&self, path: &str) -> Response {
        self.send("GET", path, &[], None)
    }

    /// POST of JSON.
    #[must_use]
    pub fn post(&self, path: &str, body: &Value) -> Response {
        self.post_bytes(path, body.to_string().as_bytes())
    }

    /// POST of anything.
    #[must_use]
    pub fn post_bytes(&self, path: &str, body: &[u8]) -> Response {
        self.send("POST", path, &[("content-type", "application/json")], Some(body))
    }

    /// The receipt of a request that must be judged.
    #[must_use]
    pub fn submit(&self, request: &Value) -> Value {
        self.post("/submit", request).expect(200)
    }

    /// The receipt of a request that must be judged by a kernel, with nothing run.
    #[must_use]
    pub fn decide(&self, kernel: &str, request: &Value) -> Value {
        self.post(&format!("/kernels/{kernel}/decide"), request).expect(200)
    }

    /// The evidence bundle of the first kernel.
    #[must_use]
    pub fn evidence(&self) -> Value {
        self.get("/evidence").expect(200)
    }

    /// The entries in the evidence of the first kernel.
    #[must_use]
    pub fn entries(&self) -> u64 {
        self.get("/status").expect(200)["ledger"]["entries"].as_u64().expect("a count")
    }

    /// A scrape of its metrics.
    #[must_use]
    pub fn metrics(&self) -> Samples {
        Samples::read(&self.get("/metrics").text())
    }

    /// Ask again and again until `/status` is as wanted.
    pub fn wait_for_status(&self, wanted: impl FnMut(&Value) -> bool) {
        self.wait_for("/status", wanted);
    }

    /// GET `path` again and again until the answer is as wanted.
    pub fn wait_for(&self, path: &str, mut wanted: impl FnMut(&Value) -> bool) {
        let until = Instant::now() + PATIENCE;
        let mut connection = self.connect();
        loop {
            let told = connection.request("GET", path, &[], None).expect("an answer").expect(200);
            if wanted(&told) {
                return;
            }
            assert!(Instant::now() < until, "not within {PATIENCE:?}: {told}");
            thread::yield_now();
        }
    }

    /// Send SIGHUP.
    pub fn hang_up(&self) {
        kill_process(Pid::from_child(&self.child), Signal::HUP).expect("the server is there");
    }

    /// Send SIGTERM, wait until it ended well, and give back where it lived.
    #[must_use]
    pub fn stop(self) -> Site {
        let site = self.site.clone();
        let (status, log) = self.terminate();
        assert!(status.success(), "{status}: {log}");
        site
    }

    /// Wait until its log contains `text`.
    pub fn wait_for_log(&self, text: &str) {
        let log = self.log.until(|log| log.contains(text));
        assert!(log.contains(text), "the log ended without {text:?}:\n{log}");
    }

    /// Its log as far as it has come.
    #[must_use]
    pub fn log(&self) -> String {
        self.log.text.lock().unwrap_or_else(PoisonError::into_inner).0.clone()
    }

    /// From now on no file of the server grows beyond `bytes`; what would stops there, with an error.
    ///
    /// # Panics
    /// When the system refuses.
    pub fn let_files_grow(&self, bytes: u64) {
        let limit = Rlimit { current: Some(bytes), maximum: None };
        prlimit(Some(Pid::from_child(&self.child)), Resource::Fsize, limit).expect("the server is there");
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Send SIGTERM and go on.
    pub fn ask_to_stop(&self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).expect("the server is there");
    }

    /// Send SIGTERM, wait for its end, and give back all of its log.
    #[must_use]
    pub fn terminate(mut self) -> (ExitStatus, String) {
        self.ask_to_stop();
        let status = end_of(&mut self.child);
        (status, self.log.until(|_| false))
    }

    /// SIGKILL: no goodbye of any kind.
    pub fn kill(self) {
        drop(self);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may be gone already; then there is nothing to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(reading) = self.reading.take() {
            let _ = reading.join();
        }
        let log = self.log();
        if thread::panicking() {
            eprintln!("the server's log:\n{log}");
        } else {
            assert!(!log.contains("panicked at"), "the server panicked:\n{log}");
        }
    }
}

impl Log {
    fn fill(&self, pipe: impl Read) {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            let mut text = self.text.lock().unwrap_or_else(PoisonError::into_inner);
            text.0.push_str(&line);
            text.0.push('\n');
            self.more.notify_all();
        }
        self.text.lock().unwrap_or_else(PoisonError::into_inner).1 = true;
        self.more.notify_all();
    }

    /// Wait until the text is as wanted, or has ended.
    fn until(&self, mut wanted: impl FnMut(&str) -> bool) -> String {
        let text = self.text.lock().unwrap_or_else(PoisonError::into_inner);
        let (text, patience) = self
            .more
            .wait_timeout_while(text, PATIENCE, |(text, ended)| !*ended && !wanted(text))
            .unwrap_or_else(PoisonError::into_inner);
        assert!(!patience.timed_out(), "the log does not come to what is waited for:\n{}", text.0);
        text.0.clone()
    }
}
