//! What is answered: records byte for byte, each with where it stands and how it is proved.

use super::Settings;
use super::question::{self, Asked};
use super::schema::Fields;
use super::store::Store;
use super::tally::{COLUMNS, Tally};
use crate::fault::Fault;
use crate::following::{Record, Source};
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use tantivy::collector::{Count, TopDocs};
use tantivy::query::Query;
use tantivy::schema::Value as _;
use tantivy::snippet::SnippetGenerator;
use tantivy::{DocAddress, Index, Order, Searcher, TantivyDocument, TantivyError};

/// Characters of a piece of a record that is shown with the words found in it.
const SHOWN_CHARACTERS: usize = 200;

/// Why there is no answer.
pub(super) enum Failed {
    /// The question cannot be answered.
    Asked(Fault),
    /// The index cannot be read: it may be damaged.
    Index(String),
}

impl From<Fault> for Failed {
    fn from(fault: Fault) -> Self {
        Self::Asked(fault)
    }
}

impl From<TantivyError> for Failed {
    fn from(why: TantivyError) -> Self {
        match why {
            // What the words ask of a field that it cannot do.
            TantivyError::SchemaError(why) | TantivyError::InvalidArgument(why) => {
                Self::Asked(Fault::unreadable(format!("q: {why}")))
            }
            why => Self::Index(why.to_string()),
        }
    }
}

/// A record as it was found.
pub(super) struct Found {
    pub(super) source: String,
    pub(super) record: Record,
    pub(super) seq: u64,
}

/// What is read.
pub(super) struct Reading<'a> {
    pub(super) index: Index,
    pub(super) searcher: Searcher,
    pub(super) fields: &'a Fields,
    pub(super) settings: &'a Settings,
}

impl<'a> Reading<'a> {
    pub(super) fn of(store: &'a Store, settings: &'a Settings) -> Self {
        let (index, searcher) = store.searcher();
        Self { index, searcher, fields: &store.fields, settings }
    }

    /// The best hits for words, or else the latest; with `behind` for what may be missing.
    pub(super) fn search(&self, asked: &Asked, behind: &Value) -> Result<String, Failed> {
        asked.only(&["limit", "offset"])?;
        let (limit, offset) = (asked.limit(self.settings)?, asked.offset.unwrap_or(0));
        if offset.saturating_add(limit) > self.settings.hits_max {
            let most = self.settings.hits_max;
            let why =
                format!("offset={offset}: only {most} hits can be reached (hits_max); ask /records or /export for all");
            return Err(Fault::unreadable(why).into());
        }
        let (query, words) = asked.query(&self.index, self.fields, self.settings)?;
        let top = TopDocs::with_limit(limit).and_offset(offset);
        let (hits, total) = if words.is_some() {
            let (hits, total) = self.searcher.search(&query, &(top.order_by_score(), Count))?;
            (hits.into_iter().map(|(score, at)| (Some(score), at)).collect::<Vec<_>>(), total)
        } else {
            let latest = top.order_by_fast_field::<u64>("seq", Order::Desc);
            let (hits, total) = self.searcher.search(&query, &(latest, Count))?;
            (hits.into_iter().map(|(_, at)| (None, at)).collect(), total)
        };
        let marks = words.map(|words| self.marks(&*words)).transpose()?;
        let mut shown = Shown::new(self.settings.answer_bytes_max);
        for (score, at) in hits {
            let found = self.found(at)?;
            let mut head = head(&found);
            head.insert("score".to_owned(), json!(score));
            head.insert(
                "highlights".to_owned(),
                marks.as_ref().map_or_else(|| json!([]), |marks| marked(marks, &found)),
            );
            if !shown.push(&head, &found.record.text) {
                break;
            }
        }
        let next = offset + shown.records.len();
        let next_offset = (next < total && next < self.settings.hits_max).then_some(next);
        Ok(shown.answer("hits", &json!({"total": total, "next_offset": next_offset, "behind": behind})))
    }

    /// A page of all records that match, the last that was taken first.
    pub(super) fn records(&self, asked: &Asked, behind: &Value) -> Result<String, Failed> {
        asked.only(&["limit", "cursor"])?;
        let limit = asked.limit(self.settings)?;
        let (query, _) = asked.query(&self.index, self.fields, self.settings)?;
        let mut shown = Shown::new(self.settings.answer_bytes_max);
        let mut next_cursor = None;
        // Before 0 there is nothing.
        if let Some(newest) = asked.cursor.unwrap_or(u64::MAX).checked_sub(1) {
            let query = question::within(&*query, self.fields.seq, 0, newest);
            let latest = TopDocs::with_limit(limit + 1).order_by_fast_field::<u64>("seq", Order::Desc);
            let hits = self.searcher.search(&query, &latest)?;
            let all = hits.len();
            for (_, at) in hits.into_iter().take(limit) {
                let found = self.found(at)?;
                if !shown.push(&head(&found), &found.record.text) {
                    break;
                }
                next_cursor = Some(found.seq);
            }
            next_cursor = next_cursor.filter(|_| shown.records.len() < all);
        }
        Ok(shown.answer("records", &json!({"next_cursor": next_cursor, "behind": behind})))
    }

    /// One record.
    pub(super) fn record(&self, source: &str, index: u64, behind: &Value) -> Result<String, Failed> {
        let query = question::record(self.fields, source, index);
        let hits = self.searcher.search(&query, &TopDocs::with_limit(1).order_by_score())?;
        let Some((_, at)) = hits.into_iter().next() else {
            let why = format!("there is no record {index} of {source} in the audit trail");
            return Err(Fault::absent(why).into());
        };
        let found = self.found(at)?;
        let mut head = head(&found);
        head.insert("behind".to_owned(), behind.clone());
        Ok(with_record(&head, &found.record.text))
    }

    /// How many records there are of each actor, tool, decision, kind and day.
    pub(super) fn summary(&self, asked: &Asked, behind: &Value) -> Result<String, Failed> {
        asked.only(&[])?;
        let (query, _) = asked.query(&self.index, self.fields, self.settings)?;
        let counts = self.searcher.search(&query, &Tally)?;
        let mut answer = json!({"records": counts.records, "behind": behind});
        for (name, values) in COLUMNS.iter().zip(counts.values) {
            answer[format!("{name}s")] = most_frequent(values, self.settings.summary_values_max);
        }
        let days = counts.days.into_iter().map(|(day, count)| json!({"day": day_of(day), "records": count}));
        answer["days"] = days.collect();
        Ok(answer.to_string())
    }

    pub(super) fn found(&self, at: DocAddress) -> Result<Found, Failed> {
        let document: TantivyDocument = self.searcher.doc(at)?;
        let text = |field| document.get_first(field).and_then(|value| value.as_str()).map(str::to_owned);
        let seq = document.get_first(self.fields.seq).and_then(|value| value.as_u64());
        let whole = text(self.fields.source).zip(text(self.fields.record)).zip(seq);
        let ((source, record), seq) = whole.ok_or_else(|| Failed::Index("a document of it is not whole".to_owned()))?;
        let record = Record::read(&source, &record).map_err(Failed::Index)?;
        Ok(Found { source, record, seq })
    }

    fn marks(&self, words: &dyn Query) -> Result<SnippetGenerator, Failed> {
        let mut marks = SnippetGenerator::create(&self.searcher, words, self.fields.text)?;
        marks.set_max_num_chars(SHOWN_CHARACTERS);
        Ok(marks)
    }
}

/// Records of an answer, within its bytes.
struct Shown {
    records: Vec<String>,
    bytes: usize,
    bytes_max: usize,
}

impl Shown {
    fn new(bytes_max: usize) -> Self {
        Self { records: Vec::new(), bytes: 0, bytes_max }
    }

    /// Add one; whether there was room. There is always room for the first.
    fn push(&mut self, head: &Map<String, Value>, record: &str) -> bool {
        let shown = with_record(head, record);
        if !self.records.is_empty() && self.bytes + shown.len() > self.bytes_max {
            return false;
        }
        self.bytes += shown.len();
        self.records.push(shown);
        true
    }

    fn answer(&self, name: &str, rest: &Value) -> String {
        let rest = rest.to_string();
        format!("{{\"{name}\":[{}],{}", self.records.join(","), rest.strip_prefix('{').unwrap_or(&rest))
    }
}

/// The record stands in the answer as it stands in its ledger: written anew it would have another hash.
pub(super) fn with_record(head: &Map<String, Value>, record: &str) -> String {
    let head = Value::Object(head.clone()).to_string();
    format!("{},\"record\":{record}}}", head.strip_suffix('}').unwrap_or(&head))
}

/// What is said beside a record.
pub(super) fn head(found: &Found) -> Map<String, Value> {
    let Found { source, record, .. } = found;
    let proof = Source::named(source).map(|source| source.proof(record.index));
    let told = [
        ("source", json!(source)),
        ("index", json!(record.index)),
        ("ts_ms", json!(record.ts_ms)),
        ("hash", json!(record.hash)),
        ("proof", json!(proof)),
    ];
    told.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// The best piece of the record's texts, and where in it the words are, in characters.
fn marked(marks: &SnippetGenerator, found: &Found) -> Value {
    let snippet = marks.snippet(&found.record.texts().join("\n"));
    if snippet.is_empty() {
        return json!([]);
    }
    let piece = snippet.fragment();
    let character = |byte: usize| piece.char_indices().take_while(|(at, _)| *at < byte).count();
    let words: Vec<Value> =
        snippet.highlighted().iter().map(|range| json!([character(range.start), character(range.end)])).collect();
    json!([{"text": piece, "words": words}])
}

fn most_frequent(values: HashMap<String, u64>, most: usize) -> Value {
    let mut values: Vec<(String, u64)> = values.into_iter().collect();
    values.sort_by(|one, other| other.1.cmp(&one.1).then_with(|| one.0.cmp(&other.0)));
    let others: u64 = values.iter().skip(most).map(|(_, count)| count).sum();
    let shown = values.into_iter().take(most).map(|(value, count)| json!({"value": value, "records": count}));
    json!({"values": shown.collect::<Vec<_>>(), "others": others})
}

/// A day since 1970 as people write it.
fn day_of(day: u64) -> String {
    let ms = i64::try_from(day.saturating_mul(86_400_000)).ok();
    let time = ms.and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    time.map_or_else(|| format!("day {day}"), |time| time.to_string().chars().take_while(|c| *c != 'T').collect())
}
