//! `gavel fleet status`: how the fleet is, the worst first.

use super::reach::{Fleet, Kernel, NOT_STARTED, Where, age, bytes};
use crate::cli::Outcome;
use crate::cli::output::{line, print_json, shown};
use anyhow::Result;

/// Tell how the fleet is: every kernel's status, since when, its restarts, memory and processor time. The worst first.
///
/// For cron: exit code 0 if it is healthy, 1 if it is degraded or unhealthy, 2 if there is no answer.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  gavel fleet status
  gavel fleet status --json --url http://127.0.0.1:8000")]
pub(super) struct Args {
    #[command(flatten)]
    at: Where,
}

pub(super) fn run(args: &Args, as_json: bool) -> Result<Outcome> {
    let mut fleet = Fleet::of(&args.at.client()?)?;
    worst_first(&mut fleet.kernels);
    if as_json {
        print_json(&fleet)?;
    } else {
        text(&fleet).iter().try_for_each(|told| line(told))?;
    }
    Ok(if fleet.status == "healthy" { Outcome::Yes } else { Outcome::No })
}

fn worst_first(kernels: &mut [Kernel]) {
    kernels.sort_by_key(|kernel| (std::cmp::Reverse(kernel.badness()), kernel.port));
}

fn text(fleet: &Fleet) -> Vec<String> {
    let main = &fleet.main;
    let cpu = |seconds: Option<f64>| seconds.map_or_else(|| "-".to_owned(), |seconds| format!("{seconds:.1} s"));
    let mut lines = vec![format!(
        "fleet {}  (gavel {}, process {}, {}, {} of processor time)",
        fleet.status,
        shown(&fleet.version, 32),
        main.pid,
        bytes(main.memory_bytes),
        cpu(main.cpu_seconds)
    )];
    lines.push(format!(
        "{:<20} {:<11} {:>5} {:>8}  {:<9} {:>8} {:>8} {:>10} {:>9}",
        "KERNEL", "TIER", "PORT", "PID", "STATUS", "SINCE", "RESTARTS", "MEMORY", "CPU"
    ));
    for kernel in fleet.meant_to_run() {
        let pid = match kernel.pid {
            Some(pid) => pid.to_string(),
            None if kernel.place == "elsewhere" => "remote".to_owned(),
            None => "-".to_owned(),
        };
        lines.push(format!(
            "{:<20} {:<11} {:>5} {pid:>8}  {:<9} {:>8} {:>8} {:>10} {:>9}",
            shown(&kernel.name, 64),
            kernel.tier,
            kernel.port,
            kernel.status,
            age(kernel.since, fleet.now),
            kernel.restarts,
            bytes(kernel.memory_bytes),
            cpu(kernel.cpu_seconds),
        ));
        if !kernel.detail.is_empty() {
            lines.push(format!("    {}", shown(&kernel.detail, 500)));
        }
    }
    let idle: Vec<&str> = fleet.kernels.iter().filter(|one| one.place == NOT_STARTED).map(|one| &*one.name).collect();
    if !idle.is_empty() {
        lines.push(format!("not started: {}", idle.join(", ")));
    }
    if !fleet.healing.is_empty() {
        lines.push(format!("being healed, started or stopped: {}", fleet.healing.join(", ")));
    }
    if fleet.reports_waiting > 0 {
        lines.push(format!("{} reports wait on disk for the kernels that keep them", fleet.reports_waiting));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::super::reach::tests::{fleet, kernel};
    use super::*;

    #[test]
    fn what_is_told() {
        let mut fleet = fleet("2026-01-01T00:01:05Z", 1.25);
        fleet.kernels[1].detail = "it crashed".to_owned();
        fleet.kernels.push(Kernel { place: NOT_STARTED.to_owned(), ..kernel("scheduler", NOT_STARTED, 0.0) });
        worst_first(&mut fleet.kernels);
        let expected = "\
fleet degraded  (gavel 1, process 6, 20.0 MiB, 1.2 s of processor time)
KERNEL               TIER         PORT      PID  STATUS       SINCE RESTARTS     MEMORY       CPU
audit_trail          core         8100        7  failed       1m 5s        2    3.0 MiB     0.0 s
    it crashed
message_bus          core         8100        7  healthy      1m 5s        2    3.0 MiB     1.2 s
not started: scheduler
1 reports wait on disk for the kernels that keep them";
        assert_eq!(text(&fleet).join("\n"), expected);
    }
}
