//! The fleet from outside: `gavel fleet`, `gavel heal` and `gavel doctor`, as an operator runs them on a real one.
//!
//! What belongs here: what these commands say and do, and what a fleet says to those who use it wrongly. Kernels on other
//! machines are in `fleet_elsewhere.rs`, the manifests in `deploy.rs`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed; its helpers are part of it")]

use gavel_tests::fleet::free_ports;
use gavel_tests::{Config, Gavel, Output, PATIENCE, Server, Site, gavel, gavel_path, path};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Instant, SystemTime};

/// A fleet of governance alone, on free ports, with this in its section.
fn alone(section: &Value) -> Config {
    let plan = gavel::config::FleetFile::default().plan().unwrap();
    let others = plan.in_order().filter(|one| one.place.name() == "process" && one.name != "governance");
    let mut fleet = json!({"listen": "127.0.0.1:0", "first_port": 0, "check_every_ms": 200});
    fleet["kernels"] = others.map(|one| (one.name.clone(), json!({"enabled": false}))).collect();
    fleet["kernels"]["governance"] = json!({"needs": []});
    for (key, value) in section.as_object().unwrap() {
        fleet[key] = value.clone();
    }
    Config::open().with("fleet", fleet)
}

fn command(site: &Site) -> Gavel {
    Gavel::new(["fleet", "up", "--config", path(&site.config()), "--data", path(&site.data())])
}

fn up(site: &Site) -> Server {
    Server::spawn(command(site), site.clone())
}

/// `gavel ARGS` with this fleet's main API.
fn run(server: &Server, args: &[&str]) -> Output {
    Gavel::new(args).env("GAVEL_FLEET_URL", &server.url).run()
}

fn kernel(server: &Server, name: &str) -> Value {
    let fleet = server.get("/fleet").expect(200);
    fleet["kernels"].as_array().unwrap().iter().find(|kernel| kernel["name"] == name).unwrap().clone()
}

#[test]
fn a_fleet_is_seen() {
    let server = up(&Site::new(&alone(&json!({}))));
    let status = run(&server, &["fleet", "status"]).code(0).stdout;
    let line = status.lines().find(|line| line.starts_with("governance ")).unwrap();
    assert!(
        status.starts_with("fleet healthy  (gavel ") && line.contains("healthy") && line.contains("MiB"),
        "{status}"
    );
    assert!(status.lines().any(|line| line.starts_with("not started: ") && line.contains("scheduler")), "{status}");
    let fleet = run(&server, &["fleet", "status", "--json"]).code(0).json();
    let first = &fleet["kernels"][0];
    assert_eq!((&first["name"], &first["place"]), (&json!("governance"), &json!("process")));
    assert!(first["memory_bytes"].as_u64() > Some(1 << 20) && first["cpu_seconds"].is_number(), "{first}");
    assert!(fleet["main"]["memory_bytes"].as_u64() > Some(1 << 20), "{fleet}");
    for _ in 0..20 {
        let _ = server.get("/governance/livez").expect(200);
    }
    let top = run(&server, &["fleet", "top", "--once", "--json", "--interval", "0.1"]).code(0).json();
    assert_eq!(top["kernels"][0]["name"], "governance");
    assert!(top["kernels"][0]["requests_per_second"].is_number() && top["main_cpu_percent"].is_number(), "{top}");
    let tables = run(&server, &["fleet", "top", "--batch", "2", "--interval", "0.1"]).code(0).stdout;
    assert_eq!(tables.lines().filter(|line| line.starts_with("gavel fleet  healthy")).count(), 2, "{tables}");
    // Without a port there is nowhere to ask.
    let idle = kernel(&server, "scheduler");
    assert_eq!((&idle["port"], &idle["health_url"], &idle["metrics_url"]), (&json!(0), &json!(""), &json!("")));
}

#[test]
fn kernels_are_stopped_started_and_restarted() {
    let server = up(&Site::new(&alone(&json!({}))));
    let pid = kernel(&server, "governance")["pid"].clone();
    let restarted = run(&server, &["fleet", "restart", "governance"]).code(0).stdout;
    assert!(restarted.starts_with("governance: restart done\n") && restarted.contains("it is well"), "{restarted}");
    assert_ne!(kernel(&server, "governance")["pid"], pid);
    let started = run(&server, &["fleet", "start", "governance"]).code(0).stdout;
    assert!(started.contains("it runs already: process "), "{started}");
    let stopped = run(&server, &["fleet", "stop", "--all", "--json"]).code(0).json();
    assert_eq!((&stopped[0]["component"], &stopped[0]["success"]), (&json!("governance"), &json!(true)));
    let status = run(&server, &["fleet", "status"]).code(1).stdout;
    assert!(status.starts_with("fleet unhealthy") && status.contains("an operator stopped it"), "{status}");
    let refused = server.get("/governance/livez");
    assert!(refused.error(503).contains("an operator stopped it"));
    let found =
        run(&server, &["doctor", "--config", path(&server.site().config()), "--data", path(&server.site().data())]);
    assert!(found.code(1).stdout.contains("`gavel fleet start governance` if that was not meant"));
    let _ = run(&server, &["fleet", "start", "governance"]).code(0);
    assert_eq!(kernel(&server, "governance")["status"], "healthy");
    let reset = run(&server, &["fleet", "reset", "governance"]).code(0).stdout;
    assert!(reset.starts_with("governance: failures forgotten, healthy"), "{reset}");
}

#[test]
fn what_cannot_be_operated_is_told() {
    let server = up(&Site::new(&alone(&json!({}))));
    let idle = run(&server, &["fleet", "restart", "scheduler"]).code(1).stdout;
    assert!(idle.contains("scheduler: restart NOT DONE: component 'scheduler' is not started in this fleet"), "{idle}");
    let told = |args: &[&str]| run(&server, args).code(2).stderr;
    assert!(told(&["fleet", "stop", "nobody"]).contains("no kernel `nobody`; it runs: governance"));
    assert!(told(&["fleet", "logs", "nobody"]).contains("Component 'nobody' not found"));
    assert!(told(&["fleet", "reset", "../x"]).contains("`../x` is no kernel's name"));
    assert!(told(&["heal", "nobody"]).contains("Component 'nobody' not found"));
    assert!(told(&["heal", "governance", "--playbook", "dance"]).contains("there are: restart_component, clear_port"));
    let _ = run(&server, &["fleet", "restart"]).code(2);
    let nobody = gavel(["fleet", "status", "--url", "http://127.0.0.1:1"]).code(2);
    assert!(nobody.stderr.contains("no answer from http://127.0.0.1:1/fleet"), "{}", nobody.stderr);
}

#[test]
fn logs_are_shown_and_followed() {
    let server = up(&Site::new(&alone(&json!({}))));
    let whole = run(&server, &["fleet", "logs", "governance"]).code(0).stdout;
    assert!(whole.contains("serving"), "{whole}");
    let last = run(&server, &["fleet", "logs", "--lines", "1"]).code(0).stdout;
    assert!(last.starts_with("        governance | ") && last.lines().count() == 1, "{last}");
    let told = run(&server, &["fleet", "logs", "governance", "--lines", "1", "--json"]).code(0).json();
    assert_eq!(told["lines"].as_array().unwrap().len(), 1);
    let mut following = Command::new(gavel_path())
        .args(["fleet", "logs", "--follow", "--json", "--lines", "1", "--url", &server.url])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(following.stdout.take().unwrap()).lines().map(Result::unwrap);
    // Whoever gets the last line hears all that come after it.
    let first: Value = serde_json::from_str(&lines.next().unwrap()).unwrap();
    assert_eq!(first["kernel"], "governance");
    let _ = run(&server, &["fleet", "restart", "governance"]).code(0);
    assert!(lines.any(|line| line.contains("serving")), "the stream ended without it");
    server.ask_to_stop();
    drop(lines);
    let _ = following.kill();
    let _ = following.wait();
}

#[test]
fn a_kernel_is_healed_and_the_evidence_is_readable() {
    let server = up(&Site::new(&alone(&json!({}))));
    let healed = run(&server, &["heal", "governance", "--issue", "process_crashed"]).code(0).stdout;
    assert!(healed.ends_with("healed\n") && healed.contains("restart_component: it is well"), "{healed}");
    let looked = run(&server, &["heal", "governance", "--playbook", "diagnose_network", "--json"]).code(1).json();
    let played = &looked["healing_result"]["results"][0];
    assert_eq!((&looked["success"], &played["diagnosis"]["listening"]), (&json!(false), &json!(true)), "{looked}");
    let detail = played["steps"][0]["detail"].as_str().unwrap();
    assert!(detail.starts_with("held by process ") && detail.contains("it is well"), "{detail}");
    let text = run(&server, &["heal", "governance", "--playbook", "diagnose_network"]).code(1).stdout;
    assert!(text.contains("diagnose_network: looked") && text.ends_with("NOT HEALED\n"), "{text}");
    let idle = run(&server, &["heal", "scheduler", "--issue", "process_crashed"]).code(1).stdout;
    assert!(idle.contains("it is not started in this fleet"), "{idle}");
}

/// Everything below a folder: length and time of each file.
fn everything(folder: &Path) -> BTreeMap<String, (u64, SystemTime)> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let metadata = entry.metadata().unwrap();
        found.insert(path(&entry.path()).to_owned(), (metadata.len(), metadata.modified().unwrap()));
        if metadata.is_dir() {
            found.extend(everything(&entry.path()));
        }
    }
    found
}

fn doctor(site: &Site, args: &[&str]) -> Output {
    let (config, data) = (site.config(), site.data());
    Gavel::new(["doctor", "--config", path(&config), "--data", path(&data)].iter().chain(args)).run()
}

fn findings<'a>(told: &'a Value, severity: &str) -> Vec<&'a str> {
    let all = told["findings"].as_array().unwrap().iter().filter(|one| one["severity"] == severity);
    all.map(|one| one["found"].as_str().unwrap()).collect()
}

#[test]
fn the_doctor_looks_at_a_bare_machine_and_leaves_it_bare() {
    let home = tempfile::tempdir().unwrap();
    let told = Gavel::new(["doctor", "--json", "--url", "http://127.0.0.1:1"])
        .env("HOME", home.path())
        .env("XDG_DATA_HOME", home.path().join("data"))
        .env("XDG_CACHE_HOME", home.path().join("cache"))
        .run()
        .json();
    assert!(findings(&told, "note").iter().any(|found| found.contains("data/gavel is not there yet")), "{told}");
    assert!(everything(home.path()).is_empty());

    let site = Site::new(&alone(&json!({})));
    let told = doctor(&site, &["--json"]).code(0).json();
    assert_eq!((&told["errors"], &told["findings"][0]["advice"].is_string()), (&json!(0), &true), "{told}");
    assert!(findings(&told, "note").iter().any(|found| found.contains("has no keys")), "{told}");
    assert!(!site.data().exists());
    site.configure(&Config::text("kernels: [{id: k}]\nfleet: {lisen: 1}\n"));
    let told = doctor(&site, &[]).code(1).stdout;
    assert!(told.starts_with("ERROR    configuration  ") && told.contains("unknown key `lisen`"), "{told}");
}

#[test]
fn the_doctor_looks_at_a_fleet_and_changes_nothing() {
    let site = Site::new(&alone(&json!({})));
    let server = up(&site);
    let told = doctor(&site, &["--json", "--url", &server.url]).code(0).json();
    let well = findings(&told, "ok");
    for wanted in
        ["a fleet runs on ", "the fleet at http://", "`governance` is healthy", "free on the volume of ", "k: "]
    {
        assert!(well.iter().any(|found| found.contains(wanted)), "{wanted}: {told}");
    }
    let open = well.iter().find(|found| found.starts_with("k: ")).unwrap();
    assert!(open.contains(", open in process "), "{open}");
    // The same with a main API that does not answer, which is an error while a fleet holds the data.
    let told = doctor(&site, &["--url", "http://127.0.0.1:1"]).code(1).stdout;
    assert!(told.contains("a fleet runs on this data, and http://127.0.0.1:1 gives no answer"), "{told}");
    let site = server.stop();
    fs::write(site.data().join("fleet/reports/000000000007.unreadable"), "{").unwrap();
    let before = everything(&site.data());
    let told = doctor(&site, &["--json"]).code(0).json();
    assert_eq!(everything(&site.data()), before);
    assert!(findings(&told, "warning").iter().any(|found| found.contains("000000000007.unreadable")), "{told}");
    assert!(findings(&told, "ok").iter().any(|found| found.starts_with("k: ") && found.contains("closed")), "{told}");
}

#[test]
fn two_fleets_on_one_data_folder_are_told_apart() {
    let site = Site::new(&alone(&json!({})));
    let server = up(&site);
    let told = command(&site).run_unless("fleet on http").code(2).stderr;
    let pid = server.pid();
    assert!(told.contains(&format!("is the data of a fleet that runs already (process {pid})")), "{told}");
    assert!(told.contains("(--data)"), "{told}");
    // One that wants the same address is told who has it.
    let elsewhere = tempfile::tempdir().unwrap();
    let (config, listen) = (site.config(), server.address.to_string());
    let args = ["fleet", "up", "--config", path(&config), "--data", path(elsewhere.path()), "--listen", &listen];
    let told = Gavel::new(args).run_unless("fleet on http").code(2).stderr;
    assert!(told.contains(&format!("port {} is held by process {pid} (gavel)", server.address.port())), "{told}");
    assert_eq!(kernel(&server, "governance")["status"], "healthy");
}

#[test]
fn needs_in_a_circle_are_told_before_anything_starts() {
    let kernels = json!({
        "governance": {"needs": ["second"]},
        "second": {"kind": "governance", "tier": "governance", "needs": ["governance"]},
    });
    let site = Site::new(&alone(&json!({})).with("fleet", json!({"kernels": kernels})));
    let told = command(&site).run_unless("fleet on http").code(2).stderr;
    assert!(told.contains("need each other in a circle: governance -> second -> governance"), "{told}");
    assert!(!site.data().exists());
    assert!(doctor(&site, &[]).code(1).stdout.contains("in a circle: governance -> second -> governance"));
}

#[test]
fn a_secret_that_others_can_read_is_refused() {
    let site = Site::new(&alone(&json!({"token_file": "token"})));
    fs::write(site.path().join("token"), "0123456789abcdef0123456789abcdef").unwrap();
    let told = command(&site).run_unless("fleet on http").code(2).stderr;
    assert!(told.contains("fleet.token_file: ") && told.contains("everybody can use it: `chmod 0600 "), "{told}");
    assert!(doctor(&site, &[]).code(1).stdout.contains("fleet.token_file: "));
}

#[test]
fn a_port_that_a_stranger_holds_is_left_to_it() {
    let first = free_ports();
    let stranger = TcpListener::bind(("127.0.0.1", first + 10)).unwrap();
    let site = Site::new(&alone(&json!({"first_port": first})));
    let told = doctor(&site, &["--json"]).code(0).json();
    let me = std::process::id();
    let held = format!("{}, of `governance`, is held by process {me} ", first + 10);
    assert!(findings(&told, "warning").iter().any(|found| found.starts_with(&held)), "{told}");

    let server = up(&site);
    server.wait_for("/kernel-ports/port/governance", |entry| entry["status"] == "healthy");
    let port = kernel(&server, "governance")["port"].as_u64().unwrap();
    assert!(port > u64::from(first + 10) && port < u64::from(first + 20), "{port}");
    let history = server.wait_for_healings("governance", 1).to_string();
    assert!(history.contains(&format!("port {} is held by process {me} ", first + 10)), "{history}");
    assert!(history.contains("it is left alone"), "{history}");
    let client = std::net::TcpStream::connect(("127.0.0.1", first + 10)).unwrap();
    let (_, from) = stranger.accept().unwrap();
    assert_eq!(from, client.local_addr().unwrap(), "the stranger still has its port");
    let _ = server.get("/governance/livez").expect(200);
}

#[test]
fn a_fleet_that_was_killed_leaves_what_the_doctor_tells() {
    let site = Site::new(&alone(&json!({})));
    let server = up(&site);
    let pid = kernel(&server, "governance")["pid"].as_u64().unwrap();
    server.kill();
    // Its kernels end with it, so nobody is left behind for long.
    let until = Instant::now() + PATIENCE;
    while Path::new(&format!("/proc/{pid}")).exists() {
        assert!(Instant::now() < until, "the kernel outlives its fleet");
        std::thread::yield_now();
    }
    let told = doctor(&site, &["--json"]).code(0).json();
    assert!(findings(&told, "ok").iter().all(|found| !found.contains("a fleet runs on ")), "{told}");
    let server = up(&site);
    assert_eq!(kernel(&server, "governance")["status"], "healthy");
}
