//! What an immutable log counts.

use super::log::Log;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use std::fmt;
use std::sync::{Arc, Weak};

/// What became of an append.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AppendLabels {
    result: &'static str,
}

/// What is counted as it happens.
#[derive(Debug, Clone)]
pub(super) struct Measures {
    appends: Family<AppendLabels, Counter>,
}

impl Measures {
    /// Counts in this registry.
    pub(super) fn register(registry: &mut Registry, log: &Arc<Log>) -> Self {
        let appends = Family::default();
        registry.register(
            "gavel_immutable_log_appends",
            "Appends by result: appended, repeated (same key, same entry) or refused",
            Family::clone(&appends),
        );
        registry.register_collector(Box::new(LogCollector(Arc::downgrade(log))));
        Self { appends }
    }

    /// Counts an append.
    pub(super) fn count(&self, result: &'static str) {
        self.appends.get_or_create(&AppendLabels { result }).inc();
    }
}

/// Reads what the ledger knows when it is asked.
struct LogCollector(Weak<Log>);

impl fmt::Debug for LogCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogCollector").finish_non_exhaustive()
    }
}

impl Collector for LogCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let Some(log) = self.0.upgrade() else { return Ok(()) };
        let (snapshot, stats) = (log.snapshot(), log.ledger.stats());
        let keys = log.keys() as u64;
        for (name, help, value) in [
            ("gavel_immutable_log_records", "Records of the log", snapshot.records),
            ("gavel_immutable_log_bytes", "Bytes of the log", snapshot.bytes),
            ("gavel_immutable_log_waiting", "Appends that wait for the disk", stats.queue_depth),
            ("gavel_immutable_log_keys", "Idempotency keys that are remembered", keys),
            (
                "gavel_immutable_log_stopped",
                "1 if the log stopped after an error",
                u64::from(snapshot.poisoned.is_some()),
            ),
        ] {
            let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            gauge.encode(encoder.encode_descriptor(
                name,
                help,
                None,
                prometheus_client::metrics::MetricType::Gauge,
            )?)?;
        }
        for (name, help, value) in [
            ("gavel_immutable_log_syncs", "Syncs of the log since it was opened", stats.syncs),
            ("gavel_immutable_log_batches", "Batches of appends that shared a sync", stats.batches),
        ] {
            let counter = ConstCounter::new(value);
            counter.encode(encoder.encode_descriptor(
                name,
                help,
                None,
                prometheus_client::metrics::MetricType::Counter,
            )?)?;
        }
        Ok(())
    }
}
