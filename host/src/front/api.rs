//! The main API: the fleet's own routes, and those of all kernels behind them.

use super::{Front, counts, door, healer, health, openapi, operate, ports};
use crate::http::Peer;
use crate::http::auth::Caller as Shown;
use crate::kinds::process;
use axum::Router;
use axum::extract::{Request, State};
use axum::http::header;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use gavel_kinds::{Caller, Doors, Fault};

/// All of it.
pub fn router(front: Front) -> Router {
    let doors = doors().with_state(front.clone());
    let (own, paths) = doors.into_parts();
    let open = Router::new()
        .route("/health", get(health::system))
        .route("/livez", get(health::alive))
        .route("/readyz", get(health::ready))
        .route("/metrics", get(measured))
        .route("/openapi.json", get(move |front| openapi::document(front, paths)))
        .fallback(door::forward)
        .with_state(front.clone());
    open.merge(own).layer(from_fn_with_state(front, guard))
}

/// The fleet's own routes that only some may use.
pub(super) fn doors() -> Doors<Front> {
    operate::doors(healer::doors(ports::doors(Doors::new())))
}

/// Who calls. Whether it may is for each route to say; here only those are turned away whom no route would answer.
async fn guard(State(front): State<Front>, mut request: Request, next: Next) -> Response {
    let shown = match front.inner.keys.caller(request.headers()) {
        Ok(shown) => shown,
        Err(refusal) => return Fault::forbidden(refusal.to_string()).into_response(),
    };
    let peer = request.extensions().get::<Peer>().map(|peer| peer.0);
    if matches!(shown, Shown::Anyone) && peer.is_some_and(|peer| !peer.to_canonical().is_loopback()) {
        return Fault::forbidden("while no keys are configured only this machine is answered").into_response();
    }
    request.extensions_mut().insert(process::caller(&shown));
    next.run(request).await
}

async fn measured(State(front): State<Front>, caller: Caller) -> Response {
    if let Err(fault) = caller.require(gavel_kinds::SEEING) {
        return fault.into_response();
    }
    match counts::text(&front) {
        Ok(text) => ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text)
            .into_response(),
        Err(_) => Fault::broken("the metrics cannot be written").into_response(),
    }
}
