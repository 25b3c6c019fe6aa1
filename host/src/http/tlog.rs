//! The ledger's tree as a C2SP tlog (<https://c2sp.org/tlog-tiles>): checkpoint, tiles, entry bundles.
//!
//! Who may read evidence may read these; with `tlog: public` in the kernel's configuration, everybody may.

use super::App;
use super::auth::Caller;
use super::error::ApiError;
use super::operations::operator;
use super::policies::Asked;
use super::records::reading;
use super::routes::{Answer, Id, SEEING, permitted};
use crate::checkpoints::cosigned;
use crate::decide::Refused;
use crate::index::source;
use crate::kernel::Kernel;
use crate::tlog::{self, TilePath, log};
use axum::extract::{Path, Query as Asks, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde::Deserialize;
use serde_json::Value;
use std::io::Write;
use std::sync::Arc;

/// The routes below a kernel's.
pub(super) fn router() -> Router<App> {
    Router::new()
        .route("/checkpoint", get(checkpoint))
        .route("/checkpoint/key", get(key))
        .route("/checkpoint/rotate", post(rotate))
        .route("/tile/entries/{*path}", get(entries))
        .route("/tile/{level}/{*path}", get(tile))
}

/// The kernel of a path whose log the caller may read.
pub(super) fn readable(app: &App, caller: &Caller, id: Option<&str>) -> Answer<Arc<Kernel>> {
    match app.slot(id).map(|slot| slot.kernel()) {
        Ok(kernel) if kernel.tlog_is_public => Ok(kernel),
        _ => Ok(permitted(app, caller, id, &SEEING)?.kernel()),
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Which {
    /// The latest one that a witness signed too, though it be an older one.
    cosigned: bool,
}

async fn checkpoint(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Id(id): Id,
    which: Result<Asks<Which>, axum::extract::rejection::QueryRejection>,
) -> Answer<Response> {
    let kernel = &readable(&app, &caller, id.as_deref())?;
    let Asks(Which { cosigned }) = which.map_err(|why| ApiError::Unreadable(why.body_text()))?;
    let found = reading(kernel, move |kernel| latest(kernel, cosigned)).await?;
    let none = || ApiError::Absent("there is no such checkpoint: none was signed yet".into());
    let headers = [(header::CONTENT_TYPE, "text/plain; charset=utf-8"), (header::CACHE_CONTROL, "no-cache")];
    Ok((headers, found.ok_or_else(none)?).into_response())
}

/// The key that signs, as a vkey: what an auditor keeps.
async fn key(State(app): State<App>, Extension(caller): Extension<Caller>, Id(id): Id) -> Answer<Response> {
    let kernel = readable(&app, &caller, id.as_deref())?;
    let none = || ApiError::Absent("no key signs this ledger's checkpoints".into());
    let key = kernel.checkpoint_key().ok_or_else(none)?;
    let headers = [(header::CONTENT_TYPE, "text/plain; charset=utf-8"), (header::CACHE_CONTROL, "no-cache")];
    Ok((headers, format!("{key}\n")).into_response())
}

/// Why the key is changed.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rotate {
    #[serde(default)]
    why: String,
}

async fn rotate(asked: Asked<Rotate>) -> Answer<Json<Value>> {
    let Asked { kernel, caller, body: Rotate { why }, .. } = asked;
    let operator = operator(&caller, why)?;
    let rotated = tokio::spawn(async move { kernel.rotate_checkpoint_key(&operator).await }).await;
    let told = rotated.map_err(|_| Refused::Ledger("the rotation broke off in a panic".into()))??;
    Ok(Json(told))
}

/// The latest checkpoint; with what witnesses signed, where they signed this very one or an older one will do.
fn latest(kernel: &Kernel, older_will_do: bool) -> anyhow::Result<Option<String>> {
    let latest = log::checkpoint(kernel.ledger())?.map(|signed| signed.note);
    let Some(cosigned) = kernel.dir.as_deref().map(cosigned::read).transpose()?.flatten() else {
        return Ok(latest.filter(|_| !older_will_do));
    };
    let same = latest.as_deref().is_some_and(|latest| cosigned::same_text(latest, &cosigned));
    Ok(if same || older_will_do { Some(cosigned) } else { latest })
}

#[derive(Deserialize)]
struct Tile {
    level: String,
    path: String,
}

#[derive(Deserialize)]
struct Bundle {
    path: String,
}

async fn tile(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Id(id): Id,
    asked: Result<Path<Tile>, axum::extract::rejection::PathRejection>,
) -> Answer<Response> {
    let kernel = &readable(&app, &caller, id.as_deref())?;
    let Path(Tile { level, path }) = asked.map_err(|_| ApiError::NotFound)?;
    let level = tlog::tile_level(&level).ok_or_else(|| ApiError::Absent("the level of a tile is 0 to 63".into()))?;
    let path = tile_path(&path)?;
    let read = move |kernel: &Kernel| {
        let view = kernel.ledger().view();
        let size = view.records();
        Ok((size, tlog::tile(size, level, path, |height, index| view.node(height, index))?))
    };
    let (size, tile) = reading(kernel, read).await?;
    let tile = tile.ok_or_else(|| not_in_the_tree(size))?;
    Ok((for_ever(kernel), tile).into_response())
}

async fn entries(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Id(id): Id,
    asked: Result<Path<Bundle>, axum::extract::rejection::PathRejection>,
    headers: HeaderMap,
) -> Answer<Response> {
    let kernel = &readable(&app, &caller, id.as_deref())?;
    let Path(Bundle { path }) = asked.map_err(|_| ApiError::NotFound)?;
    let size = kernel.ledger().snapshot().records;
    let wanted = tile_path(&path)?.entries(size).ok_or_else(|| not_in_the_tree(size))?;
    let zipped = accepts_gzip(&headers);
    let read = move |kernel: &Kernel| {
        let mut bundle = Vec::new();
        for record in source::between(kernel.ledger(), wanted.start, wanted.end) {
            tlog::push_entry(&mut bundle, record?.as_str().as_bytes());
        }
        if zipped { gzip(&bundle) } else { Ok(bundle) }
    };
    let bundle = reading(kernel, read).await?;
    let mut response = (for_ever(kernel), bundle).into_response();
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    if zipped {
        response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    Ok(response)
}

fn tile_path(text: &str) -> Answer<TilePath> {
    text.parse().map_err(|why: &str| ApiError::Absent(format!("no such tile: {why}")))
}

fn not_in_the_tree(size: u64) -> ApiError {
    ApiError::Absent(format!(
        "no such tile in a tree of {size} records: a tile that is not full is asked for by its width"
    ))
}

/// What was once answered is answered for ever.
fn for_ever(kernel: &Kernel) -> [(header::HeaderName, &'static str); 2] {
    let public = "public, max-age=31536000, immutable";
    let private = "private, max-age=31536000, immutable";
    let caching = if kernel.tlog_is_public { public } else { private };
    [(header::CONTENT_TYPE, "application/octet-stream"), (header::CACHE_CONTROL, caching)]
}

fn accepts_gzip(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    accepted.flat_map(|value| value.split(',')).any(|coding| {
        let (name, quality) = coding.split_once(';').unwrap_or((coding, ""));
        let refused = quality.trim().strip_prefix("q=").is_some_and(|q| q.parse().is_ok_and(|q: f32| q <= 0.0));
        name.trim().eq_ignore_ascii_case("gzip") && !refused
    })
}

fn gzip(bytes: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes)?;
    Ok(encoder.finish()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_is_for_those_who_accept_it() {
        let accepts = |value: &'static str| {
            accepts_gzip(&[(header::ACCEPT_ENCODING, HeaderValue::from_static(value))].into_iter().collect())
        };
        for yes in ["gzip", "gzip, identity", "br;q=1.0, GZIP;q=0.5"] {
            assert!(accepts(yes), "{yes}");
        }
        for no in ["", "identity", "gzip;q=0", "gzipped", "br, gzip; q=0.0"] {
            assert!(!accepts(no), "{no}");
        }
        assert!(!accepts_gzip(&HeaderMap::new()));
    }
}
