//! Plugins for one test each, made in the text format: any name, any namespaces, and one of a few deeds. What no compiler
//! would let one choose at will can be chosen here.

use gavel::policies::componentize::{Contract, componentize};
use std::fmt::Write;

/// What a plugin does with an event that it owns.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Deed<'a> {
    /// It answers this, JSON text.
    Answer(&'a str),
    /// It calls this event with the same data, and answers what that answers.
    Call(&'a str),
    /// It emits this event with the same data, and answers nothing much.
    Emit(&'a str),
    /// It puts the data under `k` of this namespace, and answers nothing much.
    Keep(&'a str),
    /// It answers what lies under `k` of this namespace, or `null`.
    Recall(&'a str),
}

/// A plugin to be made.
#[derive(Debug, Clone)]
pub(crate) struct Guest<'a> {
    pub(crate) name: &'a str,
    pub(crate) version: &'a str,
    pub(crate) dependencies: &'a [&'a str],
    pub(crate) namespaces: &'a [&'a str],
    pub(crate) commands: &'a [&'a str],
    pub(crate) subscribes: &'a [&'a str],
    pub(crate) before: &'a [&'a str],
    pub(crate) emits: &'a [&'a str],
    pub(crate) state: &'a [&'a str],
    /// The event whose name ends in this word has a deed of its own; the word has four letters.
    pub(crate) other: Option<(&'a str, Deed<'a>)>,
    pub(crate) deed: Deed<'a>,
    /// Why it does not start, if it does not.
    pub(crate) startup: Option<&'a str>,
}

impl Guest<'_> {
    /// A plugin of this name that owns the namespace of the same name and answers `{}`.
    pub(crate) fn named<'a>(name: &'a str, namespaces: &'a [&'a str]) -> Guest<'a> {
        Guest {
            name,
            version: "1.0.0",
            dependencies: &[],
            namespaces,
            commands: &[],
            subscribes: &[],
            before: &[],
            emits: &[],
            state: &[],
            other: None,
            deed: Deed::Answer("{}"),
            startup: None,
        }
    }

    /// The component.
    pub(crate) fn component(&self) -> Vec<u8> {
        let mut memory = Memory::new();
        let metadata = [self.name, self.version, "A plugin of a test.", "gavel"].map(|text| memory.text(text));
        let dependencies = memory.texts(self.dependencies);
        let lists =
            [self.namespaces, self.commands, &[], self.subscribes, self.before, &[], self.emits, self.state, &[]];
        let lists = lists.map(|list| memory.texts(list));
        let mut described: Vec<u8> = metadata.into_iter().flat_map(pair).collect();
        described.extend(pair(dependencies));
        // Priority; no schema; room up to the capabilities, which are aligned to 8.
        described.extend([0; 16]);
        described.extend(lists.into_iter().flat_map(pair));
        described.extend([0; 16]);
        let described = memory.put(&described);
        let started = self.startup.map(|why| memory.text(why));
        let deed = body(self.deed, &mut memory);
        let other = self.other.map(|(word, deed)| (word, body(deed, &mut memory)));
        let text = module(&memory, described, started, &deed, other.as_ref());
        let core = wat::parse_str(&text).unwrap_or_else(|why| panic!("{why}\n{text}"));
        componentize(&core, Contract::Plugin).unwrap_or_else(|why| panic!("{why:#}\n{text}"))
    }
}

/// Where texts lie in the guest's memory.
struct Memory {
    bytes: Vec<u8>,
}

/// Where what lies in the memory begins.
const BEGIN: usize = 1_024;
/// Where answers are written: 64 bytes, and another 64 for what imports give.
const ANSWER: usize = 64;
const GIVEN: usize = 128;

impl Memory {
    fn new() -> Self {
        Self { bytes: Vec::new() }
    }

    fn put(&mut self, bytes: &[u8]) -> usize {
        while !self.bytes.len().is_multiple_of(8) {
            self.bytes.push(0);
        }
        let at = BEGIN + self.bytes.len();
        self.bytes.extend(bytes);
        at
    }

    fn text(&mut self, text: &str) -> (usize, usize) {
        (self.put(text.as_bytes()), text.len())
    }

    fn texts(&mut self, texts: &[&str]) -> (usize, usize) {
        let places: Vec<_> = texts.iter().map(|text| self.text(text)).collect();
        let list: Vec<u8> = places.into_iter().flat_map(pair).collect();
        (self.put(&list), texts.len())
    }
}

fn pair((at, length): (usize, usize)) -> Vec<u8> {
    [at, length].iter().flat_map(|number| u32::try_from(*number).unwrap().to_le_bytes()).collect()
}

/// The instructions of a deed: they leave the place of a `result<option<string>, refusal>`. `$d` and `$dn` are the data.
fn body(deed: Deed<'_>, memory: &mut Memory) -> String {
    let mut given = |text: &str| {
        let (at, length) = memory.text(text);
        format!("(i32.const {at}) (i32.const {length})")
    };
    // A refusal lies alike in both results, so what the host refused is handed on.
    let or_refused =
        |answer: &str| format!("(if (i32.load8_u (i32.const {GIVEN})) (then (return (i32.const {GIVEN})))) {answer}");
    let nothing_much = |given: &mut dyn FnMut(&str) -> String| some(&given("{}"));
    match deed {
        Deed::Answer(text) => some(&given(text)),
        Deed::Call(event) => {
            let called = format!("(call $call {} (local.get $d) (local.get $dn) (i32.const {GIVEN}))", given(event));
            let at = GIVEN + 4;
            let length = GIVEN + 8;
            let answer = some(&format!("(i32.load (i32.const {at})) (i32.load (i32.const {length}))"));
            format!("{called} {}", or_refused(&answer))
        }
        Deed::Emit(event) => {
            let emitted = format!("(call $emit {} (local.get $d) (local.get $dn) (i32.const {GIVEN}))", given(event));
            let answer = nothing_much(&mut given);
            format!("{emitted} {}", or_refused(&answer))
        }
        Deed::Keep(namespace) => {
            let key = given("k");
            let place = given(namespace);
            let kept = format!("(call $set {place} {key} (local.get $d) (local.get $dn) (i32.const {GIVEN}))");
            // A `result<_, refusal>` has its refusal at the same place.
            let answer = nothing_much(&mut given);
            format!("{kept} {}", or_refused(&answer))
        }
        Deed::Recall(namespace) => {
            let (key, place, null) = (given("k"), given(namespace), given("null"));
            let told = format!("(call $get {place} {key} (i32.const {GIVEN}))");
            // A `result<option<string>, refusal>` is what the handler gives itself.
            let none = some(&null);
            let found = or_refused(&format!(
                "(if (result i32) (i32.load8_u (i32.const {})) (then (i32.const {GIVEN})) (else {none}))",
                GIVEN + 4
            ));
            format!("{told} {found}")
        }
    }
}

/// An answer that lies there, written where answers are.
fn some(text: &str) -> String {
    let (option, at) = (ANSWER + 4, ANSWER + 8);
    format!(
        "(i32.store (i32.const {ANSWER}) (i32.const 0)) (i32.store (i32.const {option}) (i32.const 1))
         (call $write (i32.const {at}) {text}) (i32.const {ANSWER})"
    )
}

fn module(
    memory: &Memory,
    described: usize,
    started: Option<(usize, usize)>,
    deed: &str,
    other: Option<&(&str, String)>,
) -> String {
    let event = "(param $id i32) (param i32) (param $n i32) (param $nn i32) (param $d i32) (param $dn i32) (param i32 i32 i64 i32 i32 i32 i32 i32)";
    let data = memory.bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "\\{byte:02x}");
        text
    });
    let begun = match started {
        None => "(i32.store (i32.const 32) (i32.const 0))".to_owned(),
        Some((at, length)) => format!(
            "(i32.store (i32.const 32) (i32.const 1)) (i32.store (i32.const 36) (i32.const {at})) (i32.store (i32.const 40) (i32.const {length}))"
        ),
    };
    // The last four letters of the event's name.
    let other = other.map_or_else(String::new, |(word, deed)| {
        let word = i32::from_le_bytes(word.as_bytes().try_into().expect("four letters"));
        format!(
            "(if (i32.eq (i32.load (i32.sub (i32.add (local.get $n) (local.get $nn)) (i32.const 4))) (i32.const {word})) (then (return {deed})))"
        )
    });
    format!(
        r#"(module
        (import "gavel:plugin/bus@0.1.0" "call" (func $call (param i32 i32 i32 i32 i32)))
        (import "gavel:plugin/bus@0.1.0" "emit" (func $emit (param i32 i32 i32 i32 i32)))
        (import "gavel:plugin/state@0.1.0" "get" (func $get (param i32 i32 i32 i32 i32)))
        (import "gavel:plugin/state@0.1.0" "set" (func $set (param i32 i32 i32 i32 i32 i32 i32)))
        (memory (export "memory") 4)
        (global $free (mut i32) (i32.const 65536))
        (data (i32.const {BEGIN}) "{data}")
        (func $write (param $at i32) (param $text i32) (param $length i32)
            (i32.store (local.get $at) (local.get $text))
            (i32.store (i32.add (local.get $at) (i32.const 4)) (local.get $length)))
        (func (export "cabi_realloc") (param i32 i32 i32) (param $size i32) (result i32) (local $at i32)
            (if (i32.gt_u (global.get $free) (i32.const 196608)) (then (global.set $free (i32.const 65536))))
            (local.set $at (global.get $free))
            (global.set $free (i32.and (i32.add (i32.add (global.get $free) (local.get $size)) (i32.const 7)) (i32.const -8)))
            (local.get $at))
        (func (export "describe") (result i32) (i32.const {described}))
        (func (export "startup") (result i32) {begun} (i32.const 32))
        (func (export "shutdown") (result i32) (i32.store (i32.const 32) (i32.const 0)) (i32.const 32))
        (func (export "pre-event") {event} (result i32) (i32.store (i32.const 32) (i32.const 0)) (i32.const 32))
        (func (export "hear-event") {event} (result i32) {other} {deed} drop (i32.store (i32.const 32) (i32.const 0)) (i32.const 32))
        (func (export "post-event") {event} (param i32 i32) (result i32) (i32.store (i32.const 32) (i32.const 0)) (i32.const 32))
        (func (export "handle-event") {event} (result i32) {other} {deed}))"#
    )
}
