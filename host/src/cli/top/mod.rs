//! A live table: something is looked at again and again, and shown in place on a terminal, elsewhere as tables of text.

mod draw;
mod live;

use super::output::{line, print_json};
use anyhow::Result;
use serde::Serialize;
use std::fmt::Write;
use std::io::IsTerminal;
use std::time::Duration;

/// How often to look, and how often in all.
#[derive(Debug, clap::Args)]
pub(super) struct Looks {
    /// Seconds from one look to the next.
    #[arg(long, default_value_t = 1.0, value_name = "SECONDS", value_parser = interval)]
    interval: f64,
    /// Print one table, and end.
    #[arg(long, conflicts_with = "batch")]
    once: bool,
    /// Print so many tables, and end.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    batch: Option<u64>,
}

fn interval(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| format!("{text:?} is no number of seconds"))?;
    if (0.1..=3_600.0).contains(&seconds) { Ok(seconds) } else { Err(format!("{seconds} s: give 0.1 to 3600")) }
}

/// Seconds that a look may take before who is looked at counts as gone.
pub(super) const PATIENCE_SECONDS: u64 = 5;

impl Looks {
    /// How many tables are printed; none if it is shown live.
    fn tables(&self, as_json: bool) -> Option<u64> {
        let plain = as_json || !std::io::stdout().is_terminal();
        let asked = if self.once { Some(1) } else { self.batch };
        asked.or(plain.then_some(1))
    }

    /// Whether it is shown live, so that a look must not keep the keys waiting.
    pub(super) fn are_live(&self, as_json: bool) -> bool {
        self.tables(as_json).is_none()
    }
}

/// What is looked at.
pub(super) trait Source {
    /// What it shows.
    type View: View;

    /// Whether the first look shows too little to be printed: its rates are of the time since the look before.
    const FIRST_LOOK_IS_BARE: bool;

    /// Look again. After a failure the next look may succeed.
    fn look(&mut self) -> Result<Self::View>;
}

/// What one look shows: two lines about the whole, and a table.
pub(super) trait View: Serialize {
    /// What it is sorted by.
    type Sort: Copy + PartialEq + 'static;

    /// The columns of the table.
    const COLUMNS: &'static [Column<Self::Sort>];

    /// The lines above the table.
    fn header(&self) -> [String; 2];

    /// The lines of the table, as many cells in each as there are columns.
    fn rows(&self) -> Vec<Row>;

    /// Sort by a column, the greatest or worst first.
    fn sort(&mut self, by: Self::Sort, reverse: bool);

    /// As a table of text.
    fn text(&self) -> String {
        let mut text = self.header().join("\n");
        let names = Self::COLUMNS.iter().map(|column| column.name.to_owned()).collect();
        for cells in std::iter::once(names).chain(self.rows().into_iter().map(|row| row.cells)) {
            for (at, (cell, column)) in cells.iter().zip(Self::COLUMNS).enumerate() {
                let (gap, width) = (if at == 0 { "\n" } else { " " }, usize::from(column.width));
                let _ = match at {
                    0..TEXTS => write!(text, "{gap}{cell:<width$}"),
                    _ => write!(text, "{gap}{cell:>width$}"),
                };
            }
        }
        text
    }
}

/// The first columns are texts, to the left; the others numbers, to the right.
const TEXTS: usize = 2;

/// A column.
#[derive(Debug)]
pub(super) struct Column<S> {
    pub(super) name: &'static str,
    /// In characters.
    pub(super) width: u16,
    /// What sorts by it, if anything.
    pub(super) sort: Option<S>,
}

/// A line of the table.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) cells: Vec<String>,
    pub(super) tone: Tone,
}

/// How a line stands out on a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    /// As it should be.
    Plain,
    /// At rest.
    Dim,
    /// On its way, one way or the other.
    Warning,
    /// Something is to be done.
    Bad,
}

/// The column to the right of the one that is sorted by, and after the last the first.
fn next<V: View>(sort: V::Sort) -> V::Sort {
    let columns: Vec<V::Sort> = V::COLUMNS.iter().filter_map(|column| column.sort).collect();
    let at = columns.iter().position(|column| *column == sort).unwrap_or_default();
    columns[(at + 1) % columns.len()]
}

/// Show it live on a terminal, in as many tables as were asked for elsewhere.
pub(super) fn run<S: Source>(mut source: S, looks: &Looks, sort: <S::View as View>::Sort, as_json: bool) -> Result<()> {
    let interval = Duration::from_secs_f64(looks.interval);
    match looks.tables(as_json) {
        Some(tables) => print(&mut source, tables, interval, sort, as_json),
        None => live::run(source, interval, sort),
    }
}

fn print<S: Source>(
    source: &mut S,
    tables: u64,
    interval: Duration,
    sort: <S::View as View>::Sort,
    as_json: bool,
) -> Result<()> {
    if S::FIRST_LOOK_IS_BARE {
        source.look()?;
    }
    for number in 0..tables {
        if number > 0 || S::FIRST_LOOK_IS_BARE {
            std::thread::sleep(interval);
        }
        let mut view = source.look()?;
        view.sort(sort, false);
        match (as_json, tables) {
            (true, 1) => print_json(&view)?,
            (true, _) => line(&serde_json::to_string(&view)?)?,
            (false, _) => line(&view.text())?,
        }
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Goes through all columns with the key.
    pub(in crate::cli) fn keys_reach_every_column<V: View>() {
        let sorted: Vec<V::Sort> = V::COLUMNS.iter().filter_map(|column| column.sort).collect();
        let mut sort = sorted[0];
        for column in sorted.iter().skip(1).chain(&sorted[..1]) {
            sort = next::<V>(sort);
            assert!(sort == *column);
        }
    }

    pub(in crate::cli) use super::draw::tests::drawn;
}
