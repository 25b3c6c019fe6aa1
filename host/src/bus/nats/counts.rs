//! What is counted of the bridge.

use serde::Serialize;
use std::sync::atomic::{AtomicU64, Ordering};

/// One number that grows, or is set.
#[derive(Debug, Default)]
pub(super) struct Count(AtomicU64);

impl Count {
    pub(super) fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    pub(super) fn set(&self, to: u64) {
        self.0.store(to, Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! counts {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// The counters that the bridge's tasks share.
        #[derive(Debug, Default)]
        pub(super) struct Counters { $(pub(super) $name: Count,)* }

        /// What was counted of the bridge since its start, and how it stands.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
        pub struct NatsCounts { $($(#[$doc])* pub $name: u64,)* }

        impl Counters {
            pub(super) fn counts(&self) -> NatsCounts {
                NatsCounts { $($name: self.$name.get(),)* }
            }
        }
    };
}

counts! {
    /// 1 while there is a connection to the server.
    connected,
    /// Connections that were made.
    connections,
    /// Events that wait in the outbox.
    outbox_depth,
    /// Bytes of them.
    outbox_bytes,
    /// Events that were put into the outbox.
    queued,
    /// Events that the stream has acknowledged.
    published,
    /// Events that were not put into the outbox, because it was full or could not be written.
    not_kept,
    /// Events that were not sent, because they are too large or have gone from host to host too often.
    not_sent,
    /// Messages that came in, again or for the first time.
    received,
    /// Events that were handled here, or answered with an error of their own.
    handled,
    /// Of these, events that nobody here answers or hears of.
    unheard,
    /// Messages that were acknowledged.
    acked,
    /// Messages of a peer whose event this host does not accept.
    unwanted,
    /// Messages that were refused: of a stranger, changed on the way, misplaced, or too old.
    refused,
    /// Messages that came again after they were handled, and were not handled again.
    duplicates,
    /// Messages that the server sent more than once.
    redelivered,
    /// Attempts that were made again, because a handler was late, broken, or had no room.
    retried,
    /// Events that were given up after the last attempt.
    failed,
    /// Events that a peer sent and the stream no longer had.
    missed,
    /// Hosts that publish here and are no peers of this one.
    strangers,
}
