//! The one door: requests to a component, wherever it is now.
//!
//! While a component is being started, moved or healed, requests wait for it within their deadline. Bodies stream both ways.
//! A request that may have reached a process which then died is not sent again, unless it has no body and its method changes
//! nothing; and then once only, for it may be what the process died of. What runs elsewhere and refuses the connection
//! was sent nothing, and is tried again for a short while.

use crate::fleet::Fleet;
use crate::passage::Passage;
use crate::plan::Place;
use crate::unit::{Route, Target, Unit};
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::{Bytes, Frame, SizeHint};
use hyper::header::{self, HeaderMap, HeaderName};
use hyper::{Method, Request, Response, Uri};
use hyper_util::client::legacy::connect::{HttpConnector, HttpInfo};
use hyper_util::client::legacy::{Client, Error};
use hyper_util::rt::TokioExecutor;
use std::collections::{HashMap, HashSet};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// A body that streams.
pub type Body = UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

/// Why a request has no answer of its component.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ProxyError {
    /// No component has this name.
    #[error("Component '{0}' not found")]
    Unknown(String),
    /// It is down: nothing was sent.
    #[error("kernel '{kernel}' is down: {why}")]
    Down {
        /// Which.
        kernel: String,
        /// Why.
        why: String,
    },
    /// As many requests as may be are waiting for it already: nothing was sent.
    #[error("kernel '{kernel}' has {most} requests waiting for it already (proxy_in_flight_max): try again later")]
    Full {
        /// Which.
        kernel: String,
        /// The limit.
        most: usize,
    },
    /// It did not begin to answer in time. Whether it acted on the request is not known, unless it never was up.
    #[error("kernel '{kernel}' did not answer within {seconds} s (proxy_timeout)")]
    Late {
        /// Which.
        kernel: String,
        /// The limit.
        seconds: f64,
    },
    /// It broke off. Whether it acted on the request is not known.
    #[error("kernel '{kernel}' broke off: {why}")]
    BrokeOff {
        /// Which.
        kernel: String,
        /// Why.
        why: String,
    },
}

/// Brings requests to components. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Proxy {
    fleet: Fleet,
    connector: HttpConnector,
    idle_max: Duration,
    /// The connections to the present life of each component. Those to the life before go with its client.
    clients: Arc<Mutex<HashMap<String, (u64, Connections)>>>,
}

/// Connections to one life of a component.
#[derive(Debug, Clone)]
struct Connections {
    client: Client<HttpConnector, Body>,
    /// Those on which something was answered, by their ports here.
    answered: Arc<Mutex<HashSet<u16>>>,
}

impl Connections {
    async fn send(&self, request: Request<Body>) -> Result<Response<hyper::body::Incoming>, Error> {
        let response = self.client.request(request).await?;
        if let Some(info) = response.extensions().get::<HttpInfo>() {
            self.answered().insert(info.local_addr().port());
        }
        Ok(response)
    }

    /// Whether what failed so was sent on a connection that had been used before, which may have been closed just then.
    fn was_used(&self, why: &Error) -> bool {
        let mut extras = hyper::http::Extensions::new();
        if let Some(connected) = why.connect_info() {
            connected.get_extras(&mut extras);
        }
        extras.get::<HttpInfo>().is_some_and(|info| self.answered().remove(&info.local_addr().port()))
    }

    fn answered(&self) -> MutexGuard<'_, HashSet<u16>> {
        self.answered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Connections to one component that are kept open while they are not used.
const IDLE_CONNECTIONS_MAX: usize = 64;

impl Proxy {
    /// The door of this fleet. `idle_max` is how long a connection is kept that is not used: less than the components keep
    /// theirs, or else a request is now and then written to one that is just being closed.
    #[must_use]
    pub fn new(fleet: Fleet, idle_max: Duration) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        Self { fleet, connector, idle_max, clients: Arc::default() }
    }

    fn connections(&self, kernel: &str, life: u64) -> Connections {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        match clients.get(kernel) {
            Some((of, connections)) if *of == life => connections.clone(),
            _ => {
                let client = Client::builder(TokioExecutor::new())
                    .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
                    .pool_idle_timeout(self.idle_max)
                    .build(self.connector.clone());
                let connections = Connections { client, answered: Arc::default() };
                clients.insert(kernel.to_owned(), (life, connections.clone()));
                connections
            }
        }
    }

    /// Send a request to a component; `path` is its path and query there.
    ///
    /// # Errors
    /// [`ProxyError`].
    pub async fn forward(
        &self,
        kernel: &str,
        path: &str,
        request: Request<Body>,
    ) -> Result<Response<Body>, ProxyError> {
        let limits = &self.fleet.plan().limits;
        let (limit, most) = (limits.proxy_timeout, limits.proxy_in_flight_max);
        let until = Instant::now() + limit;
        let broke_off = |why: String| ProxyError::BrokeOff { kernel: kernel.to_owned(), why };
        let down = |why: String| ProxyError::Down { kernel: kernel.to_owned(), why };
        let unit = self.fleet.inner.units.get(kernel).ok_or_else(|| ProxyError::Unknown(kernel.to_owned()))?;
        let full = || ProxyError::Full { kernel: kernel.to_owned(), most };
        let _place = unit.at_the_door.one_of(most).ok_or_else(full)?;
        let (mut head, body) = request.into_parts();
        strip(&mut head.headers);
        let mut repeatable = matches!(head.method, Method::GET | Method::HEAD | Method::OPTIONS)
            && hyper::body::Body::is_end_stream(&body);
        let is_elsewhere = unit.component.place != Place::Process;
        // Nobody here holds the port of what runs elsewhere, so it refuses connections while it is replaced there.
        let patient_until = until.min(Instant::now() + REFUSED_MAX);
        let mut refused: Option<String> = None;
        let body = Lent::new(body);
        loop {
            let (target, passage) = admitted(unit, until).await?;
            let uri: Uri = format!("{}{path}", target.base)
                .parse()
                .map_err(|why| broke_off(format!("`{path}` is no path: {why}")))?;
            let mut sent = Request::new(body.lend());
            *sent.method_mut() = head.method.clone();
            *sent.uri_mut() = uri;
            *sent.headers_mut() = head.headers.clone();
            let connections = self.connections(kernel, target.life);
            let answered = timeout_at(until, connections.send(sent)).await;
            drop(passage);
            match answered {
                // Nothing was ever sent.
                Err(_) if refused.is_some() => return Err(down(refused.unwrap_or_default())),
                Err(_) => return Err(ProxyError::Late { kernel: kernel.to_owned(), seconds: limit.as_secs_f64() }),
                Ok(Ok(response)) => return Ok(answer(response)),
                Ok(Err(why)) if why.is_connect() && is_elsewhere => {
                    if Instant::now() + REFUSED_PAUSE >= patient_until {
                        return Err(down(told(&why)));
                    }
                    refused = Some(told(&why));
                    tokio::time::sleep(REFUSED_PAUSE).await;
                }
                Ok(Err(why)) => {
                    let again = repeatable
                        && (why.is_connect() || connections.was_used(&why) || has_ended(unit, &target).await);
                    if !again || Instant::now() >= until {
                        return Err(broke_off(told(&why)));
                    }
                    // Once: what ends one process after the other must not be handed to the next, and the next.
                    repeatable = false;
                    refused = None;
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
            }
        }
    }
}

/// Where the component is, once it is somewhere, and the right to send one request there.
async fn admitted(unit: &Unit, until: Instant) -> Result<(Target, Passage), ProxyError> {
    let down = |why: String| ProxyError::Down { kernel: unit.component.name.clone(), why };
    let mut route = unit.route();
    loop {
        let settled = timeout_at(until, route.wait_for(|route| *route != Route::Hold)).await;
        let settled = settled.ok().and_then(Result::ok).map(|route| route.clone());
        match settled {
            Some(Route::To(target)) => {
                let passage = unit.on_their_way.one();
                // Who holds requests back does so before they are counted: either it sees this one, or this one sees it.
                if matches!(&*route.borrow(), Route::To(now) if *now == target) {
                    return Ok((target, passage));
                }
            }
            Some(Route::Down(why)) => return Err(down(why)),
            Some(Route::Hold) | None => return Err(down(format!("it is not well yet: {}", unit.entry().detail))),
        }
    }
}

/// Between two tries of a request that may be repeated.
const RETRY_PAUSE: Duration = Duration::from_millis(10);
/// How long the end of a process that broke off is waited for: it is seen soon, and not at once.
const END_PATIENCE: Duration = Duration::from_millis(250);

/// Whether this life of a component is over, or is seen to end.
async fn has_ended(unit: &Unit, target: &Target) -> bool {
    let mut route = unit.route();
    let leads_there = |route: &Route| matches!(route, Route::To(now) if now == target);
    let left = tokio::time::timeout(END_PATIENCE, route.wait_for(|route| !leads_there(route))).await;
    left.is_ok()
}

/// How long a component elsewhere that refuses connections is tried again, and how often.
const REFUSED_MAX: Duration = Duration::from_secs(5);
const REFUSED_PAUSE: Duration = Duration::from_millis(50);

/// A request's body for one try after another: nothing is taken of it before there is a connection.
struct Lent(Arc<Mutex<Body>>);

impl Lent {
    fn new(body: Body) -> Self {
        Self(Arc::new(Mutex::new(body)))
    }

    fn lend(&self) -> Body {
        Self(Arc::clone(&self.0)).boxed_unsync()
    }

    fn body(&self) -> MutexGuard<'_, Body> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl hyper::body::Body for Lent {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut *self.body()).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body().is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body().size_hint()
    }
}

fn answer(response: Response<hyper::body::Incoming>) -> Response<Body> {
    let (mut head, body) = response.into_parts();
    strip(&mut head.headers);
    Response::from_parts(head, body.map_err(Into::into).boxed_unsync())
}

/// Take out what is of one connection only (RFC 9110, 7.6.1), and the host, which is the door's.
fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    let of_connection = [
        header::CONNECTION,
        header::HOST,
        header::PROXY_AUTHENTICATE,
        header::PROXY_AUTHORIZATION,
        header::TE,
        header::TRAILER,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
        HeaderName::from_static("keep-alive"),
        HeaderName::from_static("proxy-connection"),
    ];
    for name in of_connection.into_iter().chain(named) {
        headers.remove(name);
    }
}

/// An error with its causes.
fn told(why: &(dyn std::error::Error + 'static)) -> String {
    let mut text = why.to_string();
    let mut cause = why.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
