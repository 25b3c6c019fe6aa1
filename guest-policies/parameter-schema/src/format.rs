//! The formats of texts that are checked: by their form alone, without a calendar of names or a network.

use core::net::{Ipv4Addr, Ipv6Addr};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Date,
    DateTime,
    Email,
    Ipv4,
    Ipv6,
    Uri,
    Uuid,
}

/// Every format and its name.
const NAMES: [(&str, Format); 7] = [
    ("date", Format::Date),
    ("date-time", Format::DateTime),
    ("email", Format::Email),
    ("ipv4", Format::Ipv4),
    ("ipv6", Format::Ipv6),
    ("uri", Format::Uri),
    ("uuid", Format::Uuid),
];

impl Format {
    pub(crate) fn new(name: &str) -> Option<Self> {
        NAMES.iter().find(|(known, _)| *known == name).map(|(_, format)| *format)
    }

    pub(crate) fn name(self) -> &'static str {
        NAMES.iter().find(|(_, format)| *format == self).map_or("", |(name, _)| name)
    }

    pub(crate) fn fits(self, text: &str) -> bool {
        match self {
            Format::Date => is_date(text),
            Format::DateTime => is_date_time(text),
            Format::Email => is_email(text),
            Format::Ipv4 => text.parse::<Ipv4Addr>().is_ok(),
            Format::Ipv6 => text.parse::<Ipv6Addr>().is_ok(),
            Format::Uri => is_uri(text),
            Format::Uuid => is_uuid(text),
        }
    }
}

/// So many digits, as a number up to a maximum.
fn number(text: &str, digits: usize, max: u32) -> Option<u32> {
    let is_number = text.len() == digits && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().ok()).flatten().filter(|value| *value <= max)
}

/// RFC 3339 `full-date`, with the days that the month has in that year.
fn is_date(text: &str) -> bool {
    let date = || {
        let year = number(text.get(..4)?, 4, 9_999)?;
        let month = number(text.get(5..7)?, 2, 12)?;
        let day = number(text.get(8..)?, 2, 31)?;
        let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let days = match month {
            0 => return None,
            2 => 28 + u32::from(is_leap),
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        };
        let has_hyphens = text.as_bytes()[4] == b'-' && text.as_bytes()[7] == b'-';
        Some(has_hyphens && (1..=days).contains(&day))
    };
    date().unwrap_or(false)
}

/// RFC 3339 `date-time`. A leap second is at 23:59:60 UTC.
fn is_date_time(text: &str) -> bool {
    let time = || {
        let (date, rest) = (text.get(..10)?, text.get(10..)?);
        let rest = rest.strip_prefix(['T', 't'])?;
        let (clock, rest) = (rest.get(..8)?, rest.get(8..)?);
        let (hour, minute, second) =
            (number(clock.get(..2)?, 2, 23)?, number(clock.get(3..5)?, 2, 59)?, number(clock.get(6..)?, 2, 60)?);
        let rest = match rest.strip_prefix('.') {
            None => rest,
            Some(fraction) => {
                let rest = fraction.trim_start_matches(|digit: char| digit.is_ascii_digit());
                if rest.len() == fraction.len() {
                    return None;
                }
                rest
            }
        };
        let offset = offset_minutes(rest)?;
        let has_colons = clock.as_bytes()[2] == b':' && clock.as_bytes()[5] == b':';
        let minutes = i64::from(hour * 60 + minute) - offset;
        let is_second = second < 60 || minutes.rem_euclid(24 * 60) == 24 * 60 - 1;
        Some(is_date(date) && has_colons && is_second)
    };
    time().unwrap_or(false)
}

/// `Z` or `+01:00`, in minutes ahead of UTC.
fn offset_minutes(text: &str) -> Option<i64> {
    if text.eq_ignore_ascii_case("z") {
        return Some(0);
    }
    let ahead = match text.as_bytes().first()? {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let (hours, minutes) = text.get(1..)?.split_once(':')?;
    Some(ahead * i64::from(number(hours, 2, 23)? * 60 + number(minutes, 2, 59)?))
}

/// RFC 5321, without the quoted and commented forms that nothing sends.
fn is_email(text: &str) -> bool {
    let Some((local, domain)) = text.rsplit_once('@') else { return false };
    let is_atom = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&byte))
    };
    local.len() <= 64 && local.split('.').all(is_atom) && is_host(domain)
}

fn is_host(text: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(is_label)
}

/// RFC 3986: a scheme, and characters that a URI may have. What the scheme asks of the rest is not checked.
fn is_uri(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once(':') else { return false };
    let is_scheme = scheme.starts_with(|first: char| first.is_ascii_alphabetic())
        && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
    let bytes = rest.as_bytes();
    let is_allowed = |(index, byte): (usize, &u8)| match byte {
        b'%' => bytes.get(index + 1..index + 3).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit)),
        other => other.is_ascii_alphanumeric() || b"-._~:/?#[]@!$&'()*+,;=".contains(other),
    };
    let fragments = rest.matches('#').count();
    // `[` and `]` are for the address of a host only.
    let path = rest.strip_prefix("//").map_or(rest, |rest| rest.find(['/', '?', '#']).map_or("", |end| &rest[end..]));
    is_scheme && fragments <= 1 && !path.contains(['[', ']']) && bytes.iter().enumerate().all(is_allowed)
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(index, byte)| match index {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_and_what_does_not() {
        let table: [(&str, &[&str], &[&str]); 7] = [
            (
                "date",
                &["2024-02-29", "1970-01-01"],
                &[
                    "2023-02-29",
                    "2024-1-01",
                    "2024-13-01",
                    "2024-00-01",
                    "2024-01-32",
                    "2024-01-01T",
                    "20240101",
                    "२०२४-01-01",
                    "2024/01/01",
                ],
            ),
            (
                "date-time",
                &[
                    "2024-01-05T10:00:00Z",
                    "2024-01-05t10:00:00.123+01:00",
                    "1998-12-31T23:59:60Z",
                    "1998-12-31T15:59:60-08:00",
                ],
                &[
                    "2024-01-05 10:00:00Z",
                    "2024-01-05T10:00:00",
                    "2024-01-05T24:00:00Z",
                    "2024-01-05T10:00:00.Z",
                    "2024-01-05T10:00:60Z",
                    "2024-01-05T10:00:00+0100",
                    "2024-01-05T10:60:00Z",
                ],
            ),
            (
                "email",
                &["a@b.net", "a.b+c@host", "o'b@x-y.org"],
                &["a", "@b", "a@", "a..b@c", ".a@c", "a@-b.net", "a b@c", "a@b@c d"],
            ),
            ("ipv4", &["1.2.3.4"], &["1.2.3", "256.1.1.1", "01.2.3.4", "1.2.3.4 "]),
            ("ipv6", &["::1", "2001:db8::1", "::ffff:1.2.3.4"], &["1::2::3", "12345::", ":", "fe80::1%eth0"]),
            (
                "uri",
                &["https://x.net/a?b#c", "urn:isbn:123", "mailto:a@b", "http://[::1]/"],
                &["/a/b", "x y:z", "https://x.net/a b", "1x:y", "a:%zz", "a:b#c#d", "a:<b>", "https://x.net/[a]"],
            ),
            (
                "uuid",
                &["550e8400-e29b-41d4-a716-446655440000"],
                &[
                    "550e8400e29b41d4a716446655440000",
                    "550e8400-e29b-41d4-a716-44665544000g",
                    "550e8400-e29b-41d4-a7160446655440000",
                ],
            ),
        ];
        for (name, fits, others) in table {
            let format = Format::new(name).expect(name);
            assert_eq!(format.name(), name);
            for text in fits {
                assert!(format.fits(text), "{name} {text}");
            }
            for text in others {
                assert!(!format.fits(text), "{name} {text}");
            }
        }
    }
}
