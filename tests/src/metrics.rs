//! Reading `/metrics` strictly: what is not well-formed OpenMetrics text fails the test.

use std::collections::{BTreeMap, BTreeSet};

/// The samples of one scrape, by name with labels as they are written.
#[derive(Debug)]
pub struct Samples(BTreeMap<String, f64>);

impl Samples {
    /// Read a scrape.
    #[must_use]
    pub fn read(text: &str) -> Self {
        let body = text.strip_suffix("# EOF\n").expect("a scrape ends with # EOF");
        let mut families = BTreeSet::new();
        let mut samples = BTreeMap::new();
        for line in body.lines() {
            if let Some(comment) = line.strip_prefix("# ") {
                let mut words = comment.splitn(3, ' ');
                let (kind, name) = (words.next().expect("a kind"), words.next().expect("a name"));
                assert!(["HELP", "TYPE", "UNIT"].contains(&kind), "{line}");
                assert!(words.next().is_some_and(|rest| !rest.is_empty()), "{line}");
                families.insert(name.to_owned());
                continue;
            }
            let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no sample: {line}"));
            let value: f64 = value.parse().unwrap_or_else(|why| panic!("{why}: {line}"));
            let bare = name.split('{').next().expect("a name");
            assert!(families.iter().any(|family| bare.starts_with(family.as_str())), "no family: {line}");
            check_labels(name);
            assert!(samples.insert(name.to_owned(), value).is_none(), "twice: {line}");
        }
        assert!(families.iter().all(|family| family.starts_with("gavel_")), "{families:?}");
        Self(samples)
    }

    /// The value of a sample, 0 where there is none: a counter that never counted.
    #[must_use]
    pub fn get(&self, name: &str) -> f64 {
        self.0.get(name).copied().unwrap_or(0.0)
    }

    /// The sum of all samples whose name with labels begins so.
    #[must_use]
    pub fn sum(&self, prefix: &str) -> f64 {
        self.0.iter().filter(|(name, _)| name.starts_with(prefix)).map(|(_, value)| value).sum()
    }

    /// All names with labels.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

/// `{name="value",…}` after a plain name, or nothing.
fn check_labels(name: &str) {
    let Some((bare, labels)) = name.split_once('{') else {
        return assert!(name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'), "{name}");
    };
    assert!(bare.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'), "{name}");
    let labels = labels.strip_suffix('}').unwrap_or_else(|| panic!("{name}"));
    for label in labels.split("\",").map(|label| label.trim_end_matches('"')) {
        let (key, value) = label.split_once("=\"").unwrap_or_else(|| panic!("{name}"));
        assert!(!key.is_empty() && !value.contains('\n'), "{name}");
    }
}
