//! What the main process counts.

use super::Front;
use gavel_fleet::{Place, Status};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Counters that live as long as the process.
#[derive(Debug, Default)]
pub(super) struct Counts {
    requests: Family<RequestLabels, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    kernel: String,
    status: u16,
    from: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KernelLabels {
    kernel: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PlaybookLabels {
    playbook: &'static str,
    outcome: &'static str,
}

impl Counts {
    /// A request to a kernel was answered so; it came from a part of the fleet, or from a client.
    pub(super) fn answered(&self, kernel: &str, status: u16, by_the_fleet: bool) {
        let from = if by_the_fleet { "fleet" } else { "client" };
        self.requests.get_or_create(&RequestLabels { kernel: kernel.to_owned(), status, from }).inc();
    }
}

/// All of it, as OpenMetrics.
///
/// # Errors
/// If it cannot be written.
pub(super) fn text(front: &Front) -> Result<String, std::fmt::Error> {
    let inner = &front.inner;
    let mut registry = Registry::with_prefix("gavel_fleet");
    registry.register("requests", "Requests that were passed on, by kernel and status", inner.counts.requests.clone());
    let up = Family::<KernelLabels, Gauge>::default();
    let restarts = Family::<KernelLabels, Counter>::default();
    let failures = Family::<KernelLabels, Gauge>::default();
    let started = |name: &str| inner.fleet.plan().find(name).is_some_and(|one| one.place != Place::NotStarted);
    for entry in inner.fleet.entries().into_iter().filter(|entry| started(&entry.name)) {
        let labels = KernelLabels { kernel: entry.name };
        up.get_or_create(&labels).set(i64::from(entry.status == Status::Healthy));
        restarts.get_or_create(&labels).inc_by(u64::from(entry.restarts));
        failures.get_or_create(&labels).set(i64::from(entry.failures));
    }
    let playbooks = Family::<PlaybookLabels, Gauge>::default();
    let mut healings = 0;
    for healing in inner.fleet.history(None) {
        healings += 1;
        for result in &healing.results {
            let outcome = if result.success { "helped" } else { "did not help" };
            playbooks.get_or_create(&PlaybookLabels { playbook: result.playbook.name(), outcome }).inc();
        }
    }
    let remembered: Gauge = Gauge::default();
    remembered.set(healings);
    let waiting: Gauge = Gauge::default();
    waiting.set(i64::try_from(inner.reports.waiting()).unwrap_or(i64::MAX));
    registry.register("kernel_up", "Whether the kernel is healthy", up);
    registry.register("kernel_restarts", "How often the kernel was started again", restarts);
    registry.register("kernel_failures", "Checks of the kernel that failed in a row", failures);
    registry.register("healings_remembered", "Healings that are remembered", remembered);
    registry.register("playbooks_remembered", "Playbooks of the healings that are remembered, by outcome", playbooks);
    registry.register("reports_waiting", "Reports on disk that wait for the kernels that keep them", waiting);
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}
