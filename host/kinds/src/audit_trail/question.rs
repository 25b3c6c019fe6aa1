//! What is asked for, as a query of the index.

use super::Settings;
use super::schema::Fields;
use crate::fault::Fault;
use serde::Deserialize;
use std::ops::Bound;
use tantivy::query::{
    AllQuery, BooleanQuery, ConstScoreQuery, Occur, Query, QueryParser, QueryParserError, RangeQuery, TermQuery,
};
use tantivy::schema::{Field, IndexRecordOption};
use tantivy::{Index, Term, query_grammar};

/// Round brackets within each other.
const NESTING_MAX: usize = 16;

/// What may be asked for; everything that is given must hold. Each route takes some of it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Asked {
    pub(super) q: Option<String>,
    pub(super) source: Option<String>,
    pub(super) kind: Option<String>,
    pub(super) actor: Option<String>,
    pub(super) tool: Option<String>,
    pub(super) decision: Option<String>,
    pub(super) request_id: Option<String>,
    pub(super) policy: Option<String>,
    pub(super) from: Option<String>,
    pub(super) to: Option<String>,
    pub(super) limit: Option<usize>,
    pub(super) offset: Option<usize>,
    pub(super) cursor: Option<u64>,
    pub(super) format: Option<String>,
}

/// A query, and the part of it that is words.
pub(super) type Read = (Box<dyn Query>, Option<Box<dyn Query>>);

impl Asked {
    /// Refuse what a route does not take, so that nobody believes that it was heeded.
    pub(super) fn only(&self, taken: &[&str]) -> Result<(), Fault> {
        let given = [
            ("limit", self.limit.is_some()),
            ("offset", self.offset.is_some()),
            ("cursor", self.cursor.is_some()),
            ("format", self.format.is_some()),
        ];
        match given.iter().find(|(name, given)| *given && !taken.contains(name)) {
            Some((name, _)) => Err(Fault::unreadable(format!("`{name}` is not taken here"))),
            None => Ok(()),
        }
    }

    /// How many are wanted.
    pub(super) fn limit(&self, settings: &Settings) -> Result<usize, Fault> {
        match self.limit.unwrap_or(settings.page_max.min(50)) {
            0 => Err(Fault::unreadable(format!("limit=0: a page has 1 to {} records (page_max)", settings.page_max))),
            limit => Ok(limit.min(settings.page_max)),
        }
    }

    /// As a query; beside it the part of it that is words, for what is to be shown of them.
    pub(super) fn query(&self, index: &Index, fields: &Fields, settings: &Settings) -> Result<Read, Fault> {
        let q = self.q.as_deref().map(str::trim).filter(|q| !q.is_empty());
        let words = q.map(|q| parsed(index, fields, q, settings.query_bytes_max)).transpose()?;
        let decision = self.decision.as_ref().map(|decision| decision.to_ascii_uppercase());
        let names = [
            (fields.source, &self.source),
            (fields.kind, &self.kind),
            (fields.actor, &self.actor),
            (fields.tool, &self.tool),
            (fields.decision, &decision),
            (fields.request_id, &self.request_id),
            (fields.policy, &self.policy),
        ];
        let mut all: Vec<(Occur, Box<dyn Query>)> = Vec::new();
        for (field, wanted) in names {
            if let Some(wanted) = wanted {
                all.push(must(TermQuery::new(Term::from_field_text(field, wanted), IndexRecordOption::Basic)));
            }
        }
        let (from, to) = (time("from", self.from.as_deref())?, time("to", self.to.as_deref())?);
        if from.is_some() || to.is_some() {
            all.push(must(between(fields.ts, from.unwrap_or(0), to.unwrap_or(u64::MAX))));
        }
        all.extend(words.as_ref().map(|words| (Occur::Must, words.box_clone())));
        let query: Box<dyn Query> = if all.is_empty() { Box::new(AllQuery) } else { Box::new(BooleanQuery::new(all)) };
        Ok((query, words))
    }
}

/// A condition that must hold and says nothing of how well a record fits.
fn must(query: impl Query) -> (Occur, Box<dyn Query>) {
    (Occur::Must, Box::new(ConstScoreQuery::new(Box::new(query), 0.0)))
}

/// Both ends included.
pub(super) fn between(field: Field, from: u64, to: u64) -> RangeQuery {
    let term = |value| Bound::Included(Term::from_field_u64(field, value));
    RangeQuery::new(term(from), term(to))
}

/// `query`, of the records whose numbers are in this range, both ends included.
pub(super) fn within(query: &dyn Query, seq: Field, from: u64, to: u64) -> Box<dyn Query> {
    Box::new(BooleanQuery::new(vec![(Occur::Must, query.box_clone()), must(between(seq, from, to))]))
}

/// One record.
pub(super) fn record(fields: &Fields, source: &str, index: u64) -> Box<dyn Query> {
    let basic = IndexRecordOption::Basic;
    Box::new(BooleanQuery::new(vec![
        must(TermQuery::new(Term::from_field_text(fields.source, source), basic)),
        must(TermQuery::new(Term::from_field_u64(fields.index, index), basic)),
    ]))
}

/// A time as people and programs write it: RFC 3339, or milliseconds since 1970.
fn time(name: &str, text: Option<&str>) -> Result<Option<u64>, Fault> {
    let Some(text) = text else { return Ok(None) };
    if let Ok(ms) = text.parse::<u64>() {
        return Ok(Some(ms));
    }
    let read = text.parse::<jiff::Timestamp>().ok().and_then(|time| u64::try_from(time.as_millisecond()).ok());
    let shown: String = text.chars().take(60).collect();
    let wrong = || format!("{name}=`{}` is no time: give RFC 3339, or milliseconds since 1970", shown.escape_debug());
    read.map(Some).ok_or_else(|| Fault::unreadable(wrong()))
}

fn parsed(index: &Index, fields: &Fields, q: &str, bytes_max: usize) -> Result<Box<dyn Query>, Fault> {
    if q.len() > bytes_max {
        let bytes = q.len();
        return Err(Fault::unreadable(format!("q has {bytes} bytes, at most {bytes_max} are taken (query_bytes_max)")));
    }
    check_nesting(q)?;
    let (tree, faults) = query_grammar::parse_query_lenient(q);
    if let Some(fault) = faults.first() {
        return Err(wrong(q, fault.pos, &fault.message));
    }
    let mut parser = QueryParser::for_index(index, vec![fields.text]);
    parser.set_conjunction_by_default();
    parser.build_query_from_user_input_ast(tree).map_err(|why| {
        let place = match &why {
            QueryParserError::FieldDoesNotExist(name) | QueryParserError::FieldNotIndexed(name) => {
                q.find(name.as_str())
            }
            _ => None,
        };
        wrong(q, place.unwrap_or(0), &why.to_string().to_lowercase())
    })
}

/// The grammar is read by descent: what is nested too deeply would take its stack.
fn check_nesting(q: &str) -> Result<(), Fault> {
    let mut depth = 0_usize;
    for (at, character) in q.char_indices() {
        depth = match character {
            '(' => depth + 1,
            ')' => depth.saturating_sub(1),
            _ => depth,
        };
        if depth > NESTING_MAX {
            return Err(wrong(q, at, &format!("more than {NESTING_MAX} brackets within each other")));
        }
    }
    Ok(())
}

fn wrong(q: &str, byte: usize, why: &str) -> Fault {
    let at = q.char_indices().take_while(|(start, _)| *start < byte).count() + 1;
    Fault::unreadable(format!("q: at character {at}: {why}"))
}
