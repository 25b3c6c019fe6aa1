//! The live view on a terminal: look, draw, obey a key, and again.

use super::super::reach::{Way, Where};
use super::Sort;
use super::draw::{Screen, draw};
use super::sample::{Sample, View};
use anyhow::{Context, Result};
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use std::time::{Duration, Instant};

/// Intervals between which `+` and `-` go, in seconds.
const INTERVALS: [f64; 7] = [0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0];

/// Show the bus until somebody quits. A server that goes away is waited for.
pub(super) fn run(at: &Where, interval: Duration, sort: Sort) -> Result<()> {
    // Before the screen is taken: that there is no server is told as other commands tell it.
    let way = at.open()?;
    let mut terminal = ratatui::try_init().context("this terminal cannot be drawn on; use --once")?;
    let ended = Watching::new(at, way, interval, sort).run(&mut terminal);
    ratatui::restore();
    ended
}

struct Watching<'a> {
    at: &'a Where,
    way: Option<Way>,
    before: Option<Sample>,
    screen: Screen,
}

impl<'a> Watching<'a> {
    fn new(at: &'a Where, way: Way, interval: Duration, sort: Sort) -> Self {
        let screen = Screen {
            view: None,
            sort,
            reverse: false,
            paused: false,
            interval_seconds: interval.as_secs_f64(),
            trouble: None,
        };
        Self { at, way: Some(way), before: None, screen }
    }

    fn run(mut self, terminal: &mut DefaultTerminal) -> Result<()> {
        loop {
            let looked = Instant::now();
            if !self.screen.paused {
                self.look();
            }
            loop {
                terminal.draw(|frame| draw(frame, &self.screen))?;
                let interval = Duration::from_secs_f64(self.screen.interval_seconds);
                let Some(left) = interval.checked_sub(looked.elapsed()) else { break };
                if !event::poll(left)? {
                    break;
                }
                if let Event::Key(key) = event::read()?
                    && key.kind == KeyEventKind::Press
                    && quits(&mut self.screen, key)
                {
                    return Ok(());
                }
            }
        }
    }

    fn look(&mut self) {
        match self.sample() {
            Ok(now) => {
                let mut view = View::between(self.before.as_ref(), &now);
                view.sort(self.screen.sort, self.screen.reverse);
                self.screen.view = Some(view);
                self.screen.trouble = None;
                self.before = Some(now);
            }
            Err(why) => {
                self.way = None;
                self.screen.trouble = Some(format!("{why:#}; trying again"));
            }
        }
    }

    fn sample(&mut self) -> Result<Sample> {
        let way = match &mut self.way {
            Some(way) => way,
            None => self.way.insert(self.at.open()?),
        };
        Sample::take(way)
    }
}

/// Do what a key says; whether it says to quit.
fn quits(screen: &mut Screen, key: KeyEvent) -> bool {
    let interval = screen.interval_seconds;
    match key.code {
        KeyCode::Char('q') | KeyCode::Esc => return true,
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return true,
        KeyCode::Char('s') => screen.sort = screen.sort.next(),
        KeyCode::Char('r') => screen.reverse = !screen.reverse,
        KeyCode::Char('p' | ' ') => screen.paused = !screen.paused,
        KeyCode::Char('+') => {
            screen.interval_seconds = INTERVALS.into_iter().find(|longer| *longer > interval).unwrap_or(interval);
        }
        KeyCode::Char('-') => {
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
    use super::super::sample::tests::sample;
    use super::*;

    #[test]
    fn keys_do_what_the_footer_says() {
        let view = View::between(None, &sample(100.0, 1_000));
        let mut screen = Screen {
            view: Some(view),
            sort: Sort::Name,
            reverse: false,
            paused: false,
            interval_seconds: 1.0,
            trouble: None,
        };
        let mut press = |code| (quits(&mut screen, KeyEvent::new(code, KeyModifiers::NONE)), screen.clone());
        let first = |screen: &Screen| screen.view.as_ref().unwrap().plugins[0].name.clone();
        assert_eq!(first(&press(KeyCode::Char('x')).1), "agent_service");
        assert_eq!(first(&press(KeyCode::Char('r')).1), "state_service");
        assert_eq!(press(KeyCode::Char('s')).1.sort, Sort::Rate);
        assert_eq!(press(KeyCode::Char('+')).1.interval_seconds, 2.0);
        assert_eq!(press(KeyCode::Char('-')).1.interval_seconds, 1.0);
        assert!(press(KeyCode::Char('p')).1.paused);
        assert!(press(KeyCode::Char('q')).0 && press(KeyCode::Esc).0);
        assert!(quits(&mut screen, KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)));
    }
}
