//! What looks like a secret. One pass over the text; every kind is a beginning and how it goes on.

/// Characters that a secret of a kind goes on with.
type Charset = fn(u8) -> bool;

struct Kind {
    name: &'static str,
    begins: &'static [&'static str],
    /// So many characters must follow the beginning.
    least: usize,
    goes_on: Charset,
}

const KINDS: [Kind; 6] = [
    Kind { name: "aws_access_key", begins: &["AKIA", "ASIA"], least: 16, goes_on: upper_or_digit },
    Kind {
        name: "github_token",
        begins: &["ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_"],
        least: 22,
        goes_on: word,
    },
    Kind { name: "slack_token", begins: &["xoxa-", "xoxb-", "xoxp-", "xoxr-", "xoxs-"], least: 10, goes_on: word_or_dash },
    Kind { name: "google_key", begins: &["AIza"], least: 35, goes_on: word_or_dash },
    Kind { name: "api_key", begins: &["sk-", "sk_live_", "rk_live_"], least: 20, goes_on: word_or_dash },
    Kind { name: "jwt", begins: &["eyJ"], least: 40, goes_on: token },
];

const KEY_BEGINS: &str = "-----BEGIN ";
const KEY_ENDS: &str = "PRIVATE KEY-----";
/// The first line of a key is no longer; only so much is looked at, so that a text of beginnings is read in one pass.
const KEY_HEAD_BYTES_MAX: usize = 48;

/// Names whose values are secret: `password = hunter22`.
const NAMES: [&str; 6] = ["password", "passwd", "api_key", "apikey", "secret", "token"];
/// Shorter values are words of a sentence as a rule.
const VALUE_BYTES_MIN: usize = 6;

fn upper_or_digit(c: u8) -> bool {
    c.is_ascii_uppercase() || c.is_ascii_digit()
}

fn word(c: u8) -> bool {
    c.is_ascii_alphanumeric() || c == b'_'
}

fn word_or_dash(c: u8) -> bool {
    word(c) || c == b'-'
}

fn token(c: u8) -> bool {
    word_or_dash(c) || c == b'.'
}

/// The text with its secrets replaced, and the kind of each; nothing if there is none.
pub(crate) fn redact(text: &str, given: &[String], replacement: &str) -> Option<(String, Vec<&'static str>)> {
    let (mut out, mut kinds) = (String::new(), Vec::new());
    let (mut at, mut kept) = (0, 0);
    while at < text.len() {
        match secret_at(text, at, given) {
            Some((kind, start, end)) => {
                out.push_str(&text[kept..start]);
                out.push_str(replacement);
                kinds.push(kind);
                (at, kept) = (end, end);
            }
            None => at += text[at..].chars().next().map_or(1, char::len_utf8),
        }
    }
    out.push_str(&text[kept..]);
    (!kinds.is_empty()).then_some((out, kinds))
}

/// The secret that begins here: its kind, and what of the text it is.
fn secret_at(text: &str, at: usize, given: &[String]) -> Option<(&'static str, usize, usize)> {
    let rest = &text[at..];
    if let Some(secret) = given.iter().find(|secret| !secret.is_empty() && rest.starts_with(secret.as_str())) {
        return Some(("given", at, at + secret.len()));
    }
    if let Some(length) = private_key(rest) {
        return Some(("private_key", at, at + length));
    }
    // A secret does not begin in the middle of a word.
    if at > 0 && word_or_dash(text.as_bytes()[at - 1]) {
        return None;
    }
    for kind in &KINDS {
        let Some(begin) = kind.begins.iter().find(|begin| rest.starts_with(**begin)) else { continue };
        let length = rest.as_bytes()[begin.len()..].iter().take_while(|&&c| (kind.goes_on)(c)).count();
        if length >= kind.least {
            return Some((kind.name, at, at + begin.len() + length));
        }
    }
    value_of_name(rest).map(|(start, end)| ("named", at + start, at + end))
}

/// A private key in PEM, to its last line or, cut off, to the end.
fn private_key(rest: &str) -> Option<usize> {
    let head = &rest.as_bytes()[..rest.len().min(KEY_HEAD_BYTES_MAX)];
    head.starts_with(KEY_BEGINS.as_bytes()).then_some(())?;
    head.windows(KEY_ENDS.len()).any(|part| part == KEY_ENDS.as_bytes()).then_some(())?;
    let end = rest.find("-----END ").and_then(|end| Some(end + rest[end..].find(KEY_ENDS)? + KEY_ENDS.len()));
    Some(end.unwrap_or(rest.len()))
}

/// Where the value is of a secret that is named: `token: "…"`, `password=…`.
fn value_of_name(rest: &str) -> Option<(usize, usize)> {
    let bytes = rest.as_bytes();
    let name = NAMES.iter().find(|name| bytes.len() > name.len() && bytes[..name.len()].eq_ignore_ascii_case(name.as_bytes()))?;
    let skip = |from: usize, of: &[u8]| from + bytes[from..].iter().take_while(|c| of.contains(c)).count();
    let sign = skip(name.len(), b"\" '\t");
    let value = skip(sign, b":=");
    (value > sign).then_some(())?;
    let start = skip(value, b"\" '\t");
    let ends = |c: &u8| c.is_ascii_whitespace() || b"\"',;)}]".contains(c);
    let length = bytes[start..].iter().take_while(|c| !ends(c)).count();
    (length >= VALUE_BYTES_MIN).then_some((start, start + length))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redacted(text: &str) -> (String, Vec<&'static str>) {
        redact(text, &["open sesame".to_owned()], "#").unwrap_or_else(|| (text.to_owned(), Vec::new()))
    }

    #[test]
    fn every_kind_is_found_and_nothing_around_it_is_touched() {
        let long = "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8s9T0";
        for (text, expected, kind) in [
            ("key AKIAIOSFODNN7EXAMPLE, ok".to_owned(), "key #, ok", "aws_access_key"),
            (format!("ghp_{long}"), "#", "github_token"),
            (format!("(github_pat_{long})"), "(#)", "github_token"),
            (format!("xoxb-{long}\nnext"), "#\nnext", "slack_token"),
            (format!("AIza{long}"), "#", "google_key"),
            (format!("é sk-proj-{long} é"), "é # é", "api_key"),
            (format!("eyJ{long}.eyJ{long}.{long}"), "#", "jwt"),
            ("-----BEGIN RSA PRIVATE KEY-----\nMII\n-----END RSA PRIVATE KEY----- x".to_owned(), "# x", "private_key"),
            ("a -----BEGIN PRIVATE KEY-----\nMII".to_owned(), "a #", "private_key"),
            ("Password: hunter22!".to_owned(), "Password: #", "named"),
            (r#"{"api_key": "tropical-fish"}"#.to_owned(), r##"{"api_key": "#"}"##, "named"),
            ("say open sesame now".to_owned(), "say # now", "given"),
        ] {
            assert_eq!(redacted(&text), (expected.to_owned(), vec![kind]), "{text}");
        }
    }

    #[test]
    fn what_only_looks_like_a_secret_stays() {
        for text in [
            "",
            "AKIA is a prefix",
            "XAKIAIOSFODNN7EXAMPLE",
            "risk-management-of-large-and-old-systems",
            "the password is long",
            "token: abc",
            "secretary: Mrs Miller",
            "-----BEGIN CERTIFICATE-----\nMII",
            "päßwörd = ünïcödé",
            "eyJust a word",
        ] {
            assert_eq!(redacted(text), (text.to_owned(), Vec::new()), "{text}");
        }
    }

    #[test]
    fn secrets_side_by_side_are_all_found() {
        let (text, kinds) = redacted("AKIAIOSFODNN7EXAMPLE AKIAIOSFODNN7EXAMPLE password=AKIAIOSFODNN7EXAMPLE open sesame");
        assert_eq!((text.as_str(), kinds.len()), ("# # password=# #", 4));
    }

    #[test]
    fn long_texts_are_read() {
        let text = "-----BEGIN x password password ghp_ eyJa.b é ".repeat(20_000);
        assert_eq!(redacted(&text), (text.clone(), Vec::new()));
    }
}
