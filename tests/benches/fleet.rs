//! What a fleet costs and what it holds out, with all kernels that there are: how long it takes to come up, what its
//! processes hold and spend while nothing is asked, what the way through the main API adds to a request beside the same
//! request sent straight to its kernel, and then SIGKILLs, moves and restarts under load: how long until the kernel is
//! healthy again, what others lose meanwhile (nothing), what is missing of what was acknowledged (nothing).
//!
//! `cargo bench --bench fleet [-- KILLS]`; 100 by default, each of another kernel in turn.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark prints, and stops where it cannot go on")]
#![allow(clippy::cast_precision_loss, reason = "figures are printed with three digits")]

mod measure;

use gavel_tests::fleet::{Load, failed, pid_of};
use gavel_tests::receipts::{Acknowledged, Fate};
use gavel_tests::{Config, Connection, Server, Site};
use measure::{cpu_of, percentile};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

const KILLS: usize = 100;
const MOVES: usize = 20;
const IDLE: Duration = Duration::from_secs(10);
/// What clients that know no kernel by name are answered by.
const GOVERNANCE: &str = "governance";

fn main() {
    let kills = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(KILLS);
    // So short a window that each kill counts as the first: what is measured is one healing, not the pauses between many.
    let fleet = json!({"first_port": 0, "restarts_window_ms": 1});
    let site = Site::new(&Config::open().with("fleet", fleet));
    let server = boot(&site);
    let kernels = running(&server);
    idle(&server, &kernels);
    latency(&server, &kernels);
    moves(&server, &kernels);
    let entries = Entries::begin(&server, &kernels);
    let fates = kill_in_turn(&server, &kernels, kills);
    let appended = entries.map(|entries| entries.check(&server));
    let site = server.stop();
    let mut acknowledged = Acknowledged::default();
    acknowledged.add(&fates);
    check(&site.ledger("k"), &acknowledged);
    println!("  receipts {}, entries of the log {}: none lost", acknowledged.count(), appended.unwrap_or(0));
}

/// Every receipt is in the ledger.
fn check(folder: &Path, acknowledged: &Acknowledged) {
    let (_, records) = gavel_ledger::read_dir(folder).unwrap();
    let records = records.map(Result::unwrap);
    let entries: Vec<(String, Value)> = records
        .filter_map(|record| {
            let entry = record.entry()?;
            Some((entry.entry_hash.to_owned(), serde_json::from_str(entry.data).unwrap()))
        })
        .collect();
    acknowledged.check_entries(entries.iter().map(|(hash, entry)| (hash.as_str(), entry)));
}

/// The first start makes folders and compiles policies; the second is what an operator waits for.
fn boot(site: &Site) -> Server {
    for what in ["the first time", "again (goal 3 s)"] {
        let begin = Instant::now();
        let server = site.fleet();
        let took = begin.elapsed().as_secs_f64();
        let kernels = running(&server);
        println!("a fleet of {} kernels is up, {what}: {took:.2} s", kernels.len());
        if what != "the first time" {
            return server;
        }
        let _ = server.stop();
    }
    unreachable!("the second one is given back")
}

/// The names of the kernels that are processes of the fleet; each is healthy.
fn running(server: &Server) -> Vec<String> {
    let told = server.get("/kernel-ports/assignments").expect(200);
    let entries = told["assignments"].as_array().unwrap().iter().filter(|entry| !entry["pid"].is_null());
    entries
        .inspect(|entry| assert_eq!(entry["status"], "healthy", "{entry}"))
        .map(|entry| entry["name"].as_str().unwrap().to_owned())
        .collect()
}

// --- what it holds and spends while nothing is asked ---

fn idle(server: &Server, kernels: &[String]) {
    let pids: Vec<(&str, u32)> = kernels.iter().map(|name| (name.as_str(), pid_of(&server.kernel(name)))).collect();
    let all = || [("(main process)", server.pid())].into_iter().chain(pids.iter().copied());
    let spent: Vec<Duration> = all().map(|(_, pid)| cpu_of(pid)).collect();
    // Time is what is measured here: nothing is waited for.
    thread::sleep(IDLE);
    println!("{:<22} {:>10} {:>10} {:>12}", "idle", "RSS", "PSS", "CPU");
    let mut whole = 0.0;
    for ((name, pid), before) in all().zip(spent) {
        let share = cpu_of(pid).saturating_sub(before).as_secs_f64() / IDLE.as_secs_f64() * 100.0;
        whole += share;
        let (rss, pss) = memory(pid);
        println!("  {name:<20} {rss:>7.1} MB {pss:>7.1} MB {share:>10.3} %");
    }
    println!("  all together {whole:.3} % of one core (goal 1 %); goal 25 MB a kernel");
}

/// The resident set of a process, and its share of what it has in common with others, in MB.
fn memory(pid: u32) -> (f64, f64) {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let of = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_ascii_whitespace().nth(1).unwrap().parse::<f64>().unwrap() * 1024.0 / 1e6
    };
    (of("Rss:"), of("Pss:"))
}

// --- what the way through the main API adds ---

fn latency(server: &Server, kernels: &[String]) {
    const ROUNDS: usize = 10_000;
    let name = kernels.iter().find(|name| *name == GOVERNANCE).unwrap_or(&kernels[0]);
    let port = u16::try_from(server.kernel(name)["port"].as_u64().unwrap()).unwrap();
    let mut straight = Connection::open(SocketAddr::from(([127, 0, 0, 1], port))).unwrap();
    let (mut through, path) = (server.connect(), format!("/{name}/health"));
    let mut times = [Vec::with_capacity(ROUNDS), Vec::with_capacity(ROUNDS)];
    for round in 0..ROUNDS + ROUNDS / 10 {
        // In turn, so that both see the same machine.
        for (at, (connection, path)) in
            [(&mut straight, "/health"), (&mut through, path.as_str())].into_iter().enumerate()
        {
            let begin = Instant::now();
            let answer = connection.request("GET", path, &[], None).unwrap();
            let took = begin.elapsed().as_secs_f64() * 1e6;
            assert_eq!(answer.status, 200);
            if round >= ROUNDS / 10 {
                times[at].push(took);
            }
        }
    }
    let [straight, through] = &mut times;
    let (p50, p99) = (percentile(straight, 0.5), percentile(straight, 0.99));
    println!("GET /health of {name}, straight            p50 {p50:>8.1} us   p99 {p99:>8.1} us     1.00 x");
    let (also50, also99) = (percentile(through, 0.5), percentile(through, 0.99));
    let ratio = also50 / p50;
    println!("... through the main API                   p50 {also50:>8.1} us   p99 {also99:>8.1} us   {ratio:>6.2} x");
    println!("  added: p50 {:.1} us (goal 200 us), p99 {:.1} us", also50 - p50, also99 - p99);
}

// --- moves and restarts under load ---

fn moves(server: &Server, kernels: &[String]) {
    let load = Load::on(server.address, "", 8, "moves");
    let others = Askers::on(server.address, kernels);
    let mut took = Vec::new();
    for round in 0..MOVES {
        load.wait_for(50);
        let name = &kernels[round / 2 % kernels.len()];
        let begin = Instant::now();
        let told = if round % 2 == 0 {
            server.heal(json!({"component_name": name, "action": "rebind_port"})).expect(200)
        } else {
            server.post(&format!("/fleet/{name}/restart"), &json!({})).expect(200)
        };
        took.push(begin.elapsed().as_secs_f64() * 1e3);
        assert_eq!(told["success"], true, "{told}");
    }
    load.wait_for(50);
    let fates = load.stop();
    let (asked, lost) = others.stop();
    assert!(failed(&fates).is_empty() && lost == 0, "{lost} {:?}", failed(&fates));
    let requests = fates.len() + asked;
    let (median, most) = (percentile(&mut took, 0.5), percentile(&mut took, 1.0));
    println!(
        "{MOVES} moves and restarts under load: {requests} requests, 0 failed; median {median:.0} ms, max {most:.0} ms"
    );
}

// --- kills ---

fn kill_in_turn(server: &Server, kernels: &[String], kills: usize) -> Vec<Fate> {
    let mut took = Vec::with_capacity(kills);
    let (mut fates, mut broke_off, mut asked, mut lost) = (Vec::new(), 0, 0, 0);
    for round in 0..kills {
        let name = &kernels[round % kernels.len()];
        let rest: Vec<String> = kernels.iter().filter(|other| *other != name).cloned().collect();
        let load = Load::on(server.address, "", 4, &format!("kill-{round}"));
        let others = Askers::on(server.address, &rest);
        load.wait_for(10);
        let begin = Instant::now();
        let pid = server.signal_kernel(name, Signal::KILL);
        let _ = server.wait_for_successor(name, pid);
        took.push(begin.elapsed().as_secs_f64() * 1e3);
        load.wait_for(10);
        let of_round = load.stop();
        if name == GOVERNANCE {
            broke_off += failed(&of_round).len();
        } else {
            assert!(failed(&of_round).is_empty(), "{name} was killed: {:?}", failed(&of_round));
        }
        fates.extend(of_round);
        let (of_others, lost_by_them) = others.stop();
        (asked, lost) = (asked + of_others, lost + lost_by_them);
        assert_eq!(lost, 0, "{name} was killed, and others failed");
    }
    let (median, most) = (percentile(&mut took, 0.5), percentile(&mut took, 1.0));
    println!(
        "{kills} SIGKILLs in turn, under load: healthy again after median {median:.0} ms, max {most:.0} ms (goal 2 s)"
    );
    println!(
        "  {} requests to {GOVERNANCE}, of which {broke_off} broke off at its own kills; {asked} to others, {lost} failed",
        fates.len()
    );
    fates
}

/// Those who ask kernels how they are, one after the other, through the main API, and count what fails.
struct Askers {
    stop: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
    lost: Arc<Mutex<Vec<String>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Askers {
    fn on(address: SocketAddr, kernels: &[String]) -> Self {
        let (stop, asked, lost) = (Arc::default(), Arc::default(), Arc::default());
        let mut askers = Self { stop, asked, lost, threads: Vec::new() };
        for _ in 0..2 {
            let (stop, asked, lost) = (Arc::clone(&askers.stop), Arc::clone(&askers.asked), Arc::clone(&askers.lost));
            let kernels = kernels.to_vec();
            askers.threads.push(thread::spawn(move || {
                let mut connection = Connection::open(address).unwrap();
                for name in kernels.iter().cycle() {
                    if stop.load(Ordering::SeqCst) {
                        return;
                    }
                    let answer = connection.request("GET", &format!("/{name}/openapi.json"), &[], None);
                    asked.fetch_add(1, Ordering::SeqCst);
                    let why = match answer {
                        Ok(answer) if answer.status == 200 => continue,
                        Ok(answer) => format!("{name}: {} {}", answer.status, answer.text()),
                        Err(why) => format!("{name}: {why}"),
                    };
                    lost.lock().unwrap().push(why);
                    return;
                }
            }));
        }
        askers
    }

    /// How many requests there were, and how many failed.
    fn stop(self) -> (usize, usize) {
        self.stop.store(true, Ordering::SeqCst);
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
        let lost = self.lost.lock().unwrap();
        lost.iter().for_each(|why| println!("  failed: {why}"));
        (self.asked.load(Ordering::SeqCst), lost.len())
    }
}

/// Entries that are appended to the immutable log, where there is one, also while it is killed.
struct Entries {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<(u64, u64)>>,
}

impl Entries {
    fn begin(server: &Server, kernels: &[String]) -> Option<Self> {
        kernels.iter().find(|name| *name == "immutable_log")?;
        let (stop, address) = (Arc::new(AtomicBool::new(false)), server.address);
        let told = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let (mut acknowledged, mut connection) = (Vec::new(), None);
            for number in 0_u64.. {
                if told.load(Ordering::SeqCst) {
                    break;
                }
                let mut open = connection.take().unwrap_or_else(|| Connection::open(address).unwrap());
                let body = json!({"kind": "bench", "data": {"number": number}}).to_string();
                if let Ok(answer) = open.request("POST", "/immutable_log/append", &[], Some(body.as_bytes())) {
                    if answer.status == 200 {
                        acknowledged.push((answer.json()["index"].as_u64().unwrap(), number));
                    }
                    connection = Some(open);
                }
            }
            acknowledged
        });
        Some(Self { stop, thread })
    }

    /// Every entry that was acknowledged is there; gives how many those are.
    fn check(self, server: &Server) -> usize {
        self.stop.store(true, Ordering::SeqCst);
        let acknowledged = self.thread.join().unwrap();
        let mut connection = server.connect();
        for (index, number) in &acknowledged {
            let path = format!("/immutable_log/entries/{index}");
            let entry = connection.request("GET", &path, &[], None).unwrap().expect(200);
            assert!(entry.to_string().contains(&format!("\"number\":{number}")), "entry {index} is another: {entry}");
        }
        acknowledged.len()
    }
}
