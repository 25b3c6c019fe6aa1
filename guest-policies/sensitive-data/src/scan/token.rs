//! Secrets that say themselves what they are: by a prefix, or by their form.

use core::ops::Range;

use super::{Alphabet, Hit, Scan};
use crate::decode;
use crate::kind::Kind;

/// A token that begins with a fixed text.
struct Prefix {
    text: &'static str,
    kind: Kind,
    alphabet: Alphabet,
    /// The length of the rest.
    rest: core::ops::RangeInclusive<usize>,
}

const fn prefix(text: &'static str, kind: Kind, alphabet: Alphabet, least: usize, most: usize) -> Prefix {
    Prefix { text, kind, alphabet, rest: least..=most }
}

/// No length is too long.
const MORE: usize = usize::MAX;

use Alphabet::{Alphanumeric, Url, Word};

static A: [Prefix; 5] = [
    prefix("AKIA", Kind::AwsAccessKeyId, Alphanumeric, 16, 16),
    prefix("ASIA", Kind::AwsAccessKeyId, Alphanumeric, 16, 16),
    prefix("ABIA", Kind::AwsAccessKeyId, Alphanumeric, 16, 16),
    prefix("ACCA", Kind::AwsAccessKeyId, Alphanumeric, 16, 16),
    prefix("AIza", Kind::GoogleKey, Url, 35, 35),
];
static D: [Prefix; 6] = [
    prefix("dop_v1_", Kind::VendorToken, Alphanumeric, 64, 64),
    prefix("doo_v1_", Kind::VendorToken, Alphanumeric, 64, 64),
    prefix("dckr_pat_", Kind::VendorToken, Url, 20, MORE),
    prefix("dckr_oat_", Kind::VendorToken, Url, 20, MORE),
    prefix("dp.pt.", Kind::VendorToken, Alphanumeric, 40, MORE),
    prefix("dapi", Kind::VendorToken, Alphanumeric, 32, 32),
];
static G: [Prefix; 16] = [
    prefix("ghp_", Kind::GithubToken, Alphanumeric, 30, MORE),
    prefix("gho_", Kind::GithubToken, Alphanumeric, 30, MORE),
    prefix("ghu_", Kind::GithubToken, Alphanumeric, 30, MORE),
    prefix("ghs_", Kind::GithubToken, Alphanumeric, 30, MORE),
    prefix("ghr_", Kind::GithubToken, Alphanumeric, 30, MORE),
    prefix("github_pat_", Kind::GithubToken, Word, 22, MORE),
    prefix("glpat-", Kind::GitlabToken, Url, 20, MORE),
    prefix("gloas-", Kind::GitlabToken, Url, 20, MORE),
    prefix("gldt-", Kind::GitlabToken, Url, 20, MORE),
    prefix("glrt-", Kind::GitlabToken, Url, 20, MORE),
    prefix("glptt-", Kind::GitlabToken, Url, 20, MORE),
    prefix("glcbt-", Kind::GitlabToken, Url, 20, MORE),
    prefix("glft-", Kind::GitlabToken, Url, 20, MORE),
    prefix("glimt-", Kind::GitlabToken, Url, 20, MORE),
    prefix("glagent-", Kind::GitlabToken, Url, 20, MORE),
    prefix("glsoat-", Kind::GitlabToken, Url, 20, MORE),
];
static CAPITAL_G: [Prefix; 1] = [prefix("GOCSPX-", Kind::GoogleKey, Url, 24, MORE)];
static H: [Prefix; 3] = [
    prefix("hf_", Kind::VendorToken, Alphanumeric, 30, MORE),
    prefix("hvs.", Kind::VendorToken, Url, 24, MORE),
    prefix("hvb.", Kind::VendorToken, Url, 24, MORE),
];
static N: [Prefix; 1] = [prefix("npm_", Kind::NpmToken, Alphanumeric, 36, 36)];
static P: [Prefix; 1] = [prefix("pypi-", Kind::PypiToken, Url, 50, MORE)];
static R: [Prefix; 2] = [
    prefix("rk_live_", Kind::StripeKey, Alphanumeric, 16, MORE),
    prefix("rk_test_", Kind::StripeKey, Alphanumeric, 16, MORE),
];
static S: [Prefix; 9] = [
    prefix("sk_live_", Kind::StripeKey, Alphanumeric, 16, MORE),
    prefix("sk_test_", Kind::StripeKey, Alphanumeric, 16, MORE),
    prefix("sk-ant-", Kind::AnthropicKey, Url, 24, MORE),
    prefix("sk-proj-", Kind::OpenaiKey, Url, 24, MORE),
    prefix("sk-svcacct-", Kind::OpenaiKey, Url, 24, MORE),
    prefix("sk-admin-", Kind::OpenaiKey, Url, 24, MORE),
    prefix("sk-", Kind::OpenaiKey, Alphanumeric, 32, MORE),
    prefix("sk-or-v1-", Kind::VendorToken, Alphanumeric, 64, 64),
    prefix("shpat_", Kind::VendorToken, Alphanumeric, 32, 32),
];
static CAPITAL_S: [Prefix; 1] = [prefix("SG.", Kind::VendorToken, Url, 22, 22)];
static W: [Prefix; 1] = [prefix("whsec_", Kind::StripeKey, Alphanumeric, 24, MORE)];
static X: [Prefix; 9] = [
    prefix("xoxb-", Kind::SlackToken, Url, 20, MORE),
    prefix("xoxp-", Kind::SlackToken, Url, 20, MORE),
    prefix("xoxa-", Kind::SlackToken, Url, 20, MORE),
    prefix("xoxr-", Kind::SlackToken, Url, 20, MORE),
    prefix("xoxs-", Kind::SlackToken, Url, 20, MORE),
    prefix("xoxc-", Kind::SlackToken, Url, 20, MORE),
    prefix("xoxd-", Kind::SlackToken, Url, 20, MORE),
    prefix("xoxe-", Kind::SlackToken, Url, 20, MORE),
    prefix("xapp-", Kind::SlackToken, Url, 20, MORE),
];
static Y: [Prefix; 1] = [prefix("ya29.", Kind::GoogleKey, Url, 30, MORE)];

/// Those that begin with this byte; where one begins with another, the longer one is also tried.
fn prefixes(first: u8) -> &'static [Prefix] {
    match first {
        b'A' => &A,
        b'd' => &D,
        b'g' => &G,
        b'G' => &CAPITAL_G,
        b'h' => &H,
        b'n' => &N,
        b'p' => &P,
        b'r' => &R,
        b's' => &S,
        b'S' => &CAPITAL_S,
        b'w' => &W,
        b'x' => &X,
        b'y' => &Y,
        _ => &[],
    }
}

impl Scan<'_, '_, '_> {
    /// The secret that begins with this word.
    pub(super) fn token(&mut self, at: usize) -> Option<Hit> {
        // Nearly every word is over before a prefix would be: those end with a sign, but for some of fixed length.
        let end = self.word_end(at);
        let may_begin = matches!(self.byte(end), b'_' | b'-' | b'.') || end - at > 19;
        for prefix in if may_begin { prefixes(self.text[at]) } else { &[] } {
            if self.kinds.has(prefix.kind) && self.is_at(at, prefix.text.as_bytes()) {
                if let Some(end) = self.rest_of_token(prefix, at) {
                    return Some((prefix.kind, end));
                }
            }
        }
        match self.text[at] {
            b'e' => self.jwt(at),
            b'h' => self.slack_webhook(at),
            _ => self.aws_secret_beside_its_id(at),
        }
    }

    fn rest_of_token(&mut self, prefix: &Prefix, at: usize) -> Option<usize> {
        let start = at + prefix.text.len();
        let end = self.run_end(prefix.alphabet, start);
        if !prefix.rest.contains(&(end - start)) {
            return None;
        }
        // Upper case and the digits of base32.
        if prefix.kind == Kind::AwsAccessKeyId
            && !self.text[start..end].iter().all(|byte| matches!(byte, b'A'..=b'Z' | b'0'..=b'9'))
        {
            return None;
        }
        self.is_random(start..end).then_some(end)
    }

    /// Not a row of `x`, nor an example in a manual: the first characters are of many kinds.
    fn is_random(&mut self, range: Range<usize>) -> bool {
        const SEEN: usize = 64;
        const DIFFERENT_MIN: u32 = 7;
        let end = range.end.min(range.start + SEEN);
        let rest = &self.text[range.start..end];
        self.budget.take(rest.len() / 4);
        let seen = rest.iter().fold(0_u128, |seen, byte| seen | 1 << (byte & 127));
        let says = |word: &[u8]| rest.windows(word.len()).any(|part| part.eq_ignore_ascii_case(word));
        seen.count_ones() >= DIFFERENT_MIN && !says(b"example") && !says(b"xxxx")
    }

    /// 40 characters of base64 a little after an access key id: there is nothing else that stands there.
    fn aws_secret_beside_its_id(&mut self, at: usize) -> Option<Hit> {
        const LENGTH: usize = 40;
        const BESIDE: usize = 96;
        // Cheap for every other word: only where 40 such characters stand, and no more.
        let is_part = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'/' || byte == b'+';
        if !self.kinds.has(Kind::AwsSecretAccessKey)
            || is_part(self.before(at))
            || is_part(self.byte(at + LENGTH))
            || !is_part(self.byte(at + LENGTH - 1))
        {
            return None;
        }
        let secret = self.text.get(at..at + LENGTH)?;
        self.budget.take(LENGTH / 4);
        if !secret.iter().all(|byte| is_part(*byte)) || !mixed(secret) {
            return None;
        }
        self.budget.take(BESIDE);
        let nearby = &self.text[at.saturating_sub(BESIDE)..at];
        let beside = nearby.windows(20).any(|id| {
            (id.starts_with(b"AKIA") || id.starts_with(b"ASIA"))
                && id.iter().all(|byte| matches!(byte, b'A'..=b'Z' | b'0'..=b'9'))
        });
        beside.then_some((Kind::AwsSecretAccessKey, at + LENGTH))
    }

    /// `https://hooks.slack.com/services/T…/B…/…`: who knows it may post.
    fn slack_webhook(&mut self, at: usize) -> Option<Hit> {
        const HOST: &[u8] = b"hooks.slack.com/services/";
        const PATH_MIN: usize = 30;
        if !self.kinds.has(Kind::SlackToken) || !self.is_at(at, HOST) {
            return None;
        }
        let start = at + HOST.len();
        let path = &self.text[start..self.text.len().min(start + 256)];
        let end = path.iter().position(|byte| !byte.is_ascii_alphanumeric() && *byte != b'/').unwrap_or(path.len());
        let parts = path[..end].split(|byte| *byte == b'/').count();
        let is = end >= PATH_MIN && parts == 3 && self.is_random(start..start + end);
        is.then_some((Kind::SlackToken, start + end))
    }

    /// `header.payload.signature`, where the header decodes to an object that names an algorithm.
    fn jwt(&mut self, at: usize) -> Option<Hit> {
        if !self.kinds.has(Kind::Jwt) || !self.is_at(at, b"eyJ") {
            return None;
        }
        let dot = self.run_end(Url, at);
        if self.byte(dot) != b'.' {
            return None;
        }
        self.budget.take(dot - at);
        if !is_header(&self.text[at..dot]) {
            return None;
        }
        let mut end = self.run_end(Url, dot + 1);
        if end - dot < 8 {
            return None;
        }
        // One more part is a signature, three more an encrypted token.
        for _ in 0..3 {
            if self.byte(end) == b'.' {
                end = self.run_end(Url, end + 1);
            }
        }
        Some((Kind::Jwt, end))
    }

    /// A PEM block with a private key, from its first line to its last or to the end of the text.
    pub(super) fn private_key(&mut self, at: usize) -> Option<Hit> {
        const BEGIN: &[u8] = b"-----BEGIN ";
        const LABEL_MAX: usize = 48;
        if !self.kinds.has(Kind::PrivateKey) || !self.is_at(at, BEGIN) {
            return None;
        }
        let rest = &self.text[at + BEGIN.len()..];
        let head = &rest[..rest.len().min(LABEL_MAX)];
        let label_end = head.windows(5).position(|part| part == b"-----")?;
        let label = &head[..label_end];
        if !label.ends_with(b"PRIVATE KEY") && !label.ends_with(b"PRIVATE KEY BLOCK") {
            return None;
        }
        let body = at + BEGIN.len() + label_end + 5;
        if !self.has_key_material(body) {
            return None;
        }
        let end = self.text[body..].windows(9).position(|part| part == b"-----END ");
        let end = end.map_or(self.text.len(), |end| (body + end + 9 + label_end + 5).min(self.text.len()));
        self.budget.take(end - body);
        Some((Kind::PrivateKey, end))
    }

    /// A row of base64 follows soon, or nothing at all: the rest may stand in the next text. A sentence about keys has
    /// neither.
    fn has_key_material(&mut self, body: usize) -> bool {
        const LOOK: usize = 640;
        const ROW: usize = 24;
        let rest = &self.text[body..self.text.len().min(body + LOOK)];
        self.budget.take(rest.len());
        let mut row = 0;
        let is_row = rest.iter().any(|byte| {
            row = if byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/') { row + 1 } else { 0 };
            row == ROW
        });
        is_row || rest.iter().all(|byte| byte.is_ascii_whitespace() || matches!(byte, b'\\' | b'n' | b'r' | b'"'))
    }

    /// `scheme://user:password@host`.
    pub(super) fn url_credentials(&mut self, at: usize) -> Option<(Kind, Range<usize>)> {
        const AUTHORITY_MAX: usize = 512;
        if !self.kinds.has(Kind::UrlCredentials) || !self.before(at).is_ascii_alphanumeric() {
            return None;
        }
        let start = at + 3;
        let rest = &self.text[start..self.text.len().min(start + AUTHORITY_MAX)];
        let is_end = |byte: &u8| matches!(byte, b'/' | b'?' | b'#' | b'"' | b'\'' | b'<' | b'>') || *byte <= b' ';
        let authority = &rest[..rest.iter().position(is_end).unwrap_or(rest.len())];
        self.budget.take(authority.len());
        let host = authority.iter().rposition(|byte| *byte == b'@')?;
        let colon = authority[..host].iter().position(|byte| *byte == b':')?;
        let password = &authority[colon + 1..host];
        if password.len() < 3 || super::assignment::is_placeholder(password) {
            return None;
        }
        Some((Kind::UrlCredentials, start + colon + 1..start + host))
    }
}

/// Letters of both cases and digits.
pub(super) fn mixed(text: &[u8]) -> bool {
    text.iter().any(u8::is_ascii_lowercase)
        && text.iter().any(u8::is_ascii_uppercase)
        && text.iter().any(u8::is_ascii_digit)
}

/// The header of a signed token: an object that names an algorithm.
fn is_header(encoded: &[u8]) -> bool {
    const HEADER_MAX: usize = 4_096;
    let header = if encoded.len() > HEADER_MAX { None } else { decode::base64(encoded) };
    header.is_some_and(|header| header.starts_with(b"{") && header.windows(5).any(|part| part == b"\"alg\""))
}
