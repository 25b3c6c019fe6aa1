//! The live view as it is drawn.

use super::Sort;
use super::sample::{COLUMNS, Row, View, WIDTHS};
use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Layout};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Text};
use ratatui::widgets::{Cell, Paragraph, Row as TableRow, Table};

/// Everything that is on the screen.
#[derive(Debug, Clone)]
pub(super) struct Screen {
    /// What was last seen; none before the first look.
    pub(super) view: Option<View>,
    pub(super) sort: Sort,
    pub(super) reverse: bool,
    pub(super) paused: bool,
    pub(super) interval_seconds: f64,
    /// Why the last look failed.
    pub(super) trouble: Option<String>,
}

pub(super) fn draw(frame: &mut Frame<'_>, screen: &Screen) {
    let [header, table, footer] =
        Layout::vertical([Constraint::Length(3), Constraint::Min(2), Constraint::Length(1)]).areas(frame.area());
    frame.render_widget(Paragraph::new(head(screen)), header);
    if let Some(view) = &screen.view {
        frame.render_widget(rows(view, screen), table);
    }
    let keys = "q quit  s sort  r reverse  p pause  + - interval";
    frame.render_widget(Paragraph::new(keys).style(Style::new().add_modifier(Modifier::DIM)), footer);
}

fn head(screen: &Screen) -> Text<'_> {
    let lines = screen.view.as_ref().map_or_else(|| ["gavel fleet".to_owned(), String::new()], View::header);
    let [first, second] = lines.map(Line::from);
    let paused = if screen.paused { "  PAUSED" } else { "" };
    let calm = || Line::from(format!("every {} s{paused}", screen.interval_seconds));
    let third = screen.trouble.as_deref().map_or_else(calm, |why| Line::styled(why, Style::new().fg(Color::Red)));
    Text::from(vec![first.style(Modifier::BOLD), second, third])
}

fn rows<'a>(view: &'a View, screen: &Screen) -> Table<'a> {
    let sorted = COLUMNS.iter().zip(SORTS).map(|(name, sort)| {
        let mark = if sort != Some(screen.sort) {
            ""
        } else if screen.reverse {
            "▲"
        } else {
            "▼"
        };
        format!("{name}{mark}")
    });
    let header = TableRow::new(aligned(sorted)).style(Style::new().add_modifier(Modifier::REVERSED));
    let lines = view.kernels.iter().map(|row| TableRow::new(aligned(row.cells())).style(style(row)));
    Table::new(lines, WIDTHS.map(Constraint::Length)).header(header)
}

/// By which column each sorts.
const SORTS: [Option<Sort>; 9] = [
    Some(Sort::Name),
    Some(Sort::Status),
    Some(Sort::Port),
    None,
    None,
    Some(Sort::Restarts),
    Some(Sort::Memory),
    Some(Sort::Cpu),
    Some(Sort::Requests),
];

impl Sort {
    /// The column to the right, and after the last the first.
    pub(super) fn next(self) -> Self {
        let columns: Vec<Self> = SORTS.into_iter().flatten().collect();
        let at = columns.iter().position(|column| *column == self).unwrap_or_default();
        columns[(at + 1) % columns.len()]
    }
}

/// Texts to the left, numbers to the right.
fn aligned(cells: impl IntoIterator<Item = String>) -> Vec<Cell<'static>> {
    let cells = cells.into_iter().enumerate().map(|(at, cell)| {
        let side = if at < 2 { Alignment::Left } else { Alignment::Right };
        Cell::from(Text::from(cell).alignment(side))
    });
    cells.collect()
}

fn style(row: &Row) -> Style {
    match row.status.as_str() {
        "failed" | "unhealthy" => Style::new().fg(Color::Red),
        "starting" => Style::new().fg(Color::Yellow),
        "stopped" => Style::new().add_modifier(Modifier::DIM),
        _ => Style::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample::tests::two;
    use super::*;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    fn drawn(screen: &Screen) -> String {
        let mut terminal = Terminal::new(TestBackend::new(100, 8)).unwrap();
        terminal.draw(|frame| draw(frame, screen)).unwrap();
        let buffer = terminal.backend().buffer();
        let lines = buffer.content().chunks(100).map(|cells| {
            let line: String = cells.iter().map(ratatui::buffer::Cell::symbol).collect();
            line.trim_end().to_owned()
        });
        lines.collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn what_is_on_the_screen() {
        let (before, now) = two();
        let mut view = View::between(Some(&before), &now);
        view.sort(Sort::Status, false);
        let mut screen = Screen {
            view: Some(view),
            sort: Sort::Status,
            reverse: false,
            paused: false,
            interval_seconds: 0.5,
            trouble: None,
        };
        let expected = "\
gavel fleet  degraded  2 kernels
26.0 MiB and 50.0 % in all, main process 20.0 MiB and 25.0 %  1 reports wait  at work on nothing
every 0.5 s
KERNEL               STATUS▼      PORT      PID    SINCE  RESTARTS     MEMORY   CPU %     REQ/S
audit_trail          failed       8100        7      12s         2    3.0 MiB     0.0       0.0
message_bus          healthy      8100        7      12s         2    3.0 MiB    25.0     100.0

q quit  s sort  r reverse  p pause  + - interval";
        assert_eq!(drawn(&screen), expected);
        screen.trouble = Some("no answer from http://x: connection refused; trying again".to_owned());
        screen.paused = true;
        let drawn = drawn(&screen);
        assert!(drawn.contains("connection refused; trying again") && drawn.contains("audit_trail"), "{drawn}");
    }

    #[test]
    fn the_key_goes_through_all_columns() {
        let mut sort = Sort::Name;
        let mut seen = vec![sort];
        for _ in 0..6 {
            sort = sort.next();
            seen.push(sort);
        }
        seen.dedup();
        assert_eq!((seen.len(), sort.next()), (7, Sort::Name));
    }
}
