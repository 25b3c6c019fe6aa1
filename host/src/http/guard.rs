//! What every request passes first: who is it, is it too much, and how long may it take.

use super::auth::{Caller, Refusal};
use super::rate::Who;
use super::serve::Peer;
use super::{ApiError, App};
use crate::metrics::HttpLabels;
use axum::extract::{ConnectInfo, MatchedPath, NestedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use prometheus_client::metrics::gauge::Gauge;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The middleware around all routes.
pub(super) async fn guard(State(app): State<App>, request: Request, next: Next) -> Response {
    let route = route_of(&request);
    let response = admit(&app, request, next).await.unwrap_or_else(IntoResponse::into_response);
    let labels = HttpLabels { route, status: response.status().as_u16() };
    app.inner.metrics.http.get_or_create(&labels).inc();
    response
}

/// The route's path, without the prefix that the API is mounted at.
fn route_of(request: &Request) -> String {
    let prefix = request.extensions().get::<NestedPath>().map_or("", NestedPath::as_str);
    let matched = request.extensions().get::<MatchedPath>().map_or("none", MatchedPath::as_str);
    match matched.strip_prefix(prefix.trim_end_matches('/')) {
        Some("") => "/".to_owned(),
        Some(route) => route.to_owned(),
        None => matched.to_owned(),
    }
}

/// Where a request comes from: our server says it, or that of the application that mounts the API.
/// Where neither does, nobody knows.
fn address_of(request: &Request) -> Option<IpAddr> {
    let ours = request.extensions().get::<Peer>().map(|peer| peer.0);
    let theirs = || request.extensions().get::<ConnectInfo<SocketAddr>>().map(|peer| peer.0.ip());
    ours.or_else(theirs)
}

async fn admit(app: &App, mut request: Request, next: Next) -> Result<Response, ApiError> {
    let inner = &app.inner;
    let caller = inner.keys.caller(request.headers())?;
    let address = address_of(&request);
    let who = match &caller {
        Caller::Key(_) => Who::Key(caller.name().to_owned()),
        // An application that mounts the API may listen anywhere.
        Caller::Anyone if address.is_some_and(|address| !address.to_canonical().is_loopback()) => {
            return Err(Refusal::Browser("while no keys are configured only this machine is answered").into());
        }
        _ => Who::Address(address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED))),
    };
    // A server that is overrun must still be halted.
    let halts = request.extensions().get::<MatchedPath>().is_some_and(|route| is_halt(route.as_str()));
    if !halts {
        inner.rate.admit(who.clone(), Instant::now()).map_err(|wait| app.too_often(wait))?;
    }
    let busy = || {
        ApiError::Unavailable(format!(
            "{} requests are being served already (limits.max_in_flight)",
            inner.limits.max_in_flight
        ))
    };
    let slot = Arc::clone(&inner.in_flight).try_acquire_owned();
    let _slot = if halts { slot.ok() } else { Some(slot.map_err(|_| busy())?) };
    let _counted = InFlight::count(&inner.metrics.in_flight);
    request.extensions_mut().insert(caller);
    request.extensions_mut().insert(who);
    let limit = time_for(app, &route_of(&request));
    let answered = tokio::time::timeout(Duration::from_millis(limit), next.run(request)).await;
    answered.map_err(|_| ApiError::Slow(limit))
}

/// How long an answer may take, in milliseconds. Who waits for the answer to an event hears of the bus that its handler
/// was late, and of whose it is.
fn time_for(app: &App, route: &str) -> u64 {
    let limit = app.inner.limits.request_timeout_ms;
    match app.inner.bus.get() {
        Some(bus) if route == super::bus::EVENTS_ROUTE => limit.max(super::bus::answer_time_ms(bus)),
        _ => limit,
    }
}

fn is_halt(route: &str) -> bool {
    route.ends_with("/halt") || route.ends_with("/halt/emergency")
}

/// One request being served; counted as long as it lives, also when its caller goes away.
struct InFlight<'a>(&'a Gauge);

impl<'a> InFlight<'a> {
    fn count(gauge: &'a Gauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}
