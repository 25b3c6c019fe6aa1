//! Being a service: what systemd is told and when, and the files of `docs/deploy`.
//!
//! What belongs here: the notify socket, signs of life, and that the deployment files are accepted by
//! the tools that they are for, where these are on the machine.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed; its helpers are part of it")]

use gavel_tests::{Config, Gavel, PATIENCE, Server, Site, gavel_path, intent, path, repository};
use serde_json::json;
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

/// What systemd would be: a datagram socket.
struct Manager {
    socket: UnixDatagram,
    folder: TempDir,
}

impl Manager {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { socket, folder }
    }

    /// A server that is watched by it.
    fn start(&self, site: &Site, watchdog_us: &str) -> Server {
        let command = site.command("127.0.0.1:0");
        let command = command.env("NOTIFY_SOCKET", self.folder.path().join("notify")).env("WATCHDOG_USEC", watchdog_us);
        Server::spawn(command, site.clone())
    }

    fn next(&self) -> String {
        let mut told = [0; 4_096];
        let length = self.socket.recv(&mut told).expect("systemd is told something");
        String::from_utf8(told[..length].to_vec()).unwrap()
    }

    /// What it is told next, apart from signs of life.
    fn next_state(&self) -> String {
        loop {
            let told = self.next();
            if told != "WATCHDOG=1\n" {
                return told;
            }
        }
    }
}

#[test]
fn systemd_is_told_of_every_state() {
    let manager = Manager::new();
    let server = manager.start(&Site::new(&Config::open()), "60000000");
    let ready = manager.next_state();
    assert!(ready.starts_with("READY=1\n") && ready.contains("WATCHDOG_USEC=60000000\n"), "{ready}");
    server.hang_up();
    let reloading = manager.next_state();
    assert!(reloading.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{reloading}");
    assert!(manager.next_state().starts_with("READY=1\n"));

    // A process that begins anew is the same service; it may take longer than a watchdog waits.
    drop(server.post("/restart", &json!({})).expect(200));
    let anew = manager.next_state();
    assert!(anew.starts_with("RELOADING=1\n") && anew.contains("WATCHDOG_USEC=600000000\n"), "{anew}");
    let ready = manager.next_state();
    assert!(ready.starts_with("READY=1\n") && ready.contains("WATCHDOG_USEC=60000000\n"), "{ready}");
    assert_eq!(server.submit(&intent("r1"))["decision"], "ALLOW");

    server.ask_to_stop();
    assert!(manager.next_state().starts_with("STOPPING=1\n"));
    let (status, _) = server.terminate();
    assert!(status.success(), "{status}");
}

#[test]
fn signs_of_life_come_while_it_serves() {
    let manager = Manager::new();
    let server = manager.start(&Site::new(&Config::open()), "200000");
    assert!(manager.next().starts_with("READY=1\n"));
    for number in 0..3 {
        assert_eq!(manager.next(), "WATCHDOG=1\n", "{number}");
        drop(server.submit(&intent(&format!("r{number}"))));
    }
}

#[test]
fn without_systemd_nothing_is_missing() {
    let server = Server::start(&Config::open());
    server.hang_up();
    server.wait_for_log("in service");
    assert!(!server.log().contains("systemd"), "{}", server.log());
}

fn present(program: &str) -> bool {
    Command::new("sh").args(["-c", &format!("command -v {program}")]).output().is_ok_and(|found| found.status.success())
}

#[test]
fn the_unit_is_one_that_systemd_accepts() {
    let unit = fs::read_to_string(repository().join("docs/deploy/gavel.service")).unwrap();
    for wanted in ["Type=notify\n", "WatchdogSec=", "ProtectSystem=strict\n", "MemoryDenyWriteExecute=no\n"] {
        assert!(unit.contains(wanted), "{wanted}");
    }
    // The command of the unit is one that this program knows.
    let line = unit.lines().find_map(|line| line.strip_prefix("ExecStart=/usr/local/bin/gavel ")).expect("a command");
    let help = Gavel::new(["serve", "--help"]).run().code(0).stdout;
    assert!(line.split(' ').filter(|word| word.starts_with("--")).all(|option| help.contains(option)), "{line}");
    if !present("systemd-analyze") {
        return; // There is no systemd on this machine.
    }
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("gavel.service");
    fs::write(&copy, unit.replace("/usr/local/bin/gavel", path(gavel_path()))).unwrap();
    let checked = Command::new("systemd-analyze").args(["verify", path(&copy)]).output().unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
}

#[test]
fn the_proxy_configuration_is_one_that_nginx_accepts() {
    let text = fs::read_to_string(repository().join("docs/deploy/nginx.conf")).unwrap();
    let directives = text.lines().filter(|line| !line.trim_start().starts_with('#'));
    assert!(!directives.clone().any(|line| line.contains("non_idempotent")), "a request must not run twice");
    assert!(directives.clone().any(|line| line.contains("proxy_next_upstream error timeout;")));
    if !present("nginx") {
        return; // There is no nginx on this machine.
    }
    let folder = tempfile::tempdir().unwrap();
    let checked = nginx_test(folder.path(), &text);
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
}

/// `nginx -t` in a folder of its own, so that it needs nobody's permission.
fn nginx_test(folder: &Path, text: &str) -> std::process::Output {
    let inside = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(|kind| format!("{kind}_temp_path {kind};"));
    let text = text.replace("http {\n", &format!("http {{\naccess_log off;\n{}\n", inside.join("\n")));
    let config = folder.join("nginx.conf");
    fs::write(&config, format!("pid nginx.pid;\nerror_log stderr;\n{text}")).unwrap();
    Command::new("nginx").args(["-t", "-p", path(folder), "-c", path(&config)]).output().unwrap()
}
