//! Addresses: of mail, and of machines.

use core::net::Ipv6Addr;
use core::ops::Range;

use super::{Hit, Scan};
use crate::kind::Kind;

impl Scan<'_, '_, '_> {
    /// The mail address around an `@`.
    pub(super) fn email(&mut self, at: usize) -> Option<(Kind, Range<usize>)> {
        const LOCAL_MAX: usize = 64;
        const DOMAIN_MAX: usize = 253;
        if !self.kinds.has(Kind::Email) {
            return None;
        }
        let is_local = |byte: &u8| {
            byte.is_ascii_alphanumeric() || *byte >= 0x80 || matches!(byte, b'.' | b'_' | b'%' | b'+' | b'-' | b'\'')
        };
        let before = &self.text[at.saturating_sub(LOCAL_MAX)..at];
        let mut local = before.iter().rev().position(|byte| !is_local(byte)).unwrap_or(before.len());
        // It begins with a letter or digit: quotes and dots before it are of the sentence.
        while local > 0 && !self.is_alphanumeric(at - local) && self.text[at - local] < 0x80 {
            local -= 1;
        }
        let after = &self.text[at + 1..self.text.len().min(at + 1 + DOMAIN_MAX)];
        let is_domain = |byte: &u8| byte.is_ascii_alphanumeric() || *byte >= 0x80 || matches!(byte, b'.' | b'-');
        let mut domain = &after[..after.iter().position(|byte| !is_domain(byte)).unwrap_or(after.len())];
        while let [rest @ .., b'.' | b'-'] = domain {
            domain = rest;
        }
        let dot = domain.iter().rposition(|byte| *byte == b'.')?;
        let top = &domain[dot + 1..];
        let is_top = top.len() >= 2
            && (top.iter().all(|byte| byte.is_ascii_alphabetic() || *byte >= 0x80) || top.starts_with(b"xn--"));
        let is = local > 0 && dot > 0 && is_top && !domain.windows(2).any(|pair| pair == b"..");
        is.then(|| (Kind::Email, at - local..at + 1 + domain.len()))
    }

    /// The address of a machine that begins here: with a digit, a letter up to F, or `:`.
    pub(super) fn address(&mut self, at: usize) -> Option<Hit> {
        if self.kinds.has(Kind::Ipv4) && self.is_digit(at) {
            if let Some(end) = self.ipv4(at) {
                return Some((Kind::Ipv4, end));
            }
        }
        if self.kinds.has(Kind::Ipv6) { self.ipv6(at).map(|end| (Kind::Ipv6, end)) } else { None }
    }

    /// Four numbers up to 255 with dots between them, not beside another dot or digit; not this machine itself.
    fn ipv4(&self, at: usize) -> Option<usize> {
        if matches!(self.before(at), b'.' | b'-' | b'_') {
            return None;
        }
        let (mut place, mut first) = (at, None);
        for part in 0..4 {
            if part > 0 {
                if self.byte(place) != b'.' {
                    return None;
                }
                place += 1;
            }
            let mut value = 0;
            let start = place;
            while place - start < 3 && self.is_digit(place) {
                value = value * 10 + u32::from(self.byte(place) - b'0');
                place += 1;
            }
            if place == start || value > 255 || place - start > 1 && self.byte(start) == b'0' {
                return None;
            }
            first = first.or(Some(value));
        }
        let goes_on = self.is_alphanumeric(place) || self.byte(place) == b'.' && self.is_digit(place + 1);
        (!goes_on && !matches!(first, Some(0 | 127 | 255))).then_some(place)
    }

    /// What the standard library takes for one, with three groups or more: `a::b` in a program is none.
    fn ipv6(&mut self, at: usize) -> Option<usize> {
        const LENGTH_MAX: usize = 45;
        let is_part = |byte: u8| byte.is_ascii_hexdigit() || byte == b':';
        if !is_part(self.byte(at)) || is_part(self.before(at)) || self.before(at).is_ascii_alphanumeric() {
            return None;
        }
        let rest = &self.text[at..self.text.len().min(at + LENGTH_MAX + 1)];
        let length = rest.iter().position(|byte| !is_part(*byte)).unwrap_or(rest.len());
        let text = core::str::from_utf8(&rest[..length]).ok()?.trim_end_matches(':');
        let groups = text.split(':').filter(|group| !group.is_empty()).count();
        if groups < 3 || self.is_alphanumeric(at + length) {
            return None;
        }
        self.budget.take(LENGTH_MAX);
        text.parse::<Ipv6Addr>().ok().map(|_| at + text.len())
    }
}
