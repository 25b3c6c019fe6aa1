//! For the tests: a main API with ledgers that can grow, be rewritten and be down, and a notebook of what was sent to it.

use super::{CaughtUp, Follower, Pace, Page, Position, Sink, Source};
use crate::caller::Caller;
use crate::kind::{Kernel, Kind, Seed};
use crate::peers::Peers;
use crate::serving::{Bounds, router};
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{Request, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gavel_proof::Hash;
use gavel_proof::note::{Checkpoint, CheckpointKey};
use gavel_proof::tree::{Frontier, Nodes, consistency, leaf_hash, node_hash};
use http_body_util::BodyExt;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use tower_service::Service;

/// How long a test waits for what must come.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

#[derive(Default)]
struct Told {
    ledgers: BTreeMap<String, Vec<String>>,
    log: Vec<String>,
    governance_down: bool,
    takes_nothing: bool,
    alerts: Vec<Value>,
    messages: Vec<Value>,
    asked: u64,
    /// Kernels that were replaced, with the records that each had.
    replaced: Vec<(String, u64)>,
    /// Their ledgers, as far as they are there.
    closed: BTreeMap<String, Vec<String>>,
}

/// Records of a page, and bytes of one: what governance and the immutable log give at most.
const PAGE_MAX: (usize, usize) = (1_000, 4 << 20);

/// Some of these texts, within those limits and of at least one text, and where the next page begins.
fn page_of(texts: &[String], from: usize, limit: usize) -> (Vec<&str>, usize) {
    let (mut page, mut bytes) = (Vec::new(), 0);
    for text in texts.iter().skip(from).take(limit.min(PAGE_MAX.0)) {
        bytes += text.len();
        if !page.is_empty() && bytes > PAGE_MAX.1 {
            break;
        }
        page.push(text.as_str());
    }
    let next = from.min(texts.len()) + page.len();
    (page, next)
}

/// The main API of a fleet that is none.
#[derive(Clone)]
pub(crate) struct Fleet {
    url: String,
    told: Arc<Mutex<Told>>,
    now_ms: Arc<AtomicU64>,
}

impl Fleet {
    pub(crate) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let fleet = Self { url, told: Arc::default(), now_ms: Arc::new(AtomicU64::new(1_000_000)) };
        let app = Router::new()
            .route("/kernels", get(kernels))
            .route("/kernels/{id}/records", get(records))
            .route("/kernels/{id}/records/{index}", get(one))
            .route("/kernels/{id}/checkpoint", get(checkpoint))
            .route("/kernels/{id}/consistency", get(consistent))
            .route("/immutable_log/entries", get(entries))
            .route("/immutable_log/checkpoint", get(checkpoint_of_log))
            .route("/immutable_log/consistency", get(consistency_of_log))
            .route("/alert_service/alerts", post(alert))
            .route("/message_bus/topics/compliance/messages", post(message))
            .with_state(fleet.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        fleet
    }

    fn with<T>(&self, work: impl FnOnce(&mut Told) -> T) -> T {
        work(&mut self.told.lock().unwrap())
    }

    /// Append a record to the ledger of `kernel`.
    pub(crate) fn record(&self, kernel: &str, mut record: Value) -> u64 {
        self.with(|told| {
            let ledger = told.ledgers.entry(kernel.to_owned()).or_default();
            let index = ledger.len() as u64;
            record["index"] = json!(index);
            ledger.push(record.to_string());
            index
        })
    }

    /// A closed decision.
    pub(crate) fn decision(&self, kernel: &str, request: &str, actor: &str, decision: &str, ts_ms: u64) -> u64 {
        let entry = json!({"request_id": request, "actor": actor, "decision": decision, "intent": format!("intent of {request}"), "error": (decision == "DENY").then_some("policy pace: too fast")});
        self.record(
            kernel,
            json!({"kind": "decision", "ts_ms": ts_ms, "entry": entry, "meta": {"tool_name": "echo", "asked": {"tool_params": {"path": "/etc/größe"}}}}),
        )
    }

    pub(crate) fn entry(&self, kind: &str, data: &Value) {
        self.with(|told| {
            let index = told.log.len();
            told.log
                .push(json!({"index": index, "kind": kind, "by": "guardian", "ts_ms": 5, "data": data}).to_string());
        });
    }

    /// Write another history: a record in the middle is replaced.
    pub(crate) fn rewrite(&self, kernel: &str, index: usize, text: &str) {
        self.with(|told| told.ledgers.get_mut(kernel).unwrap()[index] = text.to_owned());
    }

    pub(crate) fn text(&self, kernel: &str, index: usize) -> String {
        self.with(|told| told.ledgers[kernel][index].clone())
    }

    pub(crate) fn truncate(&self, kernel: &str, records: usize) {
        self.with(|told| told.ledgers.get_mut(kernel).unwrap().truncate(records));
    }

    pub(crate) fn set_governance_down(&self, down: bool) {
        self.with(|told| told.governance_down = down);
    }

    pub(crate) fn set_takes_nothing(&self, nothing: bool) {
        self.with(|told| told.takes_nothing = nothing);
    }

    pub(crate) fn alerts(&self) -> Vec<Value> {
        self.with(|told| told.alerts.clone())
    }

    pub(crate) fn messages(&self) -> Vec<Value> {
        self.with(|told| told.messages.clone())
    }

    pub(crate) fn set_time(&self, now_ms: u64) {
        self.now_ms.store(now_ms, Ordering::SeqCst);
    }

    pub(crate) fn open(&self, kind: &Kind, folder: &TempDir, settings: Value) -> impl Future<Output = Running> + use<> {
        (kind.check)(&settings).unwrap();
        let (stop, now_ms) = (CancellationToken::new(), Arc::clone(&self.now_ms));
        let seed = Seed {
            name: kind.name.to_owned(),
            folder: folder.path().to_owned(),
            settings,
            clock: Arc::new(move || now_ms.load(Ordering::SeqCst)),
            peers: Peers::behind(kind.name, &self.url, "token"),
            stop: stop.clone(),
            metrics: Registry::default(),
        };
        let opened = (kind.open)(seed);
        async move { Running::of(opened.await.unwrap(), stop) }
    }
}

/// A kernel behind its router.
pub(crate) struct Running {
    router: Router,
    stop: CancellationToken,
}

impl Running {
    fn of(kernel: Kernel, stop: CancellationToken) -> Self {
        let bounds = Bounds { body_bytes_max: 1 << 20, in_flight_max: 64, timeout: PATIENCE };
        let identify = Arc::new(|_: &axum::http::HeaderMap| Ok(Caller::trusted("tester")));
        Self { router: router("tested", kernel, identify, bounds).0, stop }
    }

    pub(crate) async fn answer(&self, method: &str, path: &str, body: &Value) -> (u16, String) {
        let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
        let request = Request::builder().method(method).uri(path).body(body).unwrap();
        let response = self.router.clone().call(request).await.unwrap();
        let status = response.status().as_u16();
        let text = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(text.to_vec()).unwrap())
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        let (status, text) = self.answer("GET", path, &Value::Null).await;
        assert_eq!(status, 200, "{path}: {text}");
        serde_json::from_str(&text).unwrap()
    }

    pub(crate) async fn refused(&self, path: &str) -> (u16, String) {
        let (status, text) = self.answer("GET", path, &Value::Null).await;
        assert!(status >= 400, "{path}: {text}");
        (status, serde_json::from_str::<Value>(&text).unwrap()["error"].as_str().unwrap().to_owned())
    }

    /// Stop it as a kill would: nothing is asked to finish.
    pub(crate) fn kill(self) {
        self.stop.cancel();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn kernels(State(fleet): State<Fleet>) -> Response {
    if fleet.with(|told| told.governance_down) {
        return (StatusCode::SERVICE_UNAVAILABLE, Json(json!({"error": "governance is down"}))).into_response();
    }
    let kernels = fleet.with(|told| {
        let before = told.replaced.iter().map(|(id, records)| json!({"kernel_id": id, "records": records}));
        let mut before = Some(before.collect::<Vec<_>>());
        let one = |id| json!({"kernel_id": id, "predecessors": before.take()});
        told.ledgers.keys().map(one).collect::<Vec<_>>()
    });
    Json(json!({"kernels": kernels})).into_response()
}

fn number(asked: &HashMap<String, String>, name: &str) -> usize {
    asked[name].parse().unwrap()
}

async fn records(
    State(fleet): State<Fleet>,
    Path(id): Path<String>,
    Query(asked): Query<HashMap<String, String>>,
) -> Response {
    let (from, limit) = (number(&asked, "from_index"), number(&asked, "limit"));
    assert_eq!(asked["of"], id, "whose ledger is meant");
    fleet.with(|told| {
        told.asked += 1;
        let Some(ledger) = told.ledgers.get(&id).or_else(|| told.closed.get(&id)) else {
            return StatusCode::NOT_FOUND.into_response();
        };
        let ((page, next), committed) = (page_of(ledger, from, limit), ledger.len());
        let page = page.join(",");
        format!("{{\"kernel_id\":\"{id}\",\"records\":[{page}],\"next_index\":{next},\"committed\":{committed}}}")
            .into_response()
    })
}

async fn one(State(fleet): State<Fleet>, Path((id, index)): Path<(String, usize)>) -> Response {
    match fleet.with(|told| told.ledgers[&id].get(index).cloned()) {
        Some(record) => record.into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn entries(State(fleet): State<Fleet>, Query(asked): Query<HashMap<String, String>>) -> String {
    let (from, limit) = (number(&asked, "from"), number(&asked, "limit"));
    fleet.with(|told| {
        let ((page, next), size) = (page_of(&told.log, from, limit), told.log.len());
        format!("{{\"entries\":[{}],\"next\":{next},\"size\":{size}}}", page.join(","))
    })
}

async fn alert(State(fleet): State<Fleet>, Json(alert): Json<Value>) -> Response {
    fleet.with(|told| {
        if told.takes_nothing {
            return (StatusCode::SERVICE_UNAVAILABLE, "down").into_response();
        }
        told.alerts.push(alert);
        Json(json!({"id": "1", "status": "open"})).into_response()
    })
}

async fn message(State(fleet): State<Fleet>, Json(message): Json<Value>) -> Response {
    fleet.with(|told| {
        if told.takes_nothing {
            return (StatusCode::SERVICE_UNAVAILABLE, "down").into_response();
        }
        told.messages.push(message);
        Json(json!({"offset": 0})).into_response()
    })
}

/// The tree over the records of a ledger.
pub(crate) struct Leaves(pub(crate) Vec<Hash>);

impl Nodes for Leaves {
    type Error = Infallible;

    fn node(&self, level: u32, index: u64) -> Result<Hash, Infallible> {
        if level == 0 {
            return Ok(self.0[usize::try_from(index).unwrap()]);
        }
        Ok(node_hash(&self.node(level - 1, 2 * index)?, &self.node(level - 1, 2 * index + 1)?))
    }
}

impl Leaves {
    fn of(fleet: &Fleet, id: &str) -> Self {
        fleet.with(|told| Self(told.ledgers[id].iter().map(|text| leaf_hash(text.as_bytes())).collect()))
    }

    pub(crate) fn note(&self, id: &str) -> String {
        let mut tree = Frontier::new();
        self.0.iter().for_each(|leaf| tree.push(*leaf));
        let checkpoint = Checkpoint { origin: format!("gavel/{id}/00ff"), size: tree.size(), root: tree.root() };
        checkpoint.sign(&[&key()])
    }
}

fn leaves_of_log(fleet: &Fleet) -> Leaves {
    fleet.with(|told| Leaves(told.log.iter().map(|text| leaf_hash(text.as_bytes())).collect()))
}

async fn checkpoint_of_log(State(fleet): State<Fleet>) -> Json<Value> {
    let mut tree = Frontier::new();
    leaves_of_log(&fleet).0.iter().for_each(|leaf| tree.push(*leaf));
    Json(json!({"size": tree.size(), "root": STANDARD.encode(tree.root())}))
}

async fn consistency_of_log(State(fleet): State<Fleet>, Query(asked): Query<HashMap<String, String>>) -> Json<Value> {
    let (old, new) = (number(&asked, "from") as u64, number(&asked, "to") as u64);
    let Ok(hashes) = consistency(&leaves_of_log(&fleet), old, new);
    Json(json!({"hashes": hashes.iter().map(|hash| STANDARD.encode(hash)).collect::<Vec<_>>()}))
}

fn key() -> CheckpointKey {
    CheckpointKey::from_seed(&[7; 32])
}

async fn checkpoint(State(fleet): State<Fleet>, Path(id): Path<String>) -> String {
    Leaves::of(&fleet, &id).note(&id)
}

async fn consistent(
    State(fleet): State<Fleet>,
    Path(id): Path<String>,
    Query(asked): Query<HashMap<String, String>>,
) -> Response {
    let leaves = Leaves::of(&fleet, &id);
    let (old, new) = (number(&asked, "old") as u64, leaves.0.len() as u64);
    if old > new {
        return (StatusCode::UNPROCESSABLE_ENTITY, Json(json!({"error": "none of its beginnings"}))).into_response();
    }
    let Ok(hashes) = consistency(&leaves, old, new);
    let hashes: Vec<String> = hashes.iter().map(|hash| STANDARD.encode(hash)).collect();
    let vkey = key().verifying(&format!("gavel/{id}/00ff")).to_string();
    Json(json!({"format": "gavel-consistency/1", "kernel_id": id, "key": vkey, "new": leaves.note(&id), "consistency": hashes, "rotations": []})).into_response()
}

type Notes = (BTreeMap<String, Position>, Vec<(String, u64)>);

#[derive(Default)]
struct Notebook(Mutex<Notes>);

impl Sink for Notebook {
    fn position(&self, source: &str) -> Position {
        self.0.lock().unwrap().0.get(source).cloned().unwrap_or_default()
    }

    fn take(&self, page: &Page) -> anyhow::Result<()> {
        let mut taken = self.0.lock().unwrap();
        taken.0.insert(page.source.clone(), page.position.clone());
        taken.1.extend(page.records.iter().map(|record| (page.source.clone(), record.index)));
        Ok(())
    }

    fn settle(&self, _: &CaughtUp) -> anyhow::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_follower_takes_every_record_once_and_tells_who_is_down() {
    let fleet = Fleet::start().await;
    for number in 0..25 {
        let _ = fleet.decision("k", &format!("r-{number}"), "a", "ALLOW", number);
    }
    fleet.entry("healing", &json!({"reason": "x"}));
    let (sink, stop) = (Arc::new(Notebook::default()), CancellationToken::new());
    let pace = Pace { every: PATIENCE, page_records: 4 };
    let peers = Peers::behind("audit_trail", &fleet.url, "token");
    let follower = Follower::start(peers, Arc::clone(&sink) as _, pace, Arc::new(|| 7), stop.clone());
    assert_eq!(follower.caught_up(PATIENCE).await.behind(), json!([]));
    let expected = |records: u64| {
        let log = [(Source::log().name, 0)];
        log.into_iter().chain((0..records).map(|index| (Source::kernel("k").name, index))).collect::<Vec<_>>()
    };
    assert_eq!(sink.0.lock().unwrap().1, expected(25));
    // When nothing changed, a round asks each ledger once.
    let before = fleet.with(|told| told.asked);
    let _ = follower.caught_up(PATIENCE).await;
    assert_eq!(fleet.with(|told| told.asked), before + 1);
    fleet.set_governance_down(true);
    let _ = fleet.decision("k", "later", "a", "ALLOW", 99);
    let behind = follower.caught_up(PATIENCE).await.behind();
    assert!(behind[0]["why"].as_str().unwrap().contains("governance is down"), "{behind}");
    fleet.set_governance_down(false);
    assert_eq!(follower.caught_up(PATIENCE).await.behind(), json!([]));
    assert_eq!(sink.0.lock().unwrap().1, expected(26));
    stop.cancel();
}

#[tokio::test]
async fn pages_with_room_for_one_record_hold_up_nobody_and_what_was_replaced_is_read_to_its_end() {
    let fleet = Fleet::start().await;
    let large = "x".repeat(PAGE_MAX.1 / 2 + 1);
    for number in 0..3 {
        fleet.entry("note", &json!({"number": number, "text": large}));
    }
    let _ = fleet.decision("k-2", "r", "a", "ALLOW", 1);
    let (sink, stop) = (Arc::new(Notebook::default()), CancellationToken::new());
    // More than is given of a page.
    let pace = Pace { every: PATIENCE, page_records: PAGE_MAX.0 };
    let peers = Peers::behind("audit_trail", &fleet.url, "token");
    let follower = Follower::start(peers, Arc::clone(&sink) as _, pace, Arc::new(|| 7), stop.clone());
    assert_eq!(follower.caught_up(PATIENCE).await.behind(), json!([]));
    let mut expected: Vec<_> = (0..3).map(|index| (Source::log().name, index)).collect();
    expected.push((Source::kernel("k-2").name, 0));
    assert_eq!(sink.0.lock().unwrap().1, expected);
    fleet.with(|told| told.replaced = vec![("k".to_owned(), 4), ("k-2".to_owned(), 1)]);
    let behind = follower.caught_up(PATIENCE).await.behind();
    assert_eq!((behind.as_array().unwrap().len(), &behind[0]["source"]), (1, &json!("governance.k")));
    let why = behind[0]["why"].as_str().unwrap();
    assert!(why.contains("with 4 records, of which 0 were read") && why.contains("404"), "{behind}");
    for number in 0..4 {
        let _ = fleet.decision("k", &format!("r-{number}"), "a", "ALLOW", 1);
    }
    fleet.with(|told| {
        let ledger = told.ledgers.remove("k").unwrap();
        told.closed.insert("k".to_owned(), ledger);
    });
    assert_eq!(follower.caught_up(PATIENCE).await.behind(), json!([]));
    expected.extend((0..4).map(|index| (Source::kernel("k").name, index)));
    assert_eq!(sink.0.lock().unwrap().1, expected);
    let asked = fleet.with(|told| told.asked);
    assert_eq!(follower.caught_up(PATIENCE).await.behind(), json!([]));
    assert_eq!(fleet.with(|told| told.asked), asked + 1, "what is closed and known is not asked for again");
    stop.cancel();
}
