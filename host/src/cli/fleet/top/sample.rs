//! What one look at a fleet shows, and what two of them say about the time between.

use super::super::reach::{Fleet, Kernel, Time, age, bytes};
use super::Sort;
use crate::cli::client::Client;
use crate::cli::output::shown;
use crate::cli::top::{self, Column, Tone};
use anyhow::Result;
use serde::Serialize;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::io::Read;

/// One look.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sample {
    pub(super) fleet: Fleet,
    /// Requests by kernel since the main process began; `None` for a key that may not see metrics.
    pub(super) requests: Option<BTreeMap<String, u64>>,
}

/// Bytes of the metrics that are read.
const METRICS_BYTES_MAX: u64 = 16 << 20;

impl Sample {
    pub(super) fn take(client: &Client) -> Result<Self> {
        let fleet = Fleet::of(client)?;
        let mut answer = client.get("/metrics")?;
        let mut text = String::new();
        let requests = if answer.status().is_success() {
            answer.body_mut().as_reader().take(METRICS_BYTES_MAX).read_to_string(&mut text)?;
            Some(requests(&text))
        } else {
            None
        };
        Ok(Self { fleet, requests })
    }
}

/// The requests that were passed on to each kernel, whatever their status.
fn requests(metrics: &str) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for line in metrics.lines() {
        let Some((labels, count)) =
            line.strip_prefix("gavel_fleet_requests_total{").and_then(|rest| rest.split_once("} "))
        else {
            continue;
        };
        let kernel = labels.split(',').find_map(|label| label.strip_prefix("kernel=\"")?.strip_suffix('"'));
        let count = count.split(' ').next().and_then(|count| count.parse::<u64>().ok());
        if let (Some(kernel), Some(count)) = (kernel, count) {
            *counts.entry(kernel.to_owned()).or_default() += count;
        }
    }
    counts
}

/// A kernel's line.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Row {
    pub(super) name: String,
    pub(super) status: String,
    pub(super) port: u16,
    pub(super) pid: Option<u32>,
    pub(super) since: Time,
    pub(super) restarts: u32,
    pub(super) memory_bytes: Option<u64>,
    /// Of one processor, in per cent; absent where it is not known: no process here, or another than before.
    pub(super) cpu_percent: Option<f64>,
    pub(super) requests_per_second: Option<f64>,
    #[serde(skip)]
    badness: usize,
    #[serde(skip)]
    age: String,
}

/// What is shown.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct View {
    pub(super) status: String,
    /// Over how long the rates are counted; 0 at the first look.
    pub(super) seconds: f64,
    pub(super) main_memory_bytes: Option<u64>,
    pub(super) main_cpu_percent: Option<f64>,
    /// Of all kernels and the main process together.
    pub(super) memory_bytes: u64,
    pub(super) healing: Vec<String>,
    pub(super) reports_waiting: u64,
    pub(super) kernels: Vec<Row>,
}

impl View {
    /// What happened from one look to the next. A fleet that was started anew in between has no rates yet.
    pub(super) fn between(before: Option<&Sample>, now: &Sample) -> Self {
        let same = |before: &&Sample| before.fleet.main.pid == now.fleet.main.pid && before.fleet.now < now.fleet.now;
        let before = before.filter(same);
        let seconds = before.map_or(0.0, |before| now.fleet.now.0.duration_since(before.fleet.now.0).as_secs_f64());
        let known: BTreeMap<&str, &Kernel> =
            before.into_iter().flat_map(|before| &before.fleet.kernels).map(|one| (&*one.name, one)).collect();
        let row = |kernel: &Kernel| {
            let earlier = known.get(&*kernel.name).filter(|earlier| earlier.pid == kernel.pid);
            let requests = |sample: &Sample| {
                let counts = sample.requests.as_ref()?;
                Some(counts.get(&kernel.name).copied().unwrap_or_default())
            };
            Row {
                name: kernel.name.clone(),
                status: kernel.status.clone(),
                port: kernel.port,
                pid: kernel.pid,
                since: kernel.since,
                restarts: kernel.restarts,
                memory_bytes: kernel.memory_bytes,
                cpu_percent: percent(earlier.and_then(|one| one.cpu_seconds), kernel.cpu_seconds, seconds),
                requests_per_second: rate(before.and_then(requests), requests(now), seconds),
                badness: kernel.badness(),
                age: age(kernel.since, now.fleet.now),
            }
        };
        let (main, kernels) = (&now.fleet.main, now.fleet.meant_to_run().map(row).collect::<Vec<_>>());
        let main_before = before.and_then(|before| before.fleet.main.cpu_seconds);
        let memory = kernels.iter().filter_map(|row| row.memory_bytes).chain(main.memory_bytes);
        Self {
            status: now.fleet.status.clone(),
            seconds,
            main_memory_bytes: main.memory_bytes,
            main_cpu_percent: percent(main_before, main.cpu_seconds, seconds),
            memory_bytes: memory.sum(),
            healing: now.fleet.healing.clone(),
            reports_waiting: now.fleet.reports_waiting,
            kernels,
        }
    }
}

impl top::View for View {
    type Sort = Sort;

    const COLUMNS: &'static [Column<Sort>] = &[
        Column { name: "KERNEL", width: 20, sort: Some(Sort::Name) },
        Column { name: "STATUS", width: 10, sort: Some(Sort::Status) },
        Column { name: "PORT", width: 6, sort: Some(Sort::Port) },
        Column { name: "PID", width: 8, sort: None },
        Column { name: "SINCE", width: 8, sort: None },
        Column { name: "RESTARTS", width: 9, sort: Some(Sort::Restarts) },
        Column { name: "MEMORY", width: 10, sort: Some(Sort::Memory) },
        Column { name: "CPU %", width: 7, sort: Some(Sort::Cpu) },
        Column { name: "REQ/S", width: 9, sort: Some(Sort::Requests) },
    ];

    /// Equals by name.
    fn sort(&mut self, by: Sort, reverse: bool) {
        let greater = |a: Option<f64>, b: Option<f64>| b.unwrap_or(-1.0).total_cmp(&a.unwrap_or(-1.0));
        self.kernels.sort_by(|a, b| {
            let order = match by {
                Sort::Status => b.badness.cmp(&a.badness),
                Sort::Name => Ordering::Equal,
                Sort::Port => a.port.cmp(&b.port),
                Sort::Cpu => greater(a.cpu_percent, b.cpu_percent),
                Sort::Memory => b.memory_bytes.cmp(&a.memory_bytes),
                Sort::Requests => greater(a.requests_per_second, b.requests_per_second),
                Sort::Restarts => b.restarts.cmp(&a.restarts),
            };
            let order = order.then_with(|| a.name.cmp(&b.name));
            if reverse { order.reverse() } else { order }
        });
    }

    fn header(&self) -> [String; 2] {
        let cpu: f64 = self.kernels.iter().filter_map(|row| row.cpu_percent).chain(self.main_cpu_percent).sum();
        let healing = if self.healing.is_empty() { "nothing".to_owned() } else { self.healing.join(", ") };
        [
            format!("gavel fleet  {}  {} kernels", self.status, self.kernels.len()),
            format!(
                "{} and {cpu:.1} % in all, main process {} and {} %  {} reports wait  at work on {healing}",
                bytes(Some(self.memory_bytes)),
                bytes(self.main_memory_bytes),
                digits(self.main_cpu_percent),
                self.reports_waiting,
            ),
        ]
    }

    fn rows(&self) -> Vec<top::Row> {
        self.kernels.iter().map(|row| top::Row { cells: row.cells(), tone: row.tone() }).collect()
    }
}

impl Row {
    fn cells(&self) -> Vec<String> {
        vec![
            shown(&self.name, 19),
            self.status.clone(),
            self.port.to_string(),
            self.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string()),
            self.age.clone(),
            self.restarts.to_string(),
            bytes(self.memory_bytes),
            digits(self.cpu_percent),
            digits(self.requests_per_second),
        ]
    }

    fn tone(&self) -> Tone {
        match self.status.as_str() {
            "failed" | "unhealthy" => Tone::Bad,
            "starting" => Tone::Warning,
            "stopped" => Tone::Dim,
            _ => Tone::Plain,
        }
    }
}

fn digits(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.1}"))
}

fn percent(before: Option<f64>, now: Option<f64>, seconds: f64) -> Option<f64> {
    let spent = now? - before?;
    (seconds > 0.0).then(|| (spent / seconds * 100.0).max(0.0))
}

fn rate(before: Option<u64>, now: Option<u64>, seconds: f64) -> Option<f64> {
    #[allow(clippy::cast_precision_loss, reason = "a rate for people")]
    let more = now?.saturating_sub(before?) as f64;
    (seconds > 0.0).then(|| more / seconds)
}

#[cfg(test)]
mod tests {
    use super::super::super::reach::tests::fleet;
    use super::*;
    use crate::cli::top::View as _;
    use crate::cli::top::tests::{drawn, keys_reach_every_column};

    fn sample(now: &str, cpu_seconds: f64, requests: u64) -> Sample {
        let requests = BTreeMap::from([("message_bus".to_owned(), requests)]);
        Sample { fleet: fleet(now, cpu_seconds), requests: Some(requests) }
    }

    fn two() -> (Sample, Sample) {
        (sample("2026-01-01T00:00:10Z", 1.0, 100), sample("2026-01-01T00:00:12Z", 1.5, 300))
    }

    #[test]
    fn rates_are_of_the_time_between() {
        let (before, now) = two();
        let view = View::between(Some(&before), &now);
        let row = &view.kernels[0];
        assert_eq!((row.cpu_percent, row.requests_per_second, view.seconds), (Some(25.0), Some(100.0), 2.0));
        assert_eq!(View::between(None, &now).kernels[0].cpu_percent, None);
        let mut restarted = now.clone();
        restarted.fleet.kernels[0].pid = Some(8);
        assert_eq!(View::between(Some(&before), &restarted).kernels[0].cpu_percent, None, "another process");
        restarted.fleet.main.pid = 9;
        assert_eq!(View::between(Some(&before), &restarted).kernels[0].requests_per_second, None, "another fleet");
    }

    #[test]
    fn requests_are_summed_over_their_statuses() {
        let text = "# TYPE gavel_fleet_requests counter\ngavel_fleet_requests_total{kernel=\"a\",status=\"200\"} 3\n\
                    gavel_fleet_requests_total{kernel=\"a\",status=\"503\"} 4\ngavel_fleet_requests_total{kernel=\"b\",\
                    status=\"200\"} 1\ngavel_fleet_kernel_up{kernel=\"a\"} 1\n# EOF\n";
        assert_eq!(requests(text), BTreeMap::from([("a".to_owned(), 7), ("b".to_owned(), 1)]));
    }

    #[test]
    fn every_column_sorts_and_turns_round() {
        let (before, now) = two();
        let mut view = View::between(Some(&before), &now);
        for (by, first) in [(Sort::Status, "audit_trail"), (Sort::Name, "audit_trail"), (Sort::Cpu, "message_bus")] {
            view.sort(by, false);
            assert_eq!(view.kernels[0].name, first, "{by:?}");
            view.sort(by, true);
            assert_ne!(view.kernels[0].name, first, "{by:?}");
        }
    }

    #[test]
    fn the_table_as_text() {
        let (before, now) = two();
        let mut view = View::between(Some(&before), &now);
        view.sort(Sort::Status, false);
        let expected = "\
gavel fleet  degraded  2 kernels
26.0 MiB and 50.0 % in all, main process 20.0 MiB and 25.0 %  1 reports wait  at work on nothing
KERNEL               STATUS       PORT      PID    SINCE  RESTARTS     MEMORY   CPU %     REQ/S
audit_trail          failed       8100        7      12s         2    3.0 MiB     0.0       0.0
message_bus          healthy      8100        7      12s         2    3.0 MiB    25.0     100.0";
        assert_eq!(view.text(), expected);
    }

    #[test]
    fn what_is_on_the_screen() {
        let (before, now) = two();
        let expected = "\
gavel fleet  degraded  2 kernels
26.0 MiB and 50.0 % in all, main process 20.0 MiB and 25.0 %  1 reports wait  at work on nothing
every 0.5 s
KERNEL               STATUS▼      PORT      PID    SINCE  RESTARTS     MEMORY   CPU %     REQ/S
audit_trail          failed       8100        7      12s         2    3.0 MiB     0.0       0.0
message_bus          healthy      8100        7      12s         2    3.0 MiB    25.0     100.0

q quit  s sort  r reverse  p pause  + - interval";
        let [calm, troubled] = drawn(View::between(Some(&before), &now), Sort::Status, 100);
        assert_eq!(calm, expected);
        assert!(
            troubled.contains("connection refused; trying again") && troubled.contains("audit_trail"),
            "{troubled}"
        );
        keys_reach_every_column::<View>();
    }
}
