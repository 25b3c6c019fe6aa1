//! Everything that matches, as it streams by: in the order in which it was taken, in bounded memory.

use super::Trail;
use super::answers::{Failed, Found, Reading, head, with_record};
use super::question::{self, Asked};
use crate::fault::Fault;
use axum::body::Body;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures_util::stream::try_unfold;
use std::fmt::Write as _;
use tantivy::Order;
use tantivy::Searcher;
use tantivy::collector::TopDocs;
use tantivy::query::Query;
use tokio::sync::OwnedSemaphorePermit;

/// Numbers that one step looks at.
const STEP: u64 = 1_024;
/// Bytes after which a piece is sent.
const PIECE_BYTES: usize = 256 << 10;
const CSV_HEAD: &str = "source,index,ts_ms,kind,actor,tool,decision,request_id,policy,reason,hash,record\r\n";

/// How it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Jsonl,
    Csv,
}

/// An export that goes on. It holds the index as it was when it began.
struct Export {
    trail: Trail,
    searcher: Searcher,
    query: Box<dyn Query>,
    form: Form,
    next: u64,
    end: u64,
    begun: bool,
    _permit: OwnedSemaphorePermit,
}

/// Begin to export what is asked for.
pub(super) fn begin(trail: Trail, asked: &Asked, permit: OwnedSemaphorePermit) -> Result<Response, Failed> {
    asked.only(&["format"])?;
    let form = match asked.format.as_deref() {
        None | Some("jsonl") => Form::Jsonl,
        Some("csv") => Form::Csv,
        Some(other) => {
            let shown: String = other.chars().take(20).collect();
            return Err(Fault::unreadable(format!("format=`{}`: give jsonl or csv", shown.escape_debug())).into());
        }
    };
    let reading = Reading::of(&trail.store, &trail.settings);
    let (query, _) = asked.query(&reading.index, reading.fields, reading.settings)?;
    let searcher = reading.searcher;
    // The searcher is of a commit that is not later than this.
    let end = trail.store.extent().next_seq;
    let export = Export { searcher, query, form, next: 0, end, begun: false, _permit: permit, trail };
    let pieces = try_unfold(Some(export), |export| async move {
        let Some(export) = export else { return Ok(None) };
        let step = tokio::task::spawn_blocking(move || export.step()).await;
        match step {
            Ok(Ok((piece, rest))) => Ok(Some((piece, rest))),
            Ok(Err(why)) => Err(std::io::Error::other(why)),
            Err(_) => Err(std::io::Error::other("an export broke off in a panic")),
        }
    });
    let kind = if form == Form::Csv { "text/csv; charset=utf-8" } else { "application/x-ndjson" };
    Ok(([(header::CONTENT_TYPE, kind)], Body::from_stream(pieces)).into_response())
}

impl Export {
    /// The next piece, and what is left. A fault is for the log: who reads sees that the export broke off.
    fn step(mut self) -> Result<(String, Option<Self>), String> {
        let mut piece = String::new();
        if !self.begun && self.form == Form::Csv {
            piece.push_str(CSV_HEAD);
        }
        self.begun = true;
        while self.next < self.end && piece.len() < PIECE_BYTES {
            self.window(&mut piece).map_err(|why| {
                let why = match why {
                    Failed::Asked(fault) => fault.message,
                    Failed::Index(why) => why,
                };
                tracing::error!("an export broke off at record {}: {why}", self.next);
                why
            })?;
        }
        let more = self.next < self.end;
        Ok((piece, more.then_some(self)))
    }

    /// Add records of the next numbers, until the piece is full.
    fn window(&mut self, piece: &mut String) -> Result<(), Failed> {
        let last = self.end.min(self.next + STEP) - 1;
        let (store, settings) = (&self.trail.store, &self.trail.settings);
        let query = question::within(&*self.query, store.fields.seq, self.next, last);
        let width = usize::try_from(STEP).unwrap_or(1);
        let order = TopDocs::with_limit(width).order_by_fast_field::<u64>("seq", Order::Asc);
        let hits = self.searcher.search(&query, &order)?;
        let reading = Reading { searcher: self.searcher.clone(), ..Reading::of(store, settings) };
        for (_, at) in hits {
            let found = reading.found(at)?;
            match self.form {
                Form::Jsonl => {
                    piece.push_str(&with_record(&head(&found), &found.record.text));
                    piece.push('\n');
                }
                Form::Csv => push_row(piece, &found),
            }
            self.next = found.seq + 1;
            if piece.len() >= PIECE_BYTES {
                return Ok(());
            }
        }
        self.next = last + 1;
        Ok(())
    }
}

fn push_row(out: &mut String, found: &Found) {
    let Found { source, record, .. } = found;
    push_cell(out, source);
    // Writing to a string cannot fail.
    let _ = write!(out, ",{},{},", record.index, record.ts_ms);
    push_cell(out, &record.kind);
    let said = [&record.actor, &record.tool, &record.decision, &record.request_id, &record.policy, &record.reason];
    for said in said {
        out.push(',');
        push_cell(out, said.as_deref().unwrap_or_default());
    }
    let _ = write!(out, ",{},", record.hash);
    push_cell(out, &record.text);
    out.push_str("\r\n");
}

/// A text as a cell. One that a spreadsheet would take for a formula gets an apostrophe: agents choose these texts.
fn push_cell(out: &mut String, text: &str) {
    let formula = text.starts_with(['=', '+', '-', '@', '\t', '\r']);
    if !formula && !text.contains([',', '"', '\n', '\r']) {
        out.push_str(text);
        return;
    }
    out.push('"');
    if formula {
        out.push('\'');
    }
    out.push_str(&text.replace('"', "\"\""));
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_what_a_spreadsheet_shows() {
        for (text, cell) in [
            ("plain", "plain"),
            ("a,b", "\"a,b\""),
            ("say \"x\"", "\"say \"\"x\"\"\""),
            ("=cmd()", "\"'=cmd()\""),
            ("-1", "\"'-1\""),
            ("two\nlines", "\"two\nlines\""),
            ("", ""),
        ] {
            let mut out = String::new();
            push_cell(&mut out, text);
            assert_eq!(out, cell);
        }
    }
}
