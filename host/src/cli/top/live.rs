//! The live view on a terminal: look, draw, obey a key, and again.

use super::draw::{Screen, draw};
use super::{Source, View, next};
use anyhow::{Context, Result};
use ratatui::Terminal;
use ratatui::backend::{Backend, TermionBackend};
use ratatui::termion::event::Key;
use ratatui::termion::input::TermRead;
use ratatui::termion::raw::IntoRawMode;
use ratatui::termion::screen::IntoAlternateScreen;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

/// Intervals between which `+` and `-` go, in seconds.
const INTERVALS: [f64; 7] = [0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0];

/// Keys that wait to be obeyed.
const KEYS_MAX: usize = 16;

/// Show it until somebody quits. Who goes away is waited for.
pub(super) fn run<S: Source>(mut source: S, interval: Duration, sort: <S::View as View>::Sort) -> Result<()> {
    // Before the screen is taken: that nobody is there is told as other commands tell it.
    let first = source.look()?;
    let raw = std::io::stdout().into_raw_mode();
    let screen = raw.and_then(IntoAlternateScreen::into_alternate_screen);
    let screen = screen.context("this terminal cannot be drawn on; use --once")?;
    // The terminal is as it was when these are dropped, however this ends.
    let mut terminal = Terminal::new(TermionBackend::new(screen))?;
    watch(&mut source, Screen::new(first, sort, interval.as_secs_f64()), &mut terminal, &keys())
}

/// What is typed. The thread that reads it ends with the process.
fn keys() -> Receiver<Key> {
    let (typed, keys) = sync_channel(KEYS_MAX);
    std::thread::spawn(move || {
        for key in std::io::stdin().keys().map_while(Result::ok) {
            if typed.send(key).is_err() {
                return;
            }
        }
    });
    keys
}

fn watch<S: Source, B: Backend>(
    source: &mut S,
    mut screen: Screen<S::View>,
    terminal: &mut Terminal<B>,
    keys: &Receiver<Key>,
) -> Result<()>
where
    B::Error: std::error::Error + Send + Sync + 'static,
{
    loop {
        let looked = Instant::now();
        loop {
            terminal.draw(|frame| draw(frame, &screen))?;
            let interval = Duration::from_secs_f64(screen.interval_seconds);
            let Some(left) = interval.checked_sub(looked.elapsed()) else { break };
            match keys.recv_timeout(left) {
                Ok(key) if quits(&mut screen, key) => return Ok(()),
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => break,
                // Nobody types any more; it goes on until it is ended.
                Err(RecvTimeoutError::Disconnected) => std::thread::sleep(left),
            }
        }
        if screen.paused {
            continue;
        }
        match source.look() {
            Ok(view) => {
                (screen.view, screen.trouble) = (view, None);
                screen.view.sort(screen.sort, screen.reverse);
            }
            Err(why) => screen.trouble = Some(format!("{why:#}; trying again")),
        }
    }
}

/// Do what a key says; whether it says to quit.
fn quits<V: View>(screen: &mut Screen<V>, key: Key) -> bool {
    let interval = screen.interval_seconds;
    match key {
        Key::Char('q') | Key::Esc | Key::Ctrl('c') => return true,
        Key::Char('s') => screen.sort = next::<V>(screen.sort),
        Key::Char('r') => screen.reverse = !screen.reverse,
        Key::Char('p' | ' ') => screen.paused = !screen.paused,
        Key::Char('+') => {
            screen.interval_seconds = INTERVALS.into_iter().find(|longer| *longer > interval).unwrap_or(interval);
        }
        Key::Char('-') => {
            let shorter = INTERVALS.into_iter().rev().find(|shorter| *shorter < interval);
            screen.interval_seconds = shorter.unwrap_or(interval);
        }
        _ => {}
    }
    screen.view.sort(screen.sort, screen.reverse);
    false
}

#[cfg(test)]
mod tests {
    use super::super::{Column, Row, Tone};
    use super::*;
    use anyhow::anyhow;
    use ratatui::backend::TestBackend;

    /// Two numbers, sorted by which is greater or smaller.
    #[derive(Debug, Clone, PartialEq, serde::Serialize)]
    struct Numbers(Vec<u32>);

    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Sort {
        Greatest,
        Smallest,
    }

    impl View for Numbers {
        type Sort = Sort;

        const COLUMNS: &'static [Column<Sort>] = &[
            Column { name: "NUMBER", width: 8, sort: Some(Sort::Greatest) },
            Column { name: "-", width: 2, sort: None },
            Column { name: "NEGATED", width: 8, sort: Some(Sort::Smallest) },
        ];

        fn header(&self) -> [String; 2] {
            ["numbers".to_owned(), self.0.len().to_string()]
        }

        fn rows(&self) -> Vec<Row> {
            let row = |number: &u32| Row {
                cells: vec![number.to_string(), String::new(), format!("-{number}")],
                tone: Tone::Plain,
            };
            self.0.iter().map(row).collect()
        }

        fn sort(&mut self, by: Sort, reverse: bool) {
            self.0.sort_unstable_by(|a, b| if (by == Sort::Greatest) == reverse { a.cmp(b) } else { b.cmp(a) });
        }
    }

    #[test]
    fn keys_do_what_the_footer_says() {
        let mut screen = Screen::new(Numbers(vec![1, 2]), Sort::Greatest, 1.0);
        let mut press = |key| (quits(&mut screen, key), screen.clone());
        assert_eq!(press(Key::Char('x')).1.view.0, [2, 1]);
        assert_eq!(press(Key::Char('r')).1.view.0, [1, 2]);
        let (quits, sorted) = press(Key::Char('s'));
        assert_eq!((quits, sorted.sort, sorted.view.0), (false, Sort::Smallest, vec![2, 1]));
        for (key, seconds) in [('+', 2.0), ('-', 1.0), ('-', 0.5)] {
            assert!((press(Key::Char(key)).1.interval_seconds - seconds).abs() < 1e-9, "{key}");
        }
        assert!(press(Key::Char('p')).1.paused);
        assert!(press(Key::Char('q')).0 && press(Key::Esc).0 && press(Key::Ctrl('c')).0);
    }

    /// Counts looks; the second fails, and somebody quits at the third.
    struct Counting(u32, std::sync::mpsc::SyncSender<Key>);

    impl Source for Counting {
        type View = Numbers;

        const FIRST_LOOK_IS_BARE: bool = false;

        fn look(&mut self) -> Result<Numbers> {
            self.0 += 1;
            match self.0 {
                1 => Err(anyhow!("nobody is there")),
                2 => Ok(Numbers(vec![7])),
                _ => {
                    self.1.send(Key::Char('q')).unwrap();
                    Err(anyhow!("gone again"))
                }
            }
        }
    }

    #[test]
    fn who_goes_away_is_waited_for_and_what_was_last_seen_stays() {
        let (typed, keys) = sync_channel(KEYS_MAX);
        let mut source = Counting(0, typed);
        let mut terminal = Terminal::new(TestBackend::new(40, 6)).unwrap();
        let screen = Screen::new(Numbers(vec![1]), Sort::Greatest, 0.01);
        watch(&mut source, screen, &mut terminal, &keys).unwrap();
        let shown: String = terminal.backend().buffer().content().iter().map(ratatui::buffer::Cell::symbol).collect();
        assert!(shown.contains("gone again; trying again") && shown.contains("-7"), "{shown}");
        assert_eq!(source.0, 3);
    }
}
