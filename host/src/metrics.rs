//! What the host counts, for `/metrics` in the Prometheus text format.
//!
//! Names are part of the interface: dashboards and alerts refer to them.

use crate::kasmina::metrics::LayerMetrics;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use std::sync::{Arc, Mutex, PoisonError};

/// Labels of a decision.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct DecisionLabels {
    /// The kernel.
    pub kernel: String,
    /// `ALLOW`, `DENY` or `HALT`.
    pub decision: &'static str,
    /// The stage that denied, `none` for an ALLOW.
    pub stage: &'static str,
}

/// Labels of a policy evaluation.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PolicyLabels {
    /// The policy's name in the configuration.
    pub policy: String,
    /// `allow`, `deny`, `abstain`, `escalate`, or the limit that was hit.
    pub verdict: &'static str,
}

/// Labels of what belongs to one policy of one kernel.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PolicyTimeLabels {
    /// The kernel.
    pub kernel: String,
    /// The policy's name.
    pub policy: String,
}

/// Labels of a step in the life of a kernel's policies.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PolicyChangeLabels {
    /// The kernel.
    pub kernel: String,
    /// `promoted`, `rolled_back`, `quarantined` and so on, as the ledger says it.
    pub action: &'static str,
}

/// Labels of what happened to approvals.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ApprovalLabels {
    /// The kernel.
    pub kernel: String,
    /// `wanted`, `approved`, `rejected`, `used`, `expired`, or `refused`: too much waits already.
    pub outcome: &'static str,
}

/// Labels of a tool call.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ToolLabels {
    /// The tool.
    pub tool: String,
    /// `ok` or `failed`.
    pub outcome: &'static str,
}

/// Labels of an HTTP answer.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct HttpLabels {
    /// The route's pattern, `none` where there is none.
    pub route: String,
    /// The status code.
    pub status: u16,
}

/// Labels of a push of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PushLabels {
    /// The kernel.
    pub kernel: String,
    /// The host of the target.
    pub target: String,
    /// `ok`, `unreachable`, `refused`, `ledger`, or `forked`: the target saw another history.
    pub outcome: &'static str,
}

/// Labels of what one target has of one kernel.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PushedLabels {
    /// The kernel.
    pub kernel: String,
    /// The host of the target.
    pub target: String,
}

/// Labels of what belongs to one kernel.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct KernelLabels {
    /// The kernel.
    pub kernel: String,
}

type Seconds<L> = Family<L, Histogram, fn() -> Histogram>;

/// The counters of a host. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
    /// Decisions, by kernel, decision and stage.
    pub decisions: Family<DecisionLabels, Counter>,
    /// Policy evaluations, by policy and verdict.
    pub evaluations: Family<PolicyLabels, Counter>,
    /// Time of policy evaluations, by kernel and policy.
    pub evaluation_seconds: Seconds<PolicyTimeLabels>,
    /// Steps in the life of policies.
    pub policy_changes: Family<PolicyChangeLabels, Counter>,
    /// 1 while a policy is in quarantine.
    pub policy_quarantined: Family<PolicyTimeLabels, Gauge>,
    /// What happened to approvals.
    pub approvals: Family<ApprovalLabels, Counter>,
    /// Approvals that wait for a human.
    pub approvals_waiting: Family<KernelLabels, Gauge>,
    /// Time from request to durable answer.
    pub decision_seconds: Seconds<KernelLabels>,
    /// Tool calls, by tool and outcome.
    pub tools: Family<ToolLabels, Counter>,
    /// HTTP answers, by route and status.
    pub http: Family<HttpLabels, Counter>,
    /// Bodies that could not be read as a request: nothing was judged, nothing recorded.
    pub unreadable: Counter,
    /// Records in the ledger.
    pub ledger_records: Family<KernelLabels, Gauge>,
    /// Bytes of the ledger.
    pub ledger_bytes: Family<KernelLabels, Gauge>,
    /// Calls of fdatasync.
    pub ledger_syncs: Family<KernelLabels, Gauge>,
    /// 1 while the kernel accepts requests, 0 when it is halted.
    pub accepting: Family<KernelLabels, Gauge>,
    /// 1 when the ledger takes no more records after an I/O error.
    pub ledger_poisoned: Family<KernelLabels, Gauge>,
    /// 1 while the enhanced monitoring of a kernel finds something wrong.
    pub monitoring_alarm: Family<KernelLabels, Gauge>,
    /// Checkpoints brought to others, by target and outcome.
    pub checkpoint_pushes: Family<PushLabels, Counter>,
    /// Records in the last checkpoint that a target took.
    pub checkpoint_pushed: Family<PushedLabels, Gauge>,
    /// Records in the index.
    pub index_records: Family<KernelLabels, Gauge>,
    /// Requests being served.
    pub in_flight: Gauge,
    /// Of layers.
    pub kasmina: LayerMetrics,
}

fn seconds() -> Histogram {
    // 10 µs to 5 s in powers of two.
    Histogram::new(exponential_buckets(1e-5, 2.0, 20))
}

impl Default for Metrics {
    fn default() -> Self {
        let metrics = Self {
            registry: Arc::default(),
            decisions: Family::default(),
            evaluations: Family::default(),
            evaluation_seconds: Family::new_with_constructor(seconds as fn() -> Histogram),
            policy_changes: Family::default(),
            policy_quarantined: Family::default(),
            approvals: Family::default(),
            approvals_waiting: Family::default(),
            decision_seconds: Family::new_with_constructor(seconds as fn() -> Histogram),
            tools: Family::default(),
            http: Family::default(),
            unreadable: Counter::default(),
            ledger_records: Family::default(),
            ledger_bytes: Family::default(),
            ledger_syncs: Family::default(),
            accepting: Family::default(),
            ledger_poisoned: Family::default(),
            monitoring_alarm: Family::default(),
            checkpoint_pushes: Family::default(),
            checkpoint_pushed: Family::default(),
            index_records: Family::default(),
            in_flight: Gauge::default(),
            kasmina: LayerMetrics::default(),
        };
        metrics.register();
        metrics
    }
}

impl Metrics {
    fn register(&self) {
        let mut guard = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        let r = guard.sub_registry_with_prefix("gavel");
        r.register("decisions", "Decisions recorded, by kernel, decision and denying stage", self.decisions.clone());
        r.register("policy_evaluations", "Policy evaluations, by policy and verdict", self.evaluations.clone());
        r.register_with_unit(
            "policy_evaluation",
            "Time of policy evaluations",
            Unit::Seconds,
            self.evaluation_seconds.clone(),
        );
        r.register("policy_changes", "Steps in the life of policies, by action", self.policy_changes.clone());
        r.register("policy_quarantined", "1 while a policy is in quarantine", self.policy_quarantined.clone());
        r.register("approvals", "What happened to approvals, by outcome", self.approvals.clone());
        r.register("approvals_waiting", "Approvals that wait for a human", self.approvals_waiting.clone());
        r.register_with_unit(
            "decision",
            "Time from request to durable answer",
            Unit::Seconds,
            self.decision_seconds.clone(),
        );
        r.register("tool_calls", "Tool calls, by tool and outcome", self.tools.clone());
        r.register("http_requests", "HTTP answers, by route and status", self.http.clone());
        r.register("unreadable_bodies", "Bodies that could not be read as a request", self.unreadable.clone());
        r.register("ledger_records", "Records in the ledger", self.ledger_records.clone());
        r.register_with_unit("ledger_size", "Size of the ledger", Unit::Bytes, self.ledger_bytes.clone());
        r.register("ledger_syncs", "Calls of fdatasync since start", self.ledger_syncs.clone());
        r.register("kernel_accepting", "1 while the kernel accepts requests", self.accepting.clone());
        r.register("ledger_poisoned", "1 when the ledger takes no more records", self.ledger_poisoned.clone());
        r.register(
            "monitoring_alarm",
            "1 while the enhanced monitoring after an incident finds something wrong",
            self.monitoring_alarm.clone(),
        );
        r.register("checkpoint_pushes", "Checkpoints brought to others, by outcome", self.checkpoint_pushes.clone());
        r.register("checkpoint_pushed", "Records in the last checkpoint taken", self.checkpoint_pushed.clone());
        r.register("index_records", "Records in the index", self.index_records.clone());
        r.register("http_in_flight", "Requests being served", self.in_flight.clone());
        self.kasmina.register(r);
    }

    /// Ask this too when somebody scrapes.
    pub(crate) fn collect(&self, collector: Box<dyn Collector>) {
        let mut guard = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        guard.sub_registry_with_prefix("gavel").register_collector(collector);
    }

    /// Everything as OpenMetrics text.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = encode(&mut text, &self.registry.lock().unwrap_or_else(PoisonError::into_inner));
        text
    }
}
