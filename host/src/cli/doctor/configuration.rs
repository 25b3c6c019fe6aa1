//! The configuration: what it starts, and who may reach it.

use super::Findings;
use crate::config::File;
use gavel_fleet::Place;
use std::path::Path;

const AREA: &str = "configuration";

pub(super) fn look(file: &File, path: Option<&Path>, findings: &mut Findings) {
    let shown = path.map_or_else(|| "no --config: what runs without one".to_owned(), |path| path.display().to_string());
    match file.fleet.plan() {
        Ok(plan) => {
            let count = |wanted: fn(&Place) -> bool| plan.in_order().filter(|one| wanted(&one.place)).count();
            let processes = count(|place| *place == Place::Process);
            let elsewhere = count(|place| matches!(place, Place::Elsewhere(_)));
            findings.ok(AREA, format!("{shown}: valid; {processes} kernels here, {elsewhere} on other machines"));
            if processes + elsewhere == 0 {
                findings.warning(AREA, "no kernel is to run", "enable one in `fleet.kernels`");
            }
        }
        Err(why) => findings.error(AREA, format!("{shown}: {why}"), "mend the section `fleet`"),
    }
    reachable(file, findings);
    token(file, findings);
}

/// Who reaches the main API, and what it takes.
fn reachable(file: &File, findings: &mut Findings) {
    let (listen, keys) = (file.fleet.listen, file.auth.keys.len());
    match (listen.ip().is_loopback(), keys) {
        (true, 0) => findings.note(
            AREA,
            format!("the main API on {listen} has no keys: every user of this machine may do everything"),
            "if others use this machine, configure keys (`gavel key --help`)",
        ),
        (false, 0) => findings.error(
            AREA,
            format!("`fleet.listen` is {listen}, which others reach, and there are no keys: the fleet does not start"),
            "configure keys (`gavel key --help`), or listen on 127.0.0.1",
        ),
        (is_local, keys) => {
            let reach = if is_local { "this machine only" } else { "other machines too" };
            findings.ok(AREA, format!("the main API on {listen} is reached by {reach}, with one of {keys} keys"));
        }
    }
    if file.tls.is_some() {
        findings.error(
            AREA,
            "`tls` is configured: a fleet's main API speaks plain HTTP, and does not start with it",
            "take `tls` out, and put a proxy before it that ends TLS (docs/deploy/nginx.conf)",
        );
    } else if !listen.ip().is_loopback() && keys > 0 {
        findings.note(
            AREA,
            format!("the main API on {listen} speaks plain HTTP: keys can be read on the way"),
            "put a proxy before it that ends TLS (docs/deploy/nginx.conf), or keep the network to yourself",
        );
    }
}

/// The secret of a fleet that spans machines.
fn token(file: &File, findings: &mut Findings) {
    let elsewhere = file.fleet.kernels.iter().filter(|(_, kernel)| kernel.url.is_some()).map(|(name, _)| name.as_str());
    let elsewhere: Vec<&str> = elsewhere.collect();
    match (file.fleet.token(), elsewhere.as_slice()) {
        (Err(why), _) => findings.error(AREA, why, "the fleet does not start without its secret"),
        (Ok(Some(_)), _) => findings.ok(AREA, "`fleet.token_file` holds a secret that only its owner can read"),
        (Ok(None), []) => {}
        (Ok(None), names) => findings.note(
            AREA,
            format!("{} run on other machines, and there is no `fleet.token_file`", names.join(", ")),
            "share one secret with them, or they do not know Guardian, nor the other kernels them (docs/fleet.md)",
        ),
    }
}
