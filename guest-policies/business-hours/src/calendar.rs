//! Days, dates and times of day, by arithmetic alone: the proleptic Gregorian calendar, without leap seconds, as the
//! kernel's clock counts. A day is its number since 1970-01-01, which was a Thursday.

use core::fmt;
use core::str::FromStr;

const MINUTES_A_DAY: i64 = 24 * 60;

/// A minute on some wall clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moment {
    pub(crate) day: i64,
    pub(crate) time: TimeOfDay,
}

impl Moment {
    /// What a clock so many minutes ahead of UTC shows at a time of the kernel's clock.
    pub(crate) fn new(utc_ms: u64, utc_offset_minutes: i32) -> Self {
        // At most 3 * 10^14, so nothing here comes near an overflow.
        let minutes = i64::try_from(utc_ms / 60_000).unwrap_or(i64::MAX / 2) + i64::from(utc_offset_minutes);
        Self { day: minutes.div_euclid(MINUTES_A_DAY), time: TimeOfDay(minutes.rem_euclid(MINUTES_A_DAY)) }
    }
}

/// As a reason shows it: `tue 18:30`.
impl fmt::Display for Moment {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {}", Weekday::of(self.day).name(), self.time)
    }
}

/// Minutes since midnight; 24:00 is the end of the day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TimeOfDay(i64);

impl TimeOfDay {
    pub(crate) const END_OF_DAY: Self = Self(MINUTES_A_DAY);

    pub(crate) const fn hour(hour: i64) -> Self {
        Self(hour * 60)
    }
}

impl FromStr for TimeOfDay {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let [h1, h0, b':', m1, m0] = *text.as_bytes() else { return Err(()) };
        let (hour, minute) = (number(&[h1, h0])?, number(&[m1, m0])?);
        let time = Self(hour * 60 + minute);
        if minute < 60 && time <= Self::END_OF_DAY { Ok(time) } else { Err(()) }
    }
}

impl fmt::Display for TimeOfDay {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:02}:{:02}", self.0 / 60, self.0 % 60)
    }
}

/// A day of the week; Monday is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Weekday(pub(crate) u8);

impl Weekday {
    pub(crate) const NAMES: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

    pub(crate) fn of(day: i64) -> Self {
        // Day 0 was a Thursday. The remainder is 0 to 6.
        Self(u8::try_from((day + 3).rem_euclid(7)).unwrap_or_default())
    }

    pub(crate) fn name(self) -> &'static str {
        Self::NAMES[usize::from(self.0)]
    }
}

/// The number of the day that `YYYY-MM-DD` names, if there is such a day.
pub(crate) fn day_of_date(text: &str) -> Result<i64, ()> {
    let [y3, y2, y1, y0, b'-', m1, m0, b'-', d1, d0] = *text.as_bytes() else { return Err(()) };
    let (year, month, day) = (number(&[y3, y2, y1, y0])?, number(&[m1, m0])?, number(&[d1, d0])?);
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return Err(()),
    };
    if day < 1 || day > days {
        return Err(());
    }
    // Years that begin in March have the leap day at their end. Then the months' lengths from March on are
    // 31 30 31 30 31 | 31 30 31 30 31 | 31 .., which (153 m + 2) / 5 sums up.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    // 719,468 days lie between 0000-03-01 and 1970-01-01.
    Ok(year * 365 + leap_days + (153 * month + 2) / 5 + day - 1 - 719_468)
}

fn number(digits: &[u8]) -> Result<i64, ()> {
    digits.iter().try_fold(0, |sum, digit| match digit {
        b'0'..=b'9' => Ok(sum * 10 + i64::from(digit - b'0')),
        _ => Err(()),
    })
}
