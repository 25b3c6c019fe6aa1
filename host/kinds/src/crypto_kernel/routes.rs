//! The routes of a crypto kernel.

use super::envelope::{self, CONTEXT, SIGNATURE_BYTES};
use super::register::{NamedKey, public_of, public_text};
use super::vault::{Change, Held, Vault};
use crate::caller::{Caller, Role};
use crate::doors::{Body, Door, Doors};
use crate::fault::Fault;
use axum::Json;
use axum::extract::{Path, State as Shared};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

const SENDER_BYTES_MAX: usize = 256;
const WHY_BYTES_MAX: usize = 500;

/// What the routes share.
#[derive(Clone)]
pub(super) struct State {
    pub(super) vault: Arc<Vault>,
    pub(super) measures: Measures,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SignLabels {
    key: String,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabels {
    result: &'static str,
}

/// What is counted.
#[derive(Debug, Clone, Default)]
pub(super) struct Measures {
    signatures: Family<SignLabels, Counter>,
    verifications: Family<ResultLabels, Counter>,
    changes: Family<ResultLabels, Counter>,
}

impl Measures {
    /// Counts in this registry.
    pub(super) fn register(registry: &mut Registry) -> Self {
        let new = Self::default();
        let signatures = Family::clone(&new.signatures);
        registry.register("gavel_crypto_signatures", "Requests for a signature by key: signed or refused", signatures);
        let verifications = Family::clone(&new.verifications);
        registry.register("gavel_crypto_verifications", "Verifications: valid, revoked or invalid", verifications);
        let changes = Family::clone(&new.changes);
        registry.register("gavel_crypto_key_changes", "Keys created, rotated, revoked", changes);
        new
    }

    fn changed(&self, result: &'static str) {
        self.changes.get_or_create(&ResultLabels { result }).inc();
    }
}

const CREATE: Door = Door {
    roles: crate::OPERATING,
    summary: "Make a key that these senders may sign with, and nobody else; its name is never given again",
    query: &[],
    body: r#"{"name": "release", "senders": ["agent-7", "kernel:governance"], "why": "releases of the agent"}"#,
    answer: KEY_ANSWER,
};
const LIST: Door = Door {
    roles: crate::ANY,
    summary: "All keys with all their versions, public halves only; who may sign is shown to operators and auditors",
    query: &[],
    body: "",
    answer: r#"{"keys": [{"name": "release", "algorithm": "ed25519", "created_ms": 1760000000000, "current": 1, "versions": []}]}"#,
};
const SHOW: Door = Door {
    roles: crate::ANY,
    summary: "One key with all its versions, public halves only",
    query: &[],
    body: "",
    answer: KEY_ANSWER,
};
const ROTATE: Door = Door {
    roles: crate::OPERATING,
    summary: "Have a new version of a key sign from now on; the one before stays for verification and its private half is erased. With `from_version` only if that is the last one (409)",
    query: &[],
    body: r#"{"from_version": 1, "why": "every quarter"}"#,
    answer: KEY_ANSWER,
};
const REVOKE: Door = Door {
    roles: crate::OPERATING,
    summary: "Have one version of a key, or all so far, count no longer, for ever: its signatures are no longer valid",
    query: &[],
    body: r#"{"version": 1, "why": "its machine was lost"}"#,
    answer: KEY_ANSWER,
};
const SIGN: Door = Door {
    roles: &[Role::Agent, Role::Operator],
    summary: "Sign a payload (base64) or a text with a key that names the caller as a sender",
    query: &[],
    body: r#"{"key": "release", "text": "hello"}"#,
    answer: r#"{"key": "release", "version": 1, "public_key": "ed25519:d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a", "envelope": "gavel crypto_kernel signature v1", "digest": "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824", "signature": "BASE64"}"#,
};
const VERIFY: Door = Door {
    roles: crate::ANY,
    summary: "Check a signature by a key, any of its versions, or by a public key; `valid` is false for a revoked version, `holds` says whether the signature itself is right",
    query: &[],
    body: r#"{"key": "release", "text": "hello", "signature": "BASE64"}"#,
    answer: r#"{"valid": true, "holds": true, "key": "release", "version": 1, "state": "current", "revoked": false, "public_key": "ed25519:d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"}"#,
};
const KEY_ANSWER: &str = r#"{"name": "release", "algorithm": "ed25519", "created_ms": 1760000000000, "current": 1, "senders": ["agent-7"], "created_by": "ops", "signatures_since_start": 0, "versions": [{"version": 1, "state": "current", "public_key": "ed25519:d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a", "public_pem": "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\n-----END PUBLIC KEY-----\n", "created_ms": 1760000000000, "retired_ms": null, "revoked_ms": null, "revoked_why": null}]}"#;

pub(super) fn doors() -> Doors<State> {
    Doors::new()
        .post("/keys", CREATE, create)
        .get("/keys", LIST, list)
        .get("/keys/{name}", SHOW, show)
        .post("/keys/{name}/rotate", ROTATE, rotate)
        .post("/keys/{name}/revoke", REVOKE, revoke)
        .post("/sign", SIGN, sign)
        .post("/verify", VERIFY, verify)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Create {
    name: String,
    senders: BTreeSet<String>,
    #[serde(default)]
    why: String,
}

async fn create(
    Shared(State { vault, measures }): Shared<State>,
    caller: Caller,
    Body(Create { name, senders, why }): Body<Create>,
) -> Result<Json<Value>, Fault> {
    if !envelope::is_name(&name) {
        return Err(Fault::not_accepted(
            "name: it must have 1 to 64 of a-z, 0-9, `_`, `.` and `-`, and begin with a letter or a digit",
        ));
    }
    let most = vault.settings.senders_max;
    if !(1..=most).contains(&senders.len()) {
        let count = senders.len();
        return Err(Fault::not_accepted(format!("senders: {count} are named, it must be 1 to {most}: who may sign")));
    }
    let bad =
        |sender: &&String| !(1..=SENDER_BYTES_MAX).contains(&sender.len()) || sender.chars().any(char::is_control);
    if let Some(sender) = senders.iter().find(bad) {
        let shown: String = sender.chars().take(80).flat_map(char::escape_debug).collect();
        return Err(Fault::not_accepted(format!("senders: `{shown}` must have 1 to {SENDER_BYTES_MAX} bytes of text")));
    }
    let change = change(&caller, why)?;
    let made = name.clone();
    blocking(&vault, move |vault| vault.create(&made, senders, &change)).await?;
    measures.changed("created");
    told(&vault.held(), &caller, &name)
}

async fn list(Shared(State { vault, .. }): Shared<State>, caller: Caller) -> Json<Value> {
    let held = vault.held();
    let keys = held.register.keys.iter().map(|(name, key)| key.told(name, sees_all(&caller)));
    Json(json!({"keys": keys.collect::<Vec<_>>()}))
}

async fn show(
    Shared(State { vault, .. }): Shared<State>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<Json<Value>, Fault> {
    told(&vault.held(), &caller, &name)
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Rotate {
    from_version: Option<usize>,
    why: String,
}

async fn rotate(
    Shared(State { vault, measures }): Shared<State>,
    caller: Caller,
    Path(name): Path<String>,
    Body(Rotate { from_version, why }): Body<Rotate>,
) -> Result<Json<Value>, Fault> {
    let (change, rotated) = (change(&caller, why)?, name.clone());
    blocking(&vault, move |vault| vault.rotate(&rotated, from_version, &change)).await?;
    measures.changed("rotated");
    told(&vault.held(), &caller, &name)
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Revoke {
    version: Option<usize>,
    why: String,
}

async fn revoke(
    Shared(State { vault, measures }): Shared<State>,
    caller: Caller,
    Path(name): Path<String>,
    Body(Revoke { version, why }): Body<Revoke>,
) -> Result<Json<Value>, Fault> {
    let (change, revoked) = (change(&caller, why)?, name.clone());
    blocking(&vault, move |vault| vault.revoke(&revoked, version, &change)).await?;
    measures.changed("revoked");
    told(&vault.held(), &caller, &name)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sign {
    key: String,
    #[serde(default)]
    payload: Option<String>,
    #[serde(default)]
    text: Option<String>,
}

async fn sign(
    Shared(State { vault, measures }): Shared<State>,
    caller: Caller,
    Body(Sign { key: name, payload, text }): Body<Sign>,
) -> Result<Json<Value>, Fault> {
    let held = vault.held();
    let key = held.register.key(&name)?;
    // Only keys that are there count under a name, so that there are as many as keys.
    let count = |result| measures.signatures.get_or_create(&SignLabels { key: name.clone(), result }).inc();
    let signed = signed(&vault, &held, key, &caller, &name, (payload, text));
    count(if signed.is_ok() { "signed" } else { "refused" });
    signed.map(Json)
}

fn signed(
    vault: &Vault,
    held: &Held,
    key: &NamedKey,
    caller: &Caller,
    name: &str,
    what: (Option<String>, Option<String>),
) -> Result<Value, Fault> {
    if !key.senders.contains(caller.sender()) {
        let sender = caller.sender();
        return Err(Fault::forbidden(format!("'{sender}' may not sign with key `{name}`, which does not name it")));
    }
    let digest = envelope::digest(&payload(vault, what)?);
    let signer = held.signer(name)?;
    let signature = envelope::sign(&signer.key, name, &digest);
    signer.used.fetch_add(1, Ordering::Relaxed);
    Ok(json!({
        "key": name,
        "version": signer.version,
        "public_key": public_text(&signer.key.verifying_key().to_bytes()),
        "envelope": CONTEXT,
        "digest": digest,
        "signature": STANDARD.encode(signature),
    }))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Verify {
    #[serde(default)]
    key: Option<String>,
    #[serde(default)]
    public_key: Option<String>,
    #[serde(default)]
    payload: Option<String>,
    #[serde(default)]
    text: Option<String>,
    signature: String,
}

async fn verify(
    Shared(State { vault, measures }): Shared<State>,
    Body(Verify { key, public_key, payload: bytes, text, signature }): Body<Verify>,
) -> Result<Json<Value>, Fault> {
    let digest = envelope::digest(&payload(&vault, (bytes, text))?);
    let signature: [u8; SIGNATURE_BYTES] = STANDARD
        .decode(&signature)
        .ok()
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| Fault::not_accepted(format!("signature: it is not {SIGNATURE_BYTES} bytes in base64")))?;
    let held = vault.held();
    let public = public_key.as_deref().map(public_of).transpose()?;
    let found = match (key, public) {
        (None, None) => Err(Fault::not_accepted("give `key`, `public_key`, or both")),
        (Some(name), None) => Ok(by_name(held.register.key(&name)?, &name, None, &digest, &signature)),
        (Some(name), Some(public)) => match held.register.keys.get(&name) {
            Some(key) if has(key, &public) => Ok(by_name(key, &name, Some(&public), &digest, &signature)),
            _ => foreign(&name, &public, &digest, &signature),
        },
        (None, Some(public)) => match held.register.keys.iter().find(|(_, key)| has(key, &public)) {
            Some((name, key)) => Ok(by_name(key, name, Some(&public), &digest, &signature)),
            None => Err(Fault::not_accepted(
                "public_key: no key here has it; give also `key`, the name that it signs under elsewhere",
            )),
        },
    }?;
    let result = match (&found["valid"], &found["holds"]) {
        (Value::Bool(true), _) => "valid",
        (_, Value::Bool(true)) => "revoked",
        _ => "invalid",
    };
    measures.verifications.get_or_create(&ResultLabels { result }).inc();
    Ok(Json(found))
}

fn has(key: &NamedKey, public: &[u8; 32]) -> bool {
    key.versions.iter().any(|version| version.public_key == *public)
}

/// By which of its versions, the newest first, or only the one with this public key.
fn by_name(
    key: &NamedKey,
    name: &str,
    public: Option<&[u8; 32]>,
    digest: &str,
    signature: &[u8; SIGNATURE_BYTES],
) -> Value {
    let versions = key.versions.iter().enumerate().rev();
    let mut asked = versions.filter(|(_, version)| public.is_none_or(|public| version.public_key == *public));
    let signed = asked.find(|(_, version)| envelope::holds(&version.public_key, name, digest, signature));
    let Some((at, version)) = signed else {
        return json!({"valid": false, "holds": false, "key": name, "version": null, "revoked": null});
    };
    json!({
        // When it was made nobody can tell: after the revocation none counts.
        "valid": version.revoked.is_none(),
        "holds": true,
        "key": name,
        "version": at + 1,
        "state": version.state(),
        "revoked": version.revoked.is_some(),
        "revoked_ms": version.revoked.as_ref().map(|revoked| revoked.at_ms),
        "public_key": version.public_text(),
    })
}

/// By a key that is not of this kernel: whether it is revoked where it is from is not known here.
fn foreign(name: &str, public: &[u8; 32], digest: &str, signature: &[u8; SIGNATURE_BYTES]) -> Result<Value, Fault> {
    if !envelope::is_name(name) {
        return Err(Fault::not_accepted("key: it is not the name of a key"));
    }
    let holds = envelope::holds(public, name, digest, signature);
    let public_key = public_text(public);
    Ok(json!({
        "valid": holds, "holds": holds, "key": name, "version": null, "state": "unknown", "revoked": null,
        "public_key": public_key,
    }))
}

/// What is signed: one of base64 and text, within its limit.
fn payload(vault: &Vault, what: (Option<String>, Option<String>)) -> Result<Vec<u8>, Fault> {
    let bytes = match what {
        (Some(payload), None) => {
            STANDARD.decode(payload).map_err(|why| Fault::not_accepted(format!("payload: no base64: {why}")))?
        }
        (None, Some(text)) => text.into_bytes(),
        _ => return Err(Fault::not_accepted("give either `payload`, in base64, or `text`")),
    };
    let (size, most) = (bytes.len(), vault.settings.payload_bytes_max);
    if size > most {
        let advice = "sign a digest of it instead";
        return Err(Fault::too_large(format!("the payload has {size} bytes, payload_bytes_max is {most}: {advice}")));
    }
    Ok(bytes)
}

fn change(caller: &Caller, why: String) -> Result<Change, Fault> {
    if why.len() > WHY_BYTES_MAX {
        return Err(Fault::not_accepted(format!("why: it has {} bytes, the most is {WHY_BYTES_MAX}", why.len())));
    }
    Ok(Change { by: caller.sender().to_owned(), why })
}

fn sees_all(caller: &Caller) -> bool {
    caller.require(crate::SEEING).is_ok()
}

fn told(held: &Held, caller: &Caller, name: &str) -> Result<Json<Value>, Fault> {
    let mut told = held.register.key(name)?.told(name, sees_all(caller));
    told["signatures_since_start"] = json!(held.used(name));
    Ok(Json(told))
}

async fn blocking(
    vault: &Arc<Vault>,
    change: impl FnOnce(&Vault) -> Result<(), Fault> + Send + 'static,
) -> Result<(), Fault> {
    let vault = Arc::clone(vault);
    let changed = tokio::task::spawn_blocking(move || change(&vault)).await;
    changed.unwrap_or_else(|_| Err(Fault::broken("the change broke off in a panic; the kernel's own log says more")))
}
