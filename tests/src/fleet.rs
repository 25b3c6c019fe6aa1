//! A real `gavel fleet up`: kernels as processes, load on them, and what became of every request.

use crate::receipts::{Fate, of_all_kinds};
use crate::{Config, Connection, Gavel, PATIENCE, Response, Server, Site, path};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Instant;

/// All kernels of the table. A test that is not about one of them does not start it.
const KNOWN: [&str; 20] = [
    "message_bus",
    "immutable_log",
    "governance",
    "crypto_kernel",
    "trust_framework",
    "policy_engine",
    "compliance_monitor",
    "audit_trail",
    "scheduler",
    "task_executor",
    "workflow_engine",
    "state_machine",
    "librarian_kernel",
    "self_healing_kernel",
    "coding_agent_kernel",
    "learning_kernel",
    "research_kernel",
    "telemetry_service",
    "metrics_aggregator",
    "alert_service",
];

/// The configuration of a fleet of these kernels and no others, each of which takes a free port. `settings` are those of
/// the section `fleet` and win.
#[must_use]
pub fn config(kernels: Value, settings: Value) -> Config {
    let mut fleet = json!({"first_port": 0, "kernels": {}});
    for name in KNOWN {
        fleet["kernels"][name] = json!({"enabled": false});
    }
    for (name, kernel) in kernels.as_object().expect("kernels by name") {
        fleet["kernels"][name] = kernel.clone();
    }
    for (name, value) in settings.as_object().expect("settings by name") {
        fleet[name] = value.clone();
    }
    Config::open().with("fleet", fleet)
}

/// The one kernel that decides, which waits for no other.
#[must_use]
pub fn governance() -> Value {
    json!({"needs": []})
}

/// A second kernel of that kind, with a ledger of its own.
#[must_use]
pub fn second() -> Value {
    json!({"kind": "governance", "tier": "governance", "needs": []})
}

/// The first of fifty ports that nobody had a moment ago, below those that the system gives out.
///
/// # Panics
/// When there are none.
#[must_use]
pub fn free_ports() -> u16 {
    // Tests that run at the same time, of one seed too, try others first.
    let mut random = crate::Random::of(crate::Random::from_environment().bits() ^ u64::from(std::process::id()));
    for _ in 0..1_000 {
        let first = u16::try_from(12_000 + random.below(18_000)).expect("a port");
        if (first..first + 50).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok()) {
            return first;
        }
    }
    panic!("there are no fifty free ports in a row");
}

impl Site {
    /// The command that starts a fleet here.
    #[must_use]
    pub fn fleet_command(&self) -> Gavel {
        let (config, data) = (self.config(), self.data());
        Gavel::new(["fleet", "up", "--listen", "127.0.0.1:0", "--config", path(&config), "--data", path(&data)])
    }

    /// Start a fleet that must come up.
    #[must_use]
    pub fn fleet(&self) -> Server {
        Server::spawn(self.fleet_command(), self.clone())
    }
}

impl Server {
    /// A kernel's line of the registry.
    #[must_use]
    pub fn kernel(&self, name: &str) -> Value {
        self.get(&format!("/kernel-ports/port/{name}")).expect(200)
    }

    /// Wait until a kernel's line is as wanted, and give it.
    pub fn wait_for_kernel(&self, name: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let mut seen = Value::Null;
        self.wait_for(&format!("/kernel-ports/port/{name}"), |entry| {
            seen = entry.clone();
            wanted(entry)
        });
        seen
    }

    /// Wait until a kernel is healthy as another process than `pid`.
    #[must_use]
    pub fn wait_for_successor(&self, name: &str, pid: u32) -> Value {
        self.wait_for_kernel(name, |entry| entry["status"] == "healthy" && pid_of(entry) != pid)
    }

    /// Wait until so many healings of a kernel are told, and give its history: that it is well again is seen before what was
    /// done is on record.
    #[must_use]
    pub fn wait_for_healings(&self, name: &str, healings: u64) -> Value {
        let mut seen = Value::Null;
        self.wait_for(&format!("/network-healer/history?component_name={name}"), |history| {
            seen = history.clone();
            history["total"].as_u64() >= Some(healings)
        });
        seen
    }

    /// Send a signal to a kernel; gives its process. One that is stopped has stopped when this returns.
    ///
    /// # Panics
    /// When it has none.
    #[must_use]
    pub fn signal_kernel(&self, name: &str, signal: Signal) -> u32 {
        let pid = pid_of(&self.kernel(name));
        send(pid, signal);
        if signal == Signal::STOP {
            until("every thread has stopped", || has_stopped(pid));
        }
        pid
    }

    /// Ask for a healing.
    #[must_use]
    pub fn heal(&self, order: Value) -> Response {
        self.post("/network-healer/heal", &order)
    }
}

/// The process of a line of the registry.
#[must_use]
pub fn pid_of(entry: &Value) -> u32 {
    entry["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).unwrap_or_else(|| panic!("it runs: {entry}"))
}

/// Send a signal to a process of a test.
///
/// # Panics
/// When it is not there.
pub fn send(pid: u32, signal: Signal) {
    let number = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process");
    kill_process(number, signal).expect("it is there");
}

/// Whether no thread of a process runs any more, because it was stopped.
fn has_stopped(pid: u32) -> bool {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return false };
    let stats = threads.flatten().map(|thread| std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default());
    stats.into_iter().all(|stat| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T')))
}

/// Whether a process is there, and is more than a corpse.
#[must_use]
pub fn lives(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// Wait until something holds.
///
/// # Panics
/// When it does not come to that.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < until, "not within {PATIENCE:?}: {what}");
        thread::yield_now();
    }
}

/// Submitters that go on until they are told to stop, whatever they are answered.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicUsize>,
    submitters: Vec<JoinHandle<Vec<Fate>>>,
}

impl Load {
    /// Load on the kernel behind `prefix` (`/second`; the one that decides behind nothing). `name` keeps the names of
    /// requests apart.
    #[must_use]
    pub fn on(address: SocketAddr, prefix: &str, submitters: usize, name: &str) -> Self {
        let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let submitters = (0..submitters).map(|submitter| {
            let (stop, acknowledged) = (Arc::clone(&stop), Arc::clone(&acknowledged));
            let (path, name) = (format!("{prefix}/submit"), format!("{name}-{submitter}"));
            thread::spawn(move || submit(address, &path, &name, &stop, &acknowledged))
        });
        Self { submitters: submitters.collect(), stop, acknowledged }
    }

    /// Wait until so many more are acknowledged.
    pub fn wait_for(&self, more: usize) {
        let wanted = self.acknowledged.load(Ordering::SeqCst) + more;
        until("requests are acknowledged", || self.acknowledged.load(Ordering::SeqCst) >= wanted);
    }

    /// Stop, and tell what became of every request.
    ///
    /// # Panics
    /// When a submitter was answered what it must not be.
    #[must_use]
    pub fn stop(self) -> Vec<Fate> {
        self.stop.store(true, Ordering::SeqCst);
        self.submitters.into_iter().flat_map(|one| one.join().expect("a submitter does not panic")).collect()
    }
}

fn submit(address: SocketAddr, path: &str, name: &str, stop: &AtomicBool, acknowledged: &AtomicUsize) -> Vec<Fate> {
    let (mut fates, mut connection) = (Vec::new(), None);
    for number in 0.. {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        let id = format!("{name}-{number}");
        let body = of_all_kinds(number, &id).to_string();
        let Ok(mut open) = connection.take().map_or_else(|| Connection::open(address), Ok) else {
            // Who is refused has no answer either. It stays so while nobody listens: one such fate says it.
            fates.push(Fate::Unanswered { id });
            break;
        };
        let fate = match open.request("POST", path, &[], Some(body.as_bytes())) {
            Ok(answer) => {
                connection = Some(open);
                Fate::told(id, &answer)
            }
            Err(_) => Fate::Unanswered { id },
        };
        if matches!(fate, Fate::Acknowledged { .. }) {
            acknowledged.fetch_add(1, Ordering::SeqCst);
        }
        fates.push(fate);
    }
    fates
}

/// Those that were not acknowledged.
#[must_use]
pub fn failed(fates: &[Fate]) -> Vec<&Fate> {
    fates.iter().filter(|fate| !matches!(fate, Fate::Acknowledged { .. })).collect()
}
