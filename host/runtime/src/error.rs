//! What can go wrong: when a component is loaded ([`Error`], told to the operator) and when it is
//! asked ([`FailedClosed`]: of a policy, a denial).

/// What a fault is about: a component, by the world it should be of and the name that the operator gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// What a component of that world is called: `policy`, `strategy`, `tamiyo`, `plugin`.
    pub kind: &'static str,
    /// Its name in the configuration.
    pub name: String,
}

impl std::fmt::Display for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

/// Why a sandbox or a component could not be made ready. Nothing is running when this is returned.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The host's own engine could not be set up.
    #[error("the wasm engine cannot start: {0}")]
    Engine(String),
    /// The bytes are no component: truncated, a core module, or another file altogether.
    #[error("{subject}: {bytes} bytes are not a WebAssembly component: {why}")]
    NotAComponent {
        /// Which component.
        subject: Subject,
        /// The size of what was given.
        bytes: usize,
        /// What the validator said.
        why: String,
    },
    /// It is a component, but one that no instance slot could hold: too many core instances,
    /// memories or tables, or one of them too large from the start.
    #[error("{subject}: the component is larger than the sandbox allows: {why}")]
    TooLarge {
        /// Which component.
        subject: Subject,
        /// Which of its parts, and the limit.
        why: String,
    },
    /// The component asks for something that its world does not offer.
    #[error("{subject}: imports {import}, which world {world} does not offer; {advice}")]
    ForbiddenImport {
        /// Which component.
        subject: Subject,
        /// The import's full name, for example `wasi:clocks/wall-clock@0.2.6`.
        import: String,
        /// The world, for example `gavel:policy/policy@0.1.0`.
        world: &'static str,
        /// What it may import, or how to do without.
        advice: String,
    },
    /// The component is built against a version of the contract that this sandbox does not speak.
    #[error(
        "{subject}: is built against {package}@{version}, this sandbox speaks {package}@0.1.0: build it against that contract, or run a Gavel that speaks its own"
    )]
    WrongVersion {
        /// Which component.
        subject: Subject,
        /// The package of the contract, for example `gavel:policy`.
        package: &'static str,
        /// The version that it is built against.
        version: String,
    },
    /// The component does not export what its world demands, or with other types.
    #[error("{subject}: does not implement world {world}: {why}")]
    WrongWorld {
        /// Which component.
        subject: Subject,
        /// The world, for example `gavel:policy/policy@0.1.0`.
        world: &'static str,
        /// What is missing or different.
        why: String,
    },
    /// `describe` failed, so the policy does not work at all.
    #[error("{subject}: describe failed: {why}")]
    Describe {
        /// Which component.
        subject: Subject,
        /// The limit hit or the trap.
        why: FailedClosed,
    },
    /// What a plugin says of itself cannot be used.
    #[error("{subject}: describe gave {what}: {why}")]
    Description {
        /// Which component.
        subject: Subject,
        /// Which of its fields, by its name in the contract.
        what: &'static str,
        /// What is wrong with it, and the limit.
        why: String,
    },
    /// The configuration does not satisfy the schema that the policy ships.
    #[error("{subject}: configuration{path}: {why}")]
    Configuration {
        /// Which component.
        subject: Subject,
        /// Where in the configuration, as ` at /json/pointer`, empty for the whole.
        path: String,
        /// What is wrong there.
        why: String,
    },
    /// A limit is out of the range that the sandbox was set up for.
    #[error("{subject}: limit {limit} is {value}, the sandbox allows {min} to {max}")]
    Limit {
        /// Which component.
        subject: Subject,
        /// The limit's name in the configuration.
        limit: &'static str,
        /// What was asked.
        value: u64,
        /// The least possible value.
        min: u64,
        /// The greatest possible value.
        max: u64,
    },
}

/// Why a policy gave no usable answer. Every one of these denies the request. Of a component that takes part in growing
/// a layer ([`crate::kasmina`]): why nothing changes. Of a plugin ([`crate::plugin`]): why its instance is lost.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FailedClosed {
    /// The policy ran longer than it may.
    #[error("deadline of {limit_ms} ms exceeded (deadline_ms)")]
    Deadline {
        /// The deadline in force.
        limit_ms: u64,
    },
    /// All policies together ran longer than one decision may.
    #[error("deadline of {limit_ms} ms for the whole decision exceeded (decision_deadline_ms)")]
    DecisionDeadline {
        /// The deadline in force.
        limit_ms: u64,
    },
    /// The policy asked for more memory than it may have.
    #[error("memory limit of {limit} bytes reached, {asked} bytes asked (max_memory_bytes)")]
    Memory {
        /// The size that was asked for.
        asked: u64,
        /// The cap in force.
        limit: u64,
    },
    /// The policy asked for a larger table than it may have.
    #[error("table limit of {limit} elements reached, {asked} asked (max_table_elements)")]
    Table {
        /// The size that was asked for.
        asked: u64,
        /// The cap in force.
        limit: u64,
    },
    /// The policy's call stack overflowed.
    #[error("stack overflow, the limit is {limit} bytes (max_stack_bytes)")]
    Stack {
        /// The cap in force.
        limit: u64,
    },
    /// The policy's answer, or what it passed to the host, is too large.
    #[error("output larger than {limit} bytes (max_output_bytes)")]
    Output {
        /// The cap in force.
        limit: u64,
    },
    /// A Tamiyo gave more commands than it may.
    #[error("{found} commands, the limit is {limit} (max_commands)")]
    Commands {
        /// How many it gave.
        found: u64,
        /// The cap in force.
        limit: u64,
    },
    /// The policy used the host's counters more often than one decision may.
    #[error("more than {limit} counter calls (max_counter_calls)")]
    CounterCalls {
        /// The cap in force.
        limit: u64,
    },
    /// The policy used a counter's key that is longer than a key may be.
    #[error("counter key of {bytes} bytes, the limit is {limit} bytes")]
    CounterKey {
        /// The key's length.
        bytes: u64,
        /// The cap in force.
        limit: u64,
    },
    /// The component needs more instances, tables or memories than it may have, or all slots of
    /// the sandbox are taken.
    #[error("no instance to be had: {why}")]
    Instances {
        /// Which limit, in words.
        why: String,
    },
    /// The policy trapped: a panic, `unreachable`, an access out of bounds, a division by zero.
    #[error("trap: {0}")]
    Trap(String),
    /// The answer does not decode as what the world demands (for example, a string that claims to
    /// be longer than the memory it lies in).
    #[error("undecodable answer: {0}")]
    Undecodable(String),
    /// A plugin's instance was asked again after it had failed, or after a call that was given up half way.
    #[error("the instance broke in an earlier call and must be made anew")]
    Spent,
}

impl FailedClosed {
    pub(crate) fn no_slot() -> Self {
        Self::Instances { why: "all instance slots are taken (max_instances)".into() }
    }

    /// The limit or fault as one word for metrics, for example `deadline`.
    #[must_use]
    pub fn as_label(&self) -> &'static str {
        match self {
            Self::Deadline { .. } => "deadline",
            Self::DecisionDeadline { .. } => "decision_deadline",
            Self::Memory { .. } => "memory",
            Self::Table { .. } => "table",
            Self::Stack { .. } => "stack",
            Self::Output { .. } => "output",
            Self::Commands { .. } => "commands",
            Self::CounterCalls { .. } => "counter_calls",
            Self::CounterKey { .. } => "counter_key",
            Self::Instances { .. } => "instances",
            Self::Trap(_) => "trap",
            Self::Undecodable(_) => "undecodable",
            Self::Spent => "spent",
        }
    }
}
