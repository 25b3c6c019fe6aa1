//! What a plugin in the sandbox costs: to be brought, to be made, and to be asked.
//!
//! Reference in the same run: the same plugin as a native one, behind a trait object and a boxed future, as the bus has
//! it. Goals: compiled and described from nothing at most 60 ms, one event at most 3 µs (p50).

#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]

mod measure;

use gavel_runtime::plugin::{BoxFuture, Component, Event, Imports, Instance, Level, Limits, Refusal, Source};
use gavel_runtime::{Sandbox, SandboxOptions};
use measure::{cpu_of, percentile, row};
use serde_json::Value;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

const PLUGIN: &[u8] = include_bytes!("../data/guests/plugin.wasm");
/// Answers whose time is taken.
const EVENTS: usize = 50_000;

/// A host that answers at once.
struct Ready;

fn ready<T: Send + 'static>(answer: T) -> BoxFuture<'static, Result<T, Refusal>> {
    Box::pin(std::future::ready(Ok(answer)))
}

impl Imports for Ready {
    fn emit(&self, _: String, _: String) -> BoxFuture<'_, Result<String, Refusal>> {
        ready("0123456789abcdef".to_owned())
    }

    fn call(&self, _: String, data: String) -> BoxFuture<'_, Result<String, Refusal>> {
        ready(data)
    }

    fn state_get(&self, _: String, _: String) -> BoxFuture<'_, Result<Option<String>, Refusal>> {
        ready(None)
    }

    fn state_set(&self, _: String, _: String, _: String) -> BoxFuture<'_, Result<(), Refusal>> {
        ready(())
    }

    fn state_delete(&self, _: String, _: String) -> BoxFuture<'_, Result<bool, Refusal>> {
        ready(false)
    }

    fn state_keys(&self, _: String, _: String) -> BoxFuture<'_, Result<Vec<String>, Refusal>> {
        ready(Vec::new())
    }

    fn tool_call(&self, _: String, params: String, _: String) -> BoxFuture<'_, Result<String, Refusal>> {
        ready(params)
    }

    fn log(&self, _: Level, line: &str) {
        black_box(line);
    }
}

/// The same plugin without a sandbox.
trait Native {
    fn handle<'a>(&'a self, event: &'a Event) -> BoxFuture<'a, Result<Option<String>, Refusal>>;
}

struct Returning;

impl Native for Returning {
    fn handle<'a>(&'a self, event: &'a Event) -> BoxFuture<'a, Result<Option<String>, Refusal>> {
        Box::pin(async move { Ok(event.name.ends_with(":return").then(|| event.data.clone())) })
    }
}

fn event(name: &str, data_bytes: usize) -> Event {
    Event {
        id: "5f0c2a1b-0000000000000042".into(),
        name: name.into(),
        data: format!(r#"{{"text":"{}"}}"#, "x".repeat(data_bytes.saturating_sub(11))),
        sender: "client:unix:1000/17".into(),
        timestamp_ms: 1_700_000_000_000,
        correlation_id: "5f0c2a1b-0000000000000041".into(),
        client_id: None,
    }
}

fn source() -> Source {
    Source { name: "p".into(), bytes: PLUGIN.to_vec(), config: Value::Null, limits: Limits::default() }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let reference = reference().await;
    println!("a component of {} bytes", PLUGIN.len());
    let component = brought(reference);
    let made = Instant::now();
    let mut instance = component.instantiate(Arc::new(Ready)).await.expect("an instance");
    instance.startup().await.expect("it goes on").expect("it starts");
    row("first instance, started", made.elapsed().as_secs_f64() * 1e6, reference);
    let mut each = Vec::new();
    for _ in 0..1_000 {
        let made = Instant::now();
        let next = component.instantiate(Arc::new(Ready)).await.expect("an instance");
        each.push(made.elapsed().as_secs_f64() * 1e6);
        drop(next);
    }
    row("one more instance, p50", percentile(&mut each, 0.5), reference);
    println!("memory of an instance: {} bytes", instance.memory_bytes());
    for (label, name, bytes) in [
        ("an event, 64 bytes", "test:return", 64),
        ("an event, 4 KiB", "test:return", 4 << 10),
        ("an event, 64 KiB", "test:return", 64 << 10),
        ("an event that emits one, 64 bytes", "test:emit", 64),
    ] {
        asked(label, &mut instance, &event(name, bytes), reference).await;
    }
}

/// Microseconds of the native plugin for an event of 64 bytes, p50.
async fn reference() -> f64 {
    let native: Box<dyn Native> = Box::new(Returning);
    let event = event("test:return", 64);
    // The clock itself takes a part of a microsecond here: a hundred at a time.
    let mut each = Vec::new();
    for _ in 0..EVENTS / 100 {
        let started = Instant::now();
        for _ in 0..100 {
            _ = black_box(native.handle(black_box(&event)).await);
        }
        each.push(started.elapsed().as_secs_f64() * 1e4);
    }
    let reference = percentile(&mut each, 0.5);
    row("reference: the plugin as a native one, p50", reference, reference);
    reference
}

/// Compile, describe and load, with and without a cache.
fn brought(reference: f64) -> Component {
    let sandbox = Sandbox::new(SandboxOptions::default()).expect("a sandbox");
    let timed = |what: &str, mut round: Box<dyn FnMut() + '_>| {
        let (mut each, mut cpu) = (Vec::new(), Vec::new());
        for _ in 0..11 {
            let (started, before) = (Instant::now(), cpu_of(std::process::id()));
            round();
            each.push(started.elapsed().as_secs_f64() * 1e6);
            cpu.push(cpu_of(std::process::id()).saturating_sub(before).as_secs_f64() * 1e6);
        }
        row(&format!("{what}, CPU"), percentile(&mut cpu, 0.5), reference);
        row(&format!("{what}, median"), percentile(&mut each, 0.5), reference);
    };
    let started = Instant::now();
    let described = sandbox.describe_plugin("p", PLUGIN).expect("it describes itself");
    row("the first plugin of a process, compiled and described", started.elapsed().as_secs_f64() * 1e6, reference);
    timed("compiled and described (goal 60 ms)", Box::new(|| _ = black_box(sandbox.describe_plugin("p", PLUGIN))));
    let started = Instant::now();
    let component = sandbox.load_plugin(source(), &described).expect("it loads");
    row("loaded after that", started.elapsed().as_secs_f64() * 1e6, reference);
    let folder = tempfile::tempdir().expect("a folder");
    let cache_dir = Some(folder.path().join("cache"));
    let cached = Sandbox::new(SandboxOptions { cache_dir, ..SandboxOptions::default() }).expect("a sandbox");
    cached.describe_plugin("p", PLUGIN).expect("it describes itself");
    cached.load_plugin(source(), &described).expect("it loads");
    timed("loaded from the cache on disk", Box::new(|| _ = black_box(cached.load_plugin(source(), &described))));
    component
}

async fn asked(label: &str, instance: &mut Instance, event: &Event, reference: f64) {
    let mut each = Vec::with_capacity(EVENTS);
    let before = cpu_of(std::process::id());
    for _ in 0..EVENTS {
        let started = Instant::now();
        let answer = instance.handle_event(event).await.expect("it goes on").expect("it answers");
        each.push(started.elapsed().as_secs_f64() * 1e6);
        assert!(black_box(answer).is_some());
    }
    let cpu = cpu_of(std::process::id()).saturating_sub(before).as_secs_f64() * 1e6;
    #[allow(clippy::cast_precision_loss, reason = "fifty thousand")]
    row(&format!("{label}, CPU"), cpu / EVENTS as f64, reference);
    row(&format!("{label}, p50"), percentile(&mut each, 0.5), reference);
    row(&format!("{label}, p99"), percentile(&mut each, 0.99), reference);
}
