//! One body to one webhook: signed, timed, without following a redirect.
//!
//! Whoever has something to tell keeps it until [`Sent::Delivered`], and decides when to try again. What identifies or opens
//! a receiver (its secret, its headers, most of its URL) is in no log, no error and no answer.

use hmac::{Hmac, KeyInit, Mac};
use reqwest::Url;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use sha2::Sha256;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where a receiver that knows the secret finds the HMAC-SHA256 of the body, as `sha256=HEX`.
pub const SIGNATURE_HEADER: &str = "gavel-signature";

/// A text of the settings that may stand elsewhere: `TEXT`, `{"file": PATH}` or `{"env": NAME}`.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Given {
    /// As it stands.
    Value(String),
    /// In a file or an environment variable.
    Elsewhere(Elsewhere),
}

/// Where a text stands.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Elsewhere {
    /// In a file that nobody else may read. White space at its end does not count.
    File(PathBuf),
    /// In an environment variable of the process.
    Env(String),
}

impl std::fmt::Debug for Given {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Value(_) => f.write_str("(a value)"),
            Self::Elsewhere(place) => place.fmt(f),
        }
    }
}

impl Given {
    /// The text.
    ///
    /// # Errors
    /// If it is not there, or others may read it. The text is in no error.
    pub fn text(&self) -> Result<String, String> {
        match self {
            Self::Value(text) => Ok(text.clone()),
            Self::Elsewhere(Elsewhere::File(path)) => private_file(path),
            Self::Elsewhere(Elsewhere::Env(name)) => std::env::var(name)
                .map_err(|_| format!("the environment variable {name} is not set, or is not UTF-8: set it")),
        }
    }
}

fn private_file(path: &Path) -> Result<String, String> {
    use std::os::unix::fs::MetadataExt;
    let shown = path.display();
    let failed = |why: std::io::Error| format!("{shown}: {why}");
    let mode = std::fs::metadata(path).map_err(failed)?.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(format!(
            "{shown}: others may read this secret (mode {mode:03o}): make it yours alone with `chmod 600`"
        ));
    }
    Ok(std::fs::read_to_string(path).map_err(failed)?.trim_end().to_owned())
}

/// A webhook as the settings say it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebhookSettings {
    /// `http` or `https`.
    pub url: Given,
    /// The key of the signature; without one, bodies are not signed.
    #[serde(default)]
    pub secret: Option<Given>,
    /// Sent along.
    #[serde(default)]
    pub headers: BTreeMap<String, Given>,
    /// How long an answer may take.
    #[serde(default = "default_timeout_ms")]
    pub timeout_ms: u64,
}

fn default_timeout_ms() -> u64 {
    5_000
}

/// Headers of one webhook.
const HEADERS_MAX: usize = 32;

impl WebhookSettings {
    /// Check what can be known without reading files or the environment.
    ///
    /// # Errors
    /// What is wrong; no value of the settings.
    pub fn check(&self) -> Result<(), String> {
        if let Given::Value(url) = &self.url {
            parsed(url)?;
        }
        if !(1..=60_000).contains(&self.timeout_ms) {
            return Err(format!("timeout_ms: {} is not within 1 to 60000", self.timeout_ms));
        }
        if self.headers.len() > HEADERS_MAX {
            return Err(format!("headers: {} are more than {HEADERS_MAX}", self.headers.len()));
        }
        for (name, value) in &self.headers {
            let name_ok = HeaderName::try_from(name).is_ok();
            let value_ok = !matches!(value, Given::Value(text) if HeaderValue::try_from(text).is_err());
            if !name_ok || !value_ok || name.eq_ignore_ascii_case(SIGNATURE_HEADER) {
                return Err(format!(
                    "headers: '{name}' cannot be sent: use another name, and printable ASCII as its value"
                ));
            }
        }
        Ok(())
    }
}

fn parsed(url: &str) -> Result<Url, String> {
    let told = "url: it must be an http or https URL with a host".to_owned();
    let url = Url::parse(url).map_err(|_| told.clone())?;
    if matches!(url.scheme(), "http" | "https") && url.has_host() { Ok(url) } else { Err(told) }
}

/// What became of a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sent {
    /// It was taken.
    Delivered,
    /// It was not, or that is not known; another try may help.
    Again(String),
    /// The receiver will not take this one.
    Never(String),
}

/// A webhook, ready.
#[derive(Clone)]
pub struct Webhook {
    client: reqwest::Client,
    url: Url,
    headers: HeaderMap,
    key: Option<Hmac<Sha256>>,
}

impl std::fmt::Debug for Webhook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Webhook").field("host", &self.shown()).finish_non_exhaustive()
    }
}

impl Webhook {
    /// Read what stands elsewhere, and make the client.
    ///
    /// # Errors
    /// What is missing; no value of it.
    pub fn open(settings: &WebhookSettings) -> Result<Self, String> {
        settings.check()?;
        // Another part of the process may have chosen a provider; then it is used here too.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder()
            .timeout(Duration::from_millis(settings.timeout_ms))
            // A body is for this receiver, and for nobody to whom it points.
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("gavel/", env!("CARGO_PKG_VERSION")))
            .pool_idle_timeout(Duration::from_secs(30))
            .build()
            .map_err(|why| format!("no client can be made: {why}"))?;
        let url = parsed(&settings.url.text().map_err(|why| format!("url: {why}"))?)?;
        let mut headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/json"))]);
        for (name, value) in &settings.headers {
            let text = value.text().map_err(|why| format!("headers.{name}: {why}"))?;
            let mut value = HeaderValue::try_from(text)
                .map_err(|_| format!("headers.{name}: its value cannot be sent: give printable ASCII"))?;
            value.set_sensitive(true);
            let name = HeaderName::try_from(name).map_err(|_| format!("headers.{name}: its name cannot be sent"))?;
            headers.insert(name, value);
        }
        let secret = settings.secret.as_ref().map(Given::text).transpose().map_err(|why| format!("secret: {why}"))?;
        if secret.as_ref().is_some_and(String::is_empty) {
            return Err("secret: it is empty, and signs nothing: give one, or none".to_owned());
        }
        // A key of any length will do.
        let key = secret.and_then(|secret| Hmac::new_from_slice(secret.as_bytes()).ok());
        Ok(Self { client, url, headers, key })
    }

    /// Its host: what stands behind that is often a secret.
    #[must_use]
    pub fn shown(&self) -> String {
        let port = self.url.port().map(|port| format!(":{port}")).unwrap_or_default();
        format!("{}://{}{port}", self.url.scheme(), self.url.host_str().unwrap_or_default())
    }

    /// Whether bodies are signed.
    #[must_use]
    pub fn signs(&self) -> bool {
        self.key.is_some()
    }

    /// Send a body of JSON, once.
    pub async fn deliver(&self, body: Vec<u8>) -> Sent {
        let mut request = self.client.post(self.url.clone()).headers(self.headers.clone());
        if let Some(key) = &self.key {
            request = request.header(SIGNATURE_HEADER, signature(key, &body));
        }
        match request.body(body).send().await {
            Ok(answer) if answer.status().is_success() => Sent::Delivered,
            Ok(answer) if may_change(answer.status().as_u16()) => Sent::Again(answer.status().to_string()),
            Ok(answer) => Sent::Never(answer.status().to_string()),
            // The URL may hold a token.
            Err(why) => Sent::Again(chain(&why.without_url())),
        }
    }
}

fn signature(key: &Hmac<Sha256>, body: &[u8]) -> String {
    let signed = key.clone().chain_update(body).finalize().into_bytes();
    format!("sha256={}", hex::encode(signed))
}

/// Whether the receiver may answer otherwise the next time.
fn may_change(status: u16) -> bool {
    status >= 500 || [404, 408, 409, 425, 429].contains(&status)
}

fn chain(why: &dyn std::error::Error) -> String {
    match why.source() {
        Some(source) => format!("{why}: {}", chain(source)),
        None => why.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn settings(value: serde_json::Value) -> WebhookSettings {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn what_is_secret_is_in_no_text() {
        let all = settings(json!({
            "url": "https://hooks.example/T0/hidden-1",
            "secret": "hidden-2",
            "headers": {"authorization": "hidden-3"},
        }));
        let webhook = Webhook::open(&all).unwrap();
        let texts = format!("{all:?} {webhook:?} {}", webhook.shown());
        assert!(!texts.contains("hidden"), "{texts}");
        assert!(texts.contains("https://hooks.example") && webhook.signs());
        let bad = settings(json!({"url": "ftp://hidden"}));
        assert!(!bad.check().unwrap_err().contains("hidden"));
        let bad = settings(json!({"url": "http://a", "headers": {"x": "hidden\n"}}));
        assert!(!bad.check().unwrap_err().contains("hidden"));
    }

    #[test]
    fn a_secret_that_others_may_read_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        std::fs::write(&path, "key\n").unwrap();
        let given: Given = serde_json::from_value(json!({"file": path})).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(given.text().unwrap_err().contains("chmod 600"));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(given.text().unwrap(), "key");
        let unset: Given = serde_json::from_value(json!({"env": "GAVEL_TEST_THAT_IS_NOT_SET"})).unwrap();
        assert!(unset.text().unwrap_err().contains("GAVEL_TEST_THAT_IS_NOT_SET"));
        assert!(serde_json::from_value::<Given>(json!({"path": "x"})).is_err());
    }

    #[test]
    fn the_signature_is_the_hmac_that_others_compute() {
        // RFC 4231, test case 2.
        let key = Hmac::new_from_slice(b"Jefe").unwrap();
        assert_eq!(
            signature(&key, b"what do ya want for nothing?"),
            "sha256=5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
    }
}
