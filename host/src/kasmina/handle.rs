//! A layer's thread, and the bounded queue before it.
//!
//! A layer is used by one job at a time, in the order in which they came. No job runs on a worker of the runtime: a
//! forward pass may take as long as it takes. A layer whose thread panics is out of service until the next start, which
//! takes it up again at its last boundary. A layer that is closed ends its job; what waits then is answered, not done.

use super::error::KasminaError;
use super::worker::Worker;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};

/// What the layer is to do; where there is no layer any more, to say so.
type Job = Box<dyn FnOnce(Option<&mut Worker>) + Send>;

/// A layer that is served.
#[derive(Debug)]
pub(super) struct Handle {
    id: String,
    waiting_max: usize,
    /// Gone when the layer is closed.
    queue: Mutex<Option<mpsc::Sender<Job>>>,
    closing: Arc<AtomicBool>,
    /// Where there is a thread: its sender is gone when the thread has ended.
    ended: Option<watch::Receiver<()>>,
    /// Why there is no thread, where there never was one.
    failed: Option<String>,
}

impl Handle {
    /// Begin a layer's thread with what `open` makes.
    ///
    /// # Errors
    /// What `open` says.
    pub(super) async fn start(
        id: &str,
        waiting_max: usize,
        open: impl FnOnce() -> Result<Worker, KasminaError> + Send + 'static,
    ) -> Result<Self, KasminaError> {
        let (queue, mut jobs) = mpsc::channel::<Job>(waiting_max);
        let (ready, opened) = oneshot::channel();
        let (alive, ended) = watch::channel(());
        let closing = Arc::new(AtomicBool::new(false));
        let closes = Arc::clone(&closing);
        let work = move || {
            // Dropped last: by then the worker has recorded what it had to.
            let _alive = alive;
            let mut worker = match open() {
                Ok(worker) => {
                    let _ = ready.send(Ok(()));
                    worker
                }
                Err(why) => return drop(ready.send(Err(why))),
            };
            while let Some(job) = jobs.blocking_recv() {
                job((!closes.load(Ordering::SeqCst)).then_some(&mut worker));
            }
        };
        let thread = std::thread::Builder::new().name(format!("layer-{id}")).spawn(work);
        thread.map_err(|why| failed(id, &format!("it has no thread: {why}")))?;
        opened.await.map_err(|_| failed(id, ENDED))??;
        let (queue, ended) = (Mutex::new(Some(queue)), Some(ended));
        Ok(Self { id: id.to_owned(), waiting_max, queue, closing, ended, failed: None })
    }

    /// A layer that could not be taken up again.
    pub(super) fn out_of_service(id: &str, why: String) -> Self {
        let (queue, closing) = (Mutex::default(), Arc::default());
        Self { id: id.to_owned(), waiting_max: 0, queue, closing, ended: None, failed: Some(why) }
    }

    /// Why it is out of service, if it is.
    pub(super) fn failed(&self) -> Option<&str> {
        let ended = self.queue().as_ref().is_none_or(mpsc::Sender::is_closed);
        self.failed.as_deref().or(ended.then_some(ENDED))
    }

    /// Have the layer do something, after what waits already. It is done even if nobody waits for it any more.
    ///
    /// # Errors
    /// That of the job; or the queue is full, or the layer out of service.
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Worker) -> Result<T, KasminaError> + Send + 'static,
    ) -> Result<T, KasminaError> {
        let (done, told) = oneshot::channel();
        let closed = failed(&self.id, CLOSED);
        // Whoever asked may have gone.
        self.send(move |worker| drop(done.send(worker.map_or(Err(closed), job))))?;
        let lost = |_| KasminaError::Lost { layer: self.id.clone(), why: ENDED.to_owned() };
        told.await.map_err(lost)?
    }

    /// Have the layer do something, and do not wait for it. `job` hears of it where the layer is closed first.
    ///
    /// # Errors
    /// When the queue is full, or the layer out of service.
    pub(super) fn send(&self, job: impl FnOnce(Option<&mut Worker>) + Send + 'static) -> Result<(), KasminaError> {
        let queue = self.queue();
        let Some(queue) = queue.as_ref() else { return Err(failed(&self.id, self.failed.as_deref().unwrap_or(ENDED))) };
        queue.try_send(Box::new(job)).map_err(|why| match why {
            mpsc::error::TrySendError::Full(_) => {
                KasminaError::Busy { layer: self.id.clone(), waiting: self.waiting_max }
            }
            mpsc::error::TrySendError::Closed(_) => failed(&self.id, ENDED),
        })
    }

    /// Take no more jobs, answer those that wait, and wait for the end of the one that runs. Whether the thread has
    /// ended in time; where it has not, this can be asked again.
    pub(super) async fn close(&self, timeout: Duration) -> bool {
        self.closing.store(true, Ordering::SeqCst);
        self.queue().take();
        let Some(mut ended) = self.ended.clone() else { return true };
        // The thread sends nothing: what is heard is its end.
        tokio::time::timeout(timeout, ended.changed()).await.is_ok()
    }

    fn queue(&self) -> std::sync::MutexGuard<'_, Option<mpsc::Sender<Job>>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const ENDED: &str = "its thread ended, the log says why; a restart takes it up at its last epoch boundary";

const CLOSED: &str = "it is being closed; nothing was done";

fn failed(layer: &str, why: &str) -> KasminaError {
    KasminaError::Failed { layer: layer.to_owned(), why: why.to_owned() }
}
