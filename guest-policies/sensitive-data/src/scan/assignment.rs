//! A name that means a credential, and a value that looks like one: `password=…`, `"token": "…"`, `Authorization:
//! Bearer …`. The value counts when it is hard to guess and no placeholder.

use core::ops::Range;

use super::{Budget, Scan};
use crate::kind::Kind;

/// Names that mean a credential, without the signs between their words. A name fits when it ends so.
const NAMES: [&str; 24] = [
    "password",
    "passwd",
    "pwd",
    "passphrase",
    "passcode",
    "secret",
    "token",
    "apikey",
    "accesskey",
    "secretkey",
    "authkey",
    "signingkey",
    "encryptionkey",
    "privatekey",
    "masterkey",
    "accountkey",
    "sharedkey",
    "clientkey",
    "credential",
    "credentials",
    "authorization",
    "cookie",
    "connectionstring",
    "secretaccesskey",
];

/// Names that end as the above and mean something else.
const OTHERS: [&str; 8] = [
    "pagetoken",
    "nexttoken",
    "continuationtoken",
    "synctoken",
    "cursortoken",
    "publickey",
    "cancellationtoken",
    "maxtoken",
];

/// What stands where a credential belongs when there is none: in manuals, templates and code.
const PLACEHOLDERS: [&[u8]; 22] = [
    b"xxxx",
    b"****",
    b"....",
    b"____",
    b"example",
    b"placeholder",
    b"changeme",
    b"change_me",
    b"change-me",
    b"your",
    b"dummy",
    b"redacted",
    b"insert",
    b"replace",
    b"process.env",
    b"environ",
    b"getenv",
    b"secrets.",
    b"undefined",
    b"password",
    b"12345678",
    b"\xe2\x80\xa6",
];

/// The text of a value that is looked at; more does not make it harder to guess.
const VALUE_MAX: usize = 256;
const VALUE_MIN: usize = 8;
/// As many bits as eight different characters have: the least that counts as hard to guess.
const ENTROPY_BITS_MIN: u32 = 24;

impl Scan<'_, '_, '_> {
    /// The assignment whose `=` or `:` this is.
    pub(super) fn assignment(&mut self, at: usize) -> Option<(Kind, Range<usize>)> {
        if at < self.assigned_until
            || !(self.kinds.has(Kind::CredentialAssignment) || self.kinds.has(Kind::AwsSecretAccessKey))
        {
            return None;
        }
        let name = self.name_before(at)?;
        let range = self.value_after(at)?;
        self.assigned_until = range.end;
        self.budget.take(range.len());
        let kind = value_kind(&name, &self.text[range.clone()])?;
        // A secret that says itself what it is will be met next, and be called by its own name.
        if !self.kinds.has(kind) || self.token(range.start).is_some() {
            return None;
        }
        Some((kind, range))
    }

    /// The name before a `=` or `:`, if it means a credential.
    fn name_before(&self, at: usize) -> Option<Name> {
        const NAME_MAX: usize = 64;
        const BETWEEN_MAX: usize = 4;
        let is_between = |byte: u8| matches!(byte, b' ' | b'\t' | b'"' | b'\'' | b'`' | b'\\' | b']');
        let mut end = at;
        while end > 0 && at - end < BETWEEN_MAX && is_between(self.text[end - 1]) {
            end -= 1;
        }
        let is_last = |byte: u8| matches!(byte | 0x20, b'd' | b'e' | b't' | b'n' | b'y' | b'l' | b's' | b'g');
        if end == 0 || !is_last(self.text[end - 1]) {
            return None;
        }
        let start = end.saturating_sub(NAME_MAX);
        let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
        let before = &self.text[start..end];
        let length = before.iter().rev().position(|byte| !is_part(byte)).unwrap_or(before.len());
        Name::new(&before[before.len() - length..])
    }

    /// The value after a `=` or `:`: to the closing quote, or to what cannot be part of it.
    fn value_after(&self, at: usize) -> Option<Range<usize>> {
        const BETWEEN_MAX: usize = 4;
        let mut start = at + 1;
        // `=>`; but `==` compares.
        match self.byte(start) {
            b'>' => start += 1,
            b'=' => return None,
            _ => {}
        }
        let first = start;
        while start - first < BETWEEN_MAX && matches!(self.byte(start), b' ' | b'\t' | b'\\') {
            start += 1;
        }
        let quote = Some(self.byte(start)).filter(|byte| matches!(byte, b'"' | b'\'' | b'`'));
        start += usize::from(quote.is_some());
        start += scheme_length(self.text.get(start..).unwrap_or_default());
        let rest = self.text.get(start..self.text.len().min(start + VALUE_MAX))?;
        let is_end = |byte: &u8| match quote {
            Some(quote) => *byte == quote || *byte == b'\n',
            None => matches!(byte, b',' | b';' | b'&' | b'"' | b'\'' | b'<' | b'>' | b'|' | b')') || *byte <= b' ',
        };
        let length = rest.iter().position(is_end).unwrap_or(rest.len());
        Some(start..start + length)
    }
}

/// The value of a field of JSON whose name means a credential: what it is and which part of it.
pub(crate) fn keyed(key: &str, value: &str, budget: &mut Budget) -> Option<(Kind, Range<usize>)> {
    let name = Name::new(key.as_bytes())?;
    let value = value.as_bytes();
    let start = scheme_length(value);
    let value = &value[start..];
    budget.take(value.len().min(VALUE_MAX));
    let kind = value_kind(&name, &value[..value.len().min(VALUE_MAX)])?;
    Some((kind, start..start + value.len()))
}

/// A name that means a credential.
struct Name {
    is_aws_secret: bool,
}

impl Name {
    fn new(name: &[u8]) -> Option<Self> {
        const COMPACT_MAX: usize = 64;
        let mut compact = [0; COMPACT_MAX];
        let mut length = 0;
        // Its end decides.
        for byte in name[name.len().saturating_sub(COMPACT_MAX)..].iter().filter(|byte| byte.is_ascii_alphanumeric()) {
            compact[length] = byte.to_ascii_lowercase();
            length += 1;
        }
        let compact = &compact[..length];
        let ends = |names: &[&str]| names.iter().any(|name| compact.ends_with(name.as_bytes()));
        (ends(&NAMES) && !ends(&OTHERS))
            .then(|| Self { is_aws_secret: ends(&["secretaccesskey", "awssecretkey", "awssecret"]) })
    }
}

/// `Bearer `, `Basic ` and `Token ` before a value.
fn scheme_length(value: &[u8]) -> usize {
    let schemes: [&[u8]; 3] = [b"bearer ", b"basic ", b"token "];
    let is = |scheme: &&&[u8]| value.get(..scheme.len()).is_some_and(|head| head.eq_ignore_ascii_case(scheme));
    schemes.iter().find(is).map_or(0, |scheme| scheme.len())
}

fn value_kind(name: &Name, value: &[u8]) -> Option<Kind> {
    if value.len() < VALUE_MIN || is_placeholder(value) {
        return None;
    }
    let is_base64 = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'+');
    if name.is_aws_secret && value.len() == 40 && value.iter().all(is_base64) && super::token::mixed(value) {
        return Some(Kind::AwsSecretAccessKey);
    }
    let is_secret = !is_prose(value) && entropy_bits(value) >= ENTROPY_BITS_MIN;
    is_secret.then_some(Kind::CredentialAssignment)
}

/// What stands for a value that is filled in elsewhere.
pub(super) fn is_placeholder(value: &[u8]) -> bool {
    let starts = |text: &[u8]| value.starts_with(text);
    let is_filled_in = matches!(value[0], b'$' | b'<' | b'{' | b'[' | b'%')
        && (value.ends_with(b">") || value.ends_with(b"}") || value.ends_with(b"]") || value.ends_with(b"%"))
        || starts(b"${")
        || starts(b"$(")
        || starts(b"{{")
        || value[0] == b'$'
            && value[1..].iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_')
            && value.iter().any(u8::is_ascii_uppercase)
            && !value.iter().any(u8::is_ascii_lowercase);
    let is_reference = [b"http://".as_slice(), b"https://", b"file:", b"vault:", b"ref:", b"arn:", b"/", b"./", b"~/"]
        .into_iter()
        .any(starts);
    is_filled_in || is_reference || says_placeholder(value)
}

/// One of the words, at the beginning of the value or a little later.
fn says_placeholder(value: &[u8]) -> bool {
    const LOOK: usize = 64;
    let value = &value[..value.len().min(LOOK)];
    (0..value.len()).any(|at| {
        let first = value[at].to_ascii_lowercase();
        PLACEHOLDERS.iter().any(|word| {
            word[0] == first && value.get(at..at + word.len()).is_some_and(|part| part.eq_ignore_ascii_case(word))
        })
    })
}

/// Words, names in a program, calls: not what a generator of credentials gives, nor what a person is made to type.
fn is_prose(value: &[u8]) -> bool {
    let has_digit = value.iter().any(u8::is_ascii_digit);
    let is_sign =
        |byte: &u8| byte.is_ascii_punctuation() && !matches!(byte, b'_' | b'-' | b'.' | b'/' | b'\\' | b':' | b',');
    let has_sign = value.iter().any(is_sign);
    let has_letter = value.iter().any(u8::is_ascii_alphabetic);
    let is_call = value.iter().any(|byte| matches!(byte, b'(' | b')'));
    !has_digit && !has_sign || !has_letter || value.contains(&b' ') || is_call && !has_digit
}

/// The bits of Shannon's entropy of the whole value, rounded, of at most 128 characters.
fn entropy_bits(value: &[u8]) -> u32 {
    const CHARACTERS_MAX: usize = 128;
    let value = &value[..value.len().min(CHARACTERS_MAX)];
    let mut counts = [0_u8; 256];
    for byte in value {
        counts[usize::from(*byte)] += 1;
    }
    // Σ c·log2(n/c) = n·log2(n) − Σ c·log2(c)
    let weight = |count: u32| count * log2_fixed(count);
    let length = u32::try_from(value.len()).unwrap_or(0);
    if length == 0 {
        return 0;
    }
    let repeated: u32 = counts.iter().filter(|count| **count > 1).map(|count| weight(u32::from(*count))).sum();
    (weight(length).saturating_sub(repeated) + 128) >> 8
}

/// log2 with eight bits behind the point, of 1 and more.
fn log2_fixed(number: u32) -> u32 {
    let whole = number.ilog2();
    // The mantissa in [1, 2) with 16 bits behind the point, squared once for each bit of the logarithm.
    let mut mantissa = u64::from(number) << 16 >> whole;
    let mut log = whole;
    for _ in 0..8 {
        mantissa = (mantissa * mantissa) >> 16;
        let bit = mantissa >> 17;
        mantissa >>= bit;
        log = log << 1 | u32::from(bit == 1);
    }
    log
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_entropy_is_shannons() {
        for (text, exact) in
            [("aaaaaaaa", 0.0), ("abcdefgh", 24.0), ("aabbccdd", 16.0), ("hunter2x", 24.0), ("aab", 2.754)]
        {
            let bits = entropy_bits(text.as_bytes());
            assert!((f64::from(bits) - exact).abs() <= 1.0, "{text}: {bits} bits, not {exact}");
        }
        for number in 1..=128 {
            let exact = f64::from(number).log2() * 256.0;
            assert!((f64::from(log2_fixed(number)) - exact).abs() < 1.5, "log2 {number}");
        }
    }

    #[test]
    fn names_that_mean_a_credential() {
        for name in [
            "password",
            "DB_PASSWORD",
            "db.password",
            "client-secret",
            "apiKey",
            "X-Api-Key",
            "access_token",
            "Authorization",
        ] {
            assert!(Name::new(name.as_bytes()).is_some(), "{name}");
        }
        for name in
            ["max_tokens", "next_page_token", "password_file", "secretary", "keyboard", "public_key", "tokenizer", ""]
        {
            assert!(Name::new(name.as_bytes()).is_none(), "{name}");
        }
    }
}
