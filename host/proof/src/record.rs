//! A record: what one leaf of the log says, written once and read back without changing a byte.
//!
//! ```text
//! {"entry":E,"entry_hash":"H","index":I,"kind":"K","ledger_seq":S,"meta":M,"prev_hash":"P","ts_ms":T}
//! ```
//!
//! The keys are sorted, so if `entry` and `meta` are canonical JSON then so is the record. The four
//! fields of the KERNELS chain (`entry`, `entry_hash`, `ledger_seq`, `prev_hash`) stand together or
//! not at all. There is one writer, [`push_record`], and one reader, [`parse`], which accepts
//! exactly what the writer produces.

use crate::hash::{self, Hash};
use crate::json::{self, Malformed, Scanner};
use crate::state::Rule;
use sha2::{Digest, Sha256};

/// The longest record, in bytes: tlog-tiles serves entries with a 16-bit length.
pub const MAX_RECORD_BYTES: usize = 65_535;

/// `prev_hash` of the first chain entry.
pub const GENESIS_HASH: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// What a record records. A later version may write kinds that are not listed here; they stay
/// readable as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// The first record of every ledger, written by the ledger itself: whose it is.
    Opened,
    /// A request was judged. With an entry it is closed; without, a tool is about to run and an
    /// outcome must follow.
    Decision,
    /// What became of an earlier decision that had no entry; carries the entry that closes it.
    Outcome,
    /// The kernel was halted; carries the halting entry. No decision follows.
    Halt,
    /// Anything else worth proving, such as a change of policy; never part of the chain.
    Event,
    /// Which key signs the checkpoints from this record on, written by the ledger itself.
    Key,
}

impl Kind {
    /// All kinds of this version, in the order of their codes.
    pub const ALL: [Self; 6] = [Self::Opened, Self::Decision, Self::Outcome, Self::Halt, Self::Event, Self::Key];

    /// The text in the record.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Opened => "opened",
            Self::Decision => "decision",
            Self::Outcome => "outcome",
            Self::Halt => "halt",
            Self::Event => "event",
            Self::Key => "key",
        }
    }

    /// The kind that `text` names, unless a later version invented it.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }

    /// The byte in the frame header.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Opened => 0,
            Self::Decision => 1,
            Self::Outcome => 2,
            Self::Halt => 3,
            Self::Event => 4,
            Self::Key => 5,
        }
    }
}

/// The decision that a record closes, according to its `meta`.
#[must_use]
pub fn closes(kind: Option<Kind>, meta: &str) -> Option<u64> {
    match kind {
        Some(Kind::Outcome) => json::member(meta, "decision_index").and_then(json::parse_u64),
        _ => None,
    }
}

/// What the rules of the log look at; the same for a draft and for a record read back.
#[derive(Debug, Clone, Copy)]
pub struct Facts {
    /// The kind, unless a later version invented it.
    pub kind: Option<Kind>,
    /// Whether it carries an entry of the KERNELS chain.
    pub has_entry: bool,
    /// The decision that it closes, if it is an outcome that names one.
    pub closes: Option<u64>,
    /// The public key that it puts in force, if it is a key that says so.
    pub key: Option<PublicKey>,
    /// The kernel's clock.
    pub ts_ms: u64,
}

/// A raw public key of Ed25519.
pub type PublicKey = [u8; 32];

impl Facts {
    /// What a record of this kind with this `meta` says.
    #[must_use]
    pub fn of(kind: Option<Kind>, has_entry: bool, meta: &str, ts_ms: u64) -> Self {
        let key =
            || json::member(meta, "key").and_then(|text| hash::from_hex(text.strip_prefix('"')?.strip_suffix('"')?));
        Self {
            kind,
            has_entry,
            closes: closes(kind, meta),
            key: if kind == Some(Kind::Key) { key() } else { None },
            ts_ms,
        }
    }

    /// The rules that tie a kind to its fields.
    ///
    /// # Errors
    /// [`Rule::Form`]
    pub fn check_form(&self) -> Result<(), Rule> {
        match (self.kind, self.has_entry, self.closes) {
            (Some(Kind::Key), false, None) if self.key.is_none() => {
                Err(Rule::Form("a key must give the public key as 64 hex digits"))
            }
            (Some(Kind::Outcome), true, Some(_))
            | (Some(Kind::Halt), true, None)
            | (Some(Kind::Opened | Kind::Event | Kind::Key), false, None)
            | (Some(Kind::Decision) | None, _, None) => Ok(()),
            (Some(Kind::Outcome), _, None) => Err(Rule::Form("an outcome must name the decision it closes")),
            (Some(Kind::Outcome | Kind::Halt), false, _) => Err(Rule::Form("an outcome or a halt must carry an entry")),
            (_, _, Some(_)) => Err(Rule::Form("only an outcome closes a decision")),
            (Some(Kind::Opened | Kind::Event | Kind::Key), true, _) => Err(Rule::Form("this kind carries no entry")),
        }
    }
}

/// The entry's place in the chain, with the entry itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntryView<'a> {
    /// Its number, from 0.
    pub ledger_seq: u64,
    /// The `entry_hash` of the entry before, or [`GENESIS_HASH`].
    pub prev_hash: &'a str,
    /// Hex SHA-256 of `PREV_HASH:DATA`.
    pub entry_hash: &'a str,
    /// The canonical entry data, verbatim.
    pub data: &'a str,
}

/// The hash that links `data` to the chain whose head is `prev_hash`.
#[must_use]
pub fn entry_hash(prev_hash: &str, data: &str) -> Hash {
    Sha256::new().chain_update(prev_hash).chain_update(":").chain_update(data).finalize().into()
}

/// Appends the canonical bytes of a record.
pub fn push_record(out: &mut Vec<u8>, index: u64, kind: Kind, ts_ms: u64, meta: &str, entry: Option<EntryView<'_>>) {
    let mut put = |part: &str| out.extend_from_slice(part.as_bytes());
    let (mut index_digits, mut seq_digits, mut ts_digits) = (DIGITS, DIGITS, DIGITS);
    put("{");
    if let Some(EntryView { entry_hash, data, .. }) = entry {
        ["\"entry\":", data, ",\"entry_hash\":\"", entry_hash, "\","].into_iter().for_each(&mut put);
    }
    ["\"index\":", decimal(index, &mut index_digits), ",\"kind\":\"", kind.as_str(), "\""]
        .into_iter()
        .for_each(&mut put);
    if let Some(EntryView { ledger_seq, .. }) = entry {
        [",\"ledger_seq\":", decimal(ledger_seq, &mut seq_digits)].into_iter().for_each(&mut put);
    }
    [",\"meta\":", meta].into_iter().for_each(&mut put);
    if let Some(EntryView { prev_hash, .. }) = entry {
        [",\"prev_hash\":\"", prev_hash, "\""].into_iter().for_each(&mut put);
    }
    [",\"ts_ms\":", decimal(ts_ms, &mut ts_digits), "}"].into_iter().for_each(&mut put);
}

/// Room for the longest 64-bit number.
const DIGITS: [u8; 20] = [b'0'; 20];

/// The digits of `number`, without an allocation: three for each record would be felt.
fn decimal(mut number: u64, digits: &mut [u8; 20]) -> &str {
    let mut at = digits.len();
    loop {
        at -= 1;
        // The remainder is below ten, so the fallback is never taken.
        digits[at] = b'0' + u8::try_from(number % 10).unwrap_or_default();
        number /= 10;
        if number == 0 {
            return std::str::from_utf8(&digits[at..]).unwrap_or_default();
        }
    }
}

/// A part of a record's text; 32 bits are plenty below [`MAX_RECORD_BYTES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    start: u32,
    end: u32,
}

impl Span {
    fn of(self, text: &str) -> &str {
        text.get(self.start as usize..self.end as usize).unwrap_or_default()
    }
}

/// Where the fields stand in a record's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parts {
    /// Its place in the log.
    pub index: u64,
    /// The kernel's clock.
    pub ts_ms: u64,
    kind: Span,
    meta: Span,
    entry: Option<EntryParts>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct EntryParts {
    ledger_seq: u64,
    data: Span,
    entry_hash: Span,
    prev_hash: Span,
}

impl Parts {
    /// The text of its kind.
    #[must_use]
    pub fn kind<'a>(&self, text: &'a str) -> &'a str {
        self.kind.of(text)
    }

    /// The object that its author supplied.
    #[must_use]
    pub fn meta<'a>(&self, text: &'a str) -> &'a str {
        self.meta.of(text)
    }

    /// Its entry in the KERNELS chain.
    #[must_use]
    pub fn entry<'a>(&self, text: &'a str) -> Option<EntryView<'a>> {
        self.entry.map(|entry| EntryView {
            ledger_seq: entry.ledger_seq,
            prev_hash: entry.prev_hash.of(text),
            entry_hash: entry.entry_hash.of(text),
            data: entry.data.of(text),
        })
    }

    /// What the rules of the log look at.
    #[must_use]
    pub fn facts(&self, text: &str) -> Facts {
        Facts::of(Kind::from_text(self.kind(text)), self.entry.is_some(), self.meta(text), self.ts_ms)
    }
}

/// Takes a record apart, accepting exactly the form that [`push_record`] writes.
///
/// # Errors
/// The byte that is not as it should be.
pub fn parse(text: &str) -> Result<Parts, Malformed> {
    let mut scanner = Scanner::new(text);
    scanner.literal("{")?;
    let chained = scanner.take("\"entry\":");
    let (mut data, mut entry_hash) = (Span { start: 0, end: 0 }, Span { start: 0, end: 0 });
    if chained {
        data = span(&mut scanner, Scanner::object)?;
        entry_hash = hash_field(&mut scanner, ",\"entry_hash\":\"")?;
        scanner.literal(",")?;
    }
    let index = number_field(&mut scanner, text, "\"index\":")?;
    scanner.literal(",\"kind\":\"")?;
    let kind = span(&mut scanner, word)?;
    scanner.literal("\"")?;
    let ledger_seq = if chained { number_field(&mut scanner, text, ",\"ledger_seq\":")? } else { 0 };
    scanner.literal(",\"meta\":")?;
    let meta = span(&mut scanner, Scanner::object)?;
    let entry = if chained {
        let prev_hash = hash_field(&mut scanner, ",\"prev_hash\":\"")?;
        Some(EntryParts { ledger_seq, data, entry_hash, prev_hash })
    } else {
        None
    };
    let ts_ms = number_field(&mut scanner, text, ",\"ts_ms\":")?;
    scanner.literal("}")?;
    scanner.end()?;
    Ok(Parts { index, ts_ms, kind, meta, entry })
}

fn span<'a>(
    scanner: &mut Scanner<'a>,
    step: impl Fn(&mut Scanner<'a>) -> Result<(), Malformed>,
) -> Result<Span, Malformed> {
    let start = scanner.at;
    step(scanner)?;
    let too_long = Malformed { at: start, what: "a record of at most 65535 bytes" };
    match (u32::try_from(start), u32::try_from(scanner.at)) {
        (Ok(start), Ok(end)) => Ok(Span { start, end }),
        _ => Err(too_long),
    }
}

fn word(scanner: &mut Scanner<'_>) -> Result<(), Malformed> {
    let start = scanner.at;
    scanner.skip_while(|byte| byte.is_ascii_lowercase() || byte == b'_');
    if scanner.at > start { Ok(()) } else { Err(Malformed { at: start, what: "a kind in lower case" }) }
}

fn hash_field(scanner: &mut Scanner<'_>, name: &'static str) -> Result<Span, Malformed> {
    scanner.literal(name)?;
    let hash = span(scanner, Scanner::hex_digest)?;
    scanner.literal("\"")?;
    Ok(hash)
}

fn number_field(scanner: &mut Scanner<'_>, text: &str, name: &'static str) -> Result<u64, Malformed> {
    scanner.literal(name)?;
    let start = scanner.at;
    scanner.skip_while(|byte| byte.is_ascii_digit());
    let number = text.get(start..scanner.at).and_then(json::parse_u64);
    number.ok_or(Malformed { at: start, what: "an unsigned integer of 64 bits" })
}

/// A record read back, owning its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordView {
    text: String,
    parts: Parts,
}

impl RecordView {
    /// Takes `text` apart, which must be a record exactly as the ledger writes them.
    ///
    /// # Errors
    /// Says which byte is not as it should be.
    pub fn parse(text: String) -> Result<Self, String> {
        match parse(&text) {
            Ok(parts) => Ok(Self { text, parts }),
            Err(Malformed { at, what }) => Err(format!("byte {at} of the record should be {what}")),
        }
    }

    /// The record whose parts [`parse`] found in `text`.
    #[must_use]
    pub fn from_parts(text: &str, parts: Parts) -> Self {
        Self { text: text.to_owned(), parts }
    }

    /// Its place in the log, and its leaf index in the tree.
    #[must_use]
    pub fn index(&self) -> u64 {
        self.parts.index
    }

    /// The text of its kind, known to this version or not.
    #[must_use]
    pub fn kind(&self) -> &str {
        self.parts.kind(&self.text)
    }

    /// Its kind, if this version knows it.
    #[must_use]
    pub fn known_kind(&self) -> Option<Kind> {
        Kind::from_text(self.kind())
    }

    /// The kernel's clock when it was made.
    #[must_use]
    pub fn ts_ms(&self) -> u64 {
        self.parts.ts_ms
    }

    /// The canonical JSON object that its author supplied.
    #[must_use]
    pub fn meta(&self) -> &str {
        self.parts.meta(&self.text)
    }

    /// Its entry in the KERNELS chain, if it has one.
    #[must_use]
    pub fn entry(&self) -> Option<EntryView<'_>> {
        self.parts.entry(&self.text)
    }

    /// The decision that it closes, if it is an outcome.
    #[must_use]
    pub fn closes(&self) -> Option<u64> {
        self.parts.facts(&self.text).closes
    }

    /// The canonical bytes: the leaf.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENTRY: EntryView<'static> =
        EntryView { ledger_seq: 3, prev_hash: GENESIS_HASH, entry_hash: GENESIS_HASH, data: r#"{"actor":"a\"}"}"# };

    fn text(kind: Kind, meta: &str, entry: Option<EntryView<'_>>) -> String {
        let mut out = Vec::new();
        push_record(&mut out, 7, kind, 99, meta, entry);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn reads_back_what_it_writes() {
        let view = RecordView::parse(text(Kind::Outcome, r#"{"decision_index":5}"#, Some(ENTRY))).unwrap();
        assert_eq!((view.index(), view.kind(), view.ts_ms()), (7, "outcome", 99));
        assert_eq!(view.entry(), Some(ENTRY));
        assert_eq!((view.meta(), view.closes()), (r#"{"decision_index":5}"#, Some(5)));

        let view = RecordView::parse(text(Kind::Event, "{}", None)).unwrap();
        assert_eq!((view.known_kind(), view.entry(), view.closes()), (Some(Kind::Event), None, None));
    }

    #[test]
    fn numbers_are_written_as_everywhere() {
        for number in [0, 9, 10, 1_700_000_000_123, u64::MAX] {
            assert_eq!(decimal(number, &mut DIGITS.clone()), number.to_string());
        }
    }

    #[test]
    fn unknown_kinds_stay_readable() {
        let view = RecordView::parse(text(Kind::Event, "{}", None).replace("event", "seed_transition")).unwrap();
        assert_eq!((view.kind(), view.known_kind()), ("seed_transition", None));
        assert!(view.parts.facts(view.as_str()).check_form().is_ok());
    }

    #[test]
    fn refuses_every_other_form() {
        let whole = text(Kind::Halt, r#"{"a":1}"#, Some(ENTRY));
        for end in 0..whole.len() {
            assert!(parse(&whole[..end]).is_err(), "{}", &whole[..end]);
        }
        for (from, to) in [
            ("\"index\":7", "\"index\":07"),
            ("halt", "Halt"),
            ("\"ts_ms\":99", "\"ts_ms\":-9"),
            ("}", "} "),
            (":{\"a\":1}", ":[]"),
        ] {
            assert!(parse(&whole.replace(from, to)).is_err(), "{from} as {to}");
        }
    }
}
