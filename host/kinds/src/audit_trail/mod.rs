//! The audit trail: every record of the fleet's ledgers, found by what it says, counted and exported.
//!
//! It follows the ledgers of governance and the immutable log, and keeps an index of them with the records themselves, byte
//! for byte: so it answers while a ledger is down, and says that it may be behind. It proves nothing by itself; each
//! record comes with its hash and with the place where its proof is to be had.
//!
//! Deliberately absent: writing to any ledger, deleting what was found, and ranking by anything but the words asked for.

mod answers;
mod export;
mod question;
mod routes;
mod schema;
mod store;
mod tally;
#[cfg(test)]
mod tests;

use crate::following::{Follower, Pace, Sink};
use crate::kind::{Kernel, Kind, Opened, Seed, SettingsError, settings};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::time::Duration;
use store::Store;
use tokio::sync::Semaphore;

/// The kind.
pub(crate) const KIND: Kind = Kind {
    name: "audit_trail",
    purpose: "Find, count and export the records of all ledgers, by words and by what they say",
    needs: &["message_bus", "immutable_log"],
    check: |value| settings::<Settings>(value)?.check(),
    open: |seed| open(seed),
};

/// The least that the index can be written with.
const WRITER_BYTES_MIN: usize = 15_000_000;

/// How it is set.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Settings {
    /// How often the ledgers are asked for what is new while nobody asks.
    follow_every_ms: u64,
    /// Records of a page that is asked for.
    page_records: usize,
    /// How long a question waits until what is committed now is in the index.
    catch_up_ms: u64,
    /// Bytes that whoever writes the index may take; given back when there is nothing to write.
    writer_bytes: usize,
    /// Records after which the index is committed while more are coming.
    commit_records: usize,
    /// Records of one answer.
    page_max: usize,
    /// Hits that can be reached with `offset`.
    hits_max: usize,
    /// Bytes of the words that are asked for.
    query_bytes_max: usize,
    /// Bytes of the records of one answer.
    answer_bytes_max: usize,
    /// Values of each column in a summary; the others are counted together.
    summary_values_max: usize,
    /// Exports at the same time.
    exports_max: usize,
    /// An index of at most so many bytes is checked for damage when it is opened, a larger one when a search fails.
    checksum_bytes_max: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            follow_every_ms: 2_000,
            page_records: 500,
            catch_up_ms: 2_000,
            writer_bytes: WRITER_BYTES_MIN,
            commit_records: 10_000,
            page_max: 1_000,
            hits_max: 10_000,
            query_bytes_max: 4_096,
            answer_bytes_max: 8 << 20,
            summary_values_max: 1_000,
            exports_max: 2,
            checksum_bytes_max: 256 << 20,
        }
    }
}

impl Settings {
    fn check(&self) -> Result<(), SettingsError> {
        crate::ranges::check(&[
            ("follow_every_ms", self.follow_every_ms, 1_000, 3_600_000),
            ("catch_up_ms", self.catch_up_ms, 0, 60_000),
            ("page_records", self.page_records as u64, 1, 1_000),
            ("writer_bytes", self.writer_bytes as u64, WRITER_BYTES_MIN as u64, 1_000_000_000),
            ("commit_records", self.commit_records as u64, 1, 1_000_000),
            ("page_max", self.page_max as u64, 1, 10_000),
            ("hits_max", self.hits_max as u64, 1, 1_000_000),
            ("query_bytes_max", self.query_bytes_max as u64, 1, 65_536),
            ("answer_bytes_max", self.answer_bytes_max as u64, 1_024, 1 << 30),
            ("summary_values_max", self.summary_values_max as u64, 1, 100_000),
            ("exports_max", self.exports_max as u64, 1, 64),
        ])
        .map_err(SettingsError)
    }
}

/// What the routes share.
#[derive(Clone)]
pub(super) struct Trail {
    store: Arc<Store>,
    follower: Follower,
    settings: Arc<Settings>,
    exports: Arc<Semaphore>,
    asked: Counter,
}

fn open(seed: Seed) -> Opened {
    Box::pin(async move {
        let settings: Settings = settings(&seed.settings)?;
        let (folder, shared) = (seed.folder.clone(), settings.clone());
        let store = Arc::new(tokio::task::spawn_blocking(move || Store::open(&folder, shared)).await??);
        let pace = Pace { every: Duration::from_millis(settings.follow_every_ms), page_records: settings.page_records };
        let sink: Arc<dyn Sink> = Arc::clone(&store) as _;
        let follower = Follower::start(seed.peers, sink, pace, seed.clock, seed.stop);
        let (mut metrics, asked, records) = (seed.metrics, Counter::default(), Gauge::<i64>::default());
        metrics.register("gavel_audit_questions", "Searches, pages, summaries and exports", asked.clone());
        metrics.register("gavel_audit_records", "Records that were taken into the index", records.clone());
        let exports = Arc::new(Semaphore::new(settings.exports_max));
        let trail = Trail { store, follower, settings: Arc::new(settings), exports, asked };
        let (store, follower) = (Arc::clone(&trail.store), trail.follower.clone());
        let well = move || Ok(how_it_is(&store, &follower, &records));
        Ok(Kernel::new(routes::doors().with_state(trail), metrics).with_health(well))
    })
}

fn how_it_is(store: &Store, follower: &Follower, records: &Gauge) -> Map<String, Value> {
    let taken = store.extent().next_seq;
    records.set(i64::try_from(taken).unwrap_or(i64::MAX));
    Map::from_iter([("records".to_owned(), json!(taken)), ("behind".to_owned(), follower.seen().behind())])
}
