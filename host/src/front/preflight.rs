//! What Guardian looks at before it starts anything: itself, the network, the ports, who watches it.
//!
//! It changes nothing and stops nothing: a port that is another's is Guardian's to heal, a full disk the operator's. What it
//! found stands in the log and in `/kernel-ports/status`.

use gavel_fleet::{Place, Plan, Step, of_port};
use rustix::fs::statvfs;
use rustix::process::{Resource, getrlimit};
use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

/// Free bytes below which a disk is said to be full soon.
const FREE_BYTES_MIN: u64 = 256 << 20;
/// Open files below which a fleet is said to be short of them.
const OPEN_FILES_MIN: u64 = 1_024;
/// How long the machine may take to reach itself.
const LOOPBACK_TIMEOUT: Duration = Duration::from_secs(1);

/// Look at everything, in this order.
pub(super) fn look(plan: &Plan, folder: &Path) -> Vec<Step> {
    let looks: [(&'static str, Looked); 4] = [
        ("self_check", Box::new(|| itself(folder))),
        ("network", Box::new(network)),
        ("ports", Box::new(|| ports(plan))),
        ("watchdog", Box::new(|| Ok(watchdog()))),
    ];
    looks.into_iter().map(|(step, look)| taken(step, look)).collect()
}

type Looked<'a> = Box<dyn FnOnce() -> Result<String, String> + 'a>;

fn taken(step: &'static str, look: Looked<'_>) -> Step {
    let begun = Instant::now();
    let found = look();
    let ok = found.is_ok();
    let detail = found.unwrap_or_else(|why| why);
    let told = Step { step, ok, detail, took_ms: begun.elapsed().as_secs_f64() * 1e3 };
    if ok {
        tracing::debug!(step, "{}", told.detail);
    } else {
        tracing::warn!(step, "{}", told.detail);
    }
    told
}

/// Its folder can be written, its disk has room, it may open files.
fn itself(folder: &Path) -> Result<String, String> {
    let probe = folder.join("probe");
    let written = fs::File::create(&probe).and_then(|mut file| {
        file.write_all(b"probe")?;
        file.sync_all()
    });
    let removed = fs::remove_file(&probe);
    written.and(removed).map_err(|why| format!("{} cannot be written: {why}", folder.display()))?;
    let disk = statvfs(folder).map_err(|why| format!("{}: {why}", folder.display()))?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    if free < FREE_BYTES_MIN {
        let mib = free >> 20;
        return Err(format!("the disk of {} has {mib} MiB left: make room before it is full", folder.display()));
    }
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    if files < OPEN_FILES_MIN {
        return Err(format!("a process may open {files} files only: raise `ulimit -n` to {OPEN_FILES_MIN} or more"));
    }
    Ok(format!("the folder can be written, {} MiB are free", free >> 20))
}

/// The machine reaches itself by its loopback interface.
fn network() -> Result<String, String> {
    let told = |why: std::io::Error| format!("this machine does not reach itself on 127.0.0.1: {why}");
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(told)?;
    let address = listener.local_addr().map_err(told)?;
    TcpStream::connect_timeout(&address, LOOPBACK_TIMEOUT).map_err(told)?;
    Ok("the loopback interface answers".to_owned())
}

/// Who has the ports that the kernels want.
fn ports(plan: &Plan) -> Result<String, String> {
    let wanted = plan.in_order().filter(|component| component.place == Place::Process && component.port != 0);
    let (mut free, mut taken) = (0, Vec::new());
    for component in wanted {
        let port = component.port;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            free += 1;
            continue;
        }
        let holders: Vec<String> = of_port(port).iter().map(ToString::to_string).collect();
        let holders = if holders.is_empty() { "somebody".to_owned() } else { holders.join(" and ") };
        taken.push(format!("port {port} of {} is held by {holders}", component.name));
    }
    if taken.is_empty() { Ok(format!("{free} ports are free")) } else { Err(taken.join("; ")) }
}

fn watchdog() -> String {
    match sd_notify::watchdog_enabled() {
        Some(limit) => format!("systemd expects a sign of life every {} ms", limit.as_millis()),
        None => "nobody watches this process; under systemd, set WatchdogSec".to_owned(),
    }
}
