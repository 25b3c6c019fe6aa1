//! The keys through their routes, and after the kernel was dropped without a clean end.

use super::KIND;
use crate::Peers;
use crate::trial::{Hands, NOW_MS, Trial};
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;

const OPS: &str = "ops operator";
const AGENT: &str = "agent-7 agent";

async fn open(folder: &Path) -> Trial {
    Trial::alone(&KIND, folder, Value::Null).await.unwrap()
}

async fn with_key(folder: &Path) -> Trial {
    let keys = open(folder).await;
    let (status, told) = keys.post(OPS, "/keys", &json!({"name": "release", "senders": ["agent-7"]})).await;
    assert_eq!(status, 200, "{told}");
    keys
}

async fn sign(keys: &Trial, text: &str) -> Value {
    let (status, told) = keys.post(AGENT, "/sign", &json!({"key": "release", "text": text})).await;
    assert_eq!(status, 200, "{told}");
    told
}

async fn verify(keys: &Trial, text: &str, signed: &Value) -> Value {
    let body = json!({"key": "release", "text": text, "signature": signed["signature"]});
    let (status, told) = keys.post("a auditor", "/verify", &body).await;
    assert_eq!(status, 200, "{told}");
    told
}

fn private_files(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder.join("private")).unwrap().map(|file| file.unwrap().path()).collect()
}

#[tokio::test]
async fn a_signature_is_verified_by_name_and_by_public_key() {
    let folder = tempfile::tempdir().unwrap();
    let keys = with_key(folder.path()).await;
    let signed = sign(&keys, "hello").await;
    assert_eq!((signed["version"].as_u64(), signed["key"].as_str()), (Some(1), Some("release")));
    let told = verify(&keys, "hello", &signed).await;
    assert_eq!((&told["valid"], &told["version"], &told["revoked"]), (&json!(true), &json!(1), &json!(false)));
    assert_eq!(verify(&keys, "hallo", &signed).await["valid"], false);

    // As bytes, by the public key alone, and elsewhere by the public key and the name.
    let by = |body: Value| {
        let mut body = body;
        body["signature"] = signed["signature"].clone();
        body["payload"] = json!("aGVsbG8=");
        body
    };
    let public = &signed["public_key"];
    assert_eq!(keys.post(AGENT, "/verify", &by(json!({"public_key": public}))).await.1["valid"], true);
    let other = tempfile::tempdir().unwrap();
    let elsewhere = open(other.path()).await;
    let (_, told) = elsewhere.post(AGENT, "/verify", &by(json!({"public_key": public, "key": "release"}))).await;
    assert_eq!((&told["valid"], &told["state"]), (&json!(true), &json!("unknown")));
    let (_, told) = elsewhere.post(AGENT, "/verify", &by(json!({"public_key": public, "key": "releases"}))).await;
    assert_eq!(told["valid"], false);
    assert_eq!(elsewhere.post(AGENT, "/verify", &by(json!({"public_key": public}))).await.0, 422);
}

#[tokio::test]
async fn only_named_senders_sign_and_only_operators_change() {
    let folder = tempfile::tempdir().unwrap();
    let keys = with_key(folder.path()).await;
    let body = json!({"key": "release", "text": "hello"});
    for (who, status) in [(AGENT, 200), ("agent-8 agent", 403), (OPS, 403), ("agent-7 auditor", 403), ("", 401)] {
        assert_eq!(keys.post(who, "/sign", &body).await.0, status, "{who}");
    }
    for path in ["/keys", "/keys/release/rotate", "/keys/release/revoke"] {
        assert_eq!(keys.post(AGENT, path, &json!({"name": "x", "senders": ["agent-7"]})).await.0, 403, "{path}");
    }
    let (_, seen) = keys.get(AGENT, "/keys/release").await;
    assert!(seen.get("senders").is_none(), "{seen}");
    let (_, seen) = keys.get(OPS, "/keys/release").await;
    assert_eq!((&seen["senders"], &seen["signatures_since_start"]), (&json!(["agent-7"]), &json!(1)));
    let (_, metrics) = keys.text(OPS, "GET /metrics", "").await;
    assert!(metrics.contains(r#"gavel_crypto_signatures_total{key="release",result="signed"} 1"#), "{metrics}");
    assert!(metrics.contains(r#"gavel_crypto_signatures_total{key="release",result="refused"} 2"#), "{metrics}");
}

#[tokio::test]
async fn versions_outlive_rotation_and_kill_and_revocation_is_for_ever() {
    let folder = tempfile::tempdir().unwrap();
    let keys = with_key(folder.path()).await;
    let first = sign(&keys, "hello").await;
    drop(keys);

    let keys = open(folder.path()).await;
    assert_eq!(sign(&keys, "hello").await, first, "the same key, and Ed25519 is deterministic");
    let (status, told) = keys.post(OPS, "/keys/release/rotate", &json!({"from_version": 1})).await;
    assert_eq!((status, told["current"].as_u64()), (200, Some(2)), "{told}");
    assert_eq!(keys.post(OPS, "/keys/release/rotate", &json!({"from_version": 1})).await.0, 409);
    drop(keys);

    let keys = open(folder.path()).await;
    let second = sign(&keys, "hello").await;
    assert_ne!(second["signature"], first["signature"]);
    let told = verify(&keys, "hello", &first).await;
    assert_eq!((&told["valid"], &told["version"], &told["state"]), (&json!(true), &json!(1), &json!("retired")));
    assert_eq!(private_files(folder.path()).len(), 1, "the private half of the first is gone");

    let (_, told) = keys.post(OPS, "/keys/release/revoke", &json!({"version": 1, "why": "lost"})).await;
    assert_eq!((&told["versions"][0]["revoked_ms"], &told["current"]), (&json!(NOW_MS), &json!(2)));
    assert_eq!(keys.post(OPS, "/keys/release/revoke", &json!({})).await.0, 200);
    drop(keys);

    let keys = open(folder.path()).await;
    for (signed, version) in [(&first, 1), (&second, 2)] {
        let told = verify(&keys, "hello", signed).await;
        assert_eq!((&told["valid"], &told["holds"], &told["revoked"]), (&json!(false), &json!(true), &json!(true)));
        assert_eq!(told["version"], version);
    }
    assert_eq!(private_files(folder.path()), Vec::<PathBuf>::new());
    let (status, told) = keys.post(AGENT, "/sign", &json!({"key": "release", "text": "x"})).await;
    assert_eq!(status, 409, "{told}");
    assert!(told["error"].as_str().unwrap().contains("rotate it"), "{told}");
    keys.post(OPS, "/keys/release/rotate", &json!({})).await;
    assert_eq!(sign(&keys, "hello").await["version"], 3);
}

#[tokio::test]
async fn no_secret_is_shown_and_files_are_private() {
    let folder = tempfile::tempdir().unwrap();
    let keys = with_key(folder.path()).await;
    let files = private_files(folder.path());
    assert_eq!(files.len(), 1);
    for path in files.iter().chain([&folder.path().join("keys.json")]) {
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600, "{}", path.display());
    }
    assert_eq!(fs::metadata(folder.path().join("private")).unwrap().permissions().mode() & 0o777, 0o700);
    let pem = fs::read_to_string(&files[0]).unwrap();
    let secret = pem.lines().nth(1).unwrap();
    let key = crate::private_key::read(&files[0]).unwrap();
    let seed = hex::encode(key.as_bytes());
    let mut shown = fs::read_to_string(folder.path().join("keys.json")).unwrap();
    for path in ["/keys", "/keys/release", "/metrics", "/health", "/openapi.json"] {
        shown += &keys.text(OPS, &format!("GET {path}"), "").await.1;
    }
    shown += &sign(&keys, "hello").await.to_string();
    assert!(shown.contains(&hex::encode(key.verifying_key().to_bytes())));
    // Also not without its fixed beginning, which is 16 of its 48 bytes.
    assert!(!shown.contains(secret) && !shown.contains(&secret[22..]) && !shown.contains(&seed));
    let signer = super::vault::Signer { version: 1, key, used: 0.into() };
    assert_eq!(format!("{signer:?}"), "Signer { version: 1, .. }");
}

#[tokio::test]
async fn limits_and_forms_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let settings = json!({"keys_max": 1, "versions_max": 2, "payload_bytes_max": 8});
    let keys = Trial::alone(&KIND, folder.path(), settings).await.unwrap();
    for (body, status, why) in [
        (json!({"name": "Bad", "senders": ["a"]}), 422, "name:"),
        (json!({"name": "a", "senders": []}), 422, "senders: 0 are named"),
        (json!({"name": "a", "senders": [""]}), 422, "must have 1 to 256 bytes"),
        (json!({"name": "a", "senders": ["a"], "why": "x".repeat(501)}), 422, "why: it has 501"),
        (json!({"name": "a", "senders": ["a"], "seed": "00"}), 422, "unknown field `seed`"),
        (json!({"name": "a", "senders": ["agent-7"]}), 200, ""),
        (json!({"name": "a", "senders": ["a"]}), 409, "there is a key `a` already"),
        (json!({"name": "b", "senders": ["a"]}), 409, "keys_max"),
    ] {
        let (found, told) = keys.post(OPS, "/keys", &body).await;
        assert_eq!(found, status, "{body}: {told}");
        assert!(told["error"].as_str().unwrap_or_default().contains(why), "{told}");
    }
    for (path, body, status, why) in [
        ("/sign", json!({"key": "a", "text": "123456789"}), 413, "payload_bytes_max is 8"),
        ("/sign", json!({"key": "a"}), 422, "either `payload`"),
        ("/sign", json!({"key": "a", "text": "x", "payload": "eA=="}), 422, "either `payload`"),
        ("/sign", json!({"key": "a", "payload": "%"}), 422, "no base64"),
        ("/sign", json!({"key": "b", "text": "x"}), 404, "there is no key `b`"),
        ("/verify", json!({"key": "a", "text": "x", "signature": "eA=="}), 422, "64 bytes"),
        ("/verify", json!({"text": "x", "signature": "eA=="}), 422, "signature"),
        ("/verify", json!({"public_key": "x", "text": "x", "signature": "A".repeat(86) + "=="}), 422, "public_key"),
    ] {
        let (found, told) = keys.post(AGENT, path, &body).await;
        assert_eq!(found, status, "{body}: {told}");
        assert!(told["error"].as_str().unwrap().contains(why), "{told}");
    }
    assert_eq!(keys.post(OPS, "/keys/a/revoke", &json!({"version": 2})).await.0, 404);
    assert_eq!(keys.post(OPS, "/keys/a/rotate", &json!({})).await.0, 200);
    let (status, told) = keys.post(OPS, "/keys/a/rotate", &json!({})).await;
    assert!(status == 409 && told["error"].as_str().unwrap().contains("versions_max is 2"), "{told}");
}

#[tokio::test]
async fn a_crash_between_the_steps_is_finished_at_the_next_opening() {
    let folder = tempfile::tempdir().unwrap();
    let keys = with_key(folder.path()).await;
    let old = private_files(folder.path()).remove(0);
    let copy = fs::read(&old).unwrap();
    keys.post(OPS, "/keys/release/rotate", &json!({})).await;
    drop(keys);
    // Killed before the old private half was erased, and while new files were written.
    crate::durable::replace(&old, &copy).unwrap();
    let unfinished = folder.path().join("private/00.pem.new");
    fs::write(&unfinished, &copy).unwrap();
    fs::write(folder.path().join("keys.json.new"), "{").unwrap();
    let unnamed = folder.path().join("private").join(format!("{}.pem", "0".repeat(64)));
    crate::durable::replace(&unnamed, &copy).unwrap();
    let keys = open(folder.path()).await;
    assert!(!old.exists() && !unfinished.exists() && !folder.path().join("keys.json.new").exists());
    assert!(unnamed.exists(), "what nothing names is left alone");
    assert_eq!(sign(&keys, "x").await["version"], 2);
}

#[tokio::test]
async fn a_private_key_that_cannot_be_used_stops_only_itself() {
    let folder = tempfile::tempdir().unwrap();
    let keys = with_key(folder.path()).await;
    keys.post(OPS, "/keys", &json!({"name": "other", "senders": ["agent-7"]})).await;
    let (_, told) = keys.get(OPS, "/keys/release").await;
    let public = told["versions"][0]["public_key"].as_str().unwrap().trim_start_matches("ed25519:").to_owned();
    drop(keys);
    let path = folder.path().join("private").join(format!("{public}.pem"));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let keys = open(folder.path()).await;
    let (status, told) = keys.post(AGENT, "/sign", &json!({"key": "release", "text": "x"})).await;
    assert!(status == 500 && told["error"].as_str().unwrap().contains("chmod 600"), "{status} {told}");
    assert_eq!(keys.post(AGENT, "/sign", &json!({"key": "other", "text": "x"})).await.0, 200);
    assert_eq!(keys.get("", "/health").await.1["unusable_keys"], json!(["release"]));
    assert_eq!(keys.post(OPS, "/keys/release/rotate", &json!({})).await.0, 200);
    assert_eq!(sign(&keys, "x").await["version"], 2);
}

#[tokio::test]
async fn a_register_that_is_gone_is_not_begun_anew() {
    let folder = tempfile::tempdir().unwrap();
    drop(with_key(folder.path()).await);
    fs::remove_file(folder.path().join("keys.json")).unwrap();
    let Err(why) = Trial::alone(&KIND, folder.path(), Value::Null).await else { panic!("opened") };
    assert!(why.to_string().contains("revoked keys would count again"), "{why}");
}

#[derive(Clone)]
struct Log {
    told: mpsc::Sender<Value>,
    count: Arc<AtomicUsize>,
}

/// The main API as far as it is needed: the first report is refused for the moment, the others are taken.
async fn log(State(log): State<Log>, body: Json<Value>) -> Result<Json<Value>, StatusCode> {
    log.told.send(body.0).await.unwrap();
    if log.count.fetch_add(1, Ordering::SeqCst) == 0 {
        Err(StatusCode::SERVICE_UNAVAILABLE)
    } else {
        Ok(Json(json!({"index": 1})))
    }
}

#[tokio::test]
async fn changes_are_reported_until_they_are_taken() {
    let (told, mut received) = mpsc::channel(16);
    let app = Router::new().route("/immutable_log/append", post(log)).with_state(Log { told, count: Arc::default() });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });

    let folder = tempfile::tempdir().unwrap();
    let peers = Peers::behind("crypto_kernel", &url, "token");
    let keys = Trial::open(&KIND, folder.path(), Value::Null, &Hands::at(NOW_MS), peers).await;
    keys.post(OPS, "/keys", &json!({"name": "release", "senders": ["agent-7"], "why": "first"})).await;
    keys.post(OPS, "/keys/release/revoke", &json!({"why": "lost"})).await;
    let mut told = Vec::new();
    while told.len() < 3 {
        let many = received.recv_many(&mut told, 3);
        tokio::time::timeout(Duration::from_mins(1), many).await.unwrap();
    }
    assert_eq!(told[0], told[1], "sent again, with the same key");
    assert_eq!((&told[1]["data"]["why"], &told[2]["kind"]), (&json!("first"), &json!("crypto:key_revoked")));
    let deadline = tokio::time::Instant::now() + Duration::from_mins(1);
    while keys.get("", "/health").await.1["unreported_changes"] != 0 {
        assert!(tokio::time::Instant::now() < deadline, "a report that was taken is not forgotten");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn it_says_what_it_can_do() {
    let folder = tempfile::tempdir().unwrap();
    let keys = open(folder.path()).await;
    let document = keys.check_document().await;
    assert!(document["paths"]["/keys/{name}/rotate"]["post"].is_object());
    assert_eq!(keys.get(AGENT, "/keys").await.1, json!({"keys": []}));
}
