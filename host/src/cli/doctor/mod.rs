//! `gavel doctor`: look at everything, change nothing, and say what to do.
//!
//! It reads files and asks GET routes. It makes, locks, signals and writes nothing, so it may be run beside a fleet at any
//! time, by whoever, with nothing running and on a machine that has never seen one.

mod configuration;
mod folders;
mod locks;
mod machine;
mod ports;
mod running;

use super::Outcome;
use super::fleet::reach::How;
use super::output::{line, print_json, shown};
use crate::config::{self, File};
use crate::host::default_data_dir;
use anyhow::Result;
use serde::Serialize;
use serde_json::json;
use std::path::PathBuf;

/// Diagnose the whole system, and say what to do. Changes nothing.
///
/// Looks at the configuration, ports, processes, folders, ledgers, limits and the clock of this machine, and if the main API
/// of a fleet answers, at every kernel of it. Exit code 0 if nothing is wrong, 1 if there is an error, 2 if it cannot look.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  gavel doctor
  gavel doctor --config /etc/gavel/gavel.yaml --data /var/lib/gavel
  gavel doctor --json | jq '.findings[] | select(.severity == \"error\")'")]
pub(super) struct Args {
    /// The configuration (YAML) of the fleet. Default: what `gavel fleet up` runs without one.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where everything lies. Wins over the file.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// The main API of the fleet. Default: where the configuration says that it listens.
    #[arg(long, env = "GAVEL_FLEET_URL", value_name = "URL")]
    url: Option<String>,
    #[command(flatten)]
    how: How,
}

/// How bad something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Severity {
    /// As it should be.
    Ok,
    /// Good to know.
    Note,
    /// It works, and may not for long.
    Warning,
    /// It does not work.
    Error,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Finding {
    severity: Severity,
    /// What it is about.
    area: &'static str,
    /// What was found, with values.
    found: String,
    /// What to do; empty if nothing is to be done.
    advice: String,
}

/// All that was found.
#[derive(Debug, Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn ok(&mut self, area: &'static str, found: impl Into<String>) {
        self.add(Severity::Ok, area, found, "");
    }

    fn note(&mut self, area: &'static str, found: impl Into<String>, advice: impl Into<String>) {
        self.add(Severity::Note, area, found, advice);
    }

    fn warning(&mut self, area: &'static str, found: impl Into<String>, advice: impl Into<String>) {
        self.add(Severity::Warning, area, found, advice);
    }

    fn error(&mut self, area: &'static str, found: impl Into<String>, advice: impl Into<String>) {
        self.add(Severity::Error, area, found, advice);
    }

    fn add(&mut self, severity: Severity, area: &'static str, found: impl Into<String>, advice: impl Into<String>) {
        self.0.push(Finding { severity, area, found: found.into(), advice: advice.into() });
    }

    fn count(&self, severity: Severity) -> usize {
        self.0.iter().filter(|finding| finding.severity == severity).count()
    }
}

pub(super) fn run(args: &Args, as_json: bool) -> Result<Outcome> {
    let mut findings = Findings::default();
    let file = match config::read_or_default(args.config.as_deref()) {
        Ok(file) => Some(file),
        Err(why) => {
            findings.error("configuration", why.to_string(), "mend the file; nothing starts with it");
            None
        }
    };
    if let Some(file) = &file {
        configuration::look(file, args.config.as_deref(), &mut findings);
    }
    let data = data(args, file.as_ref(), &mut findings);
    let fleet = data.as_ref().and_then(|data| locks::holder(&data.join("fleet").join("lock")));
    let ours = ports::processes(data.as_deref(), fleet.as_ref(), &mut findings);
    if let Some(file) = &file {
        ports::look(file, &ours, &mut findings);
    }
    if let Some(data) = &data {
        folders::look(data, file.as_ref(), &ours, &mut findings);
    }
    machine::look(file.as_ref(), &mut findings);
    running::look(args, file.as_ref(), fleet.is_some(), &mut findings);
    tell(findings, as_json)
}

/// The data folder that is looked at.
fn data(args: &Args, file: Option<&File>, findings: &mut Findings) -> Option<PathBuf> {
    if let Some(data) = args.data.clone().or_else(|| file?.data.clone()) {
        return Some(data);
    }
    // A file that cannot be read may name another.
    file?;
    match default_data_dir() {
        Ok(data) => Some(data),
        Err(why) => {
            findings.error("data", format!("{why:#}"), "say where with --data, or give `data` in the configuration");
            None
        }
    }
}

/// What matters first.
fn tell(mut findings: Findings, as_json: bool) -> Result<Outcome> {
    findings.0.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    let (errors, warnings) = (findings.count(Severity::Error), findings.count(Severity::Warning));
    let (notes, well) = (findings.count(Severity::Note), findings.count(Severity::Ok));
    if as_json {
        let worst = findings.0.iter().map(|finding| finding.severity).max().unwrap_or(Severity::Ok);
        print_json(&json!({
            "severity": worst, "errors": errors, "warnings": warnings, "notes": notes, "ok": well,
            "findings": findings.0,
        }))?;
    } else {
        for Finding { severity, area, found, advice } in &findings.0 {
            let word = match severity {
                Severity::Ok => "ok",
                Severity::Note => "note",
                Severity::Warning => "WARNING",
                Severity::Error => "ERROR",
            };
            line(&format!("{word:<8} {area:<14} {}", shown(found, 1_000)))?;
            if !advice.is_empty() {
                line(&format!("{:<24}-> {}", "", shown(advice, 1_000)))?;
            }
        }
        line(&format!("{errors} errors, {warnings} warnings, {notes} notes, {well} as they should be"))?;
    }
    Ok(if errors == 0 { Outcome::Yes } else { Outcome::No })
}
