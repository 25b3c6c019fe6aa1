//! The errors that the API answers: a status that can only be an error, and one JSON shape.

use super::auth::Refusal;
use crate::decide::Refused;
use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

/// What a caller is told, as `{"error": MESSAGE}` and a status from 400 upwards.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    /// 400: the request cannot be read as one.
    #[error("{0}")]
    Unreadable(String),
    /// 401 or 403.
    #[error(transparent)]
    Refusal(#[from] Refusal),
    /// 404: no such route.
    #[error("Not found")]
    NotFound,
    /// 404: no such kernel.
    #[error("there is no kernel '{0}'")]
    NoKernel(String),
    /// 404: what the path names is not there.
    #[error("{0}")]
    Absent(String),
    /// 405.
    #[error("Method not allowed")]
    Method,
    /// 408: the body took too long to come.
    #[error("the request was not complete within {0} ms (limits.request_timeout_ms)")]
    Slow(u64),
    /// 409: the kernel is halted.
    #[error("kernel '{kernel}' is halted: {reason}")]
    Halted {
        /// The kernel.
        kernel: String,
        /// The reason given when it was halted.
        reason: String,
    },
    /// 409: not in this state.
    #[error("{0}")]
    Conflict(String),
    /// 422: what was sent can be read and is not accepted.
    #[error("{0}")]
    NotAccepted(String),
    /// 413.
    #[error("{0}")]
    TooLarge(String),
    /// 429.
    #[error("more than {per_second} requests per second (limits.max_requests_per_second)")]
    Rate {
        /// The limit.
        per_second: u64,
        /// Whole seconds until the next request is admitted, at least 1.
        retry_after_s: u64,
    },
    /// The event bus has no handler's answer.
    #[error("{message}")]
    Bus {
        /// From 400 upwards, by what happened.
        status: u16,
        /// What happened.
        message: String,
        /// The word for programs, as on the bus's other transports.
        code: Option<String>,
    },
    /// 500: something was done, and no record says what came of it; to send it again would do it again.
    #[error("{0}: do not send the request again before you know what it did")]
    Unrecorded(String),
    /// 503: too busy, or stopping, or the ledger cannot be written. Nothing was done.
    #[error("{0}")]
    Unavailable(String),
}

impl ApiError {
    /// What the caller reads.
    pub(super) fn body(&self) -> Value {
        let mut body = json!({"error": self.to_string()});
        if matches!(self, Self::Halted { .. }) {
            body["kernel_state"] = json!("HALTED");
        }
        if let Self::Bus { code: Some(code), .. } = self {
            body["code"] = json!(code);
        }
        body
    }

    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::Unreadable(_) => StatusCode::BAD_REQUEST,
            Self::Refusal(Refusal::Unauthenticated) => StatusCode::UNAUTHORIZED,
            Self::Refusal(_) => StatusCode::FORBIDDEN,
            Self::NotFound | Self::NoKernel(_) | Self::Absent(_) => StatusCode::NOT_FOUND,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::Slow(_) => StatusCode::REQUEST_TIMEOUT,
            Self::Halted { .. } | Self::Conflict(_) => StatusCode::CONFLICT,
            Self::NotAccepted(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Rate { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::Bus { status, .. } => error_status(*status),
            Self::Unrecorded(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// When to try again, if nothing was done that a second try would do twice.
    pub(super) fn retry_after_s(&self) -> Option<u64> {
        match self {
            Self::Rate { retry_after_s, .. } => Some(*retry_after_s),
            Self::Unavailable(_) | Self::Bus { status: 429, .. } => Some(1),
            _ => None,
        }
    }
}

/// A status that is an error's, whatever was said.
fn error_status(status: u16) -> StatusCode {
    let status = StatusCode::from_u16(status).ok();
    status.filter(|status| status.as_u16() >= 400).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

impl From<Refused> for ApiError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Halted { kernel, reason } => Self::Halted { kernel, reason },
            Refused::TooLong(why) => Self::TooLarge(why),
            replaced @ Refused::Replaced(_) => Self::Unavailable(replaced.to_string()),
            Refused::Overloaded => Self::Unavailable("too many records are waiting for the disk; try again".into()),
            Refused::OutcomeLost { what, why } => {
                tracing::error!(%why, what, "an outcome could not be recorded");
                Self::Unrecorded(what)
            }
            Refused::Ledger(why) => {
                // The cause may name files: it is for the log, not for the caller.
                tracing::error!(%why, "the ledger does not take records");
                Self::Unavailable("the decision could not be recorded, so nothing was done".into())
            }
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status(), Json(self.body())).into_response();
        if let Some(seconds) = self.retry_after_s() {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if matches!(self, Self::Refusal(Refusal::Unauthenticated)) {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
