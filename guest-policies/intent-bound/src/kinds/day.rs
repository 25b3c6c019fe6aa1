//! Days and times of day, as prompts write them: `2024-05-26`, `May 26th`, `26 May`, `12-16 May`, `26.05.2024`,
//! `5/26/2024`, `Saturday`, `today`, `tomorrow`; `16:00`, `4 pm`, `noon`. Month names are English.
//!
//! A day without a year fits any year, a weekday any such day. `05/06/2024` is read both ways.

use crate::intent::Intent;

/// A day, its year perhaps unsaid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Date {
    year: Option<i32>,
    month: u32,
    day: u32,
}

const MONTHS: [&str; 12] = [
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
];
/// From the weekday of 1970-01-01 on.
const WEEKDAYS: [&str; 7] = ["thursday", "friday", "saturday", "sunday", "monday", "tuesday", "wednesday"];
const DAY_MS: i64 = 86_400_000;
const HOUR_MS: i64 = 3_600_000;
/// How far the user's time of day may be behind and ahead of UTC.
const ZONE_MS: (i64, i64) = (12 * HOUR_MS, 14 * HOUR_MS);

/// Does the intent name the day with which the value begins? A time of day after it is not judged.
pub(super) fn date_has_ground(value: &str, intent: &Intent) -> bool {
    let value = value.trim();
    let (head, rest) =
        value.split_at(value.find(['T', ' ']).filter(|at| value[..*at].len() >= 8).unwrap_or(value.len()));
    let wanted = numeric(head).filter(|_| is_time_like(rest)).or_else(|| Some(spelt(&tokens(value))));
    let (Some([day]), true) = (wanted.as_deref(), value.len() <= 40) else { return false };
    let said = tokens(intent.text());
    spelt(&said).iter().any(|said| said.fits(*day))
        || said.iter().filter_map(|token| numeric(token)).flatten().any(|said| said.fits(*day))
        || day.number().is_some_and(|number| is_named(number, &said, intent.now_ms()))
}

/// Does the intent name the value's time of day? A day before it is not judged.
pub(super) fn time_has_ground(value: &str, intent: &Intent) -> bool {
    let value = value.trim();
    let value = match value.split_once(['T', ' ']) {
        Some((day, time)) if numeric(day).is_some() => time.trim(),
        _ => value,
    };
    let times = times(value);
    let [wanted] = times.as_slice() else { return false };
    value.len() <= 16 && self::times(intent.text()).contains(wanted)
}

impl Date {
    fn new(year: Option<i32>, month: u32, day: u32) -> Option<Self> {
        let days = [31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
        let longest = *days.get(usize::try_from(month.checked_sub(1)?).ok()?)?;
        (1..=longest).contains(&day).then_some(Self { year, month, day })
    }

    fn fits(self, other: Self) -> bool {
        let years = self.year.zip(other.year).is_none_or(|(one, another)| one == another);
        years && (self.month, self.day) == (other.month, other.day)
    }

    /// Days since 1970-01-01 (Howard Hinnant's `days_from_civil`).
    fn number(self) -> Option<i64> {
        let year = i64::from(self.year?) - i64::from(self.month <= 2);
        let era = year.div_euclid(400);
        let year_of_era = year.rem_euclid(400);
        let month = (i64::from(self.month) + 9) % 12;
        let day_of_year = (153 * month + 2) / 5 + i64::from(self.day) - 1;
        let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
        Some(era * 146_097 + day_of_era - 719_468)
    }
}

/// Does the prompt name a day by a word: its weekday, `today`, `tomorrow`?
fn is_named(number: i64, said: &[String], now_ms: u64) -> bool {
    let weekday = usize::try_from(number.rem_euclid(7)).ok().and_then(|at| WEEKDAYS.get(at));
    let now_ms = i64::try_from(now_ms).unwrap_or(i64::MAX / 2);
    let near = |ahead: i64| {
        ((now_ms - ZONE_MS.0).div_euclid(DAY_MS)..=(now_ms + ZONE_MS.1).div_euclid(DAY_MS)).contains(&(number - ahead))
    };
    said.iter().any(|word| match word.as_str() {
        "today" | "tonight" => near(0),
        "tomorrow" => near(1),
        word => weekday.is_some_and(|weekday| word == *weekday),
    })
}

/// Small-letter words and numbers, without the marks around them.
fn tokens(text: &str) -> Vec<String> {
    let between = |character: char| character.is_whitespace() || ",;()[]\"<>".contains(character);
    let tokens =
        text.split(between).map(|token| token.trim_matches(|mark| ".:!?'".contains(mark)).to_ascii_lowercase());
    tokens.filter(|token| !token.is_empty()).collect()
}

/// `2024-05-26`, `2024/05/26`, `26.05.2024`, `5/26/2024`, in each order that makes a day.
fn numeric(token: &str) -> Option<Vec<Date>> {
    let token = token.split_once(['t', 'T']).map_or(token, |(day, _)| day);
    let mark = token.chars().find(|character| !character.is_ascii_digit()).filter(|mark| "-/.".contains(*mark))?;
    let parts: Vec<&str> = token.split(mark).collect();
    let [first, second, third] = parts.as_slice() else { return None };
    let number =
        |text: &str| text.parse::<u32>().ok().filter(|_| text.len() <= 4 && text.bytes().all(|b| b.is_ascii_digit()));
    let year = |text: &str| number(text).filter(|_| text.len() == 4).and_then(|year| i32::try_from(year).ok());
    let (second_number, days) = (number(second)?, |year, month, day| Date::new(Some(year), month, day));
    let found: Vec<Date> = match (year(first), year(third)) {
        (Some(year), None) => days(year, second_number, number(third)?).into_iter().collect(),
        (None, Some(year)) => {
            let first = number(first)?;
            let mut both = vec![days(year, second_number, first)];
            if mark != '.' && first != second_number {
                both.push(days(year, first, second_number));
            }
            both.into_iter().flatten().collect()
        }
        _ => return None,
    };
    (!found.is_empty()).then_some(found)
}

/// Days with the month's name: up to two days before or after it, and a year after.
fn spelt(tokens: &[String]) -> Vec<Date> {
    let mut found = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        let Some(month) = month(token) else { continue };
        let after = days(tokens[at + 1..].iter());
        let days = days(tokens[..at].iter().rev()).into_iter().chain(after.iter().copied());
        let year = tokens[at + 1..].iter().take(5).find_map(|token| token.parse().ok().filter(|_| token.len() == 4));
        found.extend(days.filter_map(|day| Date::new(year, month, day)));
    }
    found
}

fn month(token: &str) -> Option<u32> {
    let fits = |name: &&str| {
        *name == token || token.len() == 3 && name.starts_with(token) || *name == "september" && token == "sept"
    };
    MONTHS.iter().position(fits).and_then(|at| u32::try_from(at + 1).ok())
}

/// The days that stand beside a month's name: `26th`, `12-16`, `12th to 16th`.
fn days<'t>(tokens: impl Iterator<Item = &'t String>) -> Vec<u32> {
    let mut days = Vec::new();
    for token in tokens.take(4) {
        let ends: Vec<Option<u32>> = token.split('-').map(ordinal).collect();
        if ends.len() <= 2 && ends.iter().all(Option::is_some) && days.len() < 2 {
            days.extend(ends.into_iter().flatten());
        } else if !["of", "the", "to", "and", "until", "till", "through", "or", "-"].contains(&token.as_str()) {
            break;
        }
    }
    days
}

/// A day's number, with or without its ending.
fn ordinal(token: &str) -> Option<u32> {
    let digits = ["st", "nd", "rd", "th"].iter().find_map(|ending| token.strip_suffix(ending)).unwrap_or(token);
    digits.parse().ok().filter(|day| (1..=31).contains(day) && digits.len() <= 2 && !digits.starts_with('+'))
}

/// Is the rest of a value no more than a time of day and a zone?
fn is_time_like(rest: &str) -> bool {
    rest.chars().all(|character| character.is_ascii_digit() || " T:.+-ZAPMapm".contains(character))
}

/// Times of day in minutes.
fn times(text: &str) -> Vec<u32> {
    let tokens = tokens(text);
    let mut found = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        match token.as_str() {
            "noon" | "midday" => found.push(720),
            "midnight" => found.push(0),
            token => {
                let clock =
                    token.split_once('t').filter(|(day, _)| numeric(day).is_some()).map_or(token, |(_, time)| time);
                let next = tokens.get(at + 1).map(|next| next.replace('.', ""));
                found.extend(time(clock.trim_end_matches('z'), next.as_deref().unwrap_or_default()));
            }
        }
    }
    found
}

/// `16:00`, `16:00:00`, `4pm`, `4:30 pm`. A number alone is no time.
fn time(token: &str, next: &str) -> Option<u32> {
    let halves = [("am", 0), ("a.m", 0), ("pm", 12), ("p.m", 12)];
    let (digits, half) = match halves.iter().find_map(|(ending, hours)| Some((token.strip_suffix(ending)?, *hours))) {
        Some((digits, hours)) => (digits, Some(hours)),
        None => (
            token,
            match next {
                "am" => Some(0),
                "pm" => Some(12),
                _ => None,
            },
        ),
    };
    let mut parts = digits.split(':').map(|part| {
        part.parse::<u32>().ok().filter(|_| part.len() <= 2 && part.bytes().all(|byte| byte.is_ascii_digit()))
    });
    let (hour, minute, second) = (parts.next()??, parts.next(), parts.next());
    if minute.is_none() && half.is_none() || parts.next().is_some() || second.is_some_and(|second| second != Some(0)) {
        return None;
    }
    let minute = minute.unwrap_or(Some(0))?;
    let hour = match half {
        Some(hours) if (1..=12).contains(&hour) => hour % 12 + hours,
        Some(_) => return None,
        None => hour,
    };
    (hour < 24 && minute < 60).then_some(60 * hour + minute)
}
