//! The tools that a kernel runs for its agents, once a request is allowed and its record durable.
//!
//! Tools know nothing of governance. Each takes a JSON object and gives a JSON value or a message;
//! time, result size and concurrency are capped here, for all of them alike. The file tools see
//! one folder, through a capability (cap-std): no path, link or race leads out of it.

mod arithmetic;
mod files;

use crate::config::ToolLimits;
use cap_std::fs::Dir;
use serde_json::{Map, Value};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// Parameters of a call.
pub type Params = Map<String, Value>;

/// The tools of a host. Cheap to clone.
#[derive(Clone)]
pub struct Toolbox {
    workspace: Option<Arc<Dir>>,
    limits: Arc<ToolLimits>,
    slots: Arc<Semaphore>,
}

impl std::fmt::Debug for Toolbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Toolbox").field("tools", &self.names()).finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tool {
    Echo,
    Add,
    ReadFile,
    WriteFile,
    Search,
}

const TOOLS: [(&str, Tool); 5] = [
    ("echo", Tool::Echo),
    ("add", Tool::Add),
    ("read_file", Tool::ReadFile),
    ("write_file", Tool::WriteFile),
    ("search", Tool::Search),
];

impl Toolbox {
    /// All tools, the file tools confined to `workspace`.
    #[must_use]
    pub fn new(workspace: Option<Dir>, limits: ToolLimits) -> Self {
        let slots = Arc::new(Semaphore::new(limits.max_in_flight.max(1)));
        Self { workspace: workspace.map(Arc::new), limits: Arc::new(limits), slots }
    }

    /// `echo` and `add` only, as in the recorded runs of the KERNELS package.
    #[must_use]
    pub fn without_files() -> Self {
        Self::new(None, ToolLimits::default())
    }

    /// The tools that this build knows, with or without a workspace.
    #[must_use]
    pub fn all_names() -> Vec<&'static str> {
        TOOLS.iter().map(|(name, _)| *name).collect()
    }

    /// The tools there are.
    #[must_use]
    pub fn names(&self) -> Vec<&'static str> {
        TOOLS.iter().filter(|(_, tool)| self.has(*tool)).map(|(name, _)| *name).collect()
    }

    /// Whether a tool of this name is registered.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    fn has(&self, tool: Tool) -> bool {
        matches!(tool, Tool::Echo | Tool::Add) || self.workspace.is_some()
    }

    fn find(&self, name: &str) -> Option<Tool> {
        TOOLS.iter().find(|(known, tool)| *known == name && self.has(*tool)).map(|(_, tool)| *tool)
    }

    /// Run a tool.
    ///
    /// A call that exceeds its deadline is reported as failed; what it had done by then is done.
    ///
    /// # Errors
    /// What went wrong, as a message for the record and the caller.
    pub async fn call(&self, name: &str, params: Params) -> Result<Value, String> {
        let tool = self.find(name).ok_or_else(|| format!("Tool '{name}' is not registered"))?;
        let result = match tool {
            Tool::Echo => arithmetic::echo(params),
            Tool::Add => arithmetic::add(&params),
            Tool::ReadFile | Tool::WriteFile | Tool::Search => self.with_files(name, tool, params).await,
        }?;
        self.check_size(name, &result)?;
        Ok(result)
    }

    /// File tools block, so they run on threads made for that.
    async fn with_files(&self, name: &str, tool: Tool, params: Params) -> Result<Value, String> {
        let (Some(dir), limits) = (self.workspace.clone(), Arc::clone(&self.limits)) else {
            return Err(format!("Tool '{name}' is not registered"));
        };
        let deadline = Duration::from_millis(limits.deadline_ms);
        let late = || format!("tool '{name}' took longer than {} ms (tools.limits.deadline_ms)", limits.deadline_ms);
        let until = Instant::now() + deadline;
        let slot = tokio::time::timeout(deadline, Arc::clone(&self.slots).acquire_owned()).await;
        let slot = slot.map_err(|_| late())?.map_err(|why| why.to_string())?;
        let call = tokio::task::spawn_blocking({
            let limits = Arc::clone(&limits);
            move || {
                let _slot = slot;
                let files = files::Files { dir: &dir, limits: &limits, until };
                match tool {
                    Tool::ReadFile => files.read(&params),
                    Tool::WriteFile => files.write(&params),
                    _ => files.search(&params),
                }
            }
        });
        tokio::time::timeout_at(until.into(), call)
            .await
            .map_err(|_| late())?
            .map_err(|why| format!("tool '{name}' panicked: {why}"))?
    }

    fn check_size(&self, name: &str, result: &Value) -> Result<(), String> {
        let limit = self.limits.max_result_bytes;
        if size_above(result, limit) {
            return Err(format!(
                "the result of tool '{name}' is larger than {limit} bytes (tools.limits.max_result_bytes)"
            ));
        }
        Ok(())
    }
}

/// Whether `value` as JSON has more than `limit` bytes, found without building it.
fn size_above(value: &Value, limit: usize) -> bool {
    struct Counter {
        left: usize,
    }
    impl std::io::Write for Counter {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.left = self.left.checked_sub(bytes.len()).ok_or(std::io::ErrorKind::FileTooLarge)?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    serde_json::to_writer(Counter { left: limit }, value).is_err()
}

/// A parameter that must be a string.
fn text<'a>(params: &'a Params, name: &str) -> Result<&'a str, String> {
    match params.get(name) {
        Some(Value::String(text)) => Ok(text),
        Some(_) => Err(format!("parameter '{name}' must be a string")),
        None => Err(format!("parameter '{name}' is missing")),
    }
}
