//! The limits that no compiler's output hits: components made from their bytes.
//!
//! What the guest of `hostile.rs` can be told to do is tested there; here are components that are
//! too large from the start, one that never gets as far as being asked, and calls that hand the
//! host more than it takes.

#![allow(clippy::unwrap_used, reason = "a test that cannot set its case up has failed")]

mod hostile_guest;

use gavel_runtime::{FailedClosed, Limits, PolicySource, Verdict};
use hostile_guest::{HOSTILE, ask, load, patient, sandbox};
use serde_json::json;

const MODULE_HEAD: &[u8] = b"\0asm\x01\0\0\0";
const COMPONENT_HEAD: &[u8] = b"\0asm\x0d\0\x01\0";
const CORE_MODULE: u8 = 1;
const CORE_INSTANCE: u8 = 2;

/// A number as LEB128.
fn leb(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = u8::try_from(number & 0x7f).unwrap();
        number >>= 7;
        if number == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}

fn read_leb(bytes: &[u8], at: &mut usize) -> usize {
    let (mut number, mut shift) = (0, 0);
    loop {
        let byte = bytes[*at];
        *at += 1;
        number |= usize::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            return number;
        }
    }
}

fn section(id: u8, content: &[u8]) -> Vec<u8> {
    [&[id], &leb(content.len())[..], content].concat()
}

/// The sections after the head: id and content.
fn sections(bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let (mut at, mut sections) = (8, Vec::new());
    while at < bytes.len() {
        let id = bytes[at];
        at += 1;
        let size = read_leb(bytes, &mut at);
        sections.push((id, bytes[at..at + size].to_vec()));
        at += size;
    }
    sections
}

/// A component of one module with one section, instantiated so many times.
fn component(module_section: &[u8], instances: usize) -> Vec<u8> {
    let module = [MODULE_HEAD, module_section].concat();
    let instantiated = [leb(instances), [0, 0, 0].repeat(instances)].concat();
    [COMPONENT_HEAD, &section(CORE_MODULE, &module), &section(CORE_INSTANCE, &instantiated)].concat()
}

async fn refused(bytes: Vec<u8>) -> String {
    sandbox().load(PolicySource::new("p", bytes)).await.map(drop).unwrap_err().to_string()
}

#[tokio::test]
async fn components_larger_than_an_instance_slot_are_refused_by_limit() {
    let no_section = Vec::new();
    let memory = |pages: usize| section(5, &[&[1, 0], &leb(pages)[..]].concat());
    let table = |elements: usize| section(4, &[&[1, 0x70, 0], &leb(elements)[..]].concat());
    // 300,000 globals of type i32: some 4.8 MB of an instance's own state.
    let globals = section(6, &[leb(300_000), [0x7f, 0, 0x41, 0, 0x0b].repeat(300_000)].concat());
    for (what, bytes, limit) in [
        ("core instances", component(&no_section, 65), "65 core module instances, which exceeds"),
        ("memories", component(&memory(1), 5), "5 Wasm linear memories, which exceeds"),
        ("tables", component(&table(1), 17), "17 tables, which exceeds"),
        ("a memory", component(&memory(4_097), 1), "minimum byte size of 268500992 which exceeds"),
        ("a table", component(&table(100_001), 1), "minimum element size of 100001 which exceeds"),
        ("an instance", component(&globals, 1), "which exceeds the configured maximum of 4194304"),
    ] {
        let told = refused(bytes).await;
        let named = told.starts_with("policy p: the component is larger than the sandbox allows: ");
        assert!(named && told.split_whitespace().collect::<Vec<_>>().join(" ").contains(limit), "{what}: {told}");
    }
}

/// The hostile guest whose core module runs an endless loop when it is instantiated.
fn endless_from_the_start() -> Vec<u8> {
    let mut patched = 0;
    let mut bytes = COMPONENT_HEAD.to_vec();
    for (id, content) in sections(HOSTILE) {
        // The guest itself is the module with a memory; the others are adapters.
        if id == CORE_MODULE && sections(&content).iter().any(|(id, _)| *id == 5) {
            bytes.extend(section(id, &with_endless_start(&content)));
            patched += 1;
        } else {
            bytes.extend(section(id, &content));
        }
    }
    assert_eq!(patched, 1, "one module has the memory");
    bytes
}

/// The module with one more function, which is its start function and never returns.
fn with_endless_start(module: &[u8]) -> Vec<u8> {
    const TYPES: u8 = 1;
    const IMPORTS: u8 = 2;
    const FUNCTIONS: u8 = 3;
    const EXPORTS: u8 = 7;
    const CODE: u8 = 10;
    let sections = sections(module);
    let content = |wanted: u8| sections.iter().find(|(id, _)| *id == wanted).map(|(_, content)| &content[..]);
    let types = read_leb(content(TYPES).unwrap(), &mut 0);
    let defined = read_leb(content(FUNCTIONS).unwrap(), &mut 0);
    let index = content(IMPORTS).map_or(0, imported_functions) + defined;
    let one_more = |content: &[u8], entry: &[u8]| {
        let mut at = 0;
        let count = read_leb(content, &mut at);
        [&leb(count + 1)[..], &content[at..], entry].concat()
    };
    let mut bytes = MODULE_HEAD.to_vec();
    for (id, content) in &sections {
        bytes.extend(match *id {
            // () -> ()
            TYPES => section(TYPES, &one_more(content, &[0x60, 0, 0])),
            FUNCTIONS => section(FUNCTIONS, &one_more(content, &leb(types))),
            // The start section follows the exports. A body of no locals: loop, br 0, end, end.
            EXPORTS => [section(EXPORTS, content), section(8, &leb(index))].concat(),
            CODE => section(CODE, &one_more(content, &[7, 0, 0x03, 0x40, 0x0c, 0, 0x0b, 0x0b])),
            other => section(other, content),
        });
    }
    bytes
}

fn imported_functions(content: &[u8]) -> usize {
    let mut at = 0;
    let imports = read_leb(content, &mut at);
    for _ in 0..imports {
        for _name in 0..2 {
            let length = read_leb(content, &mut at);
            at += length;
        }
        assert_eq!(content[at], 0, "the guest imports functions only");
        at += 1;
        read_leb(content, &mut at);
    }
    imports
}

#[tokio::test]
async fn a_start_function_that_never_ends_is_stopped_when_it_is_loaded() {
    let told = refused(endless_from_the_start()).await;
    assert_eq!(told, "policy p: describe failed: deadline of 2000 ms exceeded (deadline_ms)");
}

#[tokio::test]
async fn a_counters_key_may_be_256_bytes_long() {
    let sandbox = sandbox();
    let told = |bytes: usize| {
        let config = json!({"do": "count", "key": "k".repeat(bytes), "amount": 1, "window_ms": 1_000, "max": 3});
        let sandbox = sandbox.clone();
        async move { ask(&load(&sandbox, config, patient()).await).await }
    };
    assert_eq!(told(256).await.verdict, Ok(Verdict::Allow));
    let beyond = told(257).await;
    assert_eq!(beyond.verdict, Err(FailedClosed::CounterKey { bytes: 257, limit: 256 }));
    assert!(beyond.counters.is_empty(), "nothing was counted");
}

#[tokio::test]
async fn what_a_guest_hands_over_in_one_call_is_bounded() {
    let sandbox = sandbox();
    let line = |bytes: usize| {
        let sandbox = sandbox.clone();
        async move { ask(&load(&sandbox, json!({"do": "long-line", "bytes": bytes}), patient()).await).await }
    };
    let long = line(1 << 20).await;
    assert_eq!(long.verdict, Ok(Verdict::Allow));
    assert_eq!(long.logs[0].message.len(), 1_024);
    let beyond = line((2 << 20) + 1).await;
    assert_eq!(beyond.verdict, Err(FailedClosed::Output { limit: 4_096 }), "not copied, not shortened");
    assert!(beyond.logs.is_empty());
}

#[tokio::test]
async fn each_counter_call_counts_towards_the_limit() {
    let config = json!({"do": "read", "key": "k", "window_ms": 1_000});
    let one = Limits { max_counter_calls: 1, ..patient() };
    let sandbox = sandbox();
    assert_eq!(ask(&load(&sandbox, config.clone(), one).await).await.verdict, Ok(Verdict::Deny("0".into())));
    let none = Limits { max_counter_calls: 0, ..patient() };
    let told = ask(&load(&sandbox, config, none).await).await.verdict;
    assert_eq!(told, Err(FailedClosed::CounterCalls { limit: 0 }));
}
