//! The kernel's milliseconds as Cedar's `datetime`, which is made of a text only.

use cedar_policy::RestrictedExpression;
use gavel_policy::json::Wrong;

const DAY_MS: u64 = 24 * 60 * 60 * 1_000;
/// 10000-01-01: Cedar's text of a date has a year of four digits.
const END_MS: u64 = 253_402_300_800_000;

/// The point in time so many milliseconds after 1970-01-01T00:00:00Z.
pub(super) fn datetime(millis: &str) -> Result<RestrictedExpression, Wrong> {
    let read = millis.parse::<u64>().ok().filter(|millis| *millis < END_MS);
    let millis = read.ok_or_else(|| Wrong::new(format!("{millis} is no time in milliseconds from 1970 to 9999")))?;
    Ok(RestrictedExpression::new_datetime(iso(millis)))
}

fn iso(millis: u64) -> String {
    let (year, month, day) = date(millis / DAY_MS);
    let rest = millis % DAY_MS;
    let (hour, minute) = (rest / 3_600_000, rest / 60_000 % 60);
    let (second, millis) = (rest / 1_000 % 60, rest % 1_000);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

/// The date of a day since 1970-01-01, in years that begin in March, so that a leap day is the last of its year:
/// 719,468 days lie between 0000-03-01 and 1970-01-01, 146,097 in 400 years.
fn date(day: u64) -> (u64, u64, u64) {
    let day = day + 719_468;
    let of_era = day % 146_097;
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * of_year + 2) / 153;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    let year = day / 146_097 * 400 + year_of_era + u64::from(month <= 2);
    (year, month, of_year - (153 * march_month + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_their_text() {
        for (millis, expected) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (1_767_607_200_000, "2026-01-05T10:00:00.000Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (951_868_800_000, "2000-03-01T00:00:00.000Z"),
            (END_MS - 1, "9999-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(iso(millis), expected);
        }
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in ["-1", "1.5", "253402300800000", "x", ""] {
            assert!(datetime(text).is_err(), "{text}");
        }
    }
}
