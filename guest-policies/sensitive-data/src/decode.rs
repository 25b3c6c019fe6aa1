//! What is encoded once: percent signs, hexadecimal, base64 in both alphabets.
//!
//! Only what decodes to text counts. Anything else, a picture or a digest, shows itself within a few bytes, and is
//! given up there; so looking costs one pass over the text whatever it holds.

use core::ops::Range;

/// The text without its `%41`, if it has any that decode.
pub(crate) fn percent(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    if !bytes.contains(&b'%') {
        return None;
    }
    bytes.windows(3).find(|part| part[0] == b'%' && hex_byte(part[1], part[2]).is_some())?;
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escape = if bytes[at] == b'%' { bytes.get(at + 1..at + 3) } else { None };
        if let Some(byte) = escape.and_then(|digits| hex_byte(digits[0], digits[1])) {
            decoded.push(byte);
            at += 3;
        } else {
            decoded.push(bytes[at]);
            at += 1;
        }
    }
    Some(String::from_utf8(decoded).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
}

/// Tell `found` of every run of hexadecimal or base64 that decodes to text.
pub(crate) fn runs(text: &str, found: &mut dyn FnMut(Range<usize>, &str, &'static str)) {
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        if !BASE64[usize::from(bytes[at])].is_digit() {
            at += 1;
            continue;
        }
        let start = at;
        at = run_end(bytes, start);
        if at - start >= ENCODED_MIN {
            run(&bytes[start..at], start, found);
        }
    }
}

/// Shorter text holds nothing that is looked for: eleven characters in base64.
const ENCODED_MIN: usize = 15;

/// The end of a run, over line breaks after rows of a length that encoders write.
fn run_end(bytes: &[u8], start: usize) -> usize {
    const ROW_MIN: usize = 60;
    let (mut at, mut row) = (start, start);
    loop {
        while bytes.get(at).is_some_and(|byte| BASE64[usize::from(*byte)].is_digit()) {
            at += 1;
        }
        let break_length = match bytes.get(at..) {
            Some([b'\n', ..]) => 1,
            Some([b'\r', b'\n', ..]) => 2,
            _ => return at,
        };
        let goes_on = bytes.get(at + break_length).is_some_and(|byte| BASE64[usize::from(*byte)].is_digit());
        if at - row < ROW_MIN || (at - row) % 4 != 0 || !goes_on {
            return at;
        }
        at += break_length;
        row = at;
    }
}

fn run(run: &[u8], start: usize, found: &mut dyn FnMut(Range<usize>, &str, &'static str)) {
    let hex_run = run.strip_prefix(b"0x").unwrap_or(run);
    if let Some(decoded) = text_of(hex(hex_run)) {
        return found(start..start + run.len(), &decoded, "hexadecimal");
    }
    if let Some(decoded) = text_of(base64(run)) {
        return found(start..start + run.len(), &decoded, "base64");
    }
    // `/` is a digit of base64 and what stands before it in a URL.
    if !run.contains(&b'/') {
        return;
    }
    let mut at = start;
    for part in run.split(|byte| *byte == b'/') {
        let decoded = if part.len() >= ENCODED_MIN { text_of(base64(part)) } else { None };
        if let Some(decoded) = decoded {
            found(at..at + part.len(), &decoded, "base64");
        }
        at += part.len() + 1;
    }
}

fn text_of(bytes: Option<Vec<u8>>) -> Option<String> {
    String::from_utf8(bytes?).ok()
}

/// Bytes of hexadecimal, if all of it is, and text.
fn hex(run: &[u8]) -> Option<Vec<u8>> {
    if run.len() % 2 != 0 {
        return None;
    }
    let mut decoded = Vec::new();
    for pair in run.chunks_exact(2) {
        decoded.push(hex_byte(pair[0], pair[1]).filter(|byte| is_text(*byte))?);
    }
    Some(decoded)
}

fn hex_byte(high: u8, low: u8) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|value| u8::try_from(value).ok());
    Some(digit(high)? << 4 | digit(low)?)
}

/// Bytes of base64 (either alphabet, padded or not, line breaks ignored), if they are text.
pub(crate) fn base64(run: &[u8]) -> Option<Vec<u8>> {
    let mut decoded = Vec::new();
    let (mut bits, mut count) = (0_u32, 0);
    for digit in run.iter().map(|byte| BASE64[usize::from(*byte)]).filter(|digit| digit.is_digit()) {
        bits = bits << 6 | u32::from(digit.0);
        count += 1;
        if count == 4 {
            for byte in [bits >> 16, bits >> 8, bits] {
                decoded.push(u8::try_from(byte & 0xFF).ok().filter(|byte| is_text(*byte))?);
            }
            (bits, count) = (0, 0);
        }
    }
    let rest: &[u32] = match count {
        0 => &[],
        2 => &[bits >> 4],
        3 => &[bits >> 10, bits >> 2],
        _ => return None,
    };
    for byte in rest {
        decoded.push(u8::try_from(byte & 0xFF).ok().filter(|byte| is_text(*byte))?);
    }
    Some(decoded)
}

fn is_text(byte: u8) -> bool {
    byte >= b' ' && byte != 0x7F || matches!(byte, b'\t' | b'\n' | b'\r')
}

#[derive(Clone, Copy)]
struct Digit(u8);

impl Digit {
    fn is_digit(self) -> bool {
        self.0 < 64
    }
}

static BASE64: [Digit; 256] = {
    let mut table = [Digit(u8::MAX); 256];
    let digits = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut value = 0;
    while value < 64 {
        table[digits[value as usize] as usize] = Digit(value);
        value += 1;
    }
    table[b'-' as usize] = Digit(62);
    table[b'_' as usize] = Digit(63);
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(text: &str) -> Vec<(String, String, &'static str)> {
        let mut all = Vec::new();
        runs(text, &mut |range, decoded, how| all.push((text[range].to_owned(), decoded.to_owned(), how)));
        all
    }

    #[test]
    fn what_decodes_to_text_is_told() {
        let hello = |run: &str, how| vec![(run.to_owned(), "hello, hello world".to_owned(), how)];
        for text in ["aGVsbG8sIGhlbGxvIHdvcmxk", "x: \"aGVsbG8sIGhlbGxvIHdvcmxk\"", "=aGVsbG8sIGhlbGxvIHdvcmxk=="] {
            assert_eq!(decoded(text), hello("aGVsbG8sIGhlbGxvIHdvcmxk", "base64"), "{text}");
        }
        assert_eq!(
            decoded("68656c6c6f2c2068656c6c6f20776f726c64"),
            hello("68656c6c6f2c2068656c6c6f20776f726c64", "hexadecimal")
        );
        assert_eq!(decoded("/api/v1/aGVsbG8sIGhlbGxvIHdvcmxk/x"), hello("aGVsbG8sIGhlbGxvIHdvcmxk", "base64"));
        // Unpadded, of every length.
        assert_eq!(decoded("c29tZSB0ZXh0IGhlcmU")[0].1, "some text here");
        assert_eq!(decoded("c29tZSB0ZXh0IGhlcmVz")[0].1, "some text heres");
    }

    #[test]
    fn what_is_no_text_is_not() {
        for text in [
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "internationalisationservice",
            "iVBORw0KGgoAAAANSUhEUgAAAAUA",
            "short",
        ] {
            assert_eq!(decoded(text), [], "{text}");
        }
    }

    #[test]
    fn rows_of_an_encoder_are_one_run() {
        let row = "YWFh".repeat(19);
        assert_eq!(decoded(&format!("{row}\r\n{row}\nYWFhYWFhYWFhYWFhYWFh"))[0].1, "a".repeat(57 * 2 + 15));
    }

    #[test]
    fn percent_signs() {
        assert_eq!(percent("a%20b%2Fc%zz%4"), Some("a b/c%zz%4".into()));
        assert_eq!(percent("100% sure"), None);
        assert_eq!(percent("%e4%bd%a0"), Some("你".into()));
        assert_eq!(percent("%ff x"), Some("\u{fffd} x".into()));
    }
}
