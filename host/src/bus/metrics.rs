//! What is counted of the bus, for `/metrics`. All of it is read when it is scraped; nothing here is on the way of an
//! event.
//!
//! Names are part of the interface: `docs/monitoring.md` lists them, the dashboard and the rules in `docs/deploy/` use
//! them, and a test compares all three with what is served. How many series there are is bounded: by the number of
//! plugins, and by the names that they declare.

use super::nats::{NatsCounts, NatsMonitor};
use gavel_bus::unix::{Mode, UnixCounts, UnixView};
use gavel_bus::{Bus, PluginState, PluginStatus, Store};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};

/// The upper bounds of the classes of handling times, in seconds: 1 µs to 30 s, the default of `event_timeout`.
const HANDLING_SECONDS: [f64; 23] = [
    1e-6, 2.5e-6, 5e-6, 1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5,
    1.0, 2.5, 5.0, 10.0, 30.0,
];

const STATES: [(PluginState, &str); 4] = [
    (PluginState::Idle, "idle"),
    (PluginState::Ready, "ready"),
    (PluginState::BackingOff, "backing_off"),
    (PluginState::CircuitOpen, "circuit_open"),
];

const MODES: [(Mode, &str); 3] =
    [(Mode::Compatibility, "compatibility"), (Mode::Hybrid, "hybrid"), (Mode::Pure, "pure")];

/// Reads the counts of a bus when they are scraped.
pub(super) struct BusCollector {
    bus: Bus,
    store: Store,
    /// The sockets, if there are any.
    unix: Option<UnixView>,
    /// The bridge to other hosts, if there is one.
    nats: Option<NatsMonitor>,
    /// What each plugin held when it could last be asked: one that is at work cannot be.
    memory: Mutex<BTreeMap<String, u64>>,
}

impl BusCollector {
    pub(super) fn new(bus: Bus, store: Store, unix: Option<UnixView>, nats: Option<NatsMonitor>) -> Self {
        Self { bus, store, unix, nats, memory: Mutex::default() }
    }
}

impl fmt::Debug for BusCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BusCollector").finish_non_exhaustive()
    }
}

impl Collector for BusCollector {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        let mut out = Out(encoder);
        self.whole(&mut out)?;
        let plugins = self.bus.plugins();
        counted(&mut out, &plugins)?;
        self.measured(&mut out, &plugins)?;
        self.times(&mut out)?;
        self.state(&mut out)?;
        if let Some(unix) = &self.unix {
            sockets(&mut out, &unix.counts())?;
        }
        self.nats.as_ref().map_or(Ok(()), |nats| bridge(&mut out, &nats.counts()))
    }
}

/// Labels of a sample, and its value.
type Sample<'a, V> = (Vec<(&'static str, &'a str)>, V);

/// Writes families, one after the other.
struct Out<'a>(DescriptorEncoder<'a>);

impl Out<'_> {
    fn counters<'a>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = Sample<'a, u64>>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in samples {
            if labels.is_empty() {
                family.encode_counter::<NoLabelSet, _, u64>(&value, None)?;
            } else {
                family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&value, None)?;
            }
        }
        Ok(())
    }

    fn gauges<'a>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        samples: impl IntoIterator<Item = Sample<'a, f64>>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, unit, MetricType::Gauge)?;
        for (labels, value) in samples {
            if labels.is_empty() {
                family.encode_gauge(&value)?;
            } else {
                family.encode_family(&labels)?.encode_gauge(&value)?;
            }
        }
        Ok(())
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.counters(name, help, [(Vec::new(), value)])
    }

    fn gauge(&mut self, name: &str, help: &str, value: usize) -> fmt::Result {
        self.gauges(name, help, None, [(Vec::new(), float(value as u64))])
    }
}

#[allow(clippy::cast_precision_loss, reason = "a sample is a float; counts beyond 2^53 lose their last digit")]
fn float(value: u64) -> f64 {
    value as f64
}

fn is(yes: bool) -> f64 {
    f64::from(u8::from(yes))
}

impl BusCollector {
    fn whole(&self, out: &mut Out<'_>) -> fmt::Result {
        let seen = self.bus.overview();
        let up = [(Vec::new(), seen.uptime_seconds)];
        out.gauges("bus_uptime", "Time since the bus was made", Some(&Unit::Seconds), up)?;
        let events = seen.events.iter().map(|counted| {
            (vec![("namespace", counted.namespace.as_str()), ("event", counted.event.as_str())], counted.count)
        });
        out.counters(
            "bus_events",
            "Events that came, by namespace and name; what no plugin declares is other",
            events,
        )?;
        let outcomes = |counts: &BTreeMap<&'static str, u64>| -> Vec<Sample<'static, u64>> {
            counts.iter().map(|(outcome, count)| (vec![("outcome", *outcome)], *count)).collect()
        };
        out.counters("bus_answers", "Events that somebody waited for, by what came of them", outcomes(&seen.answers))?;
        out.counters("bus_emitted", "Events that nobody waited for, by what came of them", outcomes(&seen.emitted))?;
        out.gauge("bus_history_events", "Events that the history holds", seen.history_events)?;
        out.gauge("bus_watchers", "Those who watch events live", seen.watchers)?;
        let most = self.bus.options().queue_events_max;
        out.gauge("bus_queue_events_max", "Events that may wait for one plugin (event_queue_size)", most)
    }

    fn measured(&self, out: &mut Out<'_>, plugins: &[PluginStatus]) -> fmt::Result {
        let of = |value: fn(&PluginStatus) -> f64| plugins.iter().map(move |plugin| (named(plugin), value(plugin)));
        let (name, text) = ("bus_plugin_queue_events", "Events that wait for the plugin or are with it");
        out.gauges(name, text, None, of(|plugin| float(plugin.queue_depth as u64)))?;
        let mut known = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|name, _| plugins.iter().any(|plugin| plugin.metadata.name == *name));
        let memory: Vec<_> = plugins
            .iter()
            .map(|plugin| {
                let last = known.entry(plugin.metadata.name.clone()).or_default();
                *last = plugin.memory_bytes.unwrap_or(*last);
                (named(plugin), float(*last))
            })
            .collect();
        drop(known);
        out.gauges("bus_plugin_memory", "Memory that the plugin holds", Some(&Unit::Bytes), memory)?;
        let states = plugins.iter().flat_map(|plugin| {
            STATES.map(|(state, name)| {
                (vec![("plugin", plugin.metadata.name.as_str()), ("state", name)], is(plugin.state == state))
            })
        });
        out.gauges("bus_plugin_state", "1 for the state that the plugin is in", None, states)?;
        for (name, text, value) in [
            (
                "bus_plugin_p50",
                "Half of the plugin's answers took no longer",
                (|counts| counts.p50_ms) as fn(&gavel_bus::Counts) -> f64,
            ),
            ("bus_plugin_p95", "95 of 100 of the plugin's answers took no longer", |counts| counts.p95_ms),
            ("bus_plugin_p99", "99 of 100 of the plugin's answers took no longer", |counts| counts.p99_ms),
        ] {
            let seconds = plugins.iter().map(|plugin| (named(plugin), value(&plugin.counts) / 1e3));
            out.gauges(name, text, Some(&Unit::Seconds), seconds)?;
        }
        Ok(())
    }

    fn times(&self, out: &mut Out<'_>) -> fmt::Result {
        let text = "Time that the plugin had an event, without the time that it waited";
        let (name, unit) = ("bus_plugin_handling", Some(&Unit::Seconds));
        let mut family = out.0.encode_descriptor(name, text, unit, MetricType::Histogram)?;
        for (plugin, times) in self.bus.times(&HANDLING_SECONDS) {
            let bounds = HANDLING_SECONDS.into_iter().chain([f64::MAX]);
            let buckets: Vec<(f64, u64)> = bounds.zip(times.counts.iter().copied()).collect();
            let labels = [("plugin", plugin.as_str())];
            let count = times.counts.iter().sum();
            family.encode_family(&labels)?.encode_histogram::<NoLabelSet>(times.sum_seconds, count, &buckets, None)?;
        }
        Ok(())
    }

    fn state(&self, out: &mut Out<'_>) -> fmt::Result {
        let counts = self.store.counts();
        out.counter("bus_state_changes", "Changes of state that were made", counts.changes)?;
        let text = "Changes of state that their kernel refused or could not record; they were not made";
        out.counter("bus_state_audit_refusals", text, counts.audit_refusals)?;
        let text = "Changes of state that could not be written; they were not made";
        out.counter("bus_state_write_failures", text, counts.write_failures)?;
        out.gauge("bus_state_waiting", "Changes of state that wait to be written", counts.waiting)
    }
}

fn named(plugin: &PluginStatus) -> Vec<(&'static str, &str)> {
    vec![("plugin", plugin.metadata.name.as_str())]
}

fn counted(out: &mut Out<'_>, plugins: &[PluginStatus]) -> fmt::Result {
    for (name, text, value) in [
        ("events", "Events that the plugin was asked about", (|counts| counts.events) as fn(&gavel_bus::Counts) -> u64),
        ("errors", "Times that the plugin broke or was too late", |counts| counts.errors),
        ("refusals", "Times that the plugin answered with an error of the request's", |counts| counts.refusals),
        ("turned_away", "Events that the plugin's full queue turned away", |counts| counts.turned_away),
        ("restarts", "Times that the plugin was made anew after it broke", |counts| counts.restarts),
    ] {
        let samples = plugins.iter().map(|plugin| (named(plugin), value(&plugin.counts)));
        out.counters(&format!("bus_plugin_{name}"), text, samples)?;
    }
    Ok(())
}

fn sockets(out: &mut Out<'_>, counts: &UnixCounts) -> fmt::Result {
    out.gauge("bus_connections", "Connections to the Unix sockets", counts.connections)?;
    out.gauge("bus_agents", "Agents that are connected", counts.agents)?;
    out.gauge("bus_undelivered_messages", "Messages that wait for agents that are not connected", counts.undelivered)?;
    let text = "Messages that were dropped because too many waited for one agent, or for too many agents";
    out.counter("bus_dropped_messages", text, counts.dropped)?;
    let text = "Events that watchers on Unix sockets were too slow to see";
    out.counter("bus_watchers_missed", text, counts.watchers_missed)?;
    let uses = counts.legacy.iter().map(|(command, uses)| (vec![("command", *command)], *uses));
    out.counters("bus_legacy_commands", "Uses of the older daemon's commands", uses)?;
    let modes = MODES.map(|(mode, name)| (vec![("mode", name)], is(counts.mode == mode)));
    out.gauges("bus_mode", "1 for the mode that the sockets are served in", None, modes)
}

fn bridge(out: &mut Out<'_>, counts: &NatsCounts) -> fmt::Result {
    let gauge = |value: u64| [(Vec::new(), float(value))];
    let text = "1 while there is a connection to the NATS server";
    out.gauges("bus_nats_connected", text, None, gauge(counts.connected))?;
    out.counter("bus_nats_connections", "Connections to the NATS server that were made", counts.connections)?;
    let text = "Events that wait in the outbox of the bridge";
    out.gauges("bus_nats_outbox_events", text, None, gauge(counts.outbox_depth))?;
    let text = "Size of the events in the outbox of the bridge";
    out.gauges("bus_nats_outbox", text, Some(&Unit::Bytes), gauge(counts.outbox_bytes))?;
    let text = "Hosts that publish here and are no peers of this one";
    out.gauges("bus_nats_strangers", text, None, gauge(counts.strangers))?;
    let sent = [
        ("queued", counts.queued),
        ("published", counts.published),
        ("not_kept", counts.not_kept),
        ("not_sent", counts.not_sent),
    ];
    let by = |(outcome, count)| (vec![("outcome", outcome)], count);
    out.counters("bus_nats_sent", "Events for other hosts, by what became of them", sent.map(by))?;
    let received = [
        ("received", counts.received),
        ("handled", counts.handled),
        ("unheard", counts.unheard),
        ("acked", counts.acked),
        ("unwanted", counts.unwanted),
        ("refused", counts.refused),
        ("duplicate", counts.duplicates),
        ("redelivered", counts.redelivered),
        ("retried", counts.retried),
        ("failed", counts.failed),
        ("missed", counts.missed),
    ];
    out.counters("bus_nats_received", "Events from other hosts, by what became of them", received.map(by))
}
