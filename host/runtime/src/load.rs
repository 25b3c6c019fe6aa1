//! From bytes to a policy that is ready to be asked: inspected, compiled, linked, described, and
//! its configuration checked. None of this happens on the way of a request.

use crate::ahead::Stock;
use crate::bindings::PolicyPre;
use crate::evaluate::{Call, Guest, Terms};
use crate::instance::Instance;
use crate::lanes::Pace;
use crate::policy::{Inner, Policy};
use crate::world::{POLICY, Surface, World};
use crate::{Error, FailedClosed, Isolation, Limits, Metadata, Sandbox, SandboxOptions};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::sync::{Arc, Mutex};
use wasmtime::Engine;
use wasmtime::component::Component;

/// What a policy is made of.
#[derive(Debug, Clone)]
pub struct PolicySource {
    /// The policy's name in the configuration; it appears in decisions.
    pub name: String,
    /// The component.
    pub bytes: Vec<u8>,
    /// The operator's configuration for it; `Null` for none.
    pub config: Value,
    /// What it may use.
    pub limits: Limits,
}

impl PolicySource {
    /// A policy without configuration, under the default limits.
    #[must_use]
    pub fn new(name: impl Into<String>, bytes: Vec<u8>) -> Self {
        Self { name: name.into(), bytes, config: Value::Null, limits: Limits::default() }
    }
}

/// What a component is, seen from outside.
#[derive(Debug, Clone)]
pub struct Inspection {
    /// `sha256:` and the hex digest of the component.
    pub digest: String,
    /// What it asks for, by name.
    pub imports: Vec<String>,
    /// What it gives, by name.
    pub exports: Vec<String>,
    /// What it says of itself.
    pub metadata: Metadata,
}

/// How often a new component is asked to describe itself while there is no instance to be had.
pub(crate) const DESCRIBE_TRIES_MAX: usize = 3;

impl Sandbox {
    /// Make a policy ready: compile it (or take it from the cache), check its imports, exports and
    /// configuration, and ask it to describe itself.
    ///
    /// Compilation happens on the calling thread and takes 10 ms for a small Rust component,
    /// seconds for one that carries a language runtime; call it off the path of requests, within a
    /// tokio runtime.
    ///
    /// # Errors
    /// Everything in [`Error`] but [`Error::Engine`].
    pub async fn load(&self, source: PolicySource) -> Result<Policy, Error> {
        let (pre, inspection) = self.ready(&source).await?;
        check_configuration(&POLICY, &source.name, &source.config, inspection.metadata.config_schema.as_deref())?;
        let config = crate::policy::configuration_text(&source.config);
        let policy = Policy {
            inner: Arc::new(Inner {
                digest: inspection.digest,
                bytes: source.bytes.len(),
                stock: Stock::new(source.limits.instances_ahead),
                terms: Arc::new(Terms { name: source.name.into(), config: config.into(), limits: source.limits }),
                metadata: inspection.metadata,
                sandbox: self.clone(),
                pre,
                warm: Mutex::default(),
                pace: Pace::default(),
            }),
        };
        policy.restock();
        Ok(policy)
    }

    /// Look at a component as at loading, whatever configuration it may need.
    ///
    /// # Errors
    /// As [`Sandbox::load`], but for the configuration.
    pub async fn inspect(&self, source: &PolicySource) -> Result<Inspection, Error> {
        self.ready(source).await.map(|(_, inspection)| inspection)
    }

    /// Everything about a policy that does not depend on its configuration.
    async fn ready(&self, source: &PolicySource) -> Result<(PolicyPre<Guest>, Inspection), Error> {
        check_limits(source, &self.inner.options)?;
        let engine = &self.inner.engine;
        let (component, surface) = self.fitting(engine, &POLICY, &source.name, &source.bytes)?;
        let told = |why| wrong_types(&POLICY, &source.name, &why);
        let pre = PolicyPre::new(self.inner.linker.instantiate_pre(&component).map_err(told)?).map_err(told)?;
        let metadata = self.describe(source, &pre).await?;
        let digest = digest_of(&source.bytes);
        Ok((pre, Inspection { digest, imports: surface.imports, exports: surface.exports, metadata }))
    }

    /// The component of these bytes, compiled for `engine`, if its names are those of `world`.
    pub(crate) fn fitting(
        &self,
        engine: &Engine,
        world: &'static World,
        name: &str,
        bytes: &[u8],
    ) -> Result<(Component, Surface), Error> {
        let component = self.compile(engine, bytes).map_err(|why| not_compiled(world, name, bytes, &why))?;
        let surface = Surface::of(engine, &component);
        surface.check(world, name)?;
        Ok((component, surface))
    }

    async fn describe(&self, source: &PolicySource, pre: &PolicyPre<Guest>) -> Result<Metadata, Error> {
        let limits = Limits { deadline_ms: crate::limits::DESCRIBE_DEADLINE_MS, ..source.limits.clone() };
        let terms = Terms { name: source.name.clone().into(), config: "null".into(), limits };
        let terms = Arc::new(terms);
        let mut described = Instance::describe(self, pre, Call::describe(Arc::clone(&terms))).await;
        // The first instance of a component maps its memory image, which the system refuses now and
        // then for a moment: sealing a memfd is EBUSY while the kernel itself looks at its pages.
        for _ in 1..DESCRIBE_TRIES_MAX {
            if !matches!(described, Err((FailedClosed::Instances { .. }, _))) {
                break;
            }
            described = Instance::describe(self, pre, Call::describe(Arc::clone(&terms))).await;
        }
        described.map_err(|why| Error::Describe { subject: POLICY.subject(&source.name), why: with_guest_words(why) })
    }
}

/// `sha256:` and the hex digest of a component.
pub(crate) fn digest_of(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// The names are those of the world, the types are not.
pub(crate) fn wrong_types(world: &'static World, name: &str, why: &wasmtime::Error) -> Error {
    let why = first_line(&format!("{why:#}"));
    Error::WrongWorld { subject: world.subject(name), world: world.name, why }
}

fn not_compiled(world: &World, name: &str, bytes: &[u8], why: &wasmtime::Error) -> Error {
    const CORE_MODULE: &[u8] = b"\0asm\x01\0\0\0";
    let (subject, why) = (world.subject(name), first_line(&format!("{why:#}")));
    if bytes.starts_with(CORE_MODULE) {
        let why = "they are a core module; make a component of it with `gavel policy componentize`".to_owned();
        return Error::NotAComponent { subject, bytes: bytes.len(), why };
    }
    // The pool's refusals have no type of their own; `tests/limits.rs` pins what they say.
    if ["exceeds the configured maximum", "exceeds the limit of", "exceeds the per-instance limit"]
        .iter()
        .any(|refusal| why.contains(refusal))
    {
        return Error::TooLarge { subject, why };
    }
    Error::NotAComponent { subject, bytes: bytes.len(), why }
}

impl Policy {
    /// The same policy under another configuration: checked as at loading, compiled no second time.
    ///
    /// # Errors
    /// [`Error::Configuration`] when it does not satisfy the schema that the policy ships.
    pub fn with_config(&self, config: &Value) -> Result<Self, Error> {
        let (inner, terms) = (&self.inner, &self.inner.terms);
        check_configuration(&POLICY, &terms.name, config, inner.metadata.config_schema.as_deref())?;
        let config = crate::policy::configuration_text(config).into();
        let policy = Self {
            inner: Arc::new(Inner {
                terms: Arc::new(Terms { name: Arc::clone(&terms.name), config, limits: terms.limits.clone() }),
                digest: inner.digest.clone(),
                bytes: inner.bytes,
                metadata: inner.metadata.clone(),
                sandbox: inner.sandbox.clone(),
                pre: inner.pre.clone(),
                warm: Mutex::default(),
                pace: Pace::default(),
                stock: Stock::new(terms.limits.instances_ahead),
            }),
        };
        policy.restock();
        Ok(policy)
    }
}

/// A trap's text, with what the guest itself said last (a panic's message), for the operator.
pub(crate) fn with_guest_words((why, words): (FailedClosed, Option<String>)) -> FailedClosed {
    match (why, words) {
        (FailedClosed::Trap(why), Some(words)) => {
            // A guest's text goes to terminals and logs: of its control characters, only the ends of lines stay.
            let words: String = words.chars().map(|c| if c.is_control() && c != '\n' { '·' } else { c }).collect();
            FailedClosed::Trap(format!("{why}; the guest said: {words}"))
        }
        (why, _) => why,
    }
}

fn check_limits(source: &PolicySource, options: &SandboxOptions) -> Result<(), Error> {
    let limits = &source.limits;
    let ranges = [
        ("deadline_ms", limits.deadline_ms, 1, options.decision_deadline_ms),
        ("max_memory_bytes", limits.max_memory_bytes, 1, options.max_memory_bytes),
        ("max_table_elements", limits.max_table_elements, 1, options.max_table_elements),
        ("max_output_bytes", limits.max_output_bytes, 16, 64 << 10),
        ("max_log_lines", limits.max_log_lines, 0, 10_000),
        ("max_log_line_bytes", limits.max_log_line_bytes, 16, 64 << 10),
        ("max_counter_calls", limits.max_counter_calls, 0, 10_000),
        ahead_range(limits, options),
    ];
    check_ranges(&POLICY, &source.name, &ranges)
}

/// A limit: its name, its value, the least and the greatest that it may have.
pub(crate) type Range = (&'static str, u64, u64, u64);

/// Whether every limit is in its range.
pub(crate) fn check_ranges(world: &World, name: &str, ranges: &[Range]) -> Result<(), Error> {
    match ranges.iter().find(|(_, value, min, max)| value < min || value > max) {
        Some(&(limit, value, min, max)) => Err(Error::Limit { subject: world.subject(name), limit, value, min, max }),
        None => Ok(()),
    }
}

/// Made ahead is what is used once; what is kept is made when it is first needed.
fn ahead_range(limits: &Limits, options: &SandboxOptions) -> Range {
    match limits.isolation {
        Isolation::Fresh => ("instances_ahead", limits.instances_ahead, 0, options.instances_ahead_max()),
        Isolation::Warm => ("instances_ahead with isolation warm", limits.instances_ahead, 0, 0),
    }
}

/// The configuration against the schema that the component ships (JSON Schema, draft 2020-12).
pub(crate) fn check_configuration(
    world: &World,
    name: &str,
    config: &Value,
    schema: Option<&str>,
) -> Result<(), Error> {
    let told = |path: String, why: String| Error::Configuration { subject: world.subject(name), path, why };
    let Some(schema) = schema else {
        return match config {
            Value::Null => Ok(()),
            _ => Err(told(String::new(), format!("this {} takes no configuration", world.kind))),
        };
    };
    // No configuration is checked like any other: a policy that needs one is not loaded without.
    let schema = serde_json::from_str(schema)
        .map_err(|why| told(String::new(), format!("the schema that the {} ships is not JSON: {why}", world.kind)))?;
    let validator = jsonschema::draft202012::new(&schema)
        .map_err(|why| told(String::new(), format!("the schema that the {} ships is not usable: {why}", world.kind)))?;
    let first = validator.iter_errors(config).next();
    first.map_or(Ok(()), |why| Err(told(pointer(&why.instance_path().to_string()), why.to_string())))
}

fn pointer(path: &str) -> String {
    if path.is_empty() { String::new() } else { format!(" at {path}") }
}

/// Messages of wasmtime and of validators may run over many lines; the first one names the fault.
fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

impl Limits {
    /// Whether instances are kept between decisions.
    pub(crate) fn warm(&self) -> bool {
        self.isolation == Isolation::Warm
    }
}
