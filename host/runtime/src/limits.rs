//! Every limit of the sandbox, by name, with its default.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Whether instances are used once or kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Isolation {
    /// A new instance for every decision: nothing of one request is left for the next.
    #[default]
    Fresh,
    /// Instances are kept and reused one decision at a time. Faster for guests with a large
    /// runtime; what such a guest keeps in its memory, it carries from request to request. An
    /// instance that fails is thrown away.
    Warm,
}

/// What one policy may use. Every field has a default and can be set in the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Wall time for one evaluation, in milliseconds. Default 10.
    pub deadline_ms: u64,
    /// Linear memory, in bytes, over all memories of the component. Default 16 MiB.
    pub max_memory_bytes: u64,
    /// Elements of any one table. Default 10,000.
    pub max_table_elements: u64,
    /// Bytes of text in a verdict. Default 4,096.
    pub max_output_bytes: u64,
    /// Log lines kept for one evaluation; more are dropped and counted. Default 64.
    pub max_log_lines: u64,
    /// Bytes of one log line; longer ones are shortened. Default 1,024.
    pub max_log_line_bytes: u64,
    /// Counter reads and additions in one evaluation. Default 64.
    pub max_counter_calls: u64,
    /// Fresh instance for every decision, or kept ones.
    pub isolation: Isolation,
    /// Instances made before they are asked for, each used once; only with [`Isolation::Fresh`].
    /// Default 0; at most a quarter of `max_instances`.
    pub instances_ahead: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            deadline_ms: 10,
            max_memory_bytes: 16 << 20,
            max_table_elements: 10_000,
            max_output_bytes: 4_096,
            max_log_lines: 64,
            max_log_line_bytes: 1_024,
            max_counter_calls: 64,
            isolation: Isolation::Fresh,
            instances_ahead: 0,
        }
    }
}

/// How the sandbox of a process is set up.
#[derive(Debug, Clone)]
pub struct SandboxOptions {
    /// Where compiled components are kept, private to the user. `None`: compile at every start.
    pub cache_dir: Option<PathBuf>,
    /// Instances that may live at the same time; further evaluations wait. Default 256.
    pub max_instances: u32,
    /// The largest `max_memory_bytes` that a policy may be granted. Default 256 MiB.
    pub max_memory_bytes: u64,
    /// The largest `max_table_elements` that a policy may be granted. Default 100,000.
    pub max_table_elements: u64,
    /// Stack of a guest, in bytes. Default 512 KiB.
    pub max_stack_bytes: u64,
    /// Wall time for all policies of one decision, in milliseconds. Default 50.
    pub decision_deadline_ms: u64,
    /// Threads of the slow lane, where evaluations go on that took more than a millisecond.
    /// Default 2.
    pub slow_lane_threads: usize,
}

impl Default for SandboxOptions {
    fn default() -> Self {
        Self {
            cache_dir: None,
            max_instances: 256,
            max_memory_bytes: 256 << 20,
            max_table_elements: 100_000,
            max_stack_bytes: 512 << 10,
            decision_deadline_ms: 50,
            slow_lane_threads: 2,
        }
    }
}

impl SandboxOptions {
    /// Instances that may lie idle, kept warm or made ahead, over all policies: half of all, so
    /// that what waits for one policy never keeps another from being asked.
    pub(crate) fn idle_instances_max(&self) -> usize {
        self.max_instances as usize / 2
    }

    /// The most `instances_ahead` of one policy: a quarter of all.
    pub(crate) fn instances_ahead_max(&self) -> u64 {
        u64::from(self.max_instances / 4)
    }
}

/// Bytes that a guest may hand to the host in one call, whatever the call: what the host would
/// allocate on its behalf before our own, smaller limits are looked at.
pub(crate) const TRANSFER_BYTES_MAX: usize = 2 << 20;

/// Bytes of a counter's key.
pub(crate) const COUNTER_KEY_BYTES_MAX: usize = 256;

/// Wall time for `describe`, in milliseconds. It runs once, at load, and starts up guests that
/// carry a whole language runtime. A plugin has at least as long to be made and started.
pub(crate) const DESCRIBE_DEADLINE_MS: u64 = 2_000;
