//! Which series there are, and how some of them are chosen.

use super::text::{Form, Sample};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// A series.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Series {
    pub(super) id: u32,
    pub(super) name: String,
    /// With `instance`: the kernel that told it, `front` for the main API.
    pub(super) labels: BTreeMap<String, String>,
    pub(super) form: Form,
}

/// The label in which a series says where it is from.
pub(super) const INSTANCE: &str = "instance";

impl Series {
    pub(super) fn instance(&self) -> &str {
        self.labels.get(INSTANCE).map_or("", String::as_str)
    }

    fn text(name: &str, labels: &BTreeMap<String, String>) -> String {
        let labels: Vec<String> = labels.iter().map(|(label, value)| format!("{label}={value:?}")).collect();
        format!("{name}{{{}}}", labels.join(","))
    }
}

/// All series that are known.
#[derive(Debug, Default)]
pub(super) struct Catalogue {
    by_text: HashMap<String, u32>,
    by_id: BTreeMap<u32, (Arc<Series>, u64)>,
    /// The id of the next new one; none is given twice.
    next: u32,
}

impl Catalogue {
    /// Empty; the next new series gets this id.
    pub(super) fn starting_at(next: u32) -> Self {
        Self { next, ..Self::default() }
    }

    pub(super) fn add(&mut self, series: Series, now_ms: u64) {
        self.next = self.next.max(series.id.saturating_add(1));
        self.by_text.insert(Series::text(&series.name, &series.labels), series.id);
        self.by_id.insert(series.id, (Arc::new(series), now_ms));
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// The series of a sample: its id, and the series itself if it is new. None if there is no room.
    pub(super) fn find_or_add(
        &mut self,
        sample: &Sample,
        instance: &str,
        now_ms: u64,
        series_max: usize,
    ) -> Option<(u32, Option<Series>)> {
        let mut labels = sample.labels.clone();
        if let Some(own) = labels.insert(INSTANCE.to_owned(), instance.to_owned()) {
            labels.insert(format!("exported_{INSTANCE}"), own);
        }
        let text = Series::text(&sample.name, &labels);
        if let Some(id) = self.by_text.get(&text) {
            if let Some((_, seen)) = self.by_id.get_mut(id) {
                *seen = now_ms;
            }
            return Some((*id, None));
        }
        if self.by_id.len() >= series_max {
            return None;
        }
        let series = Series { id: self.next, name: sample.name.clone(), labels, form: sample.form };
        self.add(series.clone(), now_ms);
        Some((series.id, Some(series)))
    }

    /// Forget those that were not seen since a time. Gives their ids.
    pub(super) fn forget_before(&mut self, time_ms: u64) -> Vec<u32> {
        let gone: Vec<u32> = self.by_id.iter().filter(|(_, (_, seen))| *seen < time_ms).map(|(id, _)| *id).collect();
        for id in &gone {
            if let Some((series, _)) = self.by_id.remove(id) {
                self.by_text.remove(&Series::text(&series.name, &series.labels));
            }
        }
        gone
    }

    /// What each series is.
    pub(super) fn forms(&self) -> impl Iterator<Item = (u32, Form)> + '_ {
        self.by_id.iter().map(|(id, (series, _))| (*id, series.form))
    }

    pub(super) fn chosen(&self, selector: &Selector) -> Vec<Arc<Series>> {
        self.by_id
            .values()
            .filter(|(series, _)| selector.matches(series))
            .map(|(series, _)| Arc::clone(series))
            .collect()
    }
}

/// Which series: those of this name, with labels like these, and none like those. `*` stands for any text.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Selector {
    pub(super) name: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) labels: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) not: BTreeMap<String, String>,
}

impl Selector {
    fn matches(&self, series: &Series) -> bool {
        let has = |(label, pattern): (&String, &String)| {
            series.labels.get(label).is_some_and(|value| same_bound(label, pattern, value) || like(pattern, value))
        };
        like(&self.name, &series.name) && self.labels.iter().all(has) && !self.not.iter().any(has)
    }
}

/// Bounds of buckets are numbers, which can be written in more than one way.
fn same_bound(label: &str, a: &str, b: &str) -> bool {
    if label != "le" && label != "quantile" {
        return false;
    }
    match (a.parse::<f64>(), b.parse::<f64>()) {
        (Ok(a), Ok(b)) => (a - b).abs() <= 1e-9 * a.abs(),
        _ => false,
    }
}

/// Whether a text is like a pattern, in which `*` stands for any text. Takes no more than their lengths multiplied.
pub(super) fn like(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t, mut star) = (0, 0, None);
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p, t));
            p += 1;
        } else if pattern.get(p) == Some(&text[t]) {
            p += 1;
            t += 1;
        } else if let Some((at, from)) = star {
            star = Some((at, from + 1));
            p = at + 1;
            t = from + 1;
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|c| *c == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_text() {
        for (pattern, text, wanted) in [
            ("5*", "503", true),
            ("5*", "250", false),
            ("*", "", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-b-b-d", false),
            ("abc", "abc", true),
            ("abc", "abcd", false),
        ] {
            assert_eq!(like(pattern, text), wanted, "{pattern} {text}");
        }
    }

    #[test]
    fn bounds_of_buckets_are_compared_as_numbers() {
        assert!(same_bound("le", "0.04096", "0.040960000000000003"));
        assert!(!same_bound("le", "0.04", "0.05"));
        assert!(!same_bound("status", "200.0", "200"));
    }
}
