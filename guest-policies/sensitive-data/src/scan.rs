//! One pass over one text: a table says of each byte whether anything can begin there, and only then is it looked at.
//!
//! The time is linear in the text, whatever it holds: a look ahead is bounded by a small constant, or ends where the
//! next one begins, or is remembered ([`Scan::run_end`]). What is looked at again is charged to the [`Budget`] all the
//! same, so that a text made to be looked at often is cut off rather than late.

mod address;
mod assignment;
mod number;
mod token;

use core::ops::Range;

use crate::kind::{Kind, Kinds};

pub(crate) use assignment::keyed;

/// How many bytes may still be looked at.
#[derive(Debug)]
pub(crate) struct Budget {
    left: usize,
    exceeded: bool,
}

impl Budget {
    pub(crate) fn new(bytes: usize) -> Self {
        Self { left: bytes, exceeded: false }
    }

    /// Take so many bytes, or fewer when no more are left.
    pub(crate) fn take(&mut self, bytes: usize) -> usize {
        let taken = bytes.min(self.left);
        self.left -= taken;
        self.exceeded |= taken < bytes;
        taken
    }

    /// Was there more to look at than there was budget?
    pub(crate) fn is_exceeded(&self) -> bool {
        self.exceeded
    }
}

/// Told of the kind and the place of each thing that is found.
pub(crate) type Found<'f> = dyn FnMut(Kind, Range<usize>) + 'f;

/// Look through a text. `key` is the name of the field that it is the value of, if it is one.
pub(crate) fn scan(text: &str, key: &str, kinds: Kinds, budget: &mut Budget, found: &mut Found<'_>) {
    let taken = budget.take(text.len());
    let text = &text.as_bytes()[..taken];
    Scan { text, key: key.as_bytes(), kinds, budget, found, run_ends: [0; 3], assigned_until: 0 }.run();
}

/// What stands at a place: what it is and where it ends.
type Hit = (Kind, usize);

struct Scan<'t, 'f, 'b> {
    text: &'t [u8],
    key: &'t [u8],
    kinds: Kinds,
    budget: &'b mut Budget,
    found: &'b mut Found<'f>,
    /// For each [`Alphabet`] the end of the run that was measured last.
    run_ends: [usize; 3],
    /// The end of the last value of an assignment that was judged.
    assigned_until: usize,
}

/// What a run of characters may consist of.
#[derive(Debug, Clone, Copy)]
enum Alphabet {
    Alphanumeric,
    /// With `_`.
    Word,
    /// With `_` and `-`: base64 for URLs.
    Url,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Nothing,
    Alphanumeric,
    /// A sign at which something can begin or be told.
    Sign,
}

static CLASSES: [Class; 256] = {
    let mut classes = [Class::Nothing; 256];
    let mut byte = 0_u8;
    while byte < 128 {
        if byte.is_ascii_alphanumeric() {
            classes[byte as usize] = Class::Alphanumeric;
        }
        byte += 1;
    }
    let signs = b"=:@-+(";
    let mut index = 0;
    while index < signs.len() {
        classes[signs[index] as usize] = Class::Sign;
        index += 1;
    }
    classes
};

impl Scan<'_, '_, '_> {
    fn run(&mut self) {
        let mut at = 0;
        while at < self.text.len() {
            let (hit, next) = match CLASSES[usize::from(self.text[at])] {
                Class::Nothing => {
                    at += 1;
                    continue;
                }
                // Always the first of its run.
                Class::Alphanumeric => (self.at_word(at), None),
                Class::Sign => (self.at_sign(at), Some(at + 1)),
            };
            // A hit may begin before the sign that gave it away, never before the last hit.
            if let Some((kind, range)) = hit {
                at = range.end;
                (self.found)(kind, range);
                // The rest of a run whose beginning is known is no beginning.
                at = self.word_end(at);
            } else {
                at = next.unwrap_or_else(|| self.word_end(at));
            }
        }
    }

    fn at_word(&mut self, at: usize) -> Option<(Kind, Range<usize>)> {
        let hit = self.token(at).or_else(|| self.number(at)).or_else(|| self.address(at));
        hit.map(|(kind, end)| (kind, at..end))
    }

    fn at_sign(&mut self, at: usize) -> Option<(Kind, Range<usize>)> {
        match self.text[at] {
            b'=' => self.assignment(at),
            b':' if self.is_at(at, b"://") => self.url_credentials(at),
            b':' => self.assignment(at).or_else(|| self.address(at).map(|(kind, end)| (kind, at..end))),
            b'@' => self.email(at),
            b'-' => self.private_key(at).map(|(kind, end)| (kind, at..end)),
            _ => self.phone(at).map(|(kind, end)| (kind, at..end)),
        }
    }

    fn byte(&self, at: usize) -> u8 {
        self.text.get(at).copied().unwrap_or(0)
    }

    fn is_at(&self, at: usize, text: &[u8]) -> bool {
        self.text.get(at..).is_some_and(|rest| rest.starts_with(text))
    }

    fn is_digit(&self, at: usize) -> bool {
        self.byte(at).is_ascii_digit()
    }

    fn is_alphanumeric(&self, at: usize) -> bool {
        self.byte(at).is_ascii_alphanumeric()
    }

    /// The byte before, 0 at the beginning.
    fn before(&self, at: usize) -> u8 {
        at.checked_sub(1).map_or(0, |before| self.text[before])
    }

    fn word_end(&mut self, at: usize) -> usize {
        self.run_end(Alphabet::Alphanumeric, at)
    }

    /// Where the run of such characters that begins at or spans this place ends. Each run is measured once.
    fn run_end(&mut self, alphabet: Alphabet, at: usize) -> usize {
        let known = &mut self.run_ends[alphabet as usize];
        if *known <= at {
            let rest = &self.text[at.min(self.text.len())..];
            *known = at + rest.iter().position(|byte| !alphabet.has(*byte)).unwrap_or(rest.len());
        }
        *known
    }
}

impl Alphabet {
    fn has(self, byte: u8) -> bool {
        byte.is_ascii_alphanumeric()
            || match self {
                Alphabet::Alphanumeric => false,
                Alphabet::Word => byte == b'_',
                Alphabet::Url => byte == b'_' || byte == b'-',
            }
    }
}

#[cfg(test)]
mod tests;
