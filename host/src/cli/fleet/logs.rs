//! `gavel fleet logs`: what kernels wrote, and write.

use super::reach::{Fleet, Where, in_path};
use crate::cli::Outcome;
use crate::cli::client::{Client, read};
use crate::cli::output::{line, note, print_json, shown};
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

/// Print what a kernel wrote last; of all kernels if none is named, each line with its kernel's name.
///
/// With `--follow` also what comes, until it is ended or the fleet ends. Who reads too slowly misses lines and is told so.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  gavel fleet logs governance
  gavel fleet logs --lines 20
  gavel fleet logs governance --follow
  gavel fleet logs --follow --lines 0 --json | jq -r 'select(.kernel == \"governance\") | .line'")]
pub(super) struct Args {
    /// The kernel; all that are meant to run if not given.
    name: Option<String>,
    /// How many of the last lines of each.
    #[arg(long, default_value_t = 100, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(0..=10_000))]
    lines: u64,
    /// Then each new line as it comes.
    #[arg(long)]
    follow: bool,
    #[command(flatten)]
    at: Where,
}

pub(super) fn run(args: &Args, as_json: bool) -> Result<Outcome> {
    let client = args.at.client()?;
    let names: Vec<String> = match &args.name {
        Some(name) => vec![name.clone()],
        None => Fleet::of(&client)?.meant_to_run().map(|kernel| kernel.name.clone()).collect(),
    };
    if args.follow {
        follow(args, names, as_json)?;
        note("the fleet ended");
        return Ok(Outcome::Yes);
    }
    let mut told = Vec::new();
    for name in &names {
        told.push(client.get_json(&format!("/fleet/{}/logs?lines={}", in_path(name)?, args.lines))?);
    }
    if as_json {
        match (told.as_slice(), &args.name) {
            ([one], Some(_)) => print_json(one)?,
            (all, _) => print_json(&all)?,
        }
        return Ok(Outcome::Yes);
    }
    for (name, log) in names.iter().zip(&told) {
        let prefix = args.name.is_none().then_some(name.as_str());
        for text in log["lines"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            line(&prefixed(prefix, text))?;
        }
    }
    Ok(Outcome::Yes)
}

/// Characters of a line that are shown.
const LINE_CHARS_MAX: usize = 16 << 10;

/// A line as people read it.
fn prefixed(kernel: Option<&str>, text: &str) -> String {
    let text = shown(text, LINE_CHARS_MAX);
    kernel.map_or_else(|| text.clone(), |kernel| format!("{kernel:>18} | {text}"))
}

/// Something that one who follows hears.
#[derive(Debug, PartialEq, Eq)]
enum Heard {
    Line(String),
    /// So many were too fast.
    Missed(String),
}

/// Lines that wait to be printed.
const WAITING_MAX: usize = 1_024;

fn follow(args: &Args, names: Vec<String>, as_json: bool) -> Result<()> {
    let (tell, hear) = sync_channel(WAITING_MAX);
    for name in names {
        let route = format!("/fleet/{}/logs?lines={}&follow=true", in_path(&name)?, args.lines);
        let (client, tell, url) = (args.at.listener()?, tell.clone(), args.at.url.clone());
        thread::spawn(move || {
            if let Err(why) = listen(&client, &url, &route, &name, &tell) {
                // The one who prints may have ended.
                let _ = tell.send(Err(why));
            }
        });
    }
    drop(tell);
    let prefix = args.name.is_none();
    for heard in hear {
        let (kernel, heard) = heard?;
        match heard {
            Heard::Line(text) if as_json => line(&json!({"kernel": kernel, "line": text}).to_string())?,
            Heard::Line(text) => line(&prefixed(prefix.then_some(&*kernel), &text))?,
            Heard::Missed(missed) => {
                note(&format!("gavel: {missed} lines were missed: they are not read fast enough"));
            }
        }
    }
    Ok(())
}

type Told = Result<(String, Heard)>;

fn listen(client: &Client, url: &str, route: &str, kernel: &str, tell: &SyncSender<Told>) -> Result<()> {
    let answer = client.get(route)?;
    if answer.status().as_u16() >= 400 {
        return read(url, answer)?.accepted().map(drop);
    }
    server_sent(BufReader::new(answer.into_body().into_reader()), |heard| {
        // Nobody hears: then it ends.
        tell.send(Ok((kernel.to_owned(), heard))).is_ok()
    })
}

/// Bytes of a line of a stream.
const LINE_BYTES_MAX: u64 = 1 << 20;

/// Read server-sent events until they, or the wish to hear, end.
fn server_sent(mut stream: impl BufRead, mut hear: impl FnMut(Heard) -> bool) -> Result<()> {
    let mut missed = false;
    loop {
        let mut line = Vec::new();
        let length = (&mut stream).take(LINE_BYTES_MAX).read_until(b'\n', &mut line);
        if length.context("the stream broke off")? == 0 {
            return Ok(());
        }
        let line = String::from_utf8_lossy(&line);
        let line = line.trim_end_matches(['\n', '\r']);
        if line.is_empty() {
            missed = false;
        } else if let Some(kind) = line.strip_prefix("event:") {
            missed = kind.trim() == "missed";
        } else if let Some(data) = line.strip_prefix("data:") {
            let data = data.strip_prefix(' ').unwrap_or(data).to_owned();
            let heard = if missed { Heard::Missed(data) } else { Heard::Line(data) };
            if !hear(heard) {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_read_event_by_event() {
        let text = "data: one\n\n: alive\n\nevent: missed\ndata: 7\n\ndata:  two\n\n";
        let mut heard = Vec::new();
        server_sent(text.as_bytes(), |one| {
            heard.push(one);
            true
        })
        .unwrap();
        let line = |text: &str| Heard::Line(text.to_owned());
        assert_eq!(heard, [line("one"), Heard::Missed("7".to_owned()), line(" two")]);
    }

    #[test]
    fn controls_of_a_terminal_are_not_passed_on() {
        assert_eq!(prefixed(Some("governance"), "a\u{1b}[2Jb"), "        governance | a·[2Jb");
        assert_eq!(prefixed(None, "a"), "a");
    }
}
