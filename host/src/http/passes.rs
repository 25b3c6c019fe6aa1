//! Values through a layer: as JSON rows (`{"x": [[…], …]}`), or as bytes (`application/octet-stream`), row-major f32,
//! little-endian, with `?rows=N`. The answer comes as the question came.

use super::error::ApiError;
use super::kasmina::{Place, Running, asked};
use super::records::json_of;
use super::routes::{Answer, read_body};
use crate::kasmina::{Kasmina, Values};
use axum::body::{Body, Bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use std::sync::Arc;

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

/// The body of a pass as JSON.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rows {
    x: Vec<Vec<f32>>,
    /// Of a backward pass.
    #[serde(default)]
    dy: Option<Vec<Vec<f32>>>,
}

pub(super) async fn forward(
    Running(reached): Running,
    Path(Place { layer }): Path<Place>,
    query: Result<Query<ForwardAsked>, QueryRejection>,
    headers: HeaderMap,
    body: Body,
) -> Answer<Response> {
    let ForwardAsked { rows, telemetry, nourish } = asked(query)?;
    let pass = Pass::of(&reached.kasmina, &layer, &headers, rows)?;
    let [x, _] = pass.read(&reached.kasmina, body, false).await?;
    let y = reached.kasmina.forward(&layer, x, telemetry, nourish).await?;
    pass.answer("y", y).await
}

pub(super) async fn backward(
    Running(reached): Running,
    Path(Place { layer }): Path<Place>,
    query: Result<Query<BackwardAsked>, QueryRejection>,
    headers: HeaderMap,
    body: Body,
) -> Answer<Response> {
    let BackwardAsked { rows, step } = asked(query)?;
    let pass = Pass::of(&reached.kasmina, &layer, &headers, rows)?;
    let [x, dy] = pass.read(&reached.kasmina, body, true).await?;
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
    pub(super) fn of(kasmina: &Arc<Kasmina>, layer: &str, headers: &HeaderMap, rows: Option<usize>) -> Answer<Self> {
        let width = kasmina.width(layer)?;
        let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        match (kind.starts_with(BYTES), rows) {
            (true, None) => Err(ApiError::Unreadable(format!("{BYTES} needs rows=N in the query"))),
            (true, rows) => Ok(Self { width, rows }),
            (false, Some(_)) => Err(ApiError::Unreadable(format!("rows=N is for a body of {BYTES}"))),
            (false, None) => Ok(Self { width, rows: None }),
        }
    }

    /// The values of a body: x, and dy where it has both. Read where it holds up nobody.
    pub(super) async fn read(self, kasmina: &Arc<Kasmina>, body: Body, both: bool) -> Answer<[Values; 2]> {
        let bytes = read_body(body, kasmina.limits().body_bytes_max, "kasmina.body_bytes_max").await?;
        let read = tokio::task::spawn_blocking(move || match self.rows {
            Some(rows) => self.read_bytes(&bytes, rows, both),
            None => self.read_json(&bytes, both),
        });
        read.await.map_err(|why| ApiError::Unreadable(why.to_string()))?
    }

    fn read_bytes(self, bytes: &Bytes, rows: usize, both: bool) -> Answer<[Values; 2]> {
        let parts = if both { 2 } else { 1 };
        let each = rows.saturating_mul(self.width).saturating_mul(size_of::<f32>());
        if each.saturating_mul(parts) != bytes.len() || each == 0 {
            let (found, width) = (bytes.len(), self.width);
            let what = if both { "x and then dy" } else { "x" };
            let expected = each.saturating_mul(parts);
            return Err(ApiError::NotAccepted(format!(
                "the body has {found} bytes where {rows} rows of {width} f32 need {expected} ({what})"
            )));
        }
        let (x, dy) = bytes.split_at(each);
        let values = |bytes: &[u8]| Values {
            values: bytes
                .chunks_exact(4)
                .map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]]))
                .collect(),
            rows,
        };
        Ok([values(x), values(dy)])
    }

    fn read_json(self, bytes: &Bytes, both: bool) -> Answer<[Values; 2]> {
        let Rows { x, dy } =
            serde_json::from_slice(bytes).map_err(|why| ApiError::Unreadable(format!("the body: {why}")))?;
        let dy = match (dy, both) {
            (Some(dy), true) => dy,
            (None, false) => Vec::new(),
            (None, true) => return Err(ApiError::Unreadable("the body: missing field `dy`".into())),
            (Some(_), false) => return Err(ApiError::Unreadable("the body: `dy` is of a backward pass".into())),
        };
        Ok([self.flat("x", x)?, self.flat("dy", dy)?])
    }

    fn flat(self, name: &str, rows: Vec<Vec<f32>>) -> Answer<Values> {
        if let Some((at, row)) = rows.iter().enumerate().find(|(_, row)| row.len() != self.width) {
            let (found, width) = (row.len(), self.width);
            let why = format!("row {at} of `{name}` has {found} values, the layer is {width} wide");
            return Err(ApiError::NotAccepted(why));
        }
        Ok(Values { rows: rows.len(), values: rows.into_iter().flatten().collect() })
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
