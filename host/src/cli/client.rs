//! Calling a server, for the commands that do.

use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::io::Read;
use std::path::PathBuf;
use std::time::Duration;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig};
use ureq::{Agent, Body, http::Response};

/// Where the server is, and how to show who calls.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Remote {
    /// The server.
    #[arg(long, env = "GAVEL_URL", default_value = "http://127.0.0.1:8080", value_name = "URL")]
    pub(super) url: String,
    /// The kernel; the server's first one if not given.
    #[arg(long, value_name = "ID")]
    pub(super) kernel: Option<String>,
    /// The key, if the server wants one. Better given by the environment than on the command line.
    #[arg(long, env = "GAVEL_KEY", hide_env_values = true, value_name = "KEY")]
    pub(super) key: Option<String>,
    /// Trust this certificate authority (PEM) instead of the public ones.
    #[arg(long, value_name = "FILE")]
    pub(super) ca: Option<PathBuf>,
    /// How long to wait for an answer, in seconds.
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    pub(super) timeout: u64,
}

/// Bytes of an answer that is read into memory.
const ANSWER_BYTES_MAX: u64 = 64 << 20;

type Building = ureq::config::ConfigBuilder<ureq::typestate::AgentScope>;

/// What a server answered, its body read as JSON.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Value,
}

/// A server and how to reach it, its connections kept from call to call.
pub(super) struct Client {
    agent: Agent,
    base: String,
    key: Option<String>,
}

impl Remote {
    /// Ready the client; nothing is sent yet.
    pub(super) fn client(&self) -> Result<Client> {
        self.client_with(|config, timeout| config.timeout_global(Some(timeout)))
    }

    /// A client for answers that do not end: only their beginning must come in time.
    pub(super) fn listener(&self) -> Result<Client> {
        self.client_with(|config, timeout| config.timeout_connect(Some(timeout)).timeout_recv_response(Some(timeout)))
    }

    fn client_with(&self, limit: impl FnOnce(Building, Duration) -> Building) -> Result<Client> {
        let mut tls = TlsConfig::builder();
        if let Some(path) = &self.ca {
            let pem = std::fs::read(path).with_context(|| path.display().to_string())?;
            let certificates = ureq::tls::parse_pem(&pem).filter_map(|item| match item {
                Ok(PemItem::Certificate(certificate)) => Some(certificate),
                _ => None,
            });
            let roots: Vec<Certificate<'static>> = certificates.collect();
            tls = tls.root_certs(RootCerts::new_with_certs(&roots));
        }
        let config = Agent::config_builder().tls_config(tls.build()).http_status_as_error(false);
        let config = limit(config, Duration::from_secs(self.timeout)).build();
        let kernel = self.kernel.as_ref().map(|id| format!("/kernels/{id}")).unwrap_or_default();
        let base = format!("{}{kernel}", self.url.trim_end_matches('/'));
        Ok(Client { agent: config.into(), base, key: self.key.clone() })
    }
}

impl Client {
    /// A client of the server at `url` that shows no key.
    pub(super) fn plain(url: &str) -> Self {
        let config =
            Agent::config_builder().http_status_as_error(false).timeout_global(Some(Duration::from_mins(1))).build();
        Self { agent: config.into(), base: url.to_owned(), key: None }
    }

    /// GET a route of the kernel, the answer as it comes.
    pub(super) fn get(&self, route: &str) -> Result<Response<Body>> {
        let url = format!("{}{route}", self.base);
        let mut request = self.agent.get(&url);
        if let Some(key) = &self.key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        request.call().with_context(|| format!("no answer from {url}"))
    }

    /// POST to a route of the kernel.
    pub(super) fn post(&self, route: &str, body: &[u8]) -> Result<Answer> {
        let url = format!("{}{route}", self.base);
        let mut request = self.agent.post(&url).header("content-type", "application/json");
        if let Some(key) = &self.key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        read(&url, request.send(body).with_context(|| format!("no answer from {url}"))?)
    }

    /// GET a route of the kernel as JSON; an error of the server is an error here.
    pub(super) fn get_json(&self, route: &str) -> Result<Value> {
        read(&self.base, self.get(route)?)?.accepted()
    }
}

impl Answer {
    /// The body of a success.
    pub(super) fn accepted(self) -> Result<Value> {
        if self.status >= 400 {
            bail!("the server answered {}: {}", self.status, self.body["error"].as_str().unwrap_or("no reason given"));
        }
        Ok(self.body)
    }
}

/// Read an answer to its end.
pub(super) fn read(url: &str, mut response: Response<Body>) -> Result<Answer> {
    let status = response.status().as_u16();
    let mut text = Vec::new();
    response
        .body_mut()
        .as_reader()
        .take(ANSWER_BYTES_MAX)
        .read_to_end(&mut text)
        .with_context(|| format!("{url}: the answer broke off"))?;
    let body = serde_json::from_slice(&text)
        .with_context(|| format!("{url} answered {status} and no JSON: is it a Gavel server?"))?;
    Ok(Answer { status, body })
}
