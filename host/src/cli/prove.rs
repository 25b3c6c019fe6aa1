//! `gavel prove`: one file that proves to others what a ledger holds.

use super::Outcome;
use super::client::Remote;
use super::find::encoded;
use super::output::{line, print_json};
use crate::host::ledger_folder;
use crate::policies::catalogue::write_whole;
use crate::prove::{Prover, Subject, verified};
use anyhow::{Context, Result, bail, ensure};
use gavel_proof::note::{NOTE_BYTES_MAX, Note};
use gavel_proof::report::Report;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

/// Prove to others that records are in the ledger, or that it grew from an earlier checkpoint.
///
/// Writes one file that stands for itself: `gavel verify FILE --key KEY` needs nothing else. Exit code 0: it is
/// proved. 1: the ledger does not grow from that checkpoint.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  gavel prove req-000123
  gavel prove '#17' --out record-17.json
  gavel prove --consistency checkpoint-of-january
  gavel prove req-000123 --ledger ~/.local/share/gavel/kernels/default/ledger --out -")]
pub(super) struct Args {
    /// A request's id: its decision, and the outcome if a tool ran. Or `#INDEX`: that record.
    #[arg(value_name = "ID", required_unless_present = "consistency", conflicts_with = "consistency")]
    subject: Option<String>,
    /// Prove that the ledger grew from this checkpoint, a signed note as `GET /checkpoint` answers it.
    #[arg(long, value_name = "FILE")]
    consistency: Option<PathBuf>,
    /// The file to write; `-` is standard output. Default: named after what is proved, in this folder.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Read this ledger's folder, which is verified, rather than ask a server.
    #[arg(long, alias = "from-ledger", value_name = "DIR")]
    ledger: Option<PathBuf>,
    #[command(flatten)]
    remote: Remote,
}

pub(super) fn run(args: &Args, as_json: bool) -> Result<Outcome> {
    let (text, name) = match (&args.subject, &args.consistency) {
        (Some(subject), _) => (args.proof(&read_subject(subject)?)?, format!("{}.proof.json", file_name(subject))),
        (None, Some(old)) => {
            let note = read_note(old)?;
            let size = Note::parse(&note)?.checkpoint()?.size;
            (args.consistency(size, note)?, format!("from-{size}.consistency.json"))
        }
        (None, None) => bail!("say what to prove: a request's id, `#INDEX`, or --consistency FILE"),
    };
    let report = verified(&text);
    if let Some(why) = &report.error {
        tell(None, &report, as_json)?;
        ensure!(args.consistency.is_some(), "what came is no proof: {why}");
        return Ok(Outcome::No);
    }
    let out = args.out.clone().unwrap_or_else(|| name.into());
    if out == Path::new("-") {
        std::io::stdout().lock().write_all(text.as_bytes())?;
        return Ok(Outcome::Yes);
    }
    write_whole(&out, text.as_bytes()).with_context(|| out.display().to_string())?;
    tell(Some(&out), &report, as_json)?;
    Ok(Outcome::Yes)
}

impl Args {
    fn prover(&self) -> Result<Option<Prover>> {
        let Some(ledger) = &self.ledger else { return Ok(None) };
        ensure!(ledger.is_dir(), "{}: no such folder", ledger.display());
        let folder = ledger_folder(ledger);
        Ok(Some(Prover::of_folder(&folder).with_context(|| folder.display().to_string())?))
    }

    fn proof(&self, subject: &Subject) -> Result<String> {
        if let Some(prover) = self.prover()? {
            return Ok(prover.file(subject)?.to_json());
        }
        self.fetch(&match subject {
            Subject::Request(id) => format!("/prove?request_id={}", encoded(id)),
            Subject::Record(index) => format!("/prove?index={index}"),
        })
    }

    fn consistency(&self, old: u64, note: String) -> Result<String> {
        if let Some(prover) = self.prover()? {
            return Ok(prover.consistency(old, Some(note))?.to_json());
        }
        let text = self.fetch(&format!("/consistency?old={old}"))?;
        let mut file: Value = serde_json::from_str(&text).context("the server's answer is no proof")?;
        file["old"] = json!(note);
        Ok(format!("{}\n", serde_json::to_string_pretty(&file)?))
    }

    /// The text of an answer, as it comes: a record in it is proved byte for byte.
    fn fetch(&self, route: &str) -> Result<String> {
        let mut response = self.remote.client()?.get(route)?;
        let status = response.status();
        let mut text = String::new();
        let mut body = response.body_mut().as_reader().take(ANSWER_BYTES_MAX);
        body.read_to_string(&mut text).context("the proof broke off")?;
        if status.as_u16() >= 400 {
            let told: Value = serde_json::from_str(&text).unwrap_or_default();
            bail!("the server answered {}: {}", status.as_u16(), told["error"].as_str().unwrap_or("no reason given"));
        }
        Ok(text)
    }
}

/// Bytes of a proof that is fetched.
const ANSWER_BYTES_MAX: u64 = 256 << 20;

fn read_subject(text: &str) -> Result<Subject> {
    let Some(index) = text.strip_prefix('#') else { return Ok(Subject::Request(text.to_owned())) };
    let index = index.parse().with_context(|| format!("`{}`: after # comes a record's index", text.escape_debug()))?;
    Ok(Subject::Record(index))
}

fn read_note(path: &Path) -> Result<String> {
    let told = || path.display().to_string();
    let mut note = String::new();
    let file = std::fs::File::open(path).with_context(told)?;
    file.take(NOTE_BYTES_MAX as u64 + 1).read_to_string(&mut note).with_context(told)?;
    Note::parse(&note).and_then(|note| note.checkpoint()).with_context(told)?;
    Ok(note)
}

/// A request's id as the name of a file.
fn file_name(id: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' };
    let name: String = id.trim_start_matches(['.', '#']).chars().take(100).map(plain).collect();
    if name.is_empty() { "request".to_owned() } else { name }
}

fn tell(out: Option<&Path>, report: &Report, as_json: bool) -> Result<()> {
    if as_json {
        let mut told = serde_json::to_value(report)?;
        told["file"] = json!(out);
        return print_json(&told);
    }
    match (&report.error, out) {
        (Some(why), _) => line(&format!("NOT PROVED: {why}"))?,
        (None, Some(out)) => line(&format!("{}: proved and verified", out.display()))?,
        (None, None) => {}
    }
    for check in &report.checks {
        line(&format!("  {:<10} {}", check.name, check.detail))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_names_of_files_and_nothing_more() {
        for (id, name) in
            [("r-1", "r-1"), ("../../etc/passwd", "_.._etc_passwd"), ("#17", "17"), ("ü /", "___"), ("..", "request")]
        {
            assert_eq!(file_name(id), name, "{id}");
        }
        assert_eq!(read_subject("#17").unwrap(), Subject::Record(17));
        assert_eq!(read_subject("17").unwrap(), Subject::Request("17".into()));
        assert!(read_subject("#x").unwrap_err().to_string().contains("`#x`"));
    }
}
