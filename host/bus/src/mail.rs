//! A plugin's mailbox: events that nobody waits for, in the order of their arrival, one by one.
//!
//! What must always hold: a letter that was taken in is told to its plugin, or to the one in its place, or counted as
//! turned away; and a plugin for whom letters wait is told of them within `batch_timeout`.

use crate::event::Event;
use crate::options::Options;
use serde_json::Value;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

/// So many letters told without a pause are a burst; so many that wait end the collecting after it.
const BURST_LETTERS: usize = 64;

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

/// What became of a letter.
#[derive(Debug)]
pub(crate) enum Put {
    /// It is in. `first`: nobody empties this mailbox yet.
    In { first: bool },
    /// There is no room. `news`: there was room until now.
    Full { news: bool },
    /// The mailbox takes no more: its plugin is being replaced or taken away. The letter is given back.
    Closed(Letter),
}

#[derive(Debug, Default)]
pub(crate) struct Mail {
    inbox: Mutex<Inbox>,
    came: Notify,
    /// Letters that wait, and the one that is being told.
    waiting: AtomicUsize,
}

#[derive(Debug, Default)]
struct Inbox {
    letters: VecDeque<Letter>,
    data_bytes: usize,
    reader: Reader,
    /// Told since the mailbox was last empty.
    told: usize,
    closed: bool,
    /// A replacement is given the letters of its predecessor first.
    held: bool,
    full: bool,
}

/// What the one who empties the mailbox is doing.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Reader {
    /// There is none.
    #[default]
    None,
    /// Waits for the first letter.
    Idle,
    /// Waits for many letters.
    Collecting,
    /// Comes back for more by itself.
    Busy,
}

impl Mail {
    /// A mailbox that is not emptied before [`Self::inherit`].
    pub(crate) fn held() -> Self {
        let mail = Self::default();
        mail.inbox().held = true;
        mail
    }

    /// Put a letter in.
    pub(crate) fn put(&self, letter: Letter, limits: &Options) -> Put {
        let mut inbox = self.inbox();
        if inbox.closed {
            return Put::Closed(letter);
        }
        let bytes = inbox.data_bytes + letter.event().data_bytes;
        // One that is larger than the limit alone is still taken in where nothing else waits.
        let heavy = bytes > limits.queue_bytes_max && !inbox.letters.is_empty();
        if heavy || self.waiting() >= limits.queue_events_max.max(1) {
            return Put::Full { news: !std::mem::replace(&mut inbox.full, true) };
        }
        let owned = matches!(letter, Letter::Handle(_));
        inbox.data_bytes = bytes;
        inbox.letters.push_back(letter);
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let first = inbox.reader == Reader::None;
        let wake = match inbox.reader {
            Reader::Idle => true,
            Reader::Collecting => owned || inbox.letters.len() >= BURST_LETTERS,
            Reader::None | Reader::Busy => false,
        };
        if wake || first {
            inbox.reader = Reader::Busy;
        }
        drop(inbox);
        if wake {
            self.came.notify_one();
        }
        Put::In { first }
    }

    /// Wait until there is a letter to tell; `false` if there will be none any more.
    pub(crate) async fn wait(&self, limits: &Options) -> bool {
        let mut collecting_until = None;
        loop {
            {
                let mut inbox = self.inbox();
                let late = collecting_until.is_some_and(|until| until <= Instant::now());
                let enough = collecting_until.is_none() || late || inbox.reader == Reader::Busy;
                if !inbox.held && !inbox.letters.is_empty() && enough {
                    inbox.reader = Reader::Busy;
                    return true;
                }
                if inbox.closed && inbox.letters.is_empty() {
                    return false;
                }
                let burst = std::mem::take(&mut inbox.told) >= BURST_LETTERS;
                if burst && !limits.batch_timeout.is_zero() && !inbox.held {
                    collecting_until = Some(Instant::now() + limits.batch_timeout);
                } else if late {
                    collecting_until = None;
                }
                let collects = collecting_until.is_some() && !inbox.closed;
                inbox.reader = if collects { Reader::Collecting } else { Reader::Idle };
            }
            match collecting_until {
                // Whether it was woken or is late is seen above.
                Some(until) => _ = timeout_at(until, self.came.notified()).await,
                None => self.came.notified().await,
            }
        }
    }

    /// The next letter; it counts as waiting until [`Self::done`].
    pub(crate) fn take(&self) -> Option<Letter> {
        let mut inbox = self.inbox();
        if inbox.held {
            return None;
        }
        let letter = inbox.letters.pop_front()?;
        inbox.data_bytes -= letter.event().data_bytes;
        inbox.told += 1;
        inbox.full = false;
        Some(letter)
    }

    /// A letter was told.
    pub(crate) fn done(&self) {
        self.waiting.fetch_sub(1, Ordering::SeqCst);
    }

    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }

    /// Take no more, and give up the letters that somebody else is to be told of.
    pub(crate) fn close(&self, given_up: impl Fn(&Letter) -> bool) -> VecDeque<Letter> {
        let mut inbox = self.inbox();
        inbox.closed = true;
        inbox.held = false;
        let (gone, kept): (VecDeque<_>, VecDeque<_>) =
            std::mem::take(&mut inbox.letters).into_iter().partition(given_up);
        inbox.data_bytes = kept.iter().map(|letter| letter.event().data_bytes).sum();
        inbox.letters = kept;
        inbox.reader = if inbox.reader == Reader::None { Reader::None } else { Reader::Busy };
        self.waiting.fetch_sub(gone.len(), Ordering::SeqCst);
        drop(inbox);
        self.came.notify_one();
        gone
    }

    /// Begin with the letters of a predecessor, before what came since. `true`: somebody must begin to empty it.
    pub(crate) fn inherit(&self, letters: VecDeque<Letter>) -> bool {
        let mut inbox = self.inbox();
        self.waiting.fetch_add(letters.len(), Ordering::SeqCst);
        inbox.data_bytes += letters.iter().map(|letter| letter.event().data_bytes).sum::<usize>();
        let since = std::mem::replace(&mut inbox.letters, letters);
        inbox.letters.extend(since);
        inbox.held = false;
        let first = inbox.reader == Reader::None && !inbox.letters.is_empty();
        if first || inbox.reader != Reader::None {
            inbox.reader = Reader::Busy;
        }
        drop(inbox);
        self.came.notify_one();
        first
    }

    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
