//! The live view on a terminal: look, draw, obey a key, and again.

use super::super::reach::Where;
use super::Sort;
use super::draw::{Screen, draw};
use super::sample::{Sample, View};
use crate::cli::client::Client;
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

/// Show the fleet until somebody quits. One that goes away is waited for.
pub(super) fn run(at: &Where, interval: Duration, sort: Sort) -> Result<()> {
    // Before the screen is taken: that there is no fleet is told as other commands tell it.
    let client = at.client()?;
    let first = Sample::take(&client)?;
    let raw = std::io::stdout().into_raw_mode();
    let screen = raw.and_then(IntoAlternateScreen::into_alternate_screen);
    let screen = screen.context("this terminal cannot be drawn on; use --once")?;
    // The terminal is as it was when these are dropped, however this ends.
    let mut terminal = Terminal::new(TermionBackend::new(screen))?;
    Watching::new(client, first, interval, sort).run(&mut terminal, &keys())
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

struct Watching {
    client: Client,
    before: Option<Sample>,
    screen: Screen,
}

impl Watching {
    fn new(client: Client, first: Sample, interval: Duration, sort: Sort) -> Self {
        let mut view = View::between(None, &first);
        view.sort(sort, false);
        let screen = Screen {
            view: Some(view),
            sort,
            reverse: false,
            paused: false,
            interval_seconds: interval.as_secs_f64(),
            trouble: None,
        };
        Self { client, before: Some(first), screen }
    }

    fn run<B: Backend>(mut self, terminal: &mut Terminal<B>, keys: &Receiver<Key>) -> Result<()>
    where
        B::Error: std::error::Error + Send + Sync + 'static,
    {
        loop {
            let looked = Instant::now();
            loop {
                terminal.draw(|frame| draw(frame, &self.screen))?;
                let interval = Duration::from_secs_f64(self.screen.interval_seconds);
                let Some(left) = interval.checked_sub(looked.elapsed()) else { break };
                match keys.recv_timeout(left) {
                    Ok(key) if quits(&mut self.screen, key) => return Ok(()),
                    Ok(_) => {}
                    Err(RecvTimeoutError::Timeout) => break,
                    // Nobody types any more; it goes on until it is ended.
                    Err(RecvTimeoutError::Disconnected) => std::thread::sleep(left),
                }
            }
            if !self.screen.paused {
                self.look();
            }
        }
    }

    fn look(&mut self) {
        match Sample::take(&self.client) {
            Ok(now) => {
                let mut view = View::between(self.before.as_ref(), &now);
                view.sort(self.screen.sort, self.screen.reverse);
                self.screen.view = Some(view);
                self.screen.trouble = None;
                self.before = Some(now);
            }
            Err(why) => {
                self.screen.trouble = Some(format!("{why:#}; trying again"));
            }
        }
    }
}

/// Do what a key says; whether it says to quit.
fn quits(screen: &mut Screen, key: Key) -> bool {
    let interval = screen.interval_seconds;
    match key {
        Key::Char('q') | Key::Esc | Key::Ctrl('c') => return true,
        Key::Char('s') => screen.sort = screen.sort.next(),
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
    if let Some(view) = &mut screen.view {
        view.sort(screen.sort, screen.reverse);
    }
    false
}

#[cfg(test)]
mod tests {
    use super::super::sample::tests::two;
    use super::*;

    #[test]
    fn keys_do_what_the_footer_says() {
        let mut screen = Screen {
            view: Some(View::between(None, &two().1)),
            sort: Sort::Name,
            reverse: false,
            paused: false,
            interval_seconds: 1.0,
            trouble: None,
        };
        let mut press = |key| (quits(&mut screen, key), screen.clone());
        let first = |screen: &Screen| screen.view.as_ref().unwrap().kernels[0].name.clone();
        assert_eq!(first(&press(Key::Char('x')).1), "audit_trail");
        assert_eq!(first(&press(Key::Char('r')).1), "message_bus");
        assert_eq!(press(Key::Char('s')).1.sort, Sort::Status);
        for (key, seconds) in [('+', 2.0), ('-', 1.0), ('-', 0.5)] {
            assert!((press(Key::Char(key)).1.interval_seconds - seconds).abs() < 1e-9, "{key}");
        }
        assert!(press(Key::Char('p')).1.paused);
        assert!(press(Key::Char('q')).0 && press(Key::Esc).0 && press(Key::Ctrl('c')).0);
    }
}
