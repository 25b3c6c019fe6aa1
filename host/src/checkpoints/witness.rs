//! A witness: C2SP tlog-witness, the side of the log.
//!
//! It is sent the checkpoint and a proof that its tree grew from the one that the witness cosigned last. How large that
//! was the witness says itself, by 409, where we do not know it; so nothing about witnesses is kept across restarts.

use super::{PushError, body_of, post};
use crate::kernel::Kernel;
use crate::tlog::log::Signed;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gavel_proof::cosignature::WitnessKey;
use gavel_proof::note::Note;
use reqwest::header::CONTENT_TYPE;
use reqwest::{Client, StatusCode};
use std::fmt::Write as _;
use std::sync::Arc;

/// The content type of an answer that tells a size.
const SIZE: &str = "text/x.tlog.size";
/// How often a witness may tell another size before that is enough for one push.
const SIZES_MAX: usize = 3;

/// A witness and what it saw last.
pub(super) struct Witness {
    key: WitnessKey,
    seen: u64,
}

impl Witness {
    pub(super) fn new(key: WitnessKey) -> Self {
        Self { key, seen: 0 }
    }

    /// Have it cosign a checkpoint; its signature lines, verified.
    pub(super) async fn add_checkpoint(
        &mut self,
        kernel: &Arc<Kernel>,
        client: &Client,
        prefix: &str,
        latest: &Signed,
    ) -> Result<Vec<String>, PushError> {
        let url = format!("{}/add-checkpoint", prefix.trim_end_matches('/'));
        let size = latest.checkpoint.size;
        for _ in 0..SIZES_MAX {
            let body = request(kernel, self.seen, latest).await?;
            let response = post(client, &url, body).await?;
            let status = response.status();
            let is_size = response.headers().get(CONTENT_TYPE).is_some_and(|value| value == SIZE);
            let told = body_of(response).await?;
            match status {
                StatusCode::OK => {
                    let lines = self.cosignatures(&latest.note, &told)?;
                    self.seen = size;
                    return Ok(lines);
                }
                StatusCode::CONFLICT if is_size => self.seen = self.other_size(&told, size)?,
                status => return Err(refusal(status, &told)),
            }
        }
        Err(PushError::Refused(format!("it told {SIZES_MAX} sizes one after the other")))
    }

    /// The size that the witness saw last, as it says.
    fn other_size(&self, told: &str, size: u64) -> Result<u64, PushError> {
        let seen = told.strip_suffix('\n').and_then(gavel_proof::json::parse_u64);
        match seen.ok_or_else(|| PushError::Refused("it answered 409 and no size".into()))? {
            seen if seen > size => Err(PushError::Forked(format!(
                "it cosigned a tree of {seen} records, this ledger has {size}: the ledger was put back to an older state, or two are signed with one key"
            ))),
            seen if seen == self.seen => Err(PushError::Forked(format!(
                "it cosigned another tree of {seen} records: this ledger's history is not the one that it saw"
            ))),
            seen => Ok(seen),
        }
    }

    fn cosignatures(&self, note: &str, told: &str) -> Result<Vec<String>, PushError> {
        let text = format!("{note}{told}");
        let verified = Note::parse(&text).and_then(|note| self.key.verify(&note));
        verified.map_err(|why| PushError::Refused(format!("its cosignature does not hold: {why}")))?;
        // Of what else it may have sent nothing is known.
        let mine = |line: &&str| {
            let note = format!("{note}{line}\n");
            Note::parse(&note).is_ok_and(|note| self.key.verify(&note).is_ok())
        };
        Ok(told.lines().filter(mine).map(str::to_owned).collect())
    }
}

/// The body of `add-checkpoint`.
async fn request(kernel: &Arc<Kernel>, seen: u64, latest: &Signed) -> Result<String, PushError> {
    let (kernel, size) = (Arc::clone(kernel), latest.checkpoint.size);
    let proof = tokio::task::spawn_blocking(move || kernel.ledger().view().consistency(seen, size));
    let proof = proof.await.map_err(|why| PushError::Ledger(why.to_string()))?;
    let proof = proof.map_err(|why| PushError::Ledger(format!("the ledger cannot be read: {why}")))?;
    let mut body = format!("old {seen}\n");
    for hash in proof {
        // Writing to a string cannot fail.
        let _ = writeln!(body, "{}", STANDARD.encode(hash));
    }
    body.push('\n');
    body.push_str(&latest.note);
    Ok(body)
}

fn refusal(status: StatusCode, told: &str) -> PushError {
    let told: String = told.chars().take(200).collect();
    let told = told.escape_debug();
    match status {
        StatusCode::UNPROCESSABLE_ENTITY => PushError::Forked(format!(
            "it answered 422: this ledger's history is not an extension of the one that it saw ({told})"
        )),
        StatusCode::NOT_FOUND => PushError::Refused(format!(
            "it answered 404: it does not know this ledger's origin, which the first line of GET /checkpoint says ({told})"
        )),
        StatusCode::FORBIDDEN => {
            PushError::Refused(format!("it answered 403: it does not know the key of this ledger ({told})"))
        }
        status => PushError::Refused(format!("it answered {status} ({told})")),
    }
}
