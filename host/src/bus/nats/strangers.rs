//! Hosts that publish on the stream and are no peers of this one: an operator who forgot one finds it in the log.
//!
//! Their messages are never fetched, so nothing that they say is read here.

use super::connect::stream;
use super::counts::Counters;
use super::settings::NatsFile;
use async_nats::jetstream::Context;
use futures_util::TryStreamExt;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How often it is looked.
const EVERY: Duration = Duration::from_mins(1);
/// Names that are kept; more are not told of.
const NAMES_MAX: usize = 1_000;

/// Look now and then until the bridge stops.
pub(super) async fn watch(
    file: Arc<NatsFile>,
    context: Context,
    mut connected: watch::Receiver<bool>,
    counters: Arc<Counters>,
    stop: CancellationToken,
) {
    let mut known = BTreeSet::new();
    let look = async {
        loop {
            // An error means that the connection is gone for good, which `stop` ends.
            let _ = connected.wait_for(|connected| *connected).await;
            match find(&file, &context).await {
                Ok(found) => {
                    for name in found.difference(&known) {
                        tracing::warn!(host = %name, "it publishes here and is not among bus.nats.peers: not read");
                    }
                    known.extend(found);
                    counters.strangers.set(known.len() as u64);
                }
                Err(why) => tracing::debug!("no list of the stream's hosts: {why}"),
            }
            tokio::time::sleep(EVERY).await;
        }
    };
    tokio::select! { () = look => {}, () = stop.cancelled() => {} }
}

async fn find(file: &NatsFile, context: &Context) -> Result<BTreeSet<String>, String> {
    let stream = stream(file, context).await.map_err(|why| why.to_string())?;
    let mut subjects = stream.info_with_subjects(file.all_subjects()).await.map_err(|why| why.to_string())?;
    let mut found = BTreeSet::new();
    let begin = format!("{}.", file.subject_prefix);
    while let Some((subject, _)) = subjects.try_next().await.map_err(|why| why.to_string())? {
        let host = subject.strip_prefix(&begin).and_then(|rest| rest.split('.').next()).unwrap_or_default();
        let known = host == file.host || file.peers.iter().any(|peer| peer.name == host);
        if !known && found.len() < NAMES_MAX {
            found.insert(host.chars().take(64).collect());
        }
    }
    Ok(found)
}
