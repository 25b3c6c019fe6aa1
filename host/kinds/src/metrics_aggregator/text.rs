//! Reading what `/metrics` answers: OpenMetrics, and the Prometheus text format, which is nearly the same.
//!
//! Strict: a text with one line that is no such line is refused as a whole, with the number of the line. Times and
//! exemplars of samples are read over; the time of a sample is that of the scrape.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};

/// What the numbers of a series mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Form {
    /// It only grows, and begins anew at 0: what counts is by how much it grew.
    Counter,
    /// It is what it is.
    Gauge,
}

/// One line.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sample {
    pub(super) name: String,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) value: f64,
    pub(super) form: Form,
}

/// Labels of a sample.
const LABELS_MAX: usize = 32;
/// Bytes of a name or of a label's value.
const NAME_BYTES_MAX: usize = 512;

/// All samples that have a finite value, without the times at which counters were created.
pub(super) fn parse(text: &str) -> Result<Vec<Sample>, String> {
    let (mut types, mut samples, mut ended) = (HashMap::new(), Vec::new(), false);
    for (at, line) in text.lines().enumerate() {
        let told = |why: String| format!("line {}: {why}", at + 1);
        let line = line.trim_end_matches('\r');
        if ended && !line.is_empty() {
            return Err(told("it goes on after # EOF".to_owned()));
        }
        if let Some(comment) = line.strip_prefix('#') {
            ended |= comment.trim() == "EOF";
            let mut words = comment.split_ascii_whitespace();
            if words.next() == Some("TYPE") {
                let (Some(name), Some(kind)) = (words.next(), words.next()) else {
                    return Err(told("a # TYPE has a name and a type".to_owned()));
                };
                types.insert(name, kind);
            }
        } else if !line.trim().is_empty() {
            let (name, labels, value) = sample(line).map_err(told)?;
            match form(name, &types) {
                Some(form) if value.is_finite() => {
                    samples.push(Sample { name: name.to_owned(), labels, value, form });
                }
                _ => {}
            }
        }
    }
    Ok(samples)
}

/// What a sample is, by the type of its family; none for the time at which something was created.
fn form(name: &str, types: &HashMap<&str, &str>) -> Option<Form> {
    let of = |suffix: &str| name.strip_suffix(suffix).and_then(|family| types.get(family)).copied();
    if matches!(of("_created"), Some("counter" | "histogram" | "summary")) {
        return None;
    }
    let counts = types.get(name) == Some(&"counter")
        || of("_total") == Some("counter")
        || of("_bucket") == Some("histogram")
        || matches!(of("_sum"), Some("histogram" | "summary"))
        || matches!(of("_count"), Some("histogram" | "summary"));
    Some(if counts { Form::Counter } else { Form::Gauge })
}

type Parts<'a> = (&'a str, BTreeMap<String, String>, f64);

/// `name{label="value"} 1 [time] [# exemplar]`
fn sample(line: &str) -> Result<Parts<'_>, String> {
    let end = line.find(|c: char| c == '{' || c.is_ascii_whitespace()).ok_or("a sample has a name and a value")?;
    let (name, rest) = line.split_at(end);
    if !is_name(name, true) {
        return Err(format!("'{}' is no name of a metric", name.chars().take(64).collect::<String>()));
    }
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(inside) => labels(inside)?,
        None => (BTreeMap::new(), rest),
    };
    let mut words = rest.split_ascii_whitespace();
    let value = words.next().ok_or_else(|| format!("'{name}' has no value"))?;
    let number = value.parse::<f64>().map_err(|_| format!("'{name}' has the value '{value}', which is no number"))?;
    match words.next() {
        None | Some("#") => {}
        Some(time) if time.parse::<f64>().is_ok() => {}
        Some(other) => return Err(format!("'{name}' is followed by '{other}', which is no time")),
    }
    Ok((name, labels, number))
}

fn is_name(name: &str, colons: bool) -> bool {
    let first = name.bytes().next().is_some_and(|c| !c.is_ascii_digit());
    let rest = name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_' || (colons && c == b':'));
    first && rest && name.len() <= NAME_BYTES_MAX
}

/// What stands in the braces, and what follows them.
fn labels(text: &str) -> Result<(BTreeMap<String, String>, &str), String> {
    let (mut labels, mut rest) = (BTreeMap::new(), text.trim_start());
    loop {
        if let Some(after) = rest.strip_prefix('}') {
            return Ok((labels, after));
        }
        let (name, after) = rest.split_once('=').ok_or("a label has no value, or the braces are not closed")?;
        let name = name.trim();
        if !is_name(name, false) {
            return Err(format!("'{}' is no name of a label", name.chars().take(64).collect::<String>()));
        }
        let inside =
            after.trim_start().strip_prefix('"').ok_or_else(|| format!("the value of '{name}' is not quoted"))?;
        let (value, after) = quoted(inside).ok_or_else(|| format!("the value of '{name}' does not end"))?;
        if labels.len() >= LABELS_MAX || value.len() > NAME_BYTES_MAX {
            return Err(format!("label '{name}': at most {LABELS_MAX} labels of {NAME_BYTES_MAX} bytes are taken"));
        }
        if labels.insert(name.to_owned(), value).is_some() {
            return Err(format!("the label '{name}' is there twice"));
        }
        rest = after.trim_start();
        rest = match rest.strip_prefix(',') {
            Some(after) => after.trim_start(),
            None if rest.starts_with('}') => rest,
            None => return Err(format!("after the label '{name}' comes neither a comma nor a brace")),
        };
    }
}

/// A value up to its closing quote, and what follows it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => match chars.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_read_with_what_they_mean() {
        let text = "# HELP a_requests Requests.\n# TYPE a_requests counter\na_requests_total{status=\"200\",say=\"a\\\"b\\\\c\\nd,}\"} 3 # {trace=\"x\"} 1\n\
            a_requests_created{status=\"200\"} 17\n# TYPE b gauge\nb -1.5e3 1700000000\n# TYPE h histogram\nh_bucket{le=\"+Inf\"} 2\nh_sum 0.5\nh_count 2\n\
            nothing NaN\n# EOF\n";
        let samples = parse(text).unwrap();
        let told: Vec<_> = samples.iter().map(|one| (one.name.as_str(), one.value.to_string(), one.form)).collect();
        assert_eq!(
            told,
            [
                ("a_requests_total", "3".into(), Form::Counter),
                ("b", "-1500".into(), Form::Gauge),
                ("h_bucket", "2".into(), Form::Counter),
                ("h_sum", "0.5".into(), Form::Counter),
                ("h_count", "2".into(), Form::Counter),
            ]
        );
        assert_eq!(samples[0].labels["say"], "a\"b\\c\nd,}");
        assert_eq!(samples[2].labels["le"], "+Inf");
    }

    #[test]
    fn what_is_no_such_text_is_refused_with_its_line() {
        for (text, why) in [
            ("a 1\nb\n", "line 2: a sample has a name and a value"),
            ("<html>", "line 1: a sample has a name and a value"),
            ("a{b=\"c\" 1", "line 1: after the label 'b'"),
            ("a{b=\"c} 1", "line 1: the value of 'b' does not end"),
            ("a{b=c} 1", "line 1: the value of 'b' is not quoted"),
            ("a{b=\"c\",b=\"d\"} 1", "line 1: the label 'b' is there twice"),
            ("a one", "line 1: 'a' has the value 'one'"),
            ("a 1 soon", "line 1: 'a' is followed by 'soon'"),
            ("1a 1", "line 1: '1a' is no name"),
            ("# EOF\na 1", "line 2: it goes on after # EOF"),
            ("# TYPE a\n", "line 1: a # TYPE has a name and a type"),
        ] {
            let told = parse(text).unwrap_err();
            assert!(told.starts_with(why), "{text:?}: {told}");
        }
    }
}
