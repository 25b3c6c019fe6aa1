//! The fleet that runs, as its main API and Guardian see it.

use super::{Args, Findings, Severity};
use crate::cli::client::Client;
use crate::cli::fleet::reach::{Fleet, Kernel, bytes, in_path};
use crate::clock::Clock;
use crate::config::File;
use anyhow::Result;
use serde_json::Value;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const AREA: &str = "main API";
/// Seconds that one answer may take.
const PATIENCE_SECONDS: u64 = 10;
/// Restarts from which on a kernel is not only unlucky.
const RESTARTS_MANY: u32 = 3;
/// Milliseconds that two clocks may differ.
const CLOCKS_MS_MAX: u64 = 2_000;

pub(super) fn look(args: &Args, file: Option<&File>, runs: bool, findings: &mut Findings) {
    let Some(url) = args.url.clone().or_else(|| configured(file?)) else {
        findings.note(AREA, "the configuration takes a free port", "say where it is with --url");
        return;
    };
    match asked(args, &url) {
        Ok((client, fleet)) => {
            whole(&url, &fleet, findings);
            clocks(&fleet, findings);
            for kernel in fleet.meant_to_run() {
                of_kernel(&client, kernel, findings);
            }
        }
        Err(why) if runs => {
            let advice =
                "its log says more; a key that it does not know is given by GAVEL_KEY, another address by --url";
            findings.error(AREA, format!("a fleet runs on this data, and {url} gives no answer: {why:#}"), advice);
        }
        Err(why) => {
            let advice = "if no fleet runs, this is as it should be: `gavel fleet up` starts one";
            findings.note(AREA, format!("{why:#}"), advice);
        }
    }
}

/// Where the configuration says that the main API listens.
fn configured(file: &File) -> Option<String> {
    let mut listen = file.fleet.listen;
    match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => listen.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => listen.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    (listen.port() != 0).then(|| format!("http://{listen}"))
}

fn asked(args: &Args, url: &str) -> Result<(Client, Fleet)> {
    let client = args.how.with_patience(PATIENCE_SECONDS).remote(url).client()?;
    let fleet = Fleet::of(&client)?;
    Ok((client, fleet))
}

fn whole(url: &str, fleet: &Fleet, findings: &mut Findings) {
    let main = &fleet.main;
    let found = format!("the fleet at {url} is {} (process {}, {})", fleet.status, main.pid, bytes(main.memory_bytes));
    match fleet.status.as_str() {
        "healthy" => findings.ok(AREA, found),
        "degraded" => findings.warning(AREA, found, "see below which kernels are not well"),
        _ => findings.error(AREA, found, "see below which required kernels are not well"),
    }
    let mine = env!("CARGO_PKG_VERSION");
    if fleet.version != mine {
        let found = format!("it is of version {}, this program of {mine}", fleet.version);
        findings.warning(AREA, found, "start the fleet again with the program that is installed now");
    }
    if !fleet.healing.is_empty() {
        let found = format!("at work on {}", fleet.healing.join(", "));
        findings.note("Guardian", found, "look again when it is done");
    }
    if fleet.reports_waiting > 0 {
        let found = format!("{} reports wait for the kernels that keep them", fleet.reports_waiting);
        findings.note("Guardian", found, "see that immutable_log, message_bus and alert_service are well");
    }
}

fn clocks(fleet: &Fleet, findings: &mut Findings) {
    let there = u64::try_from(fleet.now.0.as_millisecond()).unwrap_or_default();
    let apart = there.abs_diff(Clock::System.now_ms());
    if apart > CLOCKS_MS_MAX {
        let found = format!("the main API's clock and that of this machine are {} s apart", apart / 1_000);
        findings.warning("clock", found, "have both set by NTP: permits expire by the clock");
    }
}

fn of_kernel(client: &Client, kernel: &Kernel, findings: &mut Findings) {
    let Kernel { name, status, port, pid, restarts, failures, detail, .. } = kernel;
    let looked = in_path(name).and_then(|name| client.get_json(&format!("/network-healer/recommendations/{name}")));
    let (seen, advice) = match &looked {
        Ok(looked) => (seen(&looked["diagnosis"]), advice(looked)),
        Err(why) => (format!("cannot be looked at: {why:#}"), String::new()),
    };
    let process = match pid {
        Some(pid) => format!("process {pid}"),
        None if kernel.place == "elsewhere" => "elsewhere".to_owned(),
        None => "no process".to_owned(),
    };
    let why = if detail.is_empty() { String::new() } else { format!(": {detail}") };
    let found = format!("`{name}` is {status}{why} (port {port}, {process}{seen})");
    let severity = match status.as_str() {
        "healthy" => Severity::Ok,
        "starting" => Severity::Note,
        "failed" => Severity::Error,
        _ if kernel.required => Severity::Error,
        _ => Severity::Warning,
    };
    let severity = if advice.is_empty() { severity } else { severity.max(Severity::Note) };
    // That an operator stopped it Guardian does not question.
    let own = status == "stopped" || (advice.is_empty() && severity > Severity::Note);
    let advice = if own { fallback(kernel) } else { advice };
    findings.add(severity, "kernel", found, advice);
    if *restarts >= RESTARTS_MANY {
        let found = format!("`{name}` was started again {restarts} times");
        findings.warning("kernel", found, format!("`gavel fleet logs {name}` says why it ended"));
    } else if *restarts > 0 || *failures > 0 {
        let found = format!("`{name}` was started again {restarts} times; {failures} checks in a row failed last");
        findings.note("kernel", found, format!("`gavel fleet logs {name}`"));
    }
}

/// What to do where Guardian has no advice.
fn fallback(kernel: &Kernel) -> String {
    let name = &kernel.name;
    match kernel.status.as_str() {
        "stopped" => format!("`gavel fleet start {name}` if that was not meant"),
        "failed" => format!("`gavel fleet logs {name}`, mend the cause, then `gavel fleet reset {name}`"),
        _ => format!("`gavel fleet logs {name}`, then `gavel heal {name}`"),
    }
}

/// Values of a diagnosis.
fn seen(diagnosis: &Value) -> String {
    let open = diagnosis["open_files"].as_u64().map(|open| format!(", {open} open files")).unwrap_or_default();
    let memory = diagnosis["memory_bytes"].as_u64().map(|held| format!(", {}", bytes(Some(held)))).unwrap_or_default();
    let health = diagnosis["health"].as_str().map(|health| format!(", {health}")).unwrap_or_default();
    format!("{health}{open}{memory}")
}

fn advice(looked: &Value) -> String {
    let told: Vec<&str> =
        looked["recommendations"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    told.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_it_listens_is_where_it_is_asked() {
        let asked = |listen: &str| {
            let mut file = crate::config::read_or_default(None).unwrap();
            file.fleet.listen = listen.parse().unwrap();
            configured(&file)
        };
        assert_eq!(asked("0.0.0.0:8000").as_deref(), Some("http://127.0.0.1:8000"));
        assert_eq!(asked("[::]:8000").as_deref(), Some("http://[::1]:8000"));
        assert_eq!(asked("10.0.0.1:1").as_deref(), Some("http://10.0.0.1:1"));
        assert_eq!(asked("127.0.0.1:0"), None);
    }
}
