//! What may be asked for, and the order in which it is answered: newest first.

use super::facts::Facts;
use crate::clock::parse_time;
use gavel_ledger::RecordView;
use std::fmt;
use std::str::FromStr;

/// Where a record stands in the order of time. Clocks may jump backwards, so the index alone does not say;
/// clocks may stand still, so the time alone does not either.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Its time.
    pub ts_ms: u64,
    /// Its index.
    pub index: u64,
}

impl Position {
    /// Before everything.
    pub const MIN: Self = Self { ts_ms: 0, index: 0 };
    /// After everything.
    pub const MAX: Self = Self { ts_ms: u64::MAX, index: u64::MAX };

    /// Where `record` stands.
    #[must_use]
    pub fn of(record: &RecordView) -> Self {
        Self { ts_ms: record.ts_ms(), index: record.index() }
    }

    /// The position just before this one.
    #[must_use]
    pub fn before(self) -> Option<Self> {
        match (self.ts_ms, self.index) {
            (0, 0) => None,
            (ts_ms, 0) => Some(Self { ts_ms: ts_ms - 1, index: u64::MAX }),
            (ts_ms, index) => Some(Self { ts_ms, index: index - 1 }),
        }
    }
}

/// As a cursor: `TIME.INDEX`.
impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.ts_ms, self.index)
    }
}

impl FromStr for Position {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |digits: &str| {
            let digits = Some(digits).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
            digits.and_then(|digits| digits.parse().ok())
        };
        let read = text.split_once('.').and_then(|(ts_ms, index)| Some((number(ts_ms)?, number(index)?)));
        let (ts_ms, index) = read.ok_or_else(|| {
            let shown: String = text.chars().take(60).collect();
            format!("`{}` is no cursor: give the `next_cursor` of the page before", shown.escape_debug())
        })?;
        Ok(Self { ts_ms, index })
    }
}

/// Which records are asked for. Everything that is given must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query {
    /// The kind of record.
    pub kind: Option<String>,
    /// The request's name.
    pub request_id: Option<String>,
    /// Who asked.
    pub actor: Option<String>,
    /// The tool.
    pub tool: Option<String>,
    /// `ALLOW`, `DENY` or `HALT`.
    pub decision: Option<String>,
    /// Not before this time.
    pub from_ms: Option<u64>,
    /// Not after this time.
    pub to_ms: Option<u64>,
    /// Only what stands before this in the order of time: the end of the page before.
    pub cursor: Option<Position>,
}

impl Query {
    /// The records of one request.
    #[must_use]
    pub fn request(id: &str) -> Self {
        Self { request_id: Some(id.to_owned()), ..Self::default() }
    }

    /// A time as people and programs write it: RFC 3339, or milliseconds since 1970.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn time(text: &str) -> Result<u64, String> {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        match text.parse() {
            Ok(ms) if digits => Ok(ms),
            _ => parse_time(text),
        }
    }

    /// A decision by its name, in any case.
    ///
    /// # Errors
    /// Which names there are.
    pub fn decision(text: &str) -> Result<String, String> {
        let known = ["ALLOW", "DENY", "HALT"].into_iter().find(|known| known.eq_ignore_ascii_case(text));
        known.map(str::to_owned).ok_or_else(|| {
            let shown: String = text.chars().take(60).collect();
            format!("`{}` is no decision: give ALLOW, DENY or HALT", shown.escape_debug())
        })
    }

    /// The newest and the oldest position that can match; `None` where none can.
    pub(super) fn bounds(&self) -> Option<(Position, Position)> {
        let oldest = Position { ts_ms: self.from_ms.unwrap_or(0), index: 0 };
        let mut newest = Position { ts_ms: self.to_ms.unwrap_or(u64::MAX), index: u64::MAX };
        if let Some(cursor) = self.cursor {
            newest = newest.min(cursor.before()?);
        }
        (oldest <= newest).then_some((newest, oldest))
    }

    /// Whether a record with these facts is asked for, its time aside.
    #[must_use]
    pub fn wants(&self, facts: &Facts) -> bool {
        let agrees = |wanted: &Option<String>, found: &Option<String>| wanted.is_none() || wanted == found;
        self.kind.as_ref().is_none_or(|kind| *kind == facts.kind)
            && agrees(&self.request_id, &facts.request_id)
            && agrees(&self.actor, &facts.actor)
            && agrees(&self.tool, &facts.tool)
            && agrees(&self.decision, &facts.decision)
    }

    /// Whether `record` is asked for.
    #[must_use]
    pub fn matches(&self, record: &RecordView) -> bool {
        let at = Position::of(record);
        self.bounds().is_some_and(|(newest, oldest)| (oldest..=newest).contains(&at)) && self.wants(&Facts::of(record))
    }
}

/// How much one page holds.
#[derive(Debug, Clone, Copy)]
pub struct PageLimits {
    /// Records.
    pub records: usize,
    /// Bytes of their texts, though always at least one record.
    pub bytes: usize,
}

/// What was found, newest first.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// The records, each read from the ledger.
    pub records: Vec<RecordView>,
    /// Where the next page begins, if there may be more.
    pub next: Option<Position>,
    /// Records of the ledger that were looked at or are in the index.
    pub indexed: u64,
    /// Records that the ledger holds.
    pub committed: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_ordered_and_are_cursors() {
        let at = |ts_ms, index| Position { ts_ms, index };
        assert!(at(1, 9) < at(2, 0) && at(2, 0) < at(2, 1));
        assert_eq!(at(2, 0).before(), Some(at(1, u64::MAX)));
        assert_eq!(at(2, 5).before(), Some(at(2, 4)));
        assert_eq!(Position::MIN.before(), None);
        assert_eq!("12.7".parse(), Ok(at(12, 7)));
        assert_eq!(Position::MAX.to_string().parse(), Ok(Position::MAX));
        for wrong in ["", "1", "1.", ".1", "1.2.3", "-1.2", "+1.2", "1.x", "99999999999999999999.1"] {
            assert!(wrong.parse::<Position>().unwrap_err().contains("next_cursor"), "{wrong}");
        }
    }

    #[test]
    fn bounds_are_those_of_times_and_cursor() {
        let query = Query { from_ms: Some(5), to_ms: Some(9), ..Query::default() };
        let at = |ts_ms, index| Position { ts_ms, index };
        assert_eq!(query.bounds(), Some((at(9, u64::MAX), at(5, 0))));
        assert_eq!(Query { cursor: Some(at(7, 3)), ..query.clone() }.bounds(), Some((at(7, 2), at(5, 0))));
        assert_eq!(Query { cursor: Some(at(5, 0)), ..query.clone() }.bounds(), None);
        assert_eq!(Query { from_ms: Some(10), ..query }.bounds(), None);
    }
}
