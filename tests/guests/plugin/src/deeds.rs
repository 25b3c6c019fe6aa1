//! What the plugin does when it is asked, by the names of the README.

use crate::bindings::gavel::plugin::log::{Level, write};
use crate::bindings::gavel::plugin::{bus, config, state, tools};
use crate::bindings::{Event, Refusal};
use crate::{deed, refusal};
use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::hint::black_box;
use core::sync::atomic::{AtomicU64, Ordering};

/// The answer to an event.
pub(crate) fn answer(event: Event) -> Result<Option<String>, Refusal> {
    let told = match deed(&event) {
        "return" => event.data,
        "echo" => echo(&event),
        "count" => count(),
        "config" => config::get(),
        "not-json" => "this is no JSON".to_owned(),
        "none" => return Ok(None),
        "refuse" => return Err(refusal("it was told to refuse", Some("NO"))),
        "refuse-at-length" => return Err(refusal(&"x".repeat(number(&event.data)), None)),
        "answer" => "x".repeat(number(&event.data)),
        "not-utf8" => not_utf8(),
        "trap" => trap(),
        "panic" => panic!("the plugin's own words"),
        "loop" => endless(),
        "recurse" => recurse(u64::MAX, event.timestamp_ms).to_string(),
        "allocate" => allocate(),
        "hold" => hold(number(&event.data)),
        "log" => log_lines(number(&event.data)),
        "long-line" => {
            write(Level::Warn, &"x".repeat(number(&event.data)));
            "{}".to_owned()
        }
        "call-and-loop" => {
            bus::call("other:asked", &event.data)?;
            endless()
        }
        _ => return asked_of_the_host(&event),
    };
    Ok(Some(told))
}

/// What the imports answer, passed on as it is.
fn asked_of_the_host(event: &Event) -> Result<Option<String>, Refusal> {
    let told = match deed(event) {
        "emit" => bus::emit("other:told", &event.data)?,
        "call" => bus::call("other:asked", &event.data)?,
        "get" => state::get("shared", &event.data)?.unwrap_or_else(|| "null".to_owned()),
        "set" => {
            state::set("shared", "key", &event.data)?;
            "{}".to_owned()
        }
        "delete" => state::delete("shared", &event.data)?.to_string(),
        "keys" => state::keys("shared", &event.data)?.join(","),
        "tool" => tools::call("read_file", &event.data, "to see what is there")?,
        other => return Err(refusal(&format!("there is no deed '{other}'"), None)),
    };
    Ok(Some(told))
}

/// Data that are a whole number.
pub(crate) fn number(data: &str) -> usize {
    data.parse().unwrap_or(0)
}

/// Every field of the event as it arrived, one to a line.
fn echo(event: &Event) -> String {
    let Event { id, name, data, sender, timestamp_ms, correlation_id, client_id } = event;
    let client_id = client_id.as_deref().unwrap_or("-");
    format!("{id}\n{name}\n{data}\n{sender}\n{timestamp_ms}\n{correlation_id}\n{client_id}")
}

/// How often this very instance was asked to count.
fn count() -> String {
    static CALLS: AtomicU64 = AtomicU64::new(0);
    (CALLS.fetch_add(1, Ordering::Relaxed) + 1).to_string()
}

pub(crate) fn endless() -> ! {
    loop {
        black_box(0);
    }
}

#[cfg(target_arch = "wasm32")]
pub(crate) fn trap() -> ! {
    core::arch::wasm32::unreachable()
}

#[cfg(not(target_arch = "wasm32"))]
pub(crate) fn trap() -> ! {
    std::process::abort()
}

/// Deep in calls only: everything is in locals, so it is the engine's stack that ends.
#[inline(never)]
fn recurse(depth: u64, seed: u64) -> u64 {
    if depth == 0 {
        return seed;
    }
    // Two operations that do not combine, after the call: no loop in disguise.
    recurse(depth - 1, seed.rotate_left(7) ^ depth).wrapping_mul(31) ^ seed
}

/// Take memory, and touch every page of it, until there is none.
fn allocate() -> String {
    let mut blocks: Vec<Vec<u8>> = Vec::new();
    loop {
        let mut block = Vec::new();
        assert!(block.try_reserve_exact(1 << 20).is_ok(), "no more memory after {} MiB", blocks.len());
        block.resize(1 << 20, 0xA5);
        blocks.push(black_box(block));
    }
}

/// Take so many bytes, touch them, and give them back to the plugin's own heap.
fn hold(bytes: usize) -> String {
    let mut block = Vec::new();
    block.resize(bytes, 0xA5_u8);
    black_box(&block);
    "{}".to_owned()
}

fn log_lines(lines: usize) -> String {
    for line in 0..lines {
        write(Level::Info, &format!("line {line}"));
    }
    "{}".to_owned()
}

#[allow(unsafe_code, reason = "the point: an answer that is no text")]
fn not_utf8() -> String {
    // SAFETY: none; nothing here reads the string, and the host must not trust it.
    unsafe { String::from_utf8_unchecked(alloc::vec![b'a', 0xFF, b'z']) }
}
