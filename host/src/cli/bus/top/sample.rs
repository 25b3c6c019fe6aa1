//! What one look at the bus shows, and what two of them say about the time between.

use super::super::reach::Way;
use super::Sort;
use crate::cli::output::shown;
use crate::cli::top::{self, Column, Tone};
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::cmp::Ordering;
use std::collections::BTreeMap;

/// One plugin, at one moment.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(in crate::cli::bus) struct Plugin {
    pub(in crate::cli::bus) name: String,
    pub(in crate::cli::bus) state: String,
    pub(in crate::cli::bus) events: u64,
    pub(in crate::cli::bus) errors: u64,
    pub(in crate::cli::bus) p50_ms: f64,
    pub(in crate::cli::bus) p95_ms: f64,
    pub(in crate::cli::bus) p99_ms: f64,
    pub(in crate::cli::bus) queue_depth: u64,
    pub(in crate::cli::bus) memory_bytes: Option<u64>,
}

impl Plugin {
    pub(in crate::cli::bus) fn read(value: &Value) -> Result<Self> {
        Self::deserialize(value).context("the server describes a plugin otherwise: is it of this version?")
    }
}

/// One look.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sample {
    pub(super) plugins: Vec<Plugin>,
    pub(super) uptime_seconds: f64,
    pub(super) events_total: u64,
    pub(super) mode: String,
    pub(super) connections: u64,
    pub(super) undelivered: u64,
}

impl Sample {
    pub(super) fn take(way: &mut Way) -> Result<Self> {
        let status = way.status()?;
        let plugins = way.plugins()?.iter().map(Plugin::read).collect::<Result<_>>()?;
        let (bus, unix) = (&status["bus"], &status["unix"]);
        Ok(Self {
            plugins,
            uptime_seconds: bus["uptime_seconds"].as_f64().context("the server does not say how long it is up")?,
            events_total: bus["events_total"].as_u64().unwrap_or_default(),
            mode: unix["mode"].as_str().unwrap_or("no sockets").to_owned(),
            connections: unix["connections"].as_u64().unwrap_or_default(),
            undelivered: unix["undelivered"].as_u64().unwrap_or_default(),
        })
    }
}

/// A plugin's line.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Row {
    pub(super) name: String,
    pub(super) state: String,
    pub(super) events_per_second: f64,
    pub(super) p50_ms: f64,
    pub(super) p95_ms: f64,
    pub(super) p99_ms: f64,
    pub(super) errors: u64,
    pub(super) queue_depth: u64,
    /// Absent while it is at work.
    pub(super) memory_bytes: Option<u64>,
}

/// What is shown.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct View {
    pub(super) uptime_seconds: f64,
    pub(super) mode: String,
    pub(super) connections: u64,
    pub(super) undelivered: u64,
    pub(super) events_total: u64,
    pub(super) events_per_second: f64,
    /// Over how long the rates are counted.
    pub(super) seconds: f64,
    pub(super) plugins: Vec<Row>,
}

impl View {
    /// What happened from one look to the next; without one before, since the start. A bus that was started anew in
    /// between counts from its start.
    pub(super) fn between(before: Option<&Sample>, now: &Sample) -> Self {
        let before = before.filter(|before| before.uptime_seconds <= now.uptime_seconds);
        let seconds = now.uptime_seconds - before.map_or(0.0, |before| before.uptime_seconds);
        #[allow(clippy::cast_precision_loss, reason = "a rate for people")]
        let rate = |now: u64, before: u64| match seconds {
            0.0 => 0.0,
            seconds => now.saturating_sub(before) as f64 / seconds,
        };
        let known: BTreeMap<&str, &Plugin> = before
            .map(|before| before.plugins.iter().map(|plugin| (plugin.name.as_str(), plugin)).collect())
            .unwrap_or_default();
        let row = |plugin: &Plugin| {
            // One that was replaced counts from nought.
            let earlier = known.get(plugin.name.as_str()).map(|known| known.events);
            let earlier = earlier.filter(|earlier| *earlier <= plugin.events).unwrap_or_default();
            Row {
                name: plugin.name.clone(),
                state: plugin.state.clone(),
                events_per_second: rate(plugin.events, earlier),
                p50_ms: plugin.p50_ms,
                p95_ms: plugin.p95_ms,
                p99_ms: plugin.p99_ms,
                errors: plugin.errors,
                queue_depth: plugin.queue_depth,
                memory_bytes: plugin.memory_bytes,
            }
        };
        Self {
            uptime_seconds: now.uptime_seconds,
            mode: now.mode.clone(),
            connections: now.connections,
            undelivered: now.undelivered,
            events_total: now.events_total,
            events_per_second: rate(now.events_total, before.map_or(0, |before| before.events_total)),
            seconds,
            plugins: now.plugins.iter().map(row).collect(),
        }
    }
}

impl top::View for View {
    type Sort = Sort;

    const COLUMNS: &'static [Column<Sort>] = &[
        Column { name: "PLUGIN", width: 24, sort: Some(Sort::Name) },
        Column { name: "STATE", width: 13, sort: None },
        Column { name: "EVENTS/S", width: 9, sort: Some(Sort::Rate) },
        Column { name: "P50", width: 9, sort: Some(Sort::P50) },
        Column { name: "P95", width: 9, sort: Some(Sort::P95) },
        Column { name: "P99", width: 9, sort: Some(Sort::P99) },
        Column { name: "ERRORS", width: 8, sort: Some(Sort::Errors) },
        Column { name: "QUEUE", width: 7, sort: Some(Sort::Queue) },
        Column { name: "MEMORY", width: 9, sort: Some(Sort::Memory) },
    ];

    /// Equals by name.
    fn sort(&mut self, by: Sort, reverse: bool) {
        let greater = |a: f64, b: f64| b.total_cmp(&a);
        self.plugins.sort_by(|a, b| {
            let order = match by {
                Sort::Rate => greater(a.events_per_second, b.events_per_second),
                Sort::Name => Ordering::Equal,
                Sort::P50 => greater(a.p50_ms, b.p50_ms),
                Sort::P95 => greater(a.p95_ms, b.p95_ms),
                Sort::P99 => greater(a.p99_ms, b.p99_ms),
                Sort::Errors => b.errors.cmp(&a.errors),
                Sort::Queue => b.queue_depth.cmp(&a.queue_depth),
                Sort::Memory => b.memory_bytes.cmp(&a.memory_bytes),
            };
            let order = order.then_with(|| a.name.cmp(&b.name));
            if reverse { order.reverse() } else { order }
        });
    }

    fn header(&self) -> [String; 2] {
        [
            format!(
                "gavel bus  up {}  {} events/s  {} events",
                clock(self.uptime_seconds),
                rate(self.events_per_second),
                self.events_total
            ),
            format!(
                "mode {}  {} connections  {} messages undelivered  {} plugins",
                self.mode,
                self.connections,
                self.undelivered,
                self.plugins.len()
            ),
        ]
    }

    fn rows(&self) -> Vec<top::Row> {
        self.plugins.iter().map(|row| top::Row { cells: row.cells(), tone: row.tone() }).collect()
    }
}

impl Row {
    fn cells(&self) -> Vec<String> {
        vec![
            shown(&self.name, 23),
            self.state.clone(),
            rate(self.events_per_second),
            duration(self.p50_ms),
            duration(self.p95_ms),
            duration(self.p99_ms),
            self.errors.to_string(),
            self.queue_depth.to_string(),
            bytes(self.memory_bytes),
        ]
    }

    fn tone(&self) -> Tone {
        match self.state.as_str() {
            "circuit_open" => Tone::Bad,
            "backing_off" => Tone::Warning,
            "idle" => Tone::Dim,
            _ => Tone::Plain,
        }
    }
}

fn rate(per_second: f64) -> String {
    if per_second >= 1_000.0 { format!("{per_second:.0}") } else { format!("{per_second:.1}") }
}

/// Milliseconds in the unit that needs the fewest digits.
pub(in crate::cli::bus) fn duration(ms: f64) -> String {
    match ms {
        0.0 => "-".to_owned(),
        ms if ms < 1.0 => format!("{:.1} µs", ms * 1e3),
        ms if ms < 1_000.0 => format!("{ms:.1} ms"),
        ms => format!("{:.1} s", ms / 1e3),
    }
}

/// Bytes in the unit that needs the fewest digits; `busy` where it is not known because the plugin is at work.
pub(in crate::cli::bus) fn bytes(bytes: Option<u64>) -> String {
    #[allow(clippy::cast_precision_loss, reason = "shown with one digit")]
    match bytes {
        None => "busy".to_owned(),
        Some(0) => "-".to_owned(),
        Some(bytes) if bytes < 1 << 10 => format!("{bytes} B"),
        Some(bytes) if bytes < 1 << 20 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        Some(bytes) if bytes < 1 << 30 => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
        Some(bytes) => format!("{:.1} GiB", bytes as f64 / 1_073_741_824.0),
    }
}

/// `3d 04:05:06`.
fn clock(seconds: f64) -> String {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an uptime")]
    let seconds = seconds as u64;
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    let time = format!("{hours:02}:{minutes:02}:{:02}", seconds % 60);
    if days == 0 { time } else { format!("{days}d {time}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::top::View as _;
    use crate::cli::top::tests::{drawn, keys_reach_every_column};

    fn plugin(name: &str, events: u64, p99_ms: f64) -> Plugin {
        Plugin {
            name: name.to_owned(),
            state: "ready".to_owned(),
            events,
            errors: 3,
            p50_ms: 0.004,
            p95_ms: 1.5,
            p99_ms,
            queue_depth: 2,
            memory_bytes: (events > 500).then_some(3 << 20),
        }
    }

    fn sample(uptime_seconds: f64, events: u64) -> Sample {
        Sample {
            plugins: vec![plugin("state_service", events, 2_500.0), plugin("agent_service", 10, 0.0)],
            uptime_seconds,
            events_total: events + 10,
            mode: "hybrid".to_owned(),
            connections: 7,
            undelivered: 1,
        }
    }

    fn rates(view: &View) -> Vec<(&str, f64)> {
        view.plugins.iter().map(|row| (row.name.as_str(), row.events_per_second)).collect()
    }

    #[test]
    fn rates_count_from_the_look_before_or_the_start() {
        let first = View::between(None, &sample(100.0, 1_000));
        assert_eq!(rates(&first), [("state_service", 10.0), ("agent_service", 0.1)]);
        let (before, now) = (sample(100.0, 1_000), sample(102.0, 1_500));
        assert_eq!(rates(&View::between(Some(&before), &now)), [("state_service", 250.0), ("agent_service", 0.0)]);
        let anew = View::between(Some(&now), &sample(2.0, 100));
        assert_eq!((rates(&anew)[0].1, anew.events_per_second), (50.0, 55.0), "the server began anew");
        let replaced = View::between(Some(&sample(100.0, 1_000)), &sample(110.0, 50));
        assert!((rates(&replaced)[0].1 - 5.0).abs() < 1e-9, "the plugin was replaced");
    }

    #[test]
    fn every_column_sorts_and_turns_round() {
        let mut view = View::between(None, &sample(100.0, 1_000));
        for (by, first) in [
            (Sort::Name, "agent_service"),
            (Sort::Rate, "state_service"),
            (Sort::P99, "state_service"),
            (Sort::Memory, "state_service"),
            (Sort::Queue, "agent_service"),
        ] {
            view.sort(by, false);
            assert_eq!(view.plugins[0].name, first, "{by:?}");
            view.sort(by, true);
            assert_ne!(view.plugins[0].name, first, "{by:?}");
        }
    }

    #[test]
    fn the_table_as_text() {
        let mut view = View::between(Some(&sample(3_600.0, 1_000)), &sample(93_784.0, 2_000));
        view.sort(Sort::Name, false);
        let expected = "\
gavel bus  up 1d 02:03:04  0.0 events/s  2010 events
mode hybrid  7 connections  1 messages undelivered  2 plugins
PLUGIN                   STATE          EVENTS/S       P50       P95       P99   ERRORS   QUEUE    MEMORY
agent_service            ready               0.0    4.0 µs    1.5 ms         -        3       2      busy
state_service            ready               0.0    4.0 µs    1.5 ms     2.5 s        3       2   3.0 MiB";
        assert_eq!(view.text(), expected);
    }

    #[test]
    fn what_is_on_the_screen() {
        let view = View::between(Some(&sample(60.0, 1_000)), &sample(62.0, 3_000));
        let expected = "\
gavel bus  up 00:01:02  1000 events/s  3010 events
mode hybrid  7 connections  1 messages undelivered  2 plugins
every 0.5 s
PLUGIN                   STATE          EVENTS/S       P50       P95      P99▼   ERRORS   QUEUE    MEMORY
state_service            ready              1000    4.0 µs    1.5 ms     2.5 s        3       2   3.0 MiB
agent_service            ready               0.0    4.0 µs    1.5 ms         -        3       2      busy

q quit  s sort  r reverse  p pause  + - interval";
        let [calm, troubled] = drawn(view, Sort::P99, 107);
        assert_eq!(calm, expected);
        assert!(
            troubled.contains("connection refused; trying again") && troubled.contains("state_service"),
            "{troubled}"
        );
        keys_reach_every_column::<View>();
    }
}
