//! The kernel that decides: what `gavel serve` serves, as a kernel of a fleet.

use super::process::Surroundings;
use crate::clock::Clock;
use crate::host::{Host, Storage};
use crate::http;
use gavel_kinds::{Kernel, Kind, Opened, Seed};
use std::sync::Arc;

/// Judges, records, runs tools, and holds what waits for a human.
pub(super) const KIND: Kind = Kind {
    name: "governance",
    purpose: "the final decision on every tool call, its record, and the approvals of humans",
    needs: &["message_bus", "immutable_log"],
    check: gavel_kinds::no_settings,
    open,
};

fn open(seed: Seed) -> Opened {
    Box::pin(async move {
        let Surroundings { file, data, token } = Surroundings::of_this_process()?;
        // The one that clients know has the data that `gavel serve` has, so that the one can follow the other. Two on one
        // ledger cannot be, so another has its own.
        let storage = Storage::Folder(if seed.name == KIND.name { data } else { seed.folder.clone() });
        let host = Arc::new(Box::pin(Host::open(file.clone(), &storage, Clock::System)).await?);
        host.watch();
        let app = host.app_in_fleet(token.as_deref());
        let stopping = app.clone();
        tokio::spawn(async move {
            seed.stop.cancelled().await;
            stopping.stop();
        });
        let finish = async move { host.finish().await };
        Ok(Kernel::whole(http::router(app)).with_finish(finish))
    })
}
