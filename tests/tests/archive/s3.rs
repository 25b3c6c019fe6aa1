//! A small S3 on this machine: as much of it as an archive uses, strict about that, and able to fail on demand.
//!
//! It keeps objects in memory, checks that every request is signed and that its body is the one that was signed,
//! and knows PUT (also `If-None-Match: *`), GET (also of a range), HEAD, DELETE, lists of version 2 (page by page), deletions of
//! several, and uploads in parts. What it does not know it answers 501, so that a test does not pass by chance.

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::watch;

/// Objects that one page of a list holds: few, so that there are pages.
const PAGE: usize = 7;
pub(crate) const BUCKET: &str = "evidence";
pub(crate) const ACCESS_KEY: &str = "gavel-test";
pub(crate) const SECRET_KEY: &str = "a secret of no consequence";

/// A server in a thread of its own, as long as this lives.
pub(crate) struct S3 {
    pub(crate) address: SocketAddr,
    kept: Arc<Mutex<Kept>>,
    held: watch::Sender<bool>,
    runtime: Option<tokio::runtime::Runtime>,
}

#[derive(Default)]
struct Kept {
    objects: BTreeMap<String, Bytes>,
    uploads: HashMap<String, (String, BTreeMap<u32, Bytes>)>,
    /// Requests that were answered, by method.
    seen: HashMap<Method, usize>,
    /// What went wrong with the requests themselves.
    complaints: Vec<String>,
    /// Writes that are still accepted; then each is answered 503.
    writes_left: Option<usize>,
}

impl S3 {
    pub(crate) fn start() -> Self {
        let kept = Arc::new(Mutex::new(Kept::default()));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let held = watch::Sender::new(false);
        let app = Router::new().fallback(serve).with_state((Arc::clone(&kept), held.clone()));
        runtime.spawn(async move { axum::serve(listener, app).await });
        Self { address, kept, held, runtime: Some(runtime) }
    }

    /// The part of a configuration that names it.
    pub(crate) fn archive(&self, prefix: &str) -> serde_json::Value {
        serde_json::json!({
            "url": format!("s3://{BUCKET}/{prefix}"),
            "options": self.options(),
            "limits": {"max_retries": 1, "retry_timeout_ms": 2_000, "request_timeout_ms": 20_000, "part_bytes": 5 << 20},
        })
    }

    pub(crate) fn options(&self) -> BTreeMap<&'static str, String> {
        BTreeMap::from([
            ("aws_endpoint", format!("http://{}", self.address)),
            ("aws_region", "us-east-1".to_owned()),
            ("aws_allow_http", "true".to_owned()),
            ("aws_access_key_id", ACCESS_KEY.to_owned()),
            ("aws_secret_access_key", SECRET_KEY.to_owned()),
        ])
    }

    /// The names of all objects.
    pub(crate) fn names(&self) -> Vec<String> {
        self.lock().objects.keys().cloned().collect()
    }

    pub(crate) fn object(&self, name: &str) -> Vec<u8> {
        self.lock().objects.get(name).unwrap_or_else(|| panic!("no {name}")).to_vec()
    }

    pub(crate) fn writes(&self) -> usize {
        let seen = &self.lock().seen;
        [Method::PUT, Method::POST].iter().filter_map(|method| seen.get(method)).sum()
    }

    /// Accept so many writes more, then none.
    pub(crate) fn fail_after(&self, writes: usize) {
        self.lock().writes_left = Some(writes);
    }

    /// Answer nothing until [`S3::release`].
    pub(crate) fn hold(&self) {
        self.held.send_replace(true);
    }

    pub(crate) fn release(&self) {
        self.held.send_replace(false);
    }

    /// Accept all again.
    pub(crate) fn recover(&self) {
        self.lock().writes_left = None;
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap()
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
        let complaints = std::mem::take(&mut self.lock().complaints);
        assert!(std::thread::panicking() || complaints.is_empty(), "bad requests: {complaints:#?}");
    }
}

type Shared = (Arc<Mutex<Kept>>, watch::Sender<bool>);

async fn serve(State((kept, held)): State<Shared>, request: Request) -> Response {
    // The sender is ours, so it is there.
    let _ = held.subscribe().wait_for(|held| !held).await;
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 1 << 30).await.unwrap_or_default();
    let mut kept = kept.lock().unwrap();
    *kept.seen.entry(parts.method.clone()).or_default() += 1;
    if let Err(why) = check_signature(&parts.headers, &body) {
        kept.complaints.push(format!("{} {}: {why}", parts.method, parts.uri));
        return error(StatusCode::FORBIDDEN, "SignatureDoesNotMatch");
    }
    if matches!(parts.method, Method::PUT | Method::POST)
        && let Some(left) = &mut kept.writes_left
    {
        if *left == 0 {
            return error(StatusCode::SERVICE_UNAVAILABLE, "SlowDown");
        }
        *left -= 1;
    }
    let path = decoded(parts.uri.path());
    let query = query(parts.uri.query().unwrap_or_default());
    let Some(rest) = path.strip_prefix(&format!("/{BUCKET}")) else {
        return error(StatusCode::NOT_FOUND, "NoSuchBucket");
    };
    let key = rest.trim_start_matches('/');
    let asked = |name: &str| query.get(name).map(String::as_str);
    match (&parts.method, key) {
        (&Method::GET, "") if asked("list-type") == Some("2") => kept.list(&query),
        (&Method::GET, key) => kept.get(key, parts.headers.get(header::RANGE).and_then(|range| range.to_str().ok())),
        (&Method::HEAD, key) => kept.head(key),
        (&Method::PUT, key) => match (asked("uploadId"), asked("partNumber")) {
            (Some(id), Some(part)) => kept.put_part(id, part, body),
            (None, None) => kept.put(key, body, parts.headers.get(header::IF_NONE_MATCH).is_some()),
            _ => error(StatusCode::BAD_REQUEST, "InvalidRequest"),
        },
        (&Method::POST, "") if asked("delete").is_some() => kept.delete(&String::from_utf8_lossy(&body)),
        (&Method::POST, key) => match (asked("uploads"), asked("uploadId")) {
            (Some(_), None) => kept.begin(key),
            (None, Some(id)) => kept.complete(id, key),
            _ => error(StatusCode::NOT_IMPLEMENTED, "NotImplemented"),
        },
        (&Method::DELETE, key) => {
            match asked("uploadId") {
                Some(id) => drop(kept.uploads.remove(id)),
                None => drop(kept.objects.remove(key)),
            }
            StatusCode::NO_CONTENT.into_response()
        }
        _ => error(StatusCode::NOT_IMPLEMENTED, "NotImplemented"),
    }
}

/// Whether the request carries a signature of version 4 by our key, and the body that was signed.
fn check_signature(headers: &HeaderMap, body: &[u8]) -> Result<(), String> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let authorization = text("authorization");
    let begins = format!("AWS4-HMAC-SHA256 Credential={ACCESS_KEY}/");
    if !authorization.starts_with(&begins) || !authorization.contains("/us-east-1/s3/aws4_request") {
        return Err(format!("not signed by {ACCESS_KEY}: {authorization:?}"));
    }
    let signature = authorization.rsplit_once("Signature=").map_or("", |(_, signature)| signature);
    if signature.len() != 64 || text("x-amz-date").len() != 16 {
        return Err(format!("no signature or no date: {authorization:?}"));
    }
    let found = hex(&Sha256::digest(body));
    match text("x-amz-content-sha256") {
        "UNSIGNED-PAYLOAD" => Err("the body is not signed".to_owned()),
        signed if signed == found => Ok(()),
        signed => Err(format!("signed for a body of {signed}, it is {found}")),
    }
}

impl Kept {
    fn put(&mut self, key: &str, body: Bytes, create: bool) -> Response {
        if create && self.objects.contains_key(key) {
            return error(StatusCode::PRECONDITION_FAILED, "PreconditionFailed");
        }
        let tag = tag(&body);
        self.objects.insert(key.to_owned(), body);
        ([(header::ETAG, tag)], ()).into_response()
    }

    fn get(&self, key: &str, range: Option<&str>) -> Response {
        let Some(object) = self.objects.get(key) else { return error(StatusCode::NOT_FOUND, "NoSuchKey") };
        let tag = [(header::ETAG, tag(object)), (header::LAST_MODIFIED, MODIFIED.to_owned())];
        let Some(range) = range else { return (tag, object.clone()).into_response() };
        let asked = range.strip_prefix("bytes=").and_then(|range| range.split_once('-'));
        let asked = asked.and_then(|(from, to)| Some((from.parse::<usize>().ok()?, to.parse::<usize>().ok()?)));
        let Some((from, to)) = asked.filter(|(from, to)| from <= to && *from < object.len()) else {
            return error(StatusCode::RANGE_NOT_SATISFIABLE, "InvalidRange");
        };
        let to = to.min(object.len() - 1);
        let content = [(header::CONTENT_RANGE, format!("bytes {from}-{to}/{}", object.len()))];
        (StatusCode::PARTIAL_CONTENT, tag, content, object.slice(from..=to)).into_response()
    }

    fn head(&self, key: &str) -> Response {
        let Some(object) = self.objects.get(key) else { return StatusCode::NOT_FOUND.into_response() };
        let headers = [
            (header::ETAG, tag(object)),
            (header::LAST_MODIFIED, MODIFIED.to_owned()),
            (header::CONTENT_LENGTH, object.len().to_string()),
        ];
        (headers, Body::empty()).into_response()
    }

    fn list(&self, query: &HashMap<String, String>) -> Response {
        let prefix = query.get("prefix").map_or("", String::as_str);
        let after = query.get("continuation-token").map_or("", String::as_str);
        let all: Vec<_> =
            self.objects.iter().filter(|(key, _)| key.starts_with(prefix) && key.as_str() > after).collect();
        let page = &all[..all.len().min(PAGE)];
        let mut xml = format!("<?xml version=\"1.0\"?><ListBucketResult><Name>{BUCKET}</Name>");
        for (key, object) in page {
            let (size, tag) = (object.len(), tag(object).replace('"', "&quot;"));
            write!(xml, "<Contents><Key>{key}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>").unwrap();
            write!(xml, "<ETag>{tag}</ETag><Size>{size}</Size></Contents>").unwrap();
        }
        let more = page.len() < all.len();
        write!(xml, "<KeyCount>{}</KeyCount><IsTruncated>{more}</IsTruncated>", page.len()).unwrap();
        if let Some((last, _)) = page.last().filter(|_| more) {
            write!(xml, "<NextContinuationToken>{last}</NextContinuationToken>").unwrap();
        }
        xml += "</ListBucketResult>";
        ([(header::CONTENT_TYPE, "application/xml")], xml).into_response()
    }

    /// Several at once, as their names stand in the body.
    fn delete(&mut self, body: &str) -> Response {
        let mut xml = String::from("<DeleteResult>");
        for key in body.split("<Key>").skip(1).filter_map(|rest| rest.split("</Key>").next()) {
            self.objects.remove(key);
            write!(xml, "<Deleted><Key>{key}</Key></Deleted>").unwrap();
        }
        xml += "</DeleteResult>";
        ([(header::CONTENT_TYPE, "application/xml")], xml).into_response()
    }

    fn begin(&mut self, key: &str) -> Response {
        let id = format!("upload-{}", self.uploads.len());
        self.uploads.insert(id.clone(), (key.to_owned(), BTreeMap::new()));
        let xml = format!("<InitiateMultipartUploadResult><UploadId>{id}</UploadId></InitiateMultipartUploadResult>");
        ([(header::CONTENT_TYPE, "application/xml")], xml).into_response()
    }

    fn put_part(&mut self, id: &str, part: &str, body: Bytes) -> Response {
        let (Some((_, parts)), Ok(number)) = (self.uploads.get_mut(id), part.parse()) else {
            return error(StatusCode::NOT_FOUND, "NoSuchUpload");
        };
        let tag = tag(&body);
        parts.insert(number, body);
        ([(header::ETAG, tag)], ()).into_response()
    }

    fn complete(&mut self, id: &str, key: &str) -> Response {
        let Some((_, parts)) = self.uploads.remove(id).filter(|(for_key, _)| for_key == key) else {
            return error(StatusCode::NOT_FOUND, "NoSuchUpload");
        };
        let whole: Vec<u8> = parts.into_values().flatten().collect();
        let xml = format!(
            "<CompleteMultipartUploadResult><Key>{key}</Key><ETag>&quot;x&quot;</ETag></CompleteMultipartUploadResult>"
        );
        self.objects.insert(key.to_owned(), whole.into());
        ([(header::CONTENT_TYPE, "application/xml")], xml).into_response()
    }
}

const MODIFIED: &str = "Thu, 01 Jan 2026 00:00:00 GMT";

fn tag(object: &[u8]) -> String {
    format!("\"{}\"", &hex(&Sha256::digest(object))[..32])
}

fn error(status: StatusCode, code: &str) -> Response {
    let xml = format!("<Error><Code>{code}</Code><Message>{code}</Message></Error>");
    (status, [(header::CONTENT_TYPE, "application/xml")], xml).into_response()
}

fn query(text: &str) -> HashMap<String, String> {
    let pairs = text.split('&').filter(|pair| !pair.is_empty());
    pairs.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).map(|(k, v)| (decoded(k), decoded(v))).collect()
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        let digits = tail.get(..2).and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        match (first, digits) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            (b'+', _) => bytes.push(b' '),
            (byte, _) => bytes.push(*byte),
        }
    }
    String::from_utf8(bytes).unwrap()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
}
