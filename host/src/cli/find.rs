//! `gavel find`: which records are about a request, an actor, a tool, a decision, a time?

use super::Outcome;
use super::client::{Client, Remote};
use super::output::{line, note, print_json, shown};
use crate::clock::rfc3339;
use crate::host::ledger_folder;
use crate::index::{Facts, PageLimits, Position, Query, scan};
use anyhow::{Context, Result, ensure};
use gavel_ledger::RecordView;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Find records, newest first; everything that is given must hold.
///
/// Asks a server, which uses its index, or with --ledger reads a ledger's folder, which is verified. Exit
/// code 0: something was found. 1: nothing was.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  gavel find req-000123
  gavel find --actor agent-007 --decision deny --from 2026-01-05T00:00:00Z
  gavel find --tool write_file --ledger ~/.local/share/gavel/kernels/default/ledger --json")]
pub(super) struct Args {
    /// The request's id.
    #[arg(value_name = "REQUEST_ID")]
    request_id: Option<String>,
    /// Who asked.
    #[arg(long)]
    actor: Option<String>,
    /// The tool.
    #[arg(long)]
    tool: Option<String>,
    /// ALLOW, DENY or HALT.
    #[arg(long, value_parser = Query::decision)]
    decision: Option<String>,
    /// The kind of record: decision, outcome, event, halt, key, opened.
    #[arg(long)]
    kind: Option<String>,
    /// Not before this time (2026-01-05T10:00:00Z, or milliseconds since 1970).
    #[arg(long, value_name = "TIME", value_parser = Query::time)]
    from: Option<u64>,
    /// Not after this time.
    #[arg(long, value_name = "TIME", value_parser = Query::time)]
    to: Option<u64>,
    /// Records at most.
    #[arg(long, value_name = "COUNT", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=RECORDS_MAX))]
    limit: u64,
    /// Go on where an earlier search stopped.
    #[arg(long, value_name = "CURSOR")]
    cursor: Option<Position>,
    /// Read this ledger's folder rather than ask a server.
    #[arg(long, value_name = "DIR")]
    ledger: Option<PathBuf>,
    #[command(flatten)]
    remote: Remote,
}

/// Records that one search shows.
const RECORDS_MAX: u64 = 100_000;
/// Bytes of records that one search of a folder holds.
const BYTES_MAX: usize = 256 << 20;
/// Records that a server is asked for at a time.
const PAGE: u64 = 1_000;

/// What was found.
struct Found {
    records: Vec<RecordView>,
    next: Option<String>,
    /// The server's index has everything that its ledger has.
    complete: bool,
}

pub(super) fn run(args: &Args, as_json: bool) -> Result<Outcome> {
    let found = match &args.ledger {
        Some(ledger) => from_folder(ledger, &args.query(), args.limit)?,
        None => from_server(&args.remote.client()?, &args.query(), args.limit)?,
    };
    if as_json {
        let records = found.records.iter().map(|record| serde_json::from_str(record.as_str()));
        let records = records.collect::<Result<Vec<Value>, _>>()?;
        print_json(&json!({"records": records, "next_cursor": found.next, "complete": found.complete}))?;
    } else {
        found.records.iter().try_for_each(print)?;
        if let Some(next) = &found.next {
            note(&format!("there may be more: --cursor {next}"));
        }
    }
    if !found.complete {
        note("the server's index is behind its ledger: the newest records may be missing; ask again");
    }
    Ok(if found.records.is_empty() { Outcome::No } else { Outcome::Yes })
}

impl Args {
    fn query(&self) -> Query {
        Query {
            kind: self.kind.clone(),
            request_id: self.request_id.clone(),
            actor: self.actor.clone(),
            tool: self.tool.clone(),
            decision: self.decision.clone(),
            from_ms: self.from,
            to_ms: self.to,
            cursor: self.cursor,
        }
    }
}

fn from_folder(ledger: &Path, query: &Query, limit: u64) -> Result<Found> {
    ensure!(ledger.is_dir(), "{}: no such folder", ledger.display());
    let folder = ledger_folder(ledger);
    let (_, records) = gavel_ledger::read_dir(&folder).with_context(|| folder.display().to_string())?;
    let limits = PageLimits { records: usize::try_from(limit)?, bytes: BYTES_MAX };
    let page = scan(records, query, limits)?;
    Ok(Found { records: page.records, next: page.next.map(|next| next.to_string()), complete: true })
}

/// Page by page. The server's word is checked: what was not asked for is an error.
fn from_server(client: &Client, query: &Query, limit: u64) -> Result<Found> {
    let mut found = Found { records: Vec::new(), next: query.cursor.map(|cursor| cursor.to_string()), complete: true };
    loop {
        let left = limit - found.records.len() as u64;
        let page = client.get_json(&route(query, found.next.as_deref(), left.min(PAGE)))?;
        for record in page["records"].as_array().context("the server's answer is no page of records")? {
            let record = RecordView::parse(gavel_kernel::json::canonical(record));
            let record = record.ok().filter(|record| query.matches(record));
            found.records.push(record.context("the server answered a record that was not asked for")?);
        }
        found.complete = page["complete"] == true;
        found.next = page["next_cursor"].as_str().map(str::to_owned);
        if found.next.is_none() || found.records.len() as u64 >= limit {
            return Ok(found);
        }
    }
}

fn route(query: &Query, cursor: Option<&str>, limit: u64) -> String {
    let time = |ms: Option<u64>| ms.map(|ms| ms.to_string());
    let asked = [
        ("kind", query.kind.clone()),
        ("request_id", query.request_id.clone()),
        ("actor", query.actor.clone()),
        ("tool", query.tool.clone()),
        ("decision", query.decision.clone()),
        ("from", time(query.from_ms)),
        ("to", time(query.to_ms)),
        ("cursor", cursor.map(str::to_owned)),
    ];
    let given = asked.into_iter().filter_map(|(name, value)| Some(format!("&{name}={}", encoded(&value?))));
    format!("/records?limit={limit}{}", given.collect::<String>())
}

/// A text as a part of a URL.
pub(super) fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

fn print(record: &RecordView) -> Result<()> {
    let Facts { kind, request_id, actor, tool, decision } = Facts::of(record);
    let text = |text: Option<String>| shown(&text.unwrap_or_else(|| "-".to_owned()), 60);
    line(&format!(
        "{}  record {}  {}  {}  {}  {}  {}",
        rfc3339(record.ts_ms()),
        record.index(),
        kind,
        text(decision),
        text(request_id),
        text(actor),
        text(tool)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_text_can_be_asked_for() {
        assert_eq!(encoded("r-1_~.Z"), "r-1_~.Z");
        assert_eq!(encoded("a b&c=ü/%"), "a%20b%26c%3D%C3%BC%2F%25");
        let query = Query { from_ms: Some(5), ..Query::request("#1") };
        assert_eq!(route(&query, Some("7.3"), 10), "/records?limit=10&request_id=%231&from=5&cursor=7.3");
    }
}
