//! How commands write: text for people, JSON for programs, and quietly when nobody reads.

use serde::Serialize;
use serde_json::json;
use std::io::{self, Write};

/// Print a value as indented JSON on standard output.
pub(super) fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    line(&serde_json::to_string_pretty(value)?)
}

/// Print a line on standard output. A reader that went away (`| head`) is no error of ours.
pub(super) fn line(text: &str) -> anyhow::Result<()> {
    match writeln!(io::stdout().lock(), "{text}") {
        Err(why) if why.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        other => Ok(other?),
    }
}

/// Say on standard error why a command could not be carried out.
pub(super) fn failure(why: &anyhow::Error, as_json: bool) {
    let text = if as_json { json!({"error": format!("{why:#}")}).to_string() } else { format!("gavel: {why:#}") };
    // There is nowhere left to report that standard error is closed.
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Say something on standard error that is no result.
pub(super) fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// A text of untrusted origin on one line of a terminal: controls made visible, shortened.
pub(super) fn shown(text: &str, chars_max: usize) -> String {
    let mut shown: String = text.chars().take(chars_max).map(|c| if c.is_control() { '·' } else { c }).collect();
    if text.chars().nth(chars_max).is_some() {
        shown.push('…');
    }
    shown
}
