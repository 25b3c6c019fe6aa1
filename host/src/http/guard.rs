//! What every request passes first: who is it, is it too much, and how long may it take.

use super::rate::Who;
use super::serve::Peer;
use super::{ApiError, App};
use crate::metrics::HttpLabels;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use prometheus_client::metrics::gauge::Gauge;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The middleware around all routes.
pub(super) async fn guard(State(app): State<App>, request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().cloned();
    let response = admit(&app, request, next).await.unwrap_or_else(IntoResponse::into_response);
    let route = route.as_ref().map_or("none", MatchedPath::as_str).to_owned();
    let labels = HttpLabels { route, status: response.status().as_u16() };
    app.inner.metrics.http.get_or_create(&labels).inc();
    response
}

async fn admit(app: &App, mut request: Request, next: Next) -> Result<Response, ApiError> {
    let inner = &app.inner;
    let caller = inner.keys.caller(request.headers())?;
    let who = match &caller {
        super::auth::Caller::Key(_) => Who::Key(caller.name().to_owned()),
        _ => Who::Address(request.extensions().get::<Peer>().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.0)),
    };
    inner.rate.admit(who, Instant::now()).map_err(|wait| ApiError::Rate {
        per_second: inner.limits.max_requests_per_second,
        retry_after_s: wait.as_secs() + 1,
    })?;
    let busy = || {
        ApiError::Unavailable(format!(
            "{} requests are being served already (limits.max_in_flight)",
            inner.limits.max_in_flight
        ))
    };
    // A server that is overrun must still be halted.
    let halts = request.extensions().get::<MatchedPath>().is_some_and(|route| is_halt(route.as_str()));
    let slot = Arc::clone(&inner.in_flight).try_acquire_owned();
    let _slot = if halts { slot.ok() } else { Some(slot.map_err(|_| busy())?) };
    let _counted = InFlight::count(&inner.metrics.in_flight);
    request.extensions_mut().insert(caller);
    let limit = inner.limits.request_timeout_ms;
    let answered = tokio::time::timeout(Duration::from_millis(limit), next.run(request)).await;
    answered.map_err(|_| ApiError::Slow(limit))
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
