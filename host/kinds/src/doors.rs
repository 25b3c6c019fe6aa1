//! Routes with their roles and their documentation: one cannot be had without the other.

use crate::caller::{Caller, Role};
use crate::fault::Fault;
use axum::Router;
use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use axum::handler::Handler;
use axum::http::request::Parts;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, on};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

/// What a route is for, for `/openapi.json`, and who may use it.
#[derive(Debug, Clone, Copy)]
pub struct Door {
    /// Who may.
    pub roles: &'static [Role],
    /// What it does, in one line.
    pub summary: &'static str,
    /// What may be asked for: name and meaning.
    pub query: &'static [(&'static str, &'static str)],
    /// A body, as an example in JSON; empty if it takes none.
    pub body: &'static str,
    /// An answer, as an example in JSON; empty if it is none.
    pub answer: &'static str,
}

/// The routes of a kernel.
#[derive(Debug)]
pub struct Doors<S = ()> {
    router: Router<S>,
    paths: Map<String, Value>,
}

impl<S: Clone + Send + Sync + 'static> Default for Doors<S> {
    fn default() -> Self {
        Self { router: Router::new(), paths: Map::new() }
    }
}

impl<S: Clone + Send + Sync + 'static> Doors<S> {
    /// None yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// With GET of this path (`/topics/{name}`).
    #[must_use]
    pub fn get<H: Handler<T, S>, T: 'static>(self, path: &str, door: Door, handler: H) -> Self {
        self.on(MethodFilter::GET, "get", path, door, handler)
    }

    /// With POST of this path.
    #[must_use]
    pub fn post<H: Handler<T, S>, T: 'static>(self, path: &str, door: Door, handler: H) -> Self {
        self.on(MethodFilter::POST, "post", path, door, handler)
    }

    /// With PUT of this path.
    #[must_use]
    pub fn put<H: Handler<T, S>, T: 'static>(self, path: &str, door: Door, handler: H) -> Self {
        self.on(MethodFilter::PUT, "put", path, door, handler)
    }

    /// With DELETE of this path.
    #[must_use]
    pub fn delete<H: Handler<T, S>, T: 'static>(self, path: &str, door: Door, handler: H) -> Self {
        self.on(MethodFilter::DELETE, "delete", path, door, handler)
    }

    fn on<H: Handler<T, S>, T: 'static>(
        mut self,
        filter: MethodFilter,
        method: &str,
        path: &str,
        door: Door,
        handler: H,
    ) -> Self {
        let operations = self.paths.entry(path).or_insert_with(|| json!({}));
        operations[method] = described(path, &door);
        let roles = door.roles;
        let checked = on(filter, handler).layer(from_fn(move |request: Request, next: Next| async move {
            let unknown = Caller::unknown();
            let caller = request.extensions().get::<Caller>().unwrap_or(&unknown);
            match caller.require(roles) {
                Ok(()) => next.run(request).await,
                Err(fault) => fault.into_response(),
            }
        }));
        self.router = self.router.route(path, checked);
        self
    }

    /// With what the handlers share.
    #[must_use]
    pub fn with_state(self, state: S) -> Doors {
        Doors { router: self.router.with_state(state), paths: self.paths }
    }
}

impl Doors {
    /// The routes, and the paths of their OpenAPI document.
    pub fn into_parts(self) -> (Router, Map<String, Value>) {
        (self.router, self.paths)
    }
}

/// An operation of OpenAPI 3.1.
fn described(path: &str, door: &Door) -> Value {
    let in_path = path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    let in_path = in_path.map(|name| {
        let name = name.trim_start_matches('*');
        json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}})
    });
    let in_query = door.query.iter().map(
        |(name, meaning)| json!({"name": name, "in": "query", "description": meaning, "schema": {"type": "string"}}),
    );
    let roles: Vec<&str> = door.roles.iter().map(|role| role.name()).collect();
    let mut operation = json!({
        "summary": door.summary,
        "description": format!("Roles: {}.", roles.join(", ")),
        "parameters": in_path.chain(in_query).collect::<Vec<_>>(),
        "responses": {
            "200": {"description": "Done."},
            "default": {
                "description": "It was not done.",
                "content": {"application/json": {"example": {"error": "what happened, and what to do"}}},
            },
        },
    });
    if !door.body.is_empty() {
        operation["requestBody"] =
            json!({"required": true, "content": {"application/json": {"example": example(door.body)}}});
    }
    if !door.answer.is_empty() {
        operation["responses"]["200"]["content"] = json!({"application/json": {"example": example(door.answer)}});
    }
    operation
}

/// An example as JSON; one that is none is shown as it stands, and a test finds it.
fn example(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| json!(text))
}

/// A body of JSON, as its type. 400 if it is no JSON, 413 if it is too large, 422 if it is not of the type.
#[derive(Debug, Clone, Copy)]
pub struct Body<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Fault;

    async fn from_request(request: Request, state: &S) -> Result<Self, Fault> {
        let bytes = axum::body::Bytes::from_request(request, state).await.map_err(|why| {
            let (status, message) = (why.status(), why.body_text());
            Fault { status, message, retry_after_s: None }
        })?;
        let value: Value = if bytes.is_empty() {
            Value::Object(Map::new())
        } else {
            serde_json::from_slice(&bytes).map_err(|why| Fault::unreadable(format!("the body is not JSON: {why}")))?
        };
        serde_path_to_error::deserialize(value).map(Self).map_err(|why| {
            let place = if why.path().to_string() == "." { String::new() } else { format!("{}: ", why.path()) };
            Fault::not_accepted(format!("{place}{}", why.inner()))
        })
    }
}

/// What the query asks for, as its type. 400 if it is not of the type.
#[derive(Debug, Clone, Copy)]
pub struct Params<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Fault> {
        let Query(asked) = Query::try_from_uri(&parts.uri).map_err(|why| Fault::unreadable(why.body_text()))?;
        Ok(Self(asked))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Fault> {
        Ok(parts.extensions.get::<Self>().cloned().unwrap_or_else(Self::unknown))
    }
}

impl IntoResponse for &Fault {
    fn into_response(self) -> Response {
        self.clone().into_response()
    }
}
