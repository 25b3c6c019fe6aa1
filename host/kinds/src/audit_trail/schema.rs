//! What the index of the audit trail holds of a record.

use crate::following::Record;
use tantivy::schema::{
    FAST, Field, INDEXED, IndexRecordOption, STORED, STRING, Schema, TextFieldIndexing, TextOptions,
};
use tantivy::tokenizer::{LowerCaser, RemoveLongFilter, SimpleTokenizer, TextAnalyzer};
use tantivy::{Index, TantivyDocument};

/// The form of the index; one of another form is set aside.
pub(super) const VERSION: u64 = 1;

/// The analyzer of the full text.
const WORDS: &str = "words";

/// Bytes of a word that can be found: digests of 64 digits must be.
const WORD_BYTES_MAX: usize = 128;

/// The fields of a document.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fields {
    /// The name of its source.
    pub(super) source: Field,
    /// Its place in the source's ledger.
    pub(super) index: Field,
    /// Its place in the order in which the audit trail took records.
    pub(super) seq: Field,
    pub(super) ts: Field,
    pub(super) kind: Field,
    pub(super) actor: Field,
    pub(super) tool: Field,
    pub(super) decision: Field,
    pub(super) request_id: Field,
    pub(super) policy: Field,
    /// Every text of the record.
    pub(super) text: Field,
    pub(super) hash: Field,
    /// The record, byte for byte.
    pub(super) record: Field,
}

/// The schema and its fields.
pub(super) fn schema() -> (Schema, Fields) {
    let mut builder = Schema::builder();
    let words =
        TextFieldIndexing::default().set_tokenizer(WORDS).set_index_option(IndexRecordOption::WithFreqsAndPositions);
    let source = builder.add_text_field("source", STRING | FAST | STORED);
    // What else a record says is read from the record.
    let mut name = |name: &str| builder.add_text_field(name, STRING | FAST);
    let (kind, actor, tool) = (name("kind"), name("actor"), name("tool"));
    let (decision, request_id, policy) = (name("decision"), name("request_id"), name("policy"));
    let fields = Fields {
        source,
        index: builder.add_u64_field("index", INDEXED | FAST | STORED),
        seq: builder.add_u64_field("seq", FAST | STORED),
        ts: builder.add_u64_field("ts", INDEXED | FAST),
        kind,
        actor,
        tool,
        decision,
        request_id,
        policy,
        text: builder.add_text_field("text", TextOptions::default().set_indexing_options(words)),
        hash: builder.add_text_field("hash", STRING | STORED),
        record: builder.add_text_field("record", STORED),
    };
    (builder.build(), fields)
}

/// Tell an index how texts are cut into words.
pub(super) fn register(index: &Index) {
    let words = TextAnalyzer::builder(SimpleTokenizer::default())
        .filter(RemoveLongFilter::limit(WORD_BYTES_MAX))
        .filter(LowerCaser)
        .build();
    index.tokenizers().register(WORDS, words);
}

/// A record as a document.
pub(super) fn document(fields: &Fields, source: &str, record: &Record, seq: u64) -> TantivyDocument {
    let mut document = TantivyDocument::new();
    let Record { kind, request_id, actor, tool, decision, policy, .. } = record;
    document.add_text(fields.source, source);
    document.add_text(fields.kind, kind);
    let names = [
        (fields.request_id, request_id),
        (fields.actor, actor),
        (fields.tool, tool),
        (fields.decision, decision),
        (fields.policy, policy),
    ];
    for (field, said) in names {
        if let Some(said) = said {
            document.add_text(field, said);
        }
    }
    document.add_u64(fields.index, record.index);
    document.add_u64(fields.seq, seq);
    document.add_u64(fields.ts, record.ts_ms);
    document.add_text(fields.hash, &record.hash);
    document.add_text(fields.record, &record.text);
    for text in record.texts() {
        document.add_text(fields.text, text);
    }
    document
}
