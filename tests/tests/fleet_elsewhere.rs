//! Kernels on other machines: reached by their URL, checked, led to, and never started or stopped from here.
//!
//! What belongs here: as much of several machines as one allows. Another machine is a process that nobody here started, and,
//! where the system lets a test make them, one in a network of its own.

#![allow(clippy::print_stderr, reason = "a test that is skipped says why")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed; its helpers are part of it")]

use gavel_tests::fleet::free_ports;
use gavel_tests::{Config, Connection, Gavel, Key, PATIENCE, Server, Site, gavel_path, path, scratch};
use serde_json::{Value, json};
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::Instant;

const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// A kernel that runs on another machine. Killed when dropped.
struct Elsewhere(Child);

impl Elsewhere {
    /// Governance at this address, of the fleet of this site, run by `how` (a command that runs commands, or nothing).
    fn start(how: &[&str], site: &Site, address: SocketAddr) -> Self {
        let (program, rest) =
            how.split_first().map_or((gavel_path().as_os_str(), how), |(first, rest)| (first.as_ref(), rest));
        let mut command = Command::new(program);
        command.args(rest);
        if !how.is_empty() {
            command.arg(gavel_path());
        }
        let (config, data) = (site.path().join("there.yaml"), site.path().join("there"));
        command.args(["kernel", "run", "governance", "--config", path(&config), "--data", path(&data)]);
        command.args(["--listen", &address.to_string()]);
        command.env("HOME", scratch().join("home")).env("XDG_CACHE_HOME", scratch().join("cache"));
        Self(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }

    /// SIGKILL.
    fn kill(mut self) {
        self.0.kill().unwrap();
        let _ = self.0.wait();
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A fleet whose governance is at `there`, and the configuration of that one beside it.
fn site(there: SocketAddr, key: &Key) -> Site {
    let plan = gavel::config::FleetFile::default().plan().unwrap();
    let others = plan.in_order().filter(|one| one.place.name() == "process" && one.name != "governance");
    let mut kernels: Value = others.map(|one| (one.name.clone(), json!({"enabled": false}))).collect();
    kernels["governance"] = json!({"url": format!("http://{there}"), "health_path": "/readyz", "required": false});
    let fleet = json!({
        "listen": "127.0.0.1:0", "first_port": 0, "check_every_ms": 50, "check_timeout_ms": 10_000, "token_file": "token", "kernels": kernels,
    });
    let site = Site::new(&Config::open().keys(&[key]).with("fleet", fleet));
    let there = Config::open().keys(&[key]).with("fleet", json!({"token_file": "token"}));
    fs::write(site.path().join("there.yaml"), there.to_bytes()).unwrap();
    let token = site.path().join("token");
    fs::write(&token, SECRET).unwrap();
    fs::set_permissions(&token, fs::Permissions::from_mode(0o600)).unwrap();
    site
}

fn up(site: &Site) -> Server {
    let (config, data) = (site.config(), site.data());
    let args = ["fleet", "up", "--config", path(&config), "--data", path(&data)];
    Server::spawn(Gavel::new(args), site.clone())
}

fn governance(health: &Value) -> Value {
    health["kernels"].as_array().unwrap().iter().find(|kernel| kernel["name"] == "governance").unwrap().clone()
}

/// How many checks of it failed in a row: `nobody listens on its port (3 checks in a row)`.
fn checks_failed(health: &Value) -> u32 {
    let kernel = governance(health);
    let told = kernel["detail"].as_str().unwrap().rsplit_once('(').map_or("", |(_, told)| told);
    told.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// Wait until the kernel at this address answers by itself.
fn wait_for(address: SocketAddr) {
    let until = Instant::now() + PATIENCE;
    let ready = || {
        let answer = Connection::open(address).and_then(|mut one| one.request("GET", "/readyz", &[], None));
        answer.is_ok_and(|answer| answer.status == 200)
    };
    while !ready() {
        assert!(Instant::now() < until, "governance does not start at {address}");
        thread::yield_now();
    }
}

/// A kernel elsewhere is lost, and comes back: what the main API says and does meanwhile.
fn lost_and_found(how: &[&str], address: SocketAddr) {
    let key = Key::make("ops", &["--role", "operator"]);
    let site = site(address, &key);
    let there = Elsewhere::start(how, &site, address);
    wait_for(address);
    let server = up(&site);
    server.wait_for("/health", |health| governance(health)["status"] == "healthy");
    assert_eq!(server.get("/governance/livez").status, 200);
    // It knows the parts of its fleet by the secret that they share, and nobody by another.
    let status = |secret: &str| {
        let shown = format!("Bearer {secret}");
        let mut connection = Connection::open(address).unwrap();
        connection.request("GET", "/status", &[("authorization", &shown)], None).unwrap().status
    };
    assert_eq!((status(SECRET), status("another")), (200, 401));
    // So do kernels that ask each other through the main API.
    let through = |secret: &str| {
        let shown = format!("Bearer {secret}");
        server
            .send("GET", "/governance/status", &[("authorization", &shown), ("gavel-kernel", "scheduler")], None)
            .status
    };
    assert_eq!((through(SECRET), through("another")), (200, 401));

    there.kill();
    server.wait_for("/health", |health| governance(health)["status"] == "unhealthy" && checks_failed(health) >= 3);
    // After three checks without an answer nobody waits for it any more.
    let refused = server.get("/governance/livez");
    assert_eq!((refused.status, &refused.json()["kernel"]), (503, &json!("governance")));
    let run = |args: &[&str]| Gavel::new(args).env("GAVEL_FLEET_URL", &server.url).env("GAVEL_KEY", &key.secret).run();
    let told = run(&["fleet", "restart", "governance"]).code(1).stdout;
    assert!(told.contains(&format!("runs elsewhere (http://{address}): start and stop it there")), "{told}");
    let told = run(&["heal", "governance"]).code(1).stdout;
    assert!(told.contains("runs elsewhere") && told.ends_with("NOT HEALED\n"), "{told}");
    let fleet = run(&["fleet", "status", "--json"]).code(1).json();
    let kernel = &fleet["kernels"][0];
    assert_eq!((&kernel["place"], &kernel["pid"]), (&json!("elsewhere"), &Value::Null));
    assert_eq!((&kernel["restarts"], &kernel["port"]), (&json!(0), &json!(address.port())));
    let found = run(&["doctor", "--config", path(&site.config()), "--data", path(&site.data()), "--url", &server.url]);
    let told = found.code(0).stdout;
    assert!(told.contains("`governance` runs elsewhere") && told.contains("look there"), "{told}");
    assert!(TcpStream::connect(address).is_err(), "nobody here took its place");

    let _there = Elsewhere::start(how, &site, address);
    server.wait_for("/health", |health| governance(health)["status"] == "healthy");
    assert_eq!(server.get("/governance/livez").status, 200);
    assert!(!server.log().contains(SECRET), "the secret is not told");
}

#[test]
fn a_kernel_elsewhere_is_lost_and_found() {
    // Not one that the system gives out: the port is nobody's for a while.
    lost_and_found(&[], SocketAddr::from(([127, 0, 0, 1], free_ports())));
}

/// A network namespace with one end of a cable in it, and the other end here.
struct Network {
    name: String,
    cable: String,
    there: String,
}

impl Network {
    /// Why there is none, if the system does not let us.
    fn lay() -> Result<Self, String> {
        let number = std::process::id() % 60_000;
        let (name, cable) = (format!("gavel-{number}"), format!("gv{number}"));
        let net = format!("10.213.{}", number % 250);
        let laid = Self { there: format!("{net}.2"), name, cable };
        let (name, cable) = (&laid.name, &laid.cable);
        ip(&["netns", "add", name])?;
        ip(&["link", "add", cable, "type", "veth", "peer", "name", "far", "netns", name])?;
        ip(&["addr", "add", &format!("{net}.1/24"), "dev", cable])?;
        ip(&["link", "set", cable, "up"])?;
        ip(&["-n", name, "addr", "add", &format!("{net}.2/24"), "dev", "far"])?;
        ip(&["-n", name, "link", "set", "far", "up"])?;
        ip(&["-n", name, "link", "set", "lo", "up"])?;
        Ok(laid)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = ip(&["link", "del", &self.cable]);
        let _ = ip(&["netns", "del", &self.name]);
    }
}

fn ip(args: &[&str]) -> Result<(), String> {
    let told = |done: &Output| String::from_utf8_lossy(&done.stderr).trim().to_owned();
    match Command::new("ip").args(args).output() {
        Ok(done) if done.status.success() => Ok(()),
        Ok(done) => Err(format!("`ip {}`: {}", args.join(" "), told(&done))),
        Err(why) => Err(format!("`ip`: {why}")),
    }
}

#[test]
fn a_kernel_in_a_network_of_its_own_is_lost_and_found() {
    let network = match Network::lay() {
        Ok(network) => network,
        Err(why) => {
            eprintln!("skipped: no network namespace can be made here: {why}");
            return;
        }
    };
    let address = format!("{}:8110", network.there).parse().unwrap();
    assert!(Path::new("/proc/self/ns/net").exists());
    lost_and_found(&["ip", "netns", "exec", &network.name], address);
}
