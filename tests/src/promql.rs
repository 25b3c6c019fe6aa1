//! Reading Prometheus's query language, as far as dashboards and rules here use it: what is not of this part of the language is an error.
//!
//! It answers which metrics with which labels an expression needs. That an expression means what it should is for the
//! eye; that Prometheus reads it too is for `promtool`, where that is installed.

use std::collections::BTreeSet;

/// A condition on a label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Matcher {
    /// The label.
    pub label: String,
    /// `=`, `!=`, `=~` or `!~`.
    pub operator: String,
    /// The text it is compared with.
    pub value: String,
}

/// What an expression needs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Needs {
    /// Metrics, each with its conditions.
    pub selectors: Vec<(String, Vec<Matcher>)>,
    /// Labels by which something is grouped or matched, with the metrics that must have them.
    pub groupings: Vec<(BTreeSet<String>, BTreeSet<String>)>,
}

const AGGREGATIONS: [&str; 6] = ["sum", "min", "max", "avg", "count", "topk"];
/// Functions, and whether they want a range.
const FUNCTIONS: [(&str, bool); 6] = [
    ("rate", true),
    ("increase", true),
    ("histogram_quantile", false),
    ("clamp_min", false),
    ("absent", false),
    ("time", false),
];
const OPERATORS: [&str; 15] = ["==", "!=", ">=", "<=", ">", "<", "+", "-", "*", "/", "%", "^", "and", "or", "unless"];

/// Read an expression.
///
/// # Errors
/// What is not understood, and where.
pub fn needs(text: &str) -> Result<Needs, String> {
    let mut reader = Reader { text, at: 0, needs: Needs::default() };
    reader.expression()?;
    reader.space();
    if reader.at == text.len() { Ok(reader.needs) } else { Err(reader.wrong("an operator or the end")) }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    needs: Needs,
}

impl<'a> Reader<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn wrong(&self, wanted: &str) -> String {
        format!("{wanted} expected at {}: `{}` in `{}`", self.at, self.rest(), self.text)
    }

    fn space(&mut self) {
        self.at += self.rest().len() - self.rest().trim_start().len();
    }

    /// Take this, if it is next. A word must end where it ends.
    fn take(&mut self, token: &str) -> bool {
        self.space();
        let Some(after) = self.rest().strip_prefix(token) else { return false };
        let word = token.ends_with(|c: char| c.is_ascii_alphabetic());
        if word && after.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':') {
            return false;
        }
        self.at += token.len();
        true
    }

    fn need(&mut self, token: &str) -> Result<(), String> {
        if self.take(token) { Ok(()) } else { Err(self.wrong(&format!("`{token}`"))) }
    }

    /// The longest run of such characters, if there are any.
    fn run(&mut self, legal: impl Fn(char) -> bool) -> Option<&'a str> {
        self.space();
        let rest = self.rest();
        let length = rest.find(|c| !legal(c)).unwrap_or(rest.len());
        self.at += length;
        (length > 0).then(|| &rest[..length])
    }

    fn name(&mut self) -> Option<&'a str> {
        self.space();
        let begins = self.rest().starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        begins.then(|| self.run(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':')).flatten()
    }

    /// `operand operator operand …`; which binds closer is of no matter here.
    fn expression(&mut self) -> Result<(), String> {
        let from = self.needs.selectors.len();
        self.operand(false)?;
        while OPERATORS.iter().any(|operator| self.take(operator)) {
            self.take("bool");
            let mut labels = None;
            if self.take("on") || self.take("ignoring") {
                labels = Some(self.labels()?);
            }
            if self.take("group_left") || self.take("group_right") {
                self.labels()?;
            }
            self.operand(false)?;
            if let Some(labels) = labels {
                self.group(labels, from);
            }
        }
        Ok(())
    }

    fn operand(&mut self, ranged: bool) -> Result<(), String> {
        self.space();
        if self.take("(") {
            self.expression()?;
            return self.need(")");
        }
        if self.rest().starts_with(|c: char| c.is_ascii_digit()) {
            let number = self.run(|c| c.is_ascii_digit() || c == '.' || c == 'e').unwrap_or_default();
            return number.parse::<f64>().map(drop).map_err(|why| format!("{number}: {why}"));
        }
        let Some(name) = self.name() else { return Err(self.wrong("an operand")) };
        if AGGREGATIONS.contains(&name) {
            return self.aggregation();
        }
        if let Some((_, ranged)) = FUNCTIONS.iter().find(|(known, _)| *known == name) {
            return self.arguments(*ranged);
        }
        self.selector(name, ranged)
    }

    fn aggregation(&mut self) -> Result<(), String> {
        let from = self.needs.selectors.len();
        let mut labels = self.by()?;
        self.arguments(false)?;
        if labels.is_none() {
            labels = self.by()?;
        }
        if let Some(labels) = labels {
            self.group(labels, from);
        }
        Ok(())
    }

    fn by(&mut self) -> Result<Option<BTreeSet<String>>, String> {
        if self.take("by") { self.labels().map(Some) } else { Ok(None) }
    }

    fn group(&mut self, labels: BTreeSet<String>, from: usize) {
        let metrics = self.needs.selectors[from..].iter().map(|(name, _)| name.clone()).collect();
        self.needs.groupings.push((labels, metrics));
    }

    fn arguments(&mut self, ranged: bool) -> Result<(), String> {
        self.need("(")?;
        if self.take(")") {
            return Ok(());
        }
        loop {
            let argument = if ranged { self.operand(true) } else { self.expression() };
            argument?;
            if !self.take(",") {
                return self.need(")");
            }
        }
    }

    fn labels(&mut self) -> Result<BTreeSet<String>, String> {
        self.need("(")?;
        let mut labels = BTreeSet::new();
        while !self.take(")") {
            labels.insert(self.name().ok_or_else(|| self.wrong("a label"))?.to_owned());
            self.take(",");
        }
        Ok(labels)
    }

    fn selector(&mut self, name: &str, ranged: bool) -> Result<(), String> {
        let mut matchers = Vec::new();
        if self.take("{") {
            while !self.take("}") {
                matchers.push(self.matcher()?);
                self.take(",");
            }
        }
        if self.take("[") != ranged {
            return Err(self.wrong(if ranged { "a range" } else { "no range" }));
        }
        if ranged {
            self.run(|c| c.is_ascii_alphanumeric() || "$_".contains(c)).ok_or_else(|| self.wrong("a duration"))?;
            self.need("]")?;
        }
        self.needs.selectors.push((name.to_owned(), matchers));
        Ok(())
    }

    fn matcher(&mut self) -> Result<Matcher, String> {
        let label = self.name().ok_or_else(|| self.wrong("a label"))?.to_owned();
        let operator = ["=~", "!~", "!=", "="].into_iter().find(|operator| self.take(operator));
        let operator = operator.ok_or_else(|| self.wrong("a comparison"))?.to_owned();
        self.need("\"")?;
        let value = self.rest().split('"').next().unwrap_or_default().to_owned();
        self.at += value.len();
        self.need("\"")?;
        Ok(Matcher { label, operator, value })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_finds_what_an_expression_needs() {
        let text = r#"sum by (le, plugin) (rate(a_bucket{x="1",y=~"b|c"}[5m])) > on (job) group_left () (0.8 * b)"#;
        let needs = needs(text).expect("it is read");
        let names: Vec<&str> = needs.selectors.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["a_bucket", "b"]);
        assert_eq!(needs.selectors[0].1[1].value, "b|c");
        assert_eq!(needs.groupings[0].0, BTreeSet::from(["le".to_owned(), "plugin".to_owned()]));
        assert_eq!(needs.groupings[1].1.len(), 2, "both sides of `on`");
    }

    #[test]
    fn what_is_no_expression_is_refused() {
        for text in ["", "sum(", "rate(a)", "a[5m]", "a b", "a{x}", "a{x=1}", "sum by (a", "a ==", "rate(a[])", "1..2"]
        {
            assert!(needs(text).is_err(), "{text}");
        }
    }
}
