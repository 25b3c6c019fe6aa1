//! Values through a layer: as JSON rows (`{"x": [[…], …]}`), or as bytes (`application/octet-stream`), row-major f32,
//! little-endian, with `?rows=N`. The answer comes as the question came.

use super::App;
use super::error::ApiError;
use super::kasmina::{Place, Running, asked};
use super::records::json_of;
use super::routes::{Answer, read_body};
use super::values::{self, Shape};
use crate::kasmina::{Kasmina, Values};
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;

const BYTES: &str = "application/octet-stream";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ForwardAsked {
    rows: Option<usize>,
    /// `false`: without telemetry, and without a trace.
    #[serde(default = "yes")]
    telemetry: bool,
    /// Train the seeds in TRAINING on these values.
    #[serde(default)]
    nourish: bool,
}

fn yes() -> bool {
    true
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BackwardAsked {
    rows: Option<usize>,
    /// Let the seeds that learn take one step.
    #[serde(default)]
    step: bool,
}

pub(super) async fn forward(
    State(app): State<App>,
    Running(reached): Running,
    Path(Place { layer }): Path<Place>,
    query: Result<Query<ForwardAsked>, QueryRejection>,
    headers: HeaderMap,
    body: Body,
) -> Answer<Response> {
    let ForwardAsked { rows, telemetry, nourish } = asked(query)?;
    let pass = Pass::of(reached.kasmina.width(&layer)?, &headers, rows)?;
    let ([x, _], _room) = pass.read(&app, &reached.kasmina, body, false).await?;
    let y = reached.kasmina.forward(&layer, x, telemetry, nourish).await?;
    pass.answer("y", y).await
}

pub(super) async fn backward(
    State(app): State<App>,
    Running(reached): Running,
    Path(Place { layer }): Path<Place>,
    query: Result<Query<BackwardAsked>, QueryRejection>,
    headers: HeaderMap,
    body: Body,
) -> Answer<Response> {
    let BackwardAsked { rows, step } = asked(query)?;
    let pass = Pass::of(reached.kasmina.width(&layer)?, &headers, rows)?;
    let ([x, dy], _room) = pass.read(&app, &reached.kasmina, body, true).await?;
    let dx = reached.kasmina.backward(&layer, x, dy, step).await?;
    pass.answer("dx", dx).await
}

/// The shape of a question and of its answer.
#[derive(Clone, Copy)]
pub(super) struct Pass {
    width: usize,
    /// For bytes: so many rows.
    rows: Option<usize>,
}

impl Pass {
    pub(super) fn of(width: usize, headers: &HeaderMap, rows: Option<usize>) -> Answer<Self> {
        let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        match (kind.starts_with(BYTES), rows) {
            (true, None) => Err(ApiError::Unreadable(format!("{BYTES} needs rows=N in the query"))),
            (true, rows) => Ok(Self { width, rows }),
            (false, Some(_)) => Err(ApiError::Unreadable(format!("rows=N is for a body of {BYTES}"))),
            (false, None) => Ok(Self { width, rows: None }),
        }
    }

    /// The values of a body: x, and dy where it has both; and the room that it takes among all bodies. Read where it
    /// holds up nobody.
    pub(super) async fn read(
        self,
        app: &App,
        kasmina: &Arc<Kasmina>,
        body: Body,
        both: bool,
    ) -> Answer<([Values; 2], OwnedSemaphorePermit)> {
        let limits = kasmina.limits();
        let (mut limit, mut name) = (limits.body_bytes_max, "kasmina.body_bytes_max");
        if let Some(rows) = self.rows {
            let expected = self.check_bytes(rows, body.size_hint().exact(), both)?;
            kasmina.check_rows("x", self.width, rows)?;
            if expected < limit {
                (limit, name) = (expected, "rows in the query");
            }
        }
        // What says nothing of its length may be as long as may be.
        let announced = body.size_hint().exact().and_then(|bytes| usize::try_from(bytes).ok());
        let room = app.room_for(announced.unwrap_or(limit).min(limit), limits.bodies_bytes_max)?;
        let bytes = read_body(body, limit, name).await?;
        let shape = Shape { width: self.width, rows_max: limits.rows_max, values_max: limits.values_max };
        let read = tokio::task::spawn_blocking(move || match self.rows {
            Some(rows) => self.read_bytes(&bytes, rows, both),
            None => values::read(&bytes, shape, both),
        });
        Ok((read.await.map_err(|why| ApiError::Unreadable(why.to_string()))??, room))
    }

    /// How many bytes so many rows are; an error if the body is known to have another number, or none.
    fn check_bytes(self, rows: usize, found: Option<u64>, both: bool) -> Answer<usize> {
        let (parts, what) = if both { (2, "x and then dy") } else { (1, "x") };
        let expected = rows.saturating_mul(self.width).saturating_mul(size_of::<f32>()).saturating_mul(parts);
        match found {
            Some(found) if found != expected as u64 || found == 0 => {
                let width = self.width;
                Err(ApiError::NotAccepted(format!(
                    "the body has {found} bytes where {rows} rows of {width} f32 need {expected} ({what})"
                )))
            }
            _ => Ok(expected),
        }
    }

    fn read_bytes(self, bytes: &Bytes, rows: usize, both: bool) -> Answer<[Values; 2]> {
        self.check_bytes(rows, Some(bytes.len() as u64), both)?;
        let (x, dy) = bytes.split_at(if both { bytes.len() / 2 } else { bytes.len() });
        let values = |bytes: &[u8]| Values {
            values: bytes
                .chunks_exact(4)
                .map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]]))
                .collect(),
            rows,
        };
        Ok([values(x), values(dy)])
    }

    pub(super) async fn answer(self, name: &'static str, values: Vec<f32>) -> Answer<Response> {
        let written = tokio::task::spawn_blocking(move || {
            if self.rows.is_some() {
                let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
                return ([(header::CONTENT_TYPE, BYTES)], bytes).into_response();
            }
            let rows: Vec<&[f32]> = values.chunks_exact(self.width).collect();
            // Texts of numbers, not a tree of them.
            let text = serde_json::to_string(&rows).unwrap_or_default();
            json_of(format!("{{\"{name}\":{text},\"rows\":{}}}", rows.len()))
        });
        written.await.map_err(|why| ApiError::Unavailable(why.to_string()))
    }
}
