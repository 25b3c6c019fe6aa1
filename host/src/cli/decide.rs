//! `gavel decide`: judge a batch of requests offline.

use super::Outcome;
use super::output::{line, note, shown};
use crate::clock::Clock;
use crate::config;
use crate::decide::Principal;
use crate::host::{Host, Storage};
use crate::kernel::Kernel;
use anyhow::{Context, Result};
use gavel_kernel::{Receipt, Request, json};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, IsTerminal, Read};
use std::path::PathBuf;
use std::sync::Arc;

/// Judge a batch of requests offline; run nothing.
///
/// Each line of the file is a request, or an object with `request` whose other keys are labels.
/// Receipts come out as JSON lines, in order, with the labels copied; a summary by decision, reason
/// and label goes to standard error. Requests are judged one after the other, so that policies that
/// count see them in order. Exit code 0: every line was judged. 1: some line could not be read.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  gavel decide --config gavel.yaml --requests requests.jsonl > receipts.jsonl
  gavel decide --config gavel.yaml --requests requests.jsonl --clock request --data ./what-if")]
pub(super) struct Args {
    /// The configuration (YAML). Default: what `gavel serve` serves without one.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The requests, one as JSON on each line; `-` for standard input.
    #[arg(long, value_name = "FILE")]
    requests: PathBuf,
    /// The kernel to judge by; the configuration's first one if not given.
    #[arg(long, value_name = "ID")]
    kernel: Option<String>,
    /// The kernel's time: the machine's, or each request's own `ts_ms`.
    #[arg(long, default_value = "system")]
    clock: ClockChoice,
    /// Keep the record in this data folder. Without it the record is gone when the batch ends.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum ClockChoice {
    System,
    Request,
}

/// Bytes of one line.
const LINE_BYTES_MAX: u64 = 16 << 20;

pub(super) fn run(args: &Args) -> Result<Outcome> {
    super::runtime()?.block_on(batch(args))
}

async fn batch(args: &Args) -> Result<Outcome> {
    let file = config::read_or_default(args.config.as_deref())?;
    let clock = if args.clock == ClockChoice::Request { Clock::manual(0) } else { Clock::System };
    let storage = args.data.clone().map_or(Storage::Volatile, Storage::Folder);
    let host = Host::open(file, &storage, clock.clone()).await?;
    let slot = match &args.kernel {
        None => host.fleet.first(),
        Some(id) => host.fleet.find(id).with_context(|| format!("there is no kernel '{id}'"))?,
    };
    let kernel = &slot.kernel();
    let (reader, size) = open(&args.requests)?;
    let progress = bar(size);
    let mut batch = Batch { kernel, clock: &clock, summary: Summary::default() };
    let mut reader = BufReader::new(progress.wrap_read(reader));
    let mut number = 0;
    while let Some(text) = next_line(&mut reader).with_context(|| args.requests.display().to_string())? {
        number += 1;
        if !text.trim_ascii().is_empty() {
            let answer = batch.judge(number, &text).await?;
            progress.suspend(|| line(&answer.to_string()))?;
        }
    }
    progress.finish_and_clear();
    batch.summary.tell();
    let unreadable = batch.summary.unreadable;
    host.finish().await;
    Ok(if unreadable == 0 { Outcome::Yes } else { Outcome::No })
}

fn open(path: &PathBuf) -> Result<(Box<dyn Read>, u64)> {
    if path.as_os_str() == "-" {
        return Ok((Box::new(std::io::stdin()), 0));
    }
    let file = File::open(path).with_context(|| path.display().to_string())?;
    let size = file.metadata()?.len();
    Ok((Box::new(file), size))
}

fn bar(size: u64) -> ProgressBar {
    if size == 0 || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:40} {bytes}/{total_bytes}  {eta} left")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(size).with_style(style)
}

/// The next line, at most [`LINE_BYTES_MAX`] of it (the rest would be another, unreadable one).
fn next_line(reader: &mut impl BufRead) -> std::io::Result<Option<Vec<u8>>> {
    let mut text = Vec::new();
    let read = reader.take(LINE_BYTES_MAX).read_until(b'\n', &mut text)?;
    Ok((read > 0).then_some(text))
}

struct Batch<'a> {
    kernel: &'a Arc<Kernel>,
    clock: &'a Clock,
    summary: Summary,
}

impl Batch<'_> {
    /// Judge one line; its receipt or why there is none, with its labels.
    async fn judge(&mut self, number: u64, text: &[u8]) -> Result<Value> {
        let (request, labels) = match read(text, self.clock) {
            Ok(read) => read,
            Err(why) => {
                self.summary.unreadable += 1;
                return Ok(json!({"line": number, "error": why}));
            }
        };
        // It asks what the kernel would say to this actor, and stands for whoever it is.
        let principal = Principal { name: "gavel decide".to_owned(), actor: Some(request.actor().to_owned()) };
        let receipt = self.kernel.decide(request, principal).await;
        let receipt = receipt.with_context(|| format!("line {number}"))?;
        self.summary.count(&receipt, &labels);
        let mut answer = labels;
        if let Value::Object(receipt) = json!(receipt) {
            answer.extend(receipt);
        }
        Ok(Value::Object(answer))
    }
}

/// A line as request and labels. Sets the clock to the request's time, if it is to be that.
fn read(text: &[u8], clock: &Clock) -> Result<(Request, Map<String, Value>), String> {
    let value = json::parse(text.trim_ascii()).map_err(|why| why.to_string())?;
    let Value::Object(mut object) = value else { return Err("a line must be a JSON object".into()) };
    let (request, labels) = match object.remove("request") {
        Some(request) => (request, object),
        None => (Value::Object(object), Map::new()),
    };
    let request = Request::from_value(request, clock.now_ms()).map_err(|why| why.to_string())?;
    clock.set(u64::try_from(request.ts_ms()).unwrap_or(0));
    Ok((request, labels))
}

/// What came of a batch, counted.
#[derive(Debug, Default)]
struct Summary {
    judged: u64,
    unreadable: u64,
    decisions: BTreeMap<&'static str, u64>,
    reasons: BTreeMap<String, u64>,
    labels: BTreeMap<String, BTreeMap<&'static str, u64>>,
}

/// Characters of a reason and kinds of reasons that a summary shows.
const REASON_CHARS_MAX: usize = 100;
const REASONS_MAX: usize = 20;
/// Values of a label that are counted apart; a label with more is a name, not a class.
const LABEL_VALUES_MAX: usize = 20;

impl Summary {
    fn count(&mut self, receipt: &Receipt, labels: &Map<String, Value>) {
        let decision = receipt.decision.as_str();
        self.judged += 1;
        *self.decisions.entry(decision).or_default() += 1;
        if let Some(error) = &receipt.error {
            *self.reasons.entry(shown(error, REASON_CHARS_MAX)).or_default() += 1;
        }
        for (name, value) in labels {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let label = format!("{}={}", shown(name, 40), shown(&value, 60));
            *self.labels.entry(label).or_default().entry(decision).or_default() += 1;
        }
    }

    fn tell(&self) {
        note(&format!("{} judged, {} unreadable", self.judged, self.unreadable));
        for (decision, count) in &self.decisions {
            note(&format!("  {count:>7}  {decision}"));
        }
        let mut reasons: Vec<_> = self.reasons.iter().collect();
        reasons.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        if !reasons.is_empty() {
            note("by reason:");
        }
        for (reason, count) in reasons.iter().take(REASONS_MAX) {
            note(&format!("  {count:>7}  {reason}"));
        }
        if reasons.len() > REASONS_MAX {
            note(&format!("           and {} more", reasons.len() - REASONS_MAX));
        }
        self.tell_labels();
    }

    fn tell_labels(&self) {
        let values_of = |name: &str| {
            self.labels.keys().filter(|label| label.split_once('=').is_some_and(|(n, _)| n == name)).count()
        };
        let classes = self
            .labels
            .iter()
            .filter(|(label, _)| values_of(label.split_once('=').map_or("", |(name, _)| name)) <= LABEL_VALUES_MAX);
        for (index, (label, decisions)) in classes.enumerate() {
            if index == 0 {
                note("by label:");
            }
            let counts: Vec<String> = decisions.iter().map(|(decision, count)| format!("{decision} {count}")).collect();
            note(&format!("  {label:<28} {}", counts.join(", ")));
        }
    }
}
