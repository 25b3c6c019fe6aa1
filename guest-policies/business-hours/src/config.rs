//! The configuration, checked as a whole: what cannot be meant is refused, not repaired.
//! `config.schema.json` says the same to operators and their tools.

use core::fmt;
use core::str::FromStr;

use gavel_policy::glob::NamePattern;
use gavel_policy::json::{Json, Wrong};

use crate::calendar::{Moment, TimeOfDay, Weekday, day_of_date};

/// When requests may pass, and which requests this is about.
#[derive(Debug, PartialEq)]
pub(crate) struct Config {
    utc_offset_minutes: i32,
    from: TimeOfDay,
    to: TimeOfDay,
    /// For each day of the week, Monday first, whether business hours begin on it.
    days: [bool; 7],
    holidays: Vec<i64>,
    /// Absent: every request.
    tools: Option<Vec<NamePattern>>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            utc_offset_minutes: 0,
            from: TimeOfDay::hour(9),
            to: TimeOfDay::hour(17),
            days: [true; 7],
            holidays: Vec::new(),
            tools: None,
        }
    }
}

impl Config {
    pub(crate) fn read(settings: &Json) -> Result<Self, Wrong> {
        let default = Self::default();
        if *settings == Json::Null {
            return Ok(default);
        }
        let settings = settings.object(&["utc_offset_minutes", "from", "to", "days", "holidays", "tools"])?;
        let config = Self {
            utc_offset_minutes: settings.get("utc_offset_minutes", utc_offset)?.unwrap_or(default.utc_offset_minutes),
            from: settings.get("from", time)?.unwrap_or(default.from),
            to: settings.get("to", time)?.unwrap_or(default.to),
            days: settings.get("days", days)?.unwrap_or(default.days),
            holidays: settings.get("holidays", holidays)?.unwrap_or(default.holidays),
            tools: settings.get("tools", tools)?,
        };
        if config.from == TimeOfDay::END_OF_DAY {
            return Err(Wrong::new("`from` is 24:00; a day begins at 00:00"));
        }
        if config.from == config.to {
            return Err(Wrong::new("`from` and `to` are the same; a whole day is 00:00 to 24:00"));
        }
        Ok(config)
    }

    pub(crate) fn utc_offset_minutes(&self) -> i32 {
        self.utc_offset_minutes
    }

    pub(crate) fn is_about(&self, tool: Option<&str>) -> bool {
        let Some(patterns) = &self.tools else { return true };
        tool.is_some_and(|tool| patterns.iter().any(|pattern| pattern.matches(tool)))
    }

    /// Hours that go over midnight belong to the day on which they began: they ask that day's name and date.
    pub(crate) fn is_open(&self, now: Moment) -> bool {
        let (from, to, time) = (self.from, self.to, now.time);
        if from < to {
            from <= time && time < to && self.begins_on(now.day)
        } else {
            (from <= time && self.begins_on(now.day)) || (time < to && self.begins_on(now.day - 1))
        }
    }

    pub(crate) fn is_holiday(&self, day: i64) -> bool {
        self.holidays.contains(&day)
    }

    fn begins_on(&self, day: i64) -> bool {
        self.days[usize::from(Weekday::of(day).0)] && !self.is_holiday(day)
    }
}

/// As a reason shows it: `09:00-17:00 UTC+02:00, mon tue wed`. Days only when not all, and holidays not at all.
impl fmt::Display for Config {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}-{} UTC", self.from, self.to)?;
        let offset = self.utc_offset_minutes;
        if offset != 0 {
            let sign = if offset < 0 { '-' } else { '+' };
            write!(out, "{sign}{:02}:{:02}", offset.abs() / 60, offset.abs() % 60)?;
        }
        if self.days != [true; 7] {
            out.write_str(",")?;
            for (name, _) in Weekday::NAMES.iter().zip(self.days).filter(|(_, open)| *open) {
                write!(out, " {name}")?;
            }
        }
        Ok(())
    }
}

fn time(text: &Json) -> Result<TimeOfDay, Wrong> {
    let text = text.text()?;
    TimeOfDay::from_str(text).map_err(|()| Wrong::new(format!("'{text}' is not a time like 09:00")))
}

fn utc_offset(minutes: &Json) -> Result<i32, Wrong> {
    match minutes.integer()? {
        minutes @ -720..=840 => i32::try_from(minutes).map_err(|error| Wrong::new(error.to_string())),
        minutes => Err(Wrong::new(format!("{minutes} is not within -720 to 840"))),
    }
}

fn days(names: &Json) -> Result<[bool; 7], Wrong> {
    let mut days = [false; 7];
    names.list(|name| {
        let name = name.text()?;
        let day = Weekday::NAMES.iter().position(|known| *known == name);
        days[day.ok_or_else(|| Wrong::new(format!("'{name}' is not one of {}", Weekday::NAMES.join(" "))))?] = true;
        Ok(())
    })?;
    if days == [false; 7] { Err(Wrong::new("without a day there are no business hours at all")) } else { Ok(days) }
}

fn holidays(dates: &Json) -> Result<Vec<i64>, Wrong> {
    dates.list(|date| {
        let date = date.text()?;
        day_of_date(date).map_err(|()| Wrong::new(format!("'{date}' is not a date like 2026-12-25")))
    })
}

fn tools(patterns: &Json) -> Result<Vec<NamePattern>, Wrong> {
    let patterns = patterns.list(|pattern| Ok(NamePattern::new(pattern.text()?)?))?;
    if patterns.is_empty() { Err(Wrong::new("is about no tool; leave it out for every request")) } else { Ok(patterns) }
}
