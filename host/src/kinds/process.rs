//! One kernel as a process: on the socket that its fleet hands it, or on one of its own.

use crate::clock::Clock;
use crate::config::{File, Role};
use crate::http::auth::{Caller as Shown, Keys, digest_of};
use crate::http::{self, Peer, Server};
use anyhow::{Context, Result};
use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName};
use axum::middleware::{Next, from_fn};
use gavel_kinds::{Bounds, Caller, Fault, Identify, Peers, Seed};
use prometheus_client::registry::Registry;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use subtle::ConstantTimeEq;
use tokio_util::sync::CancellationToken;

/// The variable in which a kernel finds the main API of its fleet.
pub const DOOR_VARIABLE: &str = "GAVEL_FLEET_URL";
/// The variable in which it finds the token by which the parts of a fleet know each other.
pub const TOKEN_VARIABLE: &str = "GAVEL_FLEET_TOKEN";

/// The variable in which it finds the process that started it.
pub const PID_VARIABLE: &str = "GAVEL_FLEET_PID";

/// In it the main API shows the fleet's token: it passes a request on.
pub(crate) const FRONT_HEADER: HeaderName = HeaderName::from_static("gavel-front");
/// Counts beside [`FRONT_HEADER`] only: where the request came from.
pub(crate) const PEER_HEADER: HeaderName = HeaderName::from_static("gavel-peer");

/// What a kernel that is a whole host finds around it.
#[derive(Debug, Clone)]
pub(super) struct Surroundings {
    pub(super) file: File,
    pub(super) data: PathBuf,
    pub(super) token: Option<String>,
}

/// Set once, before the one kernel of this process is opened.
static SURROUNDINGS: OnceLock<Surroundings> = OnceLock::new();

impl Surroundings {
    /// Of the one kernel that this process is.
    pub(super) fn of_this_process() -> Result<Self> {
        SURROUNDINGS.get().cloned().context("this kind of kernel needs a process of its own")
    }
}

/// Where a kernel's things lie.
#[must_use]
pub fn folder(data: &Path, kernel: &str) -> PathBuf {
    data.join("fleet").join(kernel)
}

/// Serve one kernel of a configuration until `stop` is cancelled.
///
/// # Errors
/// If there is no such kernel in the configuration, or it cannot be opened.
pub async fn serve(name: &str, server: Server, file: File, data: &Path, stop: CancellationToken) -> Result<()> {
    let kind = file.fleet.kind(name).map_err(anyhow::Error::msg)?;
    // What the fleet that started it says wins; started by hand, the file that its fleet shares with it.
    let token = match std::env::var(TOKEN_VARIABLE) {
        Ok(token) => Some(token),
        Err(_) => file.fleet.token().map_err(anyhow::Error::msg)?,
    };
    let door = std::env::var(DOOR_VARIABLE).ok();
    let peers = match (&door, &token) {
        (Some(door), Some(token)) => Peers::behind(name, door, token),
        _ => Peers::none(name),
    };
    let folder = folder(data, name);
    std::fs::create_dir_all(&folder).with_context(|| format!("the folder {} cannot be made", folder.display()))?;
    let surroundings = Surroundings { file: file.clone(), data: data.to_owned(), token: token.clone() };
    let _ = SURROUNDINGS.set(surroundings);
    let seed = Seed {
        name: name.to_owned(),
        folder,
        settings: file.fleet.settings(name),
        clock: Arc::new(|| Clock::System.now_ms()),
        peers,
        stop: stop.clone(),
        metrics: Registry::default(),
    };
    let kernel = (kind.open)(seed).await.with_context(|| format!("kernel `{name}` cannot be opened"))?;
    let bounds = Bounds {
        body_bytes_max: file.limits.max_body_bytes,
        in_flight_max: file.limits.max_in_flight,
        timeout: Duration::from_millis(file.limits.request_timeout_ms.max(file.fleet.proxy_timeout_ms)),
    };
    let (router, finish) = gavel_kinds::router(name, kernel, identify(&file, token.as_deref()), bounds);
    let router = behind_front(router, token.as_deref());
    tracing::info!(kernel = name, address = %server.address, "serving");
    http::serve_router(server, router, &file.limits, stop.cancelled_owned()).await;
    finish.await;
    Ok(())
}

/// Believe the main API where a request came from, and nobody else. What is inside sees neither header.
fn behind_front(router: Router, token: Option<&str>) -> Router {
    let token = token.map(digest_of);
    router.layer(from_fn(move |mut request: Request, next: Next| async move {
        let shown = request.headers_mut().remove(FRONT_HEADER);
        let peer = request.headers_mut().remove(PEER_HEADER);
        let shown = shown.as_ref().and_then(|shown| shown.to_str().ok()).map(digest_of);
        let is_front = shown.zip(token).is_some_and(|(shown, token)| bool::from(shown.ct_eq(&token)));
        let address = peer.as_ref().and_then(|peer| peer.to_str().ok()?.parse().ok()).filter(|_| is_front);
        if let Some(address) = address {
            request.extensions_mut().insert(Peer(address));
        }
        next.run(request).await
    }))
}

/// Who shows which key: the keys of the configuration, and the token of the fleet.
fn identify(file: &File, token: Option<&str>) -> Identify {
    let keys = Keys::new(&file.auth).with_token(token);
    Arc::new(move |headers: &HeaderMap| {
        let shown = keys.caller(headers).map_err(|refusal| Fault::forbidden(refusal.to_string()))?;
        Ok(caller(&shown))
    })
}

/// The same caller, for kinds.
pub(crate) fn caller(shown: &Shown) -> Caller {
    match shown {
        Shown::Unknown => Caller::unknown(),
        Shown::Anyone => Caller::trusted(shown.name()),
        Shown::Fleet(name) => Caller::of_the_fleet(name),
        Shown::Key(_) => {
            let roles = shown.roles().iter().map(|role| of_kinds(*role)).collect();
            Caller::with_key(shown.name(), shown.actor().map(str::to_owned), roles)
        }
    }
}

fn of_kinds(role: Role) -> gavel_kinds::Role {
    match role {
        Role::Agent => gavel_kinds::Role::Agent,
        Role::Operator => gavel_kinds::Role::Operator,
        Role::Auditor => gavel_kinds::Role::Auditor,
    }
}

/// The listening socket that a fleet handed over as standard input, if it did.
#[must_use]
pub fn inherited_socket() -> Option<std::net::TcpListener> {
    let descriptor: OwnedFd = std::io::stdin().as_fd().try_clone_to_owned().ok()?;
    let listening = rustix::net::sockopt::socket_acceptconn(&descriptor).unwrap_or(false);
    listening.then(|| std::net::TcpListener::from(descriptor))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::Extension;
    use axum::body::Body;
    use axum::routing::get;
    use http_body_util::BodyExt;
    use std::net::IpAddr;
    use tower_service::Service;

    /// Where a request with these headers, which comes from 127.0.0.1, is taken to be from, and what is left of them.
    async fn seen(token: Option<&str>, headers: &[(&str, &str)]) -> String {
        let tell = |Extension(Peer(from)): Extension<Peer>, headers: HeaderMap| async move {
            format!("{from} {}", headers.keys().map(HeaderName::as_str).collect::<Vec<_>>().join(" "))
        };
        let mut router = behind_front(Router::new().route("/", get(tell)), token);
        let mut request = Request::builder().extension(Peer(IpAddr::from([127, 0, 0, 1])));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = router.call(request.body(Body::empty()).unwrap()).await.unwrap();
        String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
    }

    #[tokio::test]
    async fn only_the_main_api_says_where_a_request_came_from() {
        let peer = ("gavel-peer", "192.0.2.7");
        let told = [("gavel-front", "secret"), peer, ("accept", "*/*")];
        assert_eq!(seen(Some("secret"), &told).await, "192.0.2.7 accept");
        assert_eq!(seen(Some("other"), &told).await, "127.0.0.1 accept");
        assert_eq!(seen(None, &told).await, "127.0.0.1 accept");
        assert_eq!(seen(Some("secret"), &[peer]).await, "127.0.0.1 ");
        assert_eq!(seen(Some("secret"), &[("gavel-front", "secret")]).await, "127.0.0.1 ");
        assert_eq!(seen(Some("secret"), &[("gavel-front", "secret"), ("gavel-peer", "me")]).await, "127.0.0.1 ");
    }
}
