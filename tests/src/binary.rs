//! Building and running the `gavel` binary.
//!
//! It is built once for each test process, by the cargo that runs the tests and in their profile;
//! where it is fresh that takes a fraction of a second. `GAVEL_TEST_BINARY` names another one.

use crate::PATIENCE;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

/// The repository's root.
#[must_use]
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the repository")
}

/// The binary under test; in the release profile for a benchmark.
#[must_use]
pub fn path() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| match std::env::var_os("GAVEL_TEST_BINARY") {
        Some(given) => given.into(),
        None => build(),
    })
}

/// A folder in the target directory for what may outlive a test: the cache of compiled components.
#[must_use]
pub fn scratch() -> PathBuf {
    let target = profile_dir().parent().expect("a profile's folder lies in the target directory").to_owned();
    target.join("tmp").join("gavel-tests")
}

/// `target/debug` or its like: where this test itself was built, above `deps`.
fn profile_dir() -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its path");
    test.ancestors().nth(2).expect("a test lies in target/PROFILE/deps").to_owned()
}

/// An example of one of the crates, built.
#[must_use]
pub fn example(package: &str, name: &str) -> PathBuf {
    built(&["--package", package, "--example", name])
}

fn build() -> PathBuf {
    built(&["--package", "gavel", "--bin", "gavel"])
}

/// Have cargo build one executable, in the profile of this test.
fn built(what: &[&str]) -> PathBuf {
    let name = profile_dir().file_name().expect("a profile has a name").to_string_lossy().into_owned();
    let profile = if name == "debug" { "dev" } else { &name };
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // What cargo tells this test about its package would be news to the build script of `ring`, which watches it, and
    // half of the binary would be built anew each time.
    let told = std::env::vars_os().map(|(name, _)| name).filter(|name| is_about_a_package(&name.to_string_lossy()));
    told.for_each(|name| _ = cargo.env_remove(name));
    let built = cargo
        .args(["build", "--quiet", "--profile", profile])
        .args(what)
        .arg("--message-format=json-render-diagnostics")
        .current_dir(repository())
        .stderr(Stdio::inherit())
        .output()
        .expect("cargo runs");
    assert!(built.status.success(), "cannot be built: {what:?}");
    let messages = String::from_utf8(built.stdout).expect("cargo writes UTF-8");
    let artifacts = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut executables = artifacts.filter_map(|artifact| artifact["executable"].as_str().map(PathBuf::from));
    executables.next_back().expect("cargo names the executable")
}

/// Whether cargo sets an environment variable of this name for the package that it runs.
fn is_about_a_package(name: &str) -> bool {
    ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_"].iter().any(|prefix| name.starts_with(prefix))
}

/// A run of the command to its end.
#[derive(Debug)]
pub struct Gavel {
    command: Command,
    stdin: Vec<u8>,
    /// What it must not print; it is killed if it does.
    unless: Option<&'static str>,
}

/// What a run came to.
#[derive(Debug)]
pub struct Output {
    /// The exit code; `None` after a signal.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// Run `gavel` with these arguments.
#[must_use]
pub fn gavel<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Output {
    Gavel::new(args).run()
}

impl Gavel {
    /// `gavel` with these arguments, in an environment that is the same for everybody.
    #[must_use]
    pub fn new<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Self {
        let mut command = Command::new(path());
        command.args(args).current_dir(repository());
        Self::with_environment(command)
    }

    /// Another program, in the same environment.
    #[must_use]
    pub fn program<A: AsRef<OsStr>>(program: &Path, args: impl IntoIterator<Item = A>) -> Self {
        let mut command = Command::new(program);
        command.args(args).current_dir(repository());
        Self::with_environment(command)
    }

    /// A line for the shell, in which `gavel` is the binary under test, run in a folder.
    #[must_use]
    pub fn shell(line: &str, folder: &Path) -> Self {
        let path =
            format!("{}:{}", path().parent().expect("a folder").display(), std::env::var("PATH").unwrap_or_default());
        let mut command = Command::new("sh");
        command.args(["-c", line]).env("PATH", path).current_dir(folder);
        Self::with_environment(command)
    }

    fn with_environment(mut command: Command) -> Self {
        for variable in ["GAVEL_URL", "GAVEL_FLEET_URL", "GAVEL_KEY", "GAVEL_LOG", "XDG_DATA_HOME", "XDG_CONFIG_HOME"] {
            command.env_remove(variable);
        }
        command.env("HOME", scratch().join("home")).env("XDG_CACHE_HOME", scratch().join("cache"));
        Self { command, stdin: Vec::new(), unless: None }
    }

    /// With this on standard input.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// With an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Start it with pipes on all three streams, for a test that talks to it.
    pub(crate) fn spawn(&mut self) -> Child {
        self.command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("gavel starts")
    }

    /// Run it to its end, which a signal is if it prints a line with `text`.
    #[must_use]
    pub fn run_unless(mut self, text: &'static str) -> Output {
        self.unless = Some(text);
        self.run()
    }

    /// Start it, and kill it a while after: at whatever it does then.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn run_and_kill_after(mut self, lives: Duration) {
        let mut child = self.spawn();
        let from = Instant::now();
        while from.elapsed() < lives {
            std::hint::spin_loop();
        }
        // It may have ended by itself; then there is nothing to kill.
        let _ = child.kill();
        let _ = child.wait();
    }

    /// Run it to its end.
    ///
    /// A command that does not end within the harness's patience is killed and fails the test.
    #[must_use]
    pub fn run(mut self) -> Output {
        let mut child = self.spawn();
        let mut stdin = child.stdin.take().expect("piped");
        let input = std::mem::take(&mut self.stdin);
        // A command that does not read its input closes the pipe: not an error of this test.
        let writing = thread::spawn(move || drop(stdin.write_all(&input)));
        let stdout =
            collect(child.stdout.take().expect("piped"), self.unless.map(|text| (text, Pid::from_child(&child))));
        let stderr = collect(child.stderr.take().expect("piped"), None);
        let status = end_of(&mut child);
        writing.join().expect("the writer does not panic");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("gavel writes UTF-8");
        Output {
            code: status.code(),
            stdout: text(stdout.join().expect("read")),
            stderr: text(stderr.join().expect("read")),
        }
    }
}

impl Output {
    /// Check the exit code.
    #[must_use]
    pub fn code(self, expected: i32) -> Self {
        assert_eq!(self.code, Some(expected), "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    /// Standard output as JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|why| panic!("{why}\nstdout:\n{}\nstderr:\n{}", self.stdout, self.stderr))
    }

    /// Standard output as JSON lines.
    #[must_use]
    pub fn json_lines(&self) -> Vec<Value> {
        self.stdout.lines().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect()
    }
}

/// Read a pipe to its end; kill the process as soon as a line contains the given text.
fn collect(pipe: impl Read + Send + 'static, unless: Option<(&'static str, Pid)>) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let (mut pipe, mut bytes) = (BufReader::new(pipe), Vec::new());
        loop {
            let start = bytes.len();
            if pipe.read_until(b'\n', &mut bytes).expect("the pipe can be read") == 0 {
                return bytes;
            }
            if let Some((_, pid)) = unless.filter(|(text, _)| String::from_utf8_lossy(&bytes[start..]).contains(text)) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
    })
}

/// Wait for a process to end, and not for ever.
pub(crate) fn end_of(child: &mut Child) -> ExitStatus {
    let pid = Pid::from_child(child);
    let (ended, watched) = sync_channel::<()>(1);
    let watchdog = thread::spawn(move || {
        let late = watched.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout);
        if late {
            let _ = kill_process(pid, Signal::KILL);
        }
        late
    });
    let status = child.wait().expect("a child can be waited for");
    drop(ended);
    assert!(!watchdog.join().expect("the watchdog does not panic"), "gavel did not end within {PATIENCE:?}");
    status
}
