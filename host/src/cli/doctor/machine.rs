//! What of the machine itself decides whether a fleet runs well.

use super::Findings;
use crate::clock::{Clock, rfc3339};
use crate::config::File;
use rustix::process::{Resource, getrlimit};

/// Files beside connections: logs, ledgers, sockets of kernels.
const OTHER_FILES: u64 = 256;
/// No machine that runs this has an earlier time: 2024-01-01.
const EARLIEST_MS: u64 = 1_704_067_200_000;

pub(super) fn look(file: Option<&File>, findings: &mut Findings) {
    open_files(file, findings);
    let now = Clock::System.now_ms();
    if now < EARLIEST_MS {
        let advice = "set the clock (`timedatectl set-ntp true`): times of records and permits are read by it";
        findings.error("clock", format!("it is {} by this machine", rfc3339(now)), advice);
    } else {
        findings.ok("clock", format!("it is {} by this machine", rfc3339(now)));
    }
    if !std::path::Path::new("/proc/self/stat").exists() {
        let advice = "mount it: processes and holders of ports are found by it, and Guardian works blindly without";
        findings.error("machine", "/proc is not there", advice);
    }
}

fn open_files(file: Option<&File>, findings: &mut Findings) {
    let Some(limit) = getrlimit(Resource::Nofile).current else {
        findings.ok("limits", "open files: not limited");
        return;
    };
    let connections = file.map_or(0, |file| file.limits.max_connections as u64);
    // A connection that is passed on is two.
    let wanted = connections.saturating_mul(2) + OTHER_FILES;
    if limit < wanted {
        let found = format!(
            "{limit} open files for a process; {connections} connections (limits.max_connections) need {wanted}"
        );
        let advice = "`LimitNOFILE=65536` in the unit, `ulimit -n 65536` in a shell, or fewer limits.max_connections";
        findings.warning("limits", found, advice);
    } else {
        findings.ok("limits", format!("{limit} open files for a process, {wanted} are enough"));
    }
}
