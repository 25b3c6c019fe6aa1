//! The guest that misbehaves, so that tests can see the sandbox hold. Not a policy for use.
//!
//! What it does is chosen by its configuration, `{"do": …}`; the README lists it all. One component rather than many:
//! a test changes a word, not a file, and the honest answers among them show that it is not merely broken.

use core::fmt::Write as _;
use core::hint::black_box;
use core::sync::atomic::{AtomicU64, Ordering};

use gavel_policy::json::{Fields, Json, Wrong};
use gavel_policy::log::{Level, write};
use gavel_policy::{Metadata, Policy, Request, Verdict, configuration, counters, export_policy};

/// The guest, for [`export_policy!`].
pub struct Hostile;

export_policy!(Hostile);

impl Policy for Hostile {
    fn describe() -> Metadata {
        Metadata {
            name: env!("CARGO_PKG_NAME").into(),
            version: env!("CARGO_PKG_VERSION").into(),
            description: env!("CARGO_PKG_DESCRIPTION").into(),
            // The deeds check themselves, so that a broken one is seen by the sandbox and not before.
            config_schema: Some(r#"{"type": "object"}"#.into()),
        }
    }

    fn evaluate(request: Request) -> Verdict {
        match configuration(Deed::read) {
            Ok(deed) => deed.done_to(&request),
            Err(broken) => broken.into(),
        }
    }
}

/// What to do, by the names of the README.
enum Deed {
    Allow,
    Deny(String),
    Abstain,
    Escalate(String),
    Loop,
    Spin(u64),
    Allocate,
    Hold(usize),
    Recurse,
    RecurseInMemory,
    Trap,
    Panic,
    Log(u64),
    LongLine(usize),
    Answer(usize),
    NotUtf8,
    Lie,
    Remember,
    Count { key: String, amount: u64, window_ms: u64, max: u64 },
    Read { key: String, window_ms: u64 },
    Echo,
}

impl Deed {
    fn read(settings: &Json) -> Result<Self, Wrong> {
        let settings =
            settings.object(&["do", "reason", "iterations", "bytes", "lines", "key", "amount", "window_ms", "max"])?;
        let name = settings.require("do", Json::text)?;
        let reason = || settings.get("reason", Json::text).map(|reason| reason.unwrap_or("no reason").to_owned());
        let key = || settings.require("key", Json::text).map(str::to_owned);
        let count = |name| count(settings, name);
        Ok(match name {
            "allow" => Self::Allow,
            "deny" => Self::Deny(reason()?),
            "abstain" => Self::Abstain,
            "escalate" => Self::Escalate(reason()?),
            "loop" => Self::Loop,
            "spin" => Self::Spin(count("iterations")?),
            "allocate" => Self::Allocate,
            "hold" => Self::Hold(size(count("bytes")?)),
            "recurse" => Self::Recurse,
            "recurse-in-memory" => Self::RecurseInMemory,
            "trap" => Self::Trap,
            "panic" => Self::Panic,
            "log" => Self::Log(settings.get("lines", whole)?.unwrap_or(10_000)),
            "long-line" => Self::LongLine(size(settings.get("bytes", whole)?.unwrap_or(1 << 20))),
            "answer" => Self::Answer(size(count("bytes")?)),
            "not-utf8" => Self::NotUtf8,
            "lie" => Self::Lie,
            "remember" => Self::Remember,
            "count" => Self::Count {
                key: key()?,
                amount: count("amount")?,
                window_ms: count("window_ms")?,
                max: count("max")?,
            },
            "read" => Self::Read { key: key()?, window_ms: count("window_ms")? },
            "echo" => Self::Echo,
            other => return Err(Wrong::new(format!("there is no deed '{other}'"))),
        })
    }

    fn done_to(self, request: &Request) -> Verdict {
        match self {
            Self::Allow => Verdict::Allow,
            Self::Deny(reason) => Verdict::Deny(reason),
            Self::Abstain => Verdict::Abstain,
            Self::Escalate(reason) => Verdict::Escalate(reason),
            Self::Loop => endless(),
            Self::Spin(iterations) => spin(iterations),
            Self::Allocate => allocate(),
            Self::Hold(bytes) => hold(bytes),
            Self::Recurse => Verdict::Deny(recurse(u64::MAX, request.now_ms).to_string()),
            Self::RecurseInMemory => Verdict::Deny(recurse_in_memory(u64::MAX).to_string()),
            Self::Trap => trap(),
            Self::Panic => panic!("the guest's own words"),
            Self::Log(lines) => log_lines(lines),
            Self::LongLine(bytes) => {
                write(Level::Warn, &"x".repeat(bytes));
                Verdict::Allow
            }
            Self::Answer(bytes) => Verdict::Deny("x".repeat(bytes)),
            Self::NotUtf8 => not_utf8(),
            Self::Lie => lie(),
            Self::Remember => remember(),
            Self::Count { key, amount, window_ms, max } => match counters::add(&key, amount, window_ms) {
                sum if sum > max => Verdict::Deny(format!("{sum} is more than {max}")),
                _ => Verdict::Allow,
            },
            Self::Read { key, window_ms } => Verdict::Deny(counters::read(&key, window_ms).to_string()),
            Self::Echo => Verdict::Deny(echo(request)),
        }
    }
}

fn count(settings: Fields, name: &str) -> Result<u64, Wrong> {
    settings.require(name, whole)
}

fn whole(number: &Json) -> Result<u64, Wrong> {
    number.integer()?.try_into().map_err(|_| Wrong::new("expected 0 or more"))
}

/// What does not fit this machine's memory is asked of it all the same.
fn size(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

fn endless() -> ! {
    loop {
        black_box(0);
    }
}

/// Work of bounded length: a few instructions for each iteration.
fn spin(iterations: u64) -> Verdict {
    let mut sum = 0_u64;
    for iteration in 0..iterations {
        sum = black_box(sum.wrapping_mul(31).wrapping_add(iteration));
    }
    Verdict::Allow
}

/// Take memory, and touch every page of it, until there is none; then panic for want of it.
fn allocate() -> Verdict {
    let mut blocks: Vec<Vec<u8>> = Vec::new();
    loop {
        let mut block = Vec::new();
        let reserved = block.try_reserve_exact(1 << 20);
        assert!(reserved.is_ok(), "no more memory after {} MiB", blocks.len());
        block.resize(1 << 20, 0xA5);
        blocks.push(black_box(block));
    }
}

/// Take so much memory, touch it, give it back, allow.
fn hold(bytes: usize) -> Verdict {
    black_box(vec![0xA5_u8; bytes]);
    Verdict::Allow
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

/// Deep in the guest's own stack, which lies in its memory.
#[inline(never)]
fn recurse_in_memory(depth: u64) -> u64 {
    let frame = black_box([depth; 64]);
    if depth == 0 { 0 } else { recurse_in_memory(depth - 1).wrapping_add(frame[63]) }
}

#[cfg(target_arch = "wasm32")]
fn trap() -> ! {
    core::arch::wasm32::unreachable()
}

#[cfg(not(target_arch = "wasm32"))]
fn trap() -> ! {
    std::process::abort()
}

fn log_lines(lines: u64) -> Verdict {
    for line in 0..lines {
        write(Level::Info, &format!("line {line}"));
    }
    Verdict::Allow
}

#[allow(unsafe_code, reason = "the point: an answer that is no text")]
fn not_utf8() -> Verdict {
    // SAFETY: none; nothing here reads the string, and the host must not trust it.
    Verdict::Deny(unsafe { String::from_utf8_unchecked(vec![b'a', 0xFF, b'z']) })
}

/// A text that claims to be a gigabyte long, in a memory of a few pages.
#[allow(unsafe_code, clippy::same_length_and_capacity, reason = "the point: an answer that lies about its length")]
fn lie() -> Verdict {
    let text = vec![b'x'; 16].leak();
    // SAFETY: none; nothing here reads or frees the string, and the host must not trust it.
    Verdict::Deny(unsafe { String::from_raw_parts(text.as_mut_ptr(), 1 << 30, 1 << 30) })
}

/// How often this very instance was asked: 1 in every fresh one.
fn remember() -> Verdict {
    static CALLS: AtomicU64 = AtomicU64::new(0);
    let call = CALLS.fetch_add(1, Ordering::Relaxed) + 1;
    Verdict::Deny(format!("call {call} of this instance"))
}

/// Every field of the request as it arrived, one to a line, texts quoted as Rust quotes them.
fn echo(request: &Request) -> String {
    let Request { id, now_ms, ts_ms, actor, intent, tool_call, params, evidence, constraints } = request;
    let mut out = format!("id={id:?}\nnow_ms={now_ms}\nts_ms={ts_ms}\nactor={actor:?}\nintent={intent:?}\n");
    // Writing to a string cannot fail.
    let _ = match tool_call {
        Some(call) => writeln!(out, "tool={:?}\ntool_params={:?}", call.name, call.params),
        None => writeln!(out, "tool=-"),
    };
    let _ = write!(out, "params={params:?}\nevidence={evidence:?}\nconstraints=");
    let _ = match constraints {
        Some(constraints) => write!(out, "{constraints:?}"),
        None => write!(out, "-"),
    };
    out
}
