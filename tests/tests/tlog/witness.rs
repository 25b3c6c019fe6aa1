//! A witness as C2SP tlog-witness has it, and a webhook: the other side of a push of checkpoints, with verification of
//! its own.

use crate::client::{Checkpoint, Hash, Key, is_consistent};
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signer as _, SigningKey};
use gavel_tests::PATIENCE;
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

/// The clock of the witness.
pub(crate) const NOW_S: u64 = 1_767_607_200;

/// A witness that listens, and what it saw.
#[derive(Clone)]
pub(crate) struct Witness {
    pub(crate) address: SocketAddr,
    pub(crate) key: Key,
    shared: Arc<Shared>,
}

struct Shared {
    signing: SigningKey,
    name: String,
    seen: Mutex<Seen>,
    more: Condvar,
}

#[derive(Default)]
pub(crate) struct Seen {
    /// The log that it knows.
    pub(crate) log: Option<Key>,
    /// The checkpoint that it cosigned last.
    pub(crate) last: Option<Checkpoint>,
    /// What it answered, one status for each request.
    pub(crate) answers: Vec<u16>,
    /// What a webhook got.
    pub(crate) hooked: Vec<String>,
    /// How many requests the webhook still refuses.
    pub(crate) refusals: usize,
    /// Signatures are broken from now on.
    pub(crate) forges: bool,
}

impl Witness {
    /// Serve until the test process ends.
    pub(crate) fn start(name: &str, seed: u8) -> Self {
        let signing = SigningKey::from_bytes(&[seed; 32]);
        let typed = [&[4], signing.verifying_key().as_bytes().as_slice()].concat();
        let key = Key::new(name, &typed);
        let shared = Arc::new(Shared { signing, name: name.to_owned(), seen: Mutex::default(), more: Condvar::new() });
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        listener.set_nonblocking(true).unwrap();
        let router = Router::new()
            .route("/w/add-checkpoint", post(add_checkpoint))
            .route("/hook", post(hook))
            .route("/silent", post(std::future::pending::<()>))
            .with_state(Arc::clone(&shared));
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                axum::serve(listener, router).await.unwrap();
            });
        });
        Self { address, key, shared }
    }

    /// Its public key for a configuration.
    pub(crate) fn vkey(&self) -> String {
        let typed = [&[4], self.key.public.as_bytes().as_slice()].concat();
        format!("{}+{:08x}+{}", self.key.name, u32::from_be_bytes(self.key.id), STANDARD.encode(typed))
    }

    /// Look at, or change, what it saw.
    pub(crate) fn with<T>(&self, look: impl FnOnce(&mut Seen) -> T) -> T {
        look(&mut self.shared.seen.lock().unwrap())
    }

    /// Wait until what it saw is as wanted.
    pub(crate) fn wait_for(&self, mut wanted: impl FnMut(&Seen) -> bool) {
        let seen = self.shared.seen.lock().unwrap();
        let (seen, late) = self.shared.more.wait_timeout_while(seen, PATIENCE, |seen| !wanted(seen)).unwrap();
        assert!(!late.timed_out(), "not within {PATIENCE:?}; it answered {:?}", seen.answers);
    }
}

async fn hook(State(shared): State<Arc<Shared>>, body: String) -> StatusCode {
    let mut seen = shared.seen.lock().unwrap();
    seen.hooked.push(body);
    shared.more.notify_all();
    if seen.refusals == 0 {
        return StatusCode::NO_CONTENT;
    }
    seen.refusals -= 1;
    StatusCode::INTERNAL_SERVER_ERROR
}

async fn add_checkpoint(State(shared): State<Arc<Shared>>, body: String) -> Response {
    let answer = shared.judge(&body);
    shared.seen.lock().unwrap().answers.push(answer.status().as_u16());
    shared.more.notify_all();
    answer
}

impl Shared {
    /// The checks in the order of the specification.
    fn judge(&self, body: &str) -> Response {
        let bad = StatusCode::BAD_REQUEST.into_response();
        let Some((head, note)) = body.split_once("\n\n") else { return bad };
        let mut lines = head.lines();
        let Some(old) = lines.next().and_then(|line| line.strip_prefix("old ")?.parse::<u64>().ok()) else {
            return bad;
        };
        let proof: Option<Vec<Hash>> = lines.map(|line| STANDARD.decode(line).ok()?.try_into().ok()).collect();
        let Some(proof) = proof.filter(|proof| proof.len() <= 63) else { return bad };
        let mut seen = self.seen.lock().unwrap();
        let Some(log) = seen.log.clone().filter(|log| note.starts_with(&format!("{}\n", log.name))) else {
            return StatusCode::NOT_FOUND.into_response();
        };
        let Some(text) = log.verified(note) else { return StatusCode::FORBIDDEN.into_response() };
        let checkpoint = Checkpoint::read(text);
        if old > checkpoint.size {
            return bad;
        }
        let size = seen.last.as_ref().map_or(0, |last| last.size);
        let conflict = || {
            (StatusCode::CONFLICT, [(header::CONTENT_TYPE, "text/x.tlog.size")], format!("{size}\n")).into_response()
        };
        if old != size {
            return conflict();
        }
        if let Some(last) = &seen.last {
            if size == checkpoint.size && last.root != checkpoint.root {
                return conflict();
            }
            if !is_consistent((size, last.root), (checkpoint.size, checkpoint.root), &proof) {
                return StatusCode::UNPROCESSABLE_ENTITY.into_response();
            }
        } else if !proof.is_empty() {
            return StatusCode::UNPROCESSABLE_ENTITY.into_response();
        }
        seen.last = Some(checkpoint);
        self.cosign(text, seen.forges).into_response()
    }

    /// The line of this witness, after one of somebody else.
    fn cosign(&self, text: &str, forge: bool) -> String {
        let message = format!("cosignature/v1\ntime {NOW_S}\n{text}");
        let mut signature = self.signing.sign(message.as_bytes()).to_bytes();
        signature[0] ^= u8::from(forge);
        let typed = [&[4], self.signing.verifying_key().as_bytes().as_slice()].concat();
        let id = Key::new(&self.name, &typed).id;
        let bytes = [id.as_slice(), &NOW_S.to_be_bytes(), &signature].concat();
        format!("\u{2014} somebody.else AAAAAAE=\n\u{2014} {} {}\n", self.name, STANDARD.encode(bytes))
    }
}
