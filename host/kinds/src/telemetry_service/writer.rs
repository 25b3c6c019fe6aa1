//! One thread that writes: all requests that wait are one commit, and each is answered after it.
//!
//! The queue is bounded by requests and by bytes; one that finds no room is turned away at once, so that senders slow down
//! and memory does not grow.

use super::store::{Batch, Store, Taken};
use crate::fault::Fault;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

/// Requests that are one commit, at most.
pub(super) const TOGETHER_MAX: usize = 256;

struct Work {
    batch: Batch,
    answer: oneshot::Sender<Result<Taken, String>>,
    /// Given back when the work is done.
    room: OwnedSemaphorePermit,
}

/// Hands requests to the thread that writes.
pub(super) struct Writer {
    queue: Mutex<Option<SyncSender<Work>>>,
    room: Arc<Semaphore>,
    bytes_max: u32,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    pub(super) fn start(store: Arc<Store>, requests_max: usize, bytes_max: u32) -> std::io::Result<Self> {
        let (queue, work) = sync_channel(requests_max);
        let thread = std::thread::Builder::new().name("telemetry".to_owned()).spawn(move || write(&store, &work))?;
        let room = Arc::new(Semaphore::new(bytes_max as usize));
        Ok(Self { queue: Mutex::new(Some(queue)), room, bytes_max, thread: Some(thread) })
    }

    /// Keep these, which came as so many bytes. They are on disk when this returns.
    pub(super) async fn keep(&self, batch: Batch, bytes: usize) -> Result<Taken, Fault> {
        let bytes_max = self.bytes_max;
        let bytes = u32::try_from(bytes).ok().filter(|bytes| *bytes <= bytes_max);
        let Some(bytes) = bytes else {
            return Err(Fault::too_large(format!("a request may have {bytes_max} bytes (queue_bytes_max)")));
        };
        let Ok(room) = Arc::clone(&self.room).try_acquire_many_owned(bytes.max(1)) else {
            return Err(Fault::too_many(format!("{bytes_max} bytes wait to be written already (queue_bytes_max)")));
        };
        let (answer, answered) = oneshot::channel();
        self.hand_over(Work { batch, answer, room })?;
        match answered.await {
            Ok(Ok(taken)) => Ok(taken),
            Ok(Err(why)) => Err(Fault::unavailable(why)),
            Err(_) => Err(Fault::unavailable("the kernel is stopping")),
        }
    }

    fn hand_over(&self, work: Work) -> Result<(), Fault> {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        match queue.as_ref().map(|queue| queue.try_send(work)) {
            Some(Ok(())) => Ok(()),
            Some(Err(TrySendError::Full(_))) => {
                Err(Fault::too_many("as many requests wait to be written as may (queue_requests_max)"))
            }
            Some(Err(TrySendError::Disconnected(_))) | None => Err(Fault::unavailable("the kernel is stopping")),
        }
    }
}

impl Drop for Writer {
    /// The file is closed when this returns.
    fn drop(&mut self) {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that writes traces and logs broke off");
        }
    }
}

fn write(store: &Store, work: &Receiver<Work>) {
    while let Ok(first) = work.recv() {
        let (mut batches, mut answers, mut rooms) = (Vec::new(), Vec::new(), Vec::new());
        for Work { batch, answer, room } in std::iter::once(first).chain(work.try_iter().take(TOGETHER_MAX - 1)) {
            batches.push(batch);
            answers.push(answer);
            rooms.push(room);
        }
        let results = match store.commit(batches) {
            Ok(taken) => taken.into_iter().map(Ok).collect::<Vec<_>>(),
            Err(why) => {
                tracing::error!("traces and logs cannot be written: {why}");
                let why = format!("nothing was kept: the file fails: {why}");
                answers.iter().map(|_| Err(why.clone())).collect()
            }
        };
        for (answer, result) in answers.into_iter().zip(results) {
            // Who asked may have gone.
            drop(answer.send(result));
        }
    }
}
