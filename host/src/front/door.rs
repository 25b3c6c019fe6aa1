//! Requests that are a kernel's: to whom, and what it is told of who sent them.

use super::Front;
use crate::http::Peer;
use crate::kinds::process::{FRONT_HEADER, PEER_HEADER};
use axum::Json;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use gavel_fleet::{Place, Plan, ProxyError, Status};
use gavel_kinds::{Caller, KERNEL_HEADER};
use http_body_util::BodyExt;
use serde_json::json;
use std::net::IpAddr;

/// Who gets what is nobody else's.
const GOVERNANCE: &str = "governance";

/// The kernel that a path is of, and the path there.
pub(super) fn destination(plan: &Plan, uri: &Uri) -> (String, String) {
    let whole = uri.path_and_query().map_or("/", |path| path.as_str());
    let (first, rest) = split(whole);
    match kernel_of(plan, first) {
        Some(kernel) => (kernel, rest),
        None => (GOVERNANCE.to_owned(), whole.to_owned()),
    }
}

/// `/first/rest?query` as `first` and `/rest?query`.
fn split(path: &str) -> (&str, String) {
    let path = path.trim_start_matches('/');
    let end = path.find(['/', '?']).unwrap_or(path.len());
    let (first, rest) = path.split_at(end);
    (first, if rest.starts_with('/') { rest.to_owned() } else { format!("/{rest}") })
}

/// The kernel of this name, which may lack its `_kernel` or `_service`.
pub(super) fn kernel_of(plan: &Plan, name: &str) -> Option<String> {
    if name.is_empty() {
        return None;
    }
    let names = ["", "_kernel", "_service"].map(|ending| format!("{name}{ending}"));
    names.into_iter().find(|name| plan.find(name).is_some())
}

/// Pass a request on, and its answer back.
pub(super) async fn forward(State(front): State<Front>, request: Request) -> Response {
    let inner = &front.inner;
    let (kernel, path) = destination(inner.fleet.plan(), request.uri());
    let peer = request.extensions().get::<Peer>().map(|peer| peer.0);
    let (mut head, body) = request.into_parts();
    tracing::trace!(kernel, path, "passed on");
    let of_the_fleet = head.extensions.get::<Caller>().is_some_and(Caller::is_of_the_fleet);
    let knows_us = inner.fleet.plan().find(&kernel).is_some_and(|component| match component.place {
        Place::Process => true,
        // It has the file that names the token, as this one does.
        Place::Elsewhere(_) => inner.token_is_shared,
        Place::NotStarted => false,
    });
    sign(&mut head.headers, peer, of_the_fleet, knows_us.then_some(inner.token.as_str()));
    let body = body.map_err(Into::into).boxed_unsync();
    let response = match inner.proxy.forward(&kernel, &path, Request::from_parts(head, body)).await {
        Ok(response) => response.map(axum::body::Body::new).into_response(),
        Err(why) => failed(&front, &kernel, &why),
    };
    inner.counts.answered(&kernel, response.status().as_u16(), of_the_fleet);
    response
}

/// Say who passes this on and for whom, where the kernel knows the fleet's `token`: one of our processes, or one elsewhere with
/// which the token is shared by a file. What a client says about that is taken out; and a token that was made up here, by
/// which one can do everything here, is shown to nothing that runs elsewhere.
fn sign(headers: &mut HeaderMap, peer: Option<IpAddr>, of_the_fleet: bool, token: Option<&str>) {
    headers.remove(FRONT_HEADER);
    headers.remove(PEER_HEADER);
    if !of_the_fleet || token.is_none() {
        headers.remove(KERNEL_HEADER);
    }
    if of_the_fleet && token.is_none() {
        headers.remove(header::AUTHORIZATION);
    }
    if let (Some(token), Some(peer)) = (token, peer)
        && let (Ok(token), Ok(peer)) = (HeaderValue::from_str(token), HeaderValue::from_str(&peer.to_string()))
    {
        headers.insert(FRONT_HEADER, token);
        headers.insert(PEER_HEADER, peer);
    }
}

fn failed(front: &Front, kernel: &str, why: &ProxyError) -> Response {
    let status = front.inner.fleet.entry(kernel).map(|entry| entry.status);
    let code = match why {
        ProxyError::Unknown(_) => StatusCode::NOT_FOUND,
        ProxyError::Late { .. } => StatusCode::GATEWAY_TIMEOUT,
        ProxyError::BrokeOff { .. } => StatusCode::BAD_GATEWAY,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    let body = json!({"error": why.to_string(), "kernel": kernel, "status": status});
    let mut response = (code, Json(body)).into_response();
    let comes_back = matches!(why, ProxyError::Full { .. })
        || status.is_some_and(|status| matches!(status, Status::Starting | Status::Unhealthy));
    if code == StatusCode::SERVICE_UNAVAILABLE && comes_back {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_to_their_kernels_and_all_others_to_governance() {
        let plan = Plan::default();
        let check = |path: &str, kernel: &str, rest: &str| {
            let uri: Uri = path.parse().unwrap();
            assert_eq!(destination(&plan, &uri), (kernel.to_owned(), rest.to_owned()), "{path}");
        };
        check("/audit_trail/search?q=a/b", "audit_trail", "/search?q=a/b");
        check("/librarian/search?query=x", "librarian_kernel", "/search?query=x");
        check("/alert_service", "alert_service", "/");
        check("/alert?x=1", "alert_service", "/?x=1");
        check("/submit", GOVERNANCE, "/submit");
        check("/governance/health", GOVERNANCE, "/health");
        check("/kernels/prod/records?limit=1", GOVERNANCE, "/kernels/prod/records?limit=1");
        check("/", GOVERNANCE, "/");
    }

    #[test]
    fn nobody_but_the_fleet_speaks_for_it_and_its_token_stays_at_home() {
        let said = [
            ("gavel-front", "made up"),
            ("gavel-peer", "10.0.0.1"),
            ("gavel-kernel", "scheduler"),
            ("authorization", "Bearer x"),
        ];
        let check = |of_the_fleet: bool, token: Option<&str>, wanted: &[(&str, &str)]| {
            let mut headers: HeaderMap =
                said.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
            sign(&mut headers, Some(IpAddr::from([192, 0, 2, 7])), of_the_fleet, token);
            let mut left: Vec<_> =
                headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
            left.sort_unstable();
            assert_eq!(left, wanted);
        };
        let (signed, from) = (("gavel-front", "token"), ("gavel-peer", "192.0.2.7"));
        let (kernel, key) = (("gavel-kernel", "scheduler"), ("authorization", "Bearer x"));
        check(false, Some("token"), &[key, signed, from]);
        check(true, Some("token"), &[key, signed, kernel, from]);
        check(false, None, &[key]);
        check(true, None, &[]);
    }
}
