//! The live view as it is drawn.

use super::{Column, TEXTS, Tone, View};
use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Layout};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Text};
use ratatui::widgets::{Cell, Paragraph, Row as TableRow, Table};

/// Everything that is on the screen.
#[derive(Debug, Clone)]
pub(in crate::cli) struct Screen<V: View> {
    /// What was last seen.
    pub(super) view: V,
    pub(super) sort: V::Sort,
    pub(super) reverse: bool,
    pub(super) paused: bool,
    pub(super) interval_seconds: f64,
    /// Why the last look failed.
    pub(super) trouble: Option<String>,
}

impl<V: View> Screen<V> {
    pub(in crate::cli) fn new(mut view: V, sort: V::Sort, interval_seconds: f64) -> Self {
        view.sort(sort, false);
        Self { view, sort, reverse: false, paused: false, interval_seconds, trouble: None }
    }
}

pub(super) fn draw<V: View>(frame: &mut Frame<'_>, screen: &Screen<V>) {
    let [header, table, footer] =
        Layout::vertical([Constraint::Length(3), Constraint::Min(2), Constraint::Length(1)]).areas(frame.area());
    frame.render_widget(Paragraph::new(head(screen)), header);
    frame.render_widget(rows(screen), table);
    let keys = "q quit  s sort  r reverse  p pause  + - interval";
    frame.render_widget(Paragraph::new(keys).style(Style::new().add_modifier(Modifier::DIM)), footer);
}

fn head<V: View>(screen: &Screen<V>) -> Text<'_> {
    let [first, second] = screen.view.header().map(Line::from);
    let paused = if screen.paused { "  PAUSED" } else { "" };
    let calm = || Line::from(format!("every {} s{paused}", screen.interval_seconds));
    let third = screen.trouble.as_deref().map_or_else(calm, |why| Line::styled(why, Style::new().fg(Color::Red)));
    Text::from(vec![first.style(Modifier::BOLD), second, third])
}

fn rows<V: View>(screen: &Screen<V>) -> Table<'static> {
    let sorted = V::COLUMNS.iter().map(|Column { name, sort, .. }| {
        let mark = if *sort != Some(screen.sort) {
            ""
        } else if screen.reverse {
            "▲"
        } else {
            "▼"
        };
        format!("{name}{mark}")
    });
    let header = TableRow::new(aligned(sorted)).style(Style::new().add_modifier(Modifier::REVERSED));
    let lines = screen.view.rows().into_iter().map(|row| TableRow::new(aligned(row.cells)).style(style(row.tone)));
    Table::new(lines, V::COLUMNS.iter().map(|column| Constraint::Length(column.width))).header(header)
}

/// Texts to the left, numbers to the right.
fn aligned(cells: impl IntoIterator<Item = String>) -> Vec<Cell<'static>> {
    let cells = cells.into_iter().enumerate().map(|(at, cell)| {
        let side = if at < TEXTS { Alignment::Left } else { Alignment::Right };
        Cell::from(Text::from(cell).alignment(side))
    });
    cells.collect()
}

fn style(tone: Tone) -> Style {
    match tone {
        Tone::Plain => Style::new(),
        Tone::Dim => Style::new().add_modifier(Modifier::DIM),
        Tone::Warning => Style::new().fg(Color::Yellow),
        Tone::Bad => Style::new().fg(Color::Red),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    /// What is on a screen so wide, of eight lines, in calm and in trouble.
    pub(in crate::cli) fn drawn<V: View>(view: V, sort: V::Sort, width: u16) -> [String; 2] {
        let mut screen = Screen::new(view, sort, 0.5);
        let calm = shown(&screen, width);
        screen.trouble = Some("no answer from http://x: connection refused; trying again".to_owned());
        screen.paused = true;
        [calm, shown(&screen, width)]
    }

    fn shown<V: View>(screen: &Screen<V>, width: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, 8)).unwrap();
        terminal.draw(|frame| draw(frame, screen)).unwrap();
        let buffer = terminal.backend().buffer();
        let lines = buffer.content().chunks(usize::from(width)).map(|cells| {
            let line: String = cells.iter().map(ratatui::buffer::Cell::symbol).collect();
            line.trim_end().to_owned()
        });
        lines.collect::<Vec<_>>().join("\n")
    }
}
