//! A plugin's mailbox: events that nobody waits for, in the order of their arrival, one by one.

use crate::event::Event;
use serde_json::Value;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use tokio::sync::mpsc;

/// Something to be told.
#[derive(Debug, Clone)]
pub(crate) enum Letter {
    /// An emitted event that the plugin owns.
    Handle(Arc<Event>),
    /// An event that it subscribes to.
    Hear(Arc<Event>),
    /// An answer that it wants to see.
    After(Arc<Event>, Arc<Value>),
}

impl Letter {
    pub(crate) fn event(&self) -> &Arc<Event> {
        match self {
            Self::Handle(event) | Self::Hear(event) | Self::After(event, _) => event,
        }
    }
}

/// Bounded; made with its first letter.
#[derive(Debug, Default)]
pub(crate) struct Mail {
    sender: OnceLock<mpsc::Sender<Letter>>,
    waiting: AtomicUsize,
}

impl Mail {
    /// Put a letter in. `open` is given the other end the first time. `false` if the box is full.
    pub(crate) fn put(&self, letter: Letter, letters_max: usize, open: impl FnOnce(mpsc::Receiver<Letter>)) -> bool {
        let sender = self.sender.get_or_init(|| {
            let (sender, receiver) = mpsc::channel(letters_max.max(1));
            open(receiver);
            sender
        });
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let put = sender.try_send(letter).is_ok();
        if !put {
            self.done();
        }
        put
    }

    pub(crate) fn done(&self) {
        self.waiting.fetch_sub(1, Ordering::SeqCst);
    }

    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }
}
