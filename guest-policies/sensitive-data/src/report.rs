//! What was found, as one line for a verdict or the log. The values themselves never reach it.
//!
//! A reason is read by the caller, often by the model that was to be kept from the value, and is stored in the record.
//! But a place is named by the request's own words (keys of parameters, the tool's name), and they may hold the value
//! too. So every four characters in a row of every value that was found are remembered, as hashes, and a word of the
//! request with such four is withheld: `/[withheld]/name`. Only what the line says anyway (`mail` of `email`) may
//! stand.

use crate::kind::{Action, Kind};
use crate::walk::Segment;

/// So many places are named; of the rest the number is given. Five long paths fit the host's limit of a verdict.
const NAMED_MAX: usize = 5;
/// The characters of a key or a tool's name that are shown.
const SHOWN_CHARS_MAX: usize = 40;
/// The deepest path that is shown whole.
const SEGMENTS_MAX: usize = 12;
/// How many characters in a row make a value known.
const WINDOW: usize = 4;

/// Which text of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    ToolParams,
    RequestParams,
    Intent,
}

/// Where a text stands. It borrows, because most places are never named.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'p> {
    pub(crate) source: Source,
    pub(crate) path: &'p [Segment<'p>],
    /// In a key of the object at the path, not in a value.
    pub(crate) is_key: bool,
    /// All of the text is withheld with a value in it, because it is a key, which a path would show.
    pub(crate) is_whole: bool,
    /// The path within the JSON text that the value is.
    pub(crate) inner: Option<&'p [Segment<'p>]>,
    /// How it is encoded.
    pub(crate) encoded: Option<&'static str>,
}

#[derive(Debug)]
struct Finding {
    kind: Kind,
    source: Source,
    is_key: bool,
    path: Vec<String>,
    inner: Option<Vec<String>>,
    encoded: Option<&'static str>,
}

impl Finding {
    fn new(kind: Kind, place: &Place<'_>) -> Self {
        let Place { source, path, is_key, inner, encoded, .. } = *place;
        Self { kind, source, is_key, path: words(path), inner: inner.map(words), encoded }
    }

    /// The same place as far as a reader is concerned: nothing new is said by naming it twice.
    fn is_at(&self, kind: Kind, place: &Place<'_>) -> bool {
        self.kind == kind
            && self.source == place.source
            && self.is_key == place.is_key
            && self.path.len() == place.path.len()
            && self.path.iter().zip(place.path).all(|(word, segment)| *word == segment.word())
    }
}

fn words(path: &[Segment<'_>]) -> Vec<String> {
    path.iter().map(|segment| segment.word().into_owned()).collect()
}

/// All that was found in a request.
#[derive(Debug, Default)]
pub(crate) struct Report {
    denied: Findings,
    escalated: Findings,
    allowed: Findings,
    withheld: Withheld,
}

#[derive(Debug, Default)]
struct Findings {
    named: Vec<Finding>,
    more: usize,
}

impl Report {
    /// Note a finding.
    pub(crate) fn add(&mut self, kind: Kind, action: Action, place: &Place<'_>) {
        let findings = match action {
            Action::Deny => &mut self.denied,
            Action::Escalate => &mut self.escalated,
            Action::Allow => &mut self.allowed,
            Action::Off => return,
        };
        if findings.named.iter().any(|named| named.is_at(kind, place)) {
            return;
        }
        if findings.named.len() < NAMED_MAX {
            findings.named.push(Finding::new(kind, place));
        } else {
            findings.more += 1;
        }
    }

    /// Nothing of this text may be shown.
    pub(crate) fn withhold(&mut self, value: &str) {
        self.withheld.add(value);
    }

    /// The findings of this action as one sentence, if there are any.
    pub(crate) fn line(&self, action: Action, tool: Option<&str>) -> Option<String> {
        let findings = match action {
            Action::Deny => &self.denied,
            Action::Escalate => &self.escalated,
            Action::Allow => &self.allowed,
            Action::Off => return None,
        };
        if findings.named.is_empty() {
            return None;
        }
        let mut line = String::new();
        for finding in &findings.named {
            if !line.is_empty() {
                line.push_str("; ");
            }
            line.push_str(&self.sentence(finding, tool));
        }
        if findings.more > 0 {
            line.extend(["; and ", &findings.more.to_string(), " more"]);
        }
        Some(line)
    }

    fn sentence(&self, finding: &Finding, tool: Option<&str>) -> String {
        let about = finding.kind.about();
        let Finding { source, is_key, path: segments, inner, encoded, .. } = finding;
        let path = |segments: &[String]| self.path(segments, finding.kind);
        let of = match (source, tool) {
            (Source::ToolParams, Some(tool)) => format!(" of tool '{}'", self.word(tool, finding.kind)),
            _ => String::new(),
        };
        let place = match (source, is_key, segments.is_empty()) {
            (Source::Intent, ..) => "the intent".to_owned(),
            (Source::ToolParams, true, true) => format!("the name of a parameter{of}"),
            (Source::ToolParams, true, false) => format!("a key in parameter '{}'{of}", path(segments)),
            (Source::ToolParams, false, _) => format!("parameter '{}'{of}", path(segments)),
            (Source::RequestParams, true, true) => "the name of a request parameter".to_owned(),
            (Source::RequestParams, true, false) => format!("a key in request parameter '{}'", path(segments)),
            (Source::RequestParams, false, _) => format!("request parameter '{}'", path(segments)),
        };
        let inner = inner.as_ref().map(|inner| format!(", as JSON at '{}',", path(inner))).unwrap_or_default();
        let encoded = encoded.map(|how| format!(", in {how}")).unwrap_or_default();
        format!("{place}{inner} holds {} ({}){encoded}", about.words, about.name)
    }

    fn path(&self, segments: &[String], kind: Kind) -> String {
        if segments.is_empty() {
            return "/".into();
        }
        let mut path = String::new();
        for segment in segments.iter().take(SEGMENTS_MAX) {
            path.push('/');
            path.push_str(&self.word(segment, kind));
        }
        if segments.len() > SEGMENTS_MAX {
            path.push_str("/…");
        }
        path
    }

    /// A word of the request, on one line and not too long, or that it is withheld.
    fn word(&self, word: &str, kind: Kind) -> String {
        if self.withheld.touches(word, kind) {
            return "[withheld]".into();
        }
        let mut shown = String::new();
        for (index, character) in word.chars().enumerate() {
            if index == SHOWN_CHARS_MAX {
                shown.push('…');
                break;
            }
            match character {
                '/' => shown.push_str("~1"),
                '~' => shown.push_str("~0"),
                // Rare, and up to ten characters long when escaped.
                other if other.is_control() || !other.is_alphanumeric() && !other.is_ascii() => shown.push('?'),
                other => shown.push(other),
            }
        }
        shown
    }
}

/// Which four characters in a row are in a value, as a set of hashes: it may hold more than was added, never less.
#[derive(Debug, Default)]
struct Withheld(Vec<u64>);

impl Withheld {
    const BITS: u32 = 1 << 16;

    fn add(&mut self, value: &str) {
        if self.0.is_empty() {
            self.0 = vec![0; (Self::BITS / 64) as usize];
        }
        for window in value.as_bytes().windows(WINDOW) {
            let (word, bit) = Self::place(window);
            self.0[word] |= 1 << bit;
        }
    }

    /// Does the word share four characters in a row with a value, other than those that the line says anyway?
    fn touches(&self, word: &str, kind: Kind) -> bool {
        if self.0.is_empty() {
            return false;
        }
        let plain = crate::plain::plain(word);
        let about = kind.about();
        let says = |said: &str, part: &[u8]| said.as_bytes().windows(WINDOW).any(|is| is.eq_ignore_ascii_case(part));
        [word, &plain].into_iter().flat_map(|word| word.as_bytes().windows(WINDOW)).any(|window| {
            let (word, bit) = Self::place(window);
            self.0[word] >> bit & 1 == 1 && !says(about.name, window) && !says(about.words, window)
        })
    }

    /// Letters that differ in case only are the same.
    fn place(window: &[u8]) -> (usize, u32) {
        let number = window.iter().fold(0_u32, |number, byte| number << 8 | u32::from(byte.to_ascii_lowercase()));
        let hash = (number.wrapping_mul(0x9E37_79B1) >> 16) % Self::BITS;
        ((hash / 64) as usize, hash % 64)
    }
}
