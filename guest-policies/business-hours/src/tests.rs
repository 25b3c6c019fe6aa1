//! Tests of the whole judgement, on the machine itself: configuration text and request in, verdict out.

use gavel_policy::{BrokenConfiguration, ToolCall, read_configuration};
use proptest::prelude::*;

use super::*;
use calendar::{Weekday, day_of_date};

const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;

fn request(now_ms: u64, tool: Option<&str>) -> Request {
    Request {
        id: "r-1".into(),
        now_ms,
        // A claim of the caller: it must never count.
        ts_ms: 12 * HOUR_MS,
        actor: "agent-001".into(),
        intent: "read a file".into(),
        tool_call: tool.map(|name| ToolCall { name: name.into(), params: "{}".into() }),
        params: "{}".into(),
        evidence: Vec::new(),
        constraints: None,
    }
}

fn config(text: &str) -> Result<Config, BrokenConfiguration> {
    read_configuration(text, Config::read)
}

/// `at("2026-05-08", "18:30")`: that minute in UTC.
fn at(date: &str, time: &str) -> u64 {
    let day = u64::try_from(day_of_date(date).expect(date)).expect("after 1970");
    let (hour, minute) = time.split_once(':').expect(time);
    day * DAY_MS + hour.parse::<u64>().expect(time) * HOUR_MS + minute.parse::<u64>().expect(time) * 60_000
}

fn verdict(config_text: &str, now_ms: u64) -> Verdict {
    judge(&config(config_text).expect(config_text), &request(now_ms, Some("read_file")))
}

fn is_open(config_text: &str, date: &str, time: &str) -> bool {
    verdict(config_text, at(date, time)) == Verdict::Allow
}

#[test]
fn without_settings_it_is_the_rule_of_old() {
    for text in ["null", "{}"] {
        for hour in 0..48 {
            for ms in [hour * HOUR_MS, (hour + 1) * HOUR_MS - 1] {
                let expected = match hour % 24 {
                    9..17 => Verdict::Allow,
                    _ => Verdict::Deny("Outside business hours".into()),
                };
                assert_eq!(verdict(text, 1_700_006_400_000 + ms), expected);
                assert_eq!(judge(&config(text).expect(text), &request(1_700_006_400_000 + ms, None)), expected);
            }
        }
    }
}

#[test]
fn the_reason_says_when_it_is_open_and_what_time_it_is() {
    let office = r#"{"days":["fri","mon"],"from":"08:30","to":"12:00","utc_offset_minutes":-210}"#;
    assert_eq!(
        verdict(office, at("2026-05-08", "16:00")),
        Verdict::Deny("Outside business hours (08:30-12:00 UTC-03:30, mon fri): it is fri 12:30".into())
    );
    assert_eq!(verdict(office, at("2026-05-08", "15:29")), Verdict::Allow);
}

/// The example of the README, and what it says of it.
#[test]
fn the_example() {
    let readme = include_str!("../README.md");
    let example = readme.split("```json\n").nth(1).and_then(|rest| rest.split("```").next()).expect("an example");
    let config = config(example).expect(example);
    let at = |date, time, tool| judge(&config, &request(at(date, time), tool));
    assert_eq!(at("2026-06-03", "07:00", Some("deploy_web")), Verdict::Allow);
    assert_eq!(at("2026-06-03", "22:00", Some("read_file")), Verdict::Abstain);
    assert_eq!(at("2026-06-03", "22:00", None), Verdict::Abstain);
    for (date, time) in [("2026-06-03", "14:00"), ("2026-06-04", "07:00")] {
        let Verdict::Deny(reason) = at(date, time, Some("deploy_web")) else { panic!("open at {date} {time}") };
        assert!(
            readme.contains(&format!("{date}T{time}:00Z")) && readme.contains(&format!("deny: `{reason}`")),
            "{reason}"
        );
    }
}

#[test]
fn hours_over_midnight_belong_to_the_day_they_began() {
    // 2026-05-08 was a Friday.
    let night = r#"{"from":"22:00","to":"06:00","days":["fri"]}"#;
    assert!(!is_open(night, "2026-05-08", "05:59"));
    assert!(!is_open(night, "2026-05-08", "21:59"));
    assert!(is_open(night, "2026-05-08", "22:00"));
    assert!(is_open(night, "2026-05-09", "05:59"));
    assert!(!is_open(night, "2026-05-09", "06:00"));
    assert!(!is_open(night, "2026-05-09", "22:00"));
    let holiday = r#"{"from":"22:00","to":"06:00","holidays":["2026-12-24"]}"#;
    assert!(is_open(holiday, "2026-12-24", "05:00"));
    assert!(!is_open(holiday, "2026-12-24", "23:00"));
    assert!(!is_open(holiday, "2026-12-25", "05:00"));
    assert!(is_open(holiday, "2026-12-25", "22:00"));
}

#[test]
fn a_whole_day_and_a_single_minute() {
    let saturday = r#"{"from":"00:00","to":"24:00","days":["sat"]}"#;
    assert!(!is_open(saturday, "2026-05-08", "23:59"));
    assert!(is_open(saturday, "2026-05-09", "00:00"));
    assert!(is_open(saturday, "2026-05-09", "23:59"));
    assert!(!is_open(saturday, "2026-05-10", "00:00"));
    let minute = r#"{"from":"12:00","to":"12:01"}"#;
    assert!(is_open(minute, "2026-05-09", "12:00"));
    assert!(!is_open(minute, "2026-05-09", "12:01"));
}

#[test]
fn a_holiday_is_a_date_of_the_local_clock() {
    let tokyo = r#"{"from":"00:00","to":"24:00","utc_offset_minutes":540,"holidays":["2026-01-01"]}"#;
    assert!(is_open(tokyo, "2025-12-31", "14:59"));
    assert!(!is_open(tokyo, "2025-12-31", "15:00"));
    assert!(!is_open(tokyo, "2026-01-01", "14:59"));
    assert!(is_open(tokyo, "2026-01-01", "15:00"));
}

#[test]
fn other_tools_are_not_its_business() {
    let config = config(r#"{"tools":["deploy_*","delete_?"]}"#).expect("valid");
    let night = at("2026-05-08", "03:00");
    for (tool, expected_open) in
        [(Some("deploy_web"), false), (Some("delete_1"), false), (Some("read"), true), (None, true)]
    {
        let verdict = judge(&config, &request(night, tool));
        assert_eq!(verdict == Verdict::Abstain, expected_open, "{tool:?}: {verdict:?}");
    }
    assert_eq!(judge(&config, &request(at("2026-05-08", "10:00"), Some("deploy_web"))), Verdict::Allow);
}

#[test]
fn broken_configurations_say_what_is_broken() {
    for (text, expected) in [
        (r#"{"from":"9:00"}"#, "`from`: '9:00' is not a time like 09:00"),
        (r#"{"to":"24:01"}"#, "`to`: '24:01' is not a time like 09:00"),
        (r#"{"from":"12:60"}"#, "`from`: '12:60' is not a time like 09:00"),
        (r#"{"from":"24:00"}"#, "`from` is 24:00; a day begins at 00:00"),
        (r#"{"from":"17:00"}"#, "`from` and `to` are the same; a whole day is 00:00 to 24:00"),
        (r#"{"days":["fri","monday"]}"#, "`days[1]`: 'monday' is not one of mon tue wed thu fri sat sun"),
        (r#"{"days":[]}"#, "`days`: without a day there are no business hours at all"),
        (r#"{"holidays":["2026-02-29"]}"#, "`holidays[0]`: '2026-02-29' is not a date like 2026-12-25"),
        (r#"{"utc_offset_minutes":900}"#, "`utc_offset_minutes`: 900 is not within -720 to 840"),
        (r#"{"tools":[]}"#, "`tools`: is about no tool; leave it out for every request"),
        (
            r#"{"tools":["{a,b}"]}"#,
            "`tools[0]`: pattern `{a,b}`: `[…]` and `{…}` are not supported; write two patterns",
        ),
        (r#"{"form":"09:00"}"#, "unknown setting `form`, not one of utc_offset_minutes from to days holidays tools"),
        (r#"{"to":null}"#, "`to`: expected a text, not null"),
        ("[]", "expected an object, not a list"),
    ] {
        let error = config(text).expect_err(text).to_string();
        assert_eq!(error, format!("the policy's configuration is broken: {expected}"), "{text}");
    }
}

#[test]
fn the_schema_knows_the_settings_and_their_defaults() {
    let schema: serde_json::Value =
        serde_json::from_str(&BusinessHours::describe().config_schema.expect("one")).expect("JSON");
    assert_eq!(schema["additionalProperties"], false);
    let properties = schema["properties"].as_object().expect("an object");
    let unknown = config(r#"{"?":0}"#).expect_err("unknown").to_string();
    let (_, known) = unknown.split_once("not one of ").expect("the list");
    assert_eq!(properties.len(), known.split(' ').count());
    let mut defaults = serde_json::Map::new();
    for (name, property) in properties {
        assert!(known.split(' ').any(|known| known == name), "{name} is not a setting");
        if let Some(default) = property.get("default") {
            defaults.insert(name.clone(), default.clone());
        }
    }
    assert_eq!(config(&serde_json::Value::from(defaults).to_string()), Ok(Config::default()));
}

#[test]
fn dates_that_do_not_exist() {
    for text in
        ["2025-02-29", "1900-02-29", "2026-00-01", "2026-13-01", "2026-04-31", "2026-01-00", "26-01-01", "2026-1-001"]
    {
        assert_eq!(day_of_date(text), Err(()), "{text}");
    }
    assert_eq!(day_of_date("2000-02-29"), Ok(11_016));
}

#[test]
fn dates_count_on_without_a_gap() {
    let mut expected = day_of_date("0001-01-01").expect("a date");
    assert_eq!(Weekday::of(expected).name(), "mon");
    for year in 1..=9_999 {
        for month in 1..=12 {
            for day in 1..=31 {
                if let Ok(number) = day_of_date(&format!("{year:04}-{month:02}-{day:02}")) {
                    assert_eq!(number, expected);
                    expected += 1;
                }
            }
        }
    }
    assert_eq!(expected, 2_932_897, "days from 1970 to the year 10000");
}

proptest! {
    #[test]
    fn no_time_of_the_clock_makes_it_panic(now in any::<u64>(), offset in -720..=840_i32) {
        verdict(&format!(r#"{{"utc_offset_minutes":{offset}}}"#), now);
    }

    #[test]
    fn an_offset_is_a_shift_of_the_clock(now in DAY_MS..1_u64 << 60, offset in -720..=840_i32) {
        let shifted = now.checked_add_signed(i64::from(offset) * 60_000).expect("a day from 0");
        let there = verdict(&format!(r#"{{"utc_offset_minutes":{offset}}}"#), now);
        prop_assert_eq!(there == Verdict::Allow, verdict("{}", shifted) == Verdict::Allow);
    }

    #[test]
    fn hours_and_their_opposite_share_no_minute(from in 0..1_440_u64, to in 0..1_440_u64, now in 0..10 * DAY_MS) {
        prop_assume!(from != to);
        let hours = |from: u64, to: u64| {
            let text = format!(r#"{{"from":"{:02}:{:02}","to":"{:02}:{:02}"}}"#, from / 60, from % 60, to / 60, to % 60);
            verdict(&text, now) == Verdict::Allow
        };
        prop_assert!(hours(from, to) != hours(to, from));
        prop_assert_eq!(hours(from, to), (now / 60_000 + 1_440 - from) % 1_440 < (to + 1_440 - from) % 1_440);
    }
}
