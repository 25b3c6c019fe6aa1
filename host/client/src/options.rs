//! How a client is set up: where the server is, who calls, and how patient the client is.

use crate::retry::Retries;
use crate::{Client, Error, blocking};
use reqwest::Url;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::BuilderVerifierExt;
use std::sync::Arc;
use std::time::Duration;

/// The options of a client. Every limit has a default.
#[derive(Clone)]
#[must_use = "nothing is set up before `client` or `blocking`"]
pub struct Options {
    url: String,
    key: Option<String>,
    kernel: Option<String>,
    authority_pem: Option<Vec<u8>>,
    connect_timeout: Duration,
    timeout: Duration,
    retries: Retries,
    idle_max: usize,
    idle_timeout: Duration,
    answer_bytes_max: usize,
}

/// What a client needs beside its connections.
#[derive(Debug)]
pub(crate) struct Settings {
    /// Where the kernel's routes begin, without a slash at the end.
    pub(crate) base: String,
    pub(crate) timeout: Duration,
    pub(crate) retries: Retries,
    pub(crate) answer_bytes_max: usize,
}

/// Shows no key.
impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options").field("url", &self.url).field("kernel", &self.kernel).finish_non_exhaustive()
    }
}

impl Options {
    /// A client of the server at this URL: `http://127.0.0.1:8080`, or with the prefix that the API
    /// is mounted at, `https://example.org/governance`.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            key: None,
            kernel: None,
            authority_pem: None,
            connect_timeout: Duration::from_secs(5),
            timeout: Duration::from_mins(1),
            retries: Retries { tries_max: 4, first: Duration::from_millis(100), longest: Duration::from_secs(5) },
            idle_max: 32,
            idle_timeout: Duration::from_secs(5),
            answer_bytes_max: 64 << 20,
        }
    }

    /// Show this key, as `gavel key` printed it. Default: none.
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Speak to this kernel. Default: the first of the server's configuration.
    pub fn kernel(mut self, id: impl Into<String>) -> Self {
        self.kernel = Some(id.into());
        self
    }

    /// Trust this certificate authority (PEM) instead of those of the system.
    pub fn certificate_authority(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.authority_pem = Some(pem.into());
        self
    }

    /// Time for a connection, TLS included. Default 5 s.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Time for a whole call: connection, answer, and all tries together. For evidence that is
    /// streamed: time for the answer to begin, and then for each piece. Default 60 s.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// How often a call is tried, where that is safe (see the crate's documentation); 1 means never
    /// again. Default 4.
    pub fn tries(mut self, tries_max: u32) -> Self {
        self.retries.tries_max = tries_max.max(1);
        self
    }

    /// The first wait between two tries, which doubles each time, and the longest. Default 100 ms
    /// and 5 s.
    pub fn backoff(mut self, first: Duration, longest: Duration) -> Self {
        (self.retries.first, self.retries.longest) = (first, longest);
        self
    }

    /// How many connections are kept while idle, and how long. Default 32, 5 s: less than the 10 s
    /// after which the server closes them (`limits.header_timeout_ms`), so that no request is sent
    /// on a connection that is just being closed.
    pub fn pool(mut self, idle_max: usize, idle_timeout: Duration) -> Self {
        (self.idle_max, self.idle_timeout) = (idle_max, idle_timeout);
        self
    }

    /// Bytes of an answer that is read into memory; evidence that is streamed has no limit.
    /// Default 64 MiB.
    pub fn answer_bytes_max(mut self, bytes: usize) -> Self {
        self.answer_bytes_max = bytes;
        self
    }

    /// The client for async code. Nothing is sent yet.
    ///
    /// # Errors
    /// [`Error::Misused`] when the URL, the key, the kernel's id or the certificate cannot be used.
    pub fn client(self) -> Result<Client, Error> {
        let base = self.base()?;
        let http = reqwest::Client::builder()
            .user_agent(concat!("gavel-client/", env!("CARGO_PKG_VERSION")))
            .default_headers(self.headers()?)
            .tls_backend_preconfigured(self.tls(base.scheme())?)
            .connect_timeout(self.connect_timeout)
            .pool_max_idle_per_host(self.idle_max)
            .pool_idle_timeout(self.idle_timeout)
            .tcp_nodelay(true)
            // A key goes to the server that it is for: not to a proxy of the environment, nor wherever an answer points.
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            // Whether a request is sent again is decided in one place.
            .retry(reqwest::retry::never())
            .build()
            .map_err(|why| Error::Misused(format!("the client cannot be set up: {}", chain(&why))))?;
        let settings = Settings {
            base: base.as_str().trim_end_matches('/').to_owned(),
            timeout: self.timeout,
            retries: self.retries,
            answer_bytes_max: self.answer_bytes_max,
        };
        Ok(Client::of(http, settings))
    }

    /// The client for all other code. Nothing is sent yet.
    ///
    /// # Errors
    /// As [`Options::client`].
    pub fn blocking(self) -> Result<blocking::Client, Error> {
        blocking::Client::of(self.client()?)
    }

    fn base(&self) -> Result<Url, Error> {
        let misused = |why: &str| Error::Misused(format!("the URL `{}` {why}", self.url));
        let mut url = Url::parse(&self.url).map_err(|why| misused(&format!("cannot be read: {why}")))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(misused("is neither http:// nor https://"));
        }
        if url.query().is_some() || url.fragment().is_some() || !url.username().is_empty() || url.password().is_some() {
            return Err(misused("must have no query, fragment or user: give the server's address and prefix only"));
        }
        let path = url.path().trim_end_matches('/').to_owned();
        let kernel = self.kernel.as_deref().map(checked_kernel).transpose()?;
        url.set_path(&kernel.map_or_else(|| path.clone(), |id| format!("{path}/kernels/{id}")));
        Ok(url)
    }

    fn headers(&self) -> Result<HeaderMap, Error> {
        let mut headers = HeaderMap::new();
        if let Some(key) = &self.key {
            let mut value = HeaderValue::from_str(&format!("Bearer {key}"))
                .map_err(|_| Error::Misused("the key holds characters that no key has".into()))?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        Ok(headers)
    }

    /// TLS by ring, whatever else the process uses. The system's authorities are read only where
    /// they are needed: there are machines that have none.
    fn tls(&self, scheme: &str) -> Result<ClientConfig, Error> {
        let misused = |why: String| Error::Misused(why);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|why| misused(format!("TLS cannot be set up: {why}")))?;
        if scheme == "https" && self.authority_pem.is_none() {
            let verified = builder.with_platform_verifier();
            let verified = verified.map_err(|why| misused(format!("the system's certificate authorities: {why}")))?;
            return Ok(verified.with_no_client_auth());
        }
        let mut roots = RootCertStore::empty();
        if let Some(pem) = &self.authority_pem {
            let bad = |why: String| misused(format!("the certificate authority cannot be read: {why}"));
            for certificate in CertificateDer::pem_slice_iter(pem) {
                let certificate = certificate.map_err(|why| bad(why.to_string()))?;
                roots.add(certificate).map_err(|why| bad(why.to_string()))?;
            }
            if roots.is_empty() {
                return Err(bad("there is no certificate in it".into()));
            }
        }
        Ok(builder.with_root_certificates(roots).with_no_client_auth())
    }
}

/// A kernel's id becomes a part of the path.
fn checked_kernel(id: &str) -> Result<&str, Error> {
    let plain = id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    if plain && !id.is_empty() && id.len() <= 64 && !id.starts_with('.') {
        return Ok(id);
    }
    Err(Error::Misused(format!("there can be no kernel `{id}`: ids are 1 to 64 letters, digits, `.`, `_` or `-`")))
}

/// An error with all that caused it, in one line.
pub(crate) fn chain(why: &dyn std::error::Error) -> String {
    let mut told = why.to_string();
    let mut cause = why.source();
    while let Some(why) = cause {
        let also = why.to_string();
        if !told.ends_with(&also) {
            told = format!("{told}: {also}");
        }
        cause = why.source();
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base(options: Options) -> String {
        options.client().map_or_else(|why| why.to_string(), |client| client.base().to_owned())
    }

    #[test]
    fn urls_have_prefixes_and_kernels() {
        for (url, expected) in [
            ("http://localhost:8080", "http://localhost:8080"),
            ("http://localhost:8080/", "http://localhost:8080"),
            ("http://localhost/governance/", "http://localhost/governance"),
        ] {
            assert_eq!(base(Options::new(url)), expected);
            assert_eq!(base(Options::new(url).kernel("prod-001")), format!("{expected}/kernels/prod-001"));
        }
    }

    #[test]
    fn what_cannot_be_used_is_told_before_anything_is_sent() {
        for (options, told) in [
            (Options::new("localhost:8080"), "the URL `localhost:8080` is neither"),
            (Options::new(""), "the URL `` cannot be read"),
            (Options::new("http://a/?x=1"), "the URL `http://a/?x=1` must have no query"),
            (Options::new("http://key@a/"), "the URL `http://key@a/` must have no query, fragment or user"),
            (Options::new("http://a").kernel("../b"), "there can be no kernel `../b`"),
            (Options::new("http://a").key("a\nb"), "the key holds characters"),
            (Options::new("https://a").certificate_authority("x"), "the certificate authority cannot be read"),
        ] {
            let found = base(options);
            assert!(found.starts_with(told), "{found}");
        }
    }

    #[test]
    fn a_key_is_not_shown() {
        let shown = format!("{:?}", Options::new("http://a").key("s3cret"));
        assert!(!shown.contains("s3cret"), "{shown}");
    }
}
