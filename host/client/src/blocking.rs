//! The client for code that is not async.
//!
//! It drives [`crate::Client`] on a thread of its own, so that kept connections are looked after
//! also between calls. From async code use [`crate::Client`]: a call here would block the thread
//! that all tasks share, so tokio panics at once instead.

use crate::{Error, Evidence, Halted, Health, KernelStatus, Options, Policy, Receipt, Refusal, Request};
use std::io::Write;
use std::sync::Arc;
use tokio::runtime::{Builder, Runtime};

/// A client of one kernel. Cheap to clone; its clones share connections, and can be used by many
/// threads at once.
///
/// # Panics
/// Every call panics on a thread of an async runtime.
#[derive(Debug, Clone)]
pub struct Client {
    client: crate::Client,
    driver: Arc<Driver>,
}

/// The runtime, which may be dropped anywhere.
#[derive(Debug)]
struct Driver(Option<Runtime>);

impl Drop for Driver {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl Client {
    /// A client of the first kernel of the server at `url`, everything else by default.
    ///
    /// # Errors
    /// [`Error::Misused`] when the URL cannot be used.
    pub fn new(url: &str) -> Result<Self, Error> {
        Options::new(url).blocking()
    }

    /// The options of a client of the server at `url`.
    pub fn options(url: &str) -> Options {
        Options::new(url)
    }

    pub(crate) fn of(client: crate::Client) -> Result<Self, Error> {
        let runtime = Builder::new_multi_thread().worker_threads(1).thread_name("gavel-client").enable_all().build();
        let runtime = runtime.map_err(|why| Error::Misused(format!("no thread for the client: {why}")))?;
        Ok(Self { client, driver: Arc::new(Driver(Some(runtime))) })
    }

    /// Have a request judged and, if it is allowed, its tool run. A denial is a receipt, not an error.
    ///
    /// # Errors
    /// As [`crate::Client::submit`].
    pub fn submit(&self, request: &Request) -> Result<Receipt, Error> {
        self.wait(self.client.submit(request))
    }

    /// Have several requests judged, each as if it had come alone.
    ///
    /// # Errors
    /// As [`crate::Client::submit_batch`].
    pub fn submit_batch(&self, requests: &[Request]) -> Result<Vec<Result<Receipt, Refusal>>, Error> {
        self.wait(self.client.submit_batch(requests))
    }

    /// How the kernel is.
    ///
    /// # Errors
    /// As [`crate::Client::health`].
    pub fn health(&self) -> Result<Health, Error> {
        self.wait(self.client.health())
    }

    /// The kernel's status.
    ///
    /// # Errors
    /// As [`crate::Client::status`].
    pub fn status(&self) -> Result<KernelStatus, Error> {
        self.wait(self.client.status())
    }

    /// What the kernel judges by.
    ///
    /// # Errors
    /// As [`crate::Client::policy`].
    pub fn policy(&self) -> Result<Policy, Error> {
        self.wait(self.client.policy())
    }

    /// The kernel's evidence in memory.
    ///
    /// # Errors
    /// As [`crate::Client::evidence`].
    pub fn evidence(&self) -> Result<Evidence, Error> {
        self.wait(self.client.evidence())
    }

    /// Write the kernel's evidence bundle out as it comes, byte for byte; how many bytes it has.
    ///
    /// # Errors
    /// As [`crate::Client::evidence_to`].
    pub fn evidence_to(&self, out: &mut impl Write) -> Result<u64, Error> {
        let mut pieces = self.wait(self.client.evidence_pieces())?;
        let mut bytes = 0;
        while let Some(piece) = self.wait(pieces.next())? {
            out.write_all(&piece)?;
            bytes += piece.len() as u64;
        }
        out.flush()?;
        Ok(bytes)
    }

    /// Halt the kernel, for good.
    ///
    /// # Errors
    /// As [`crate::Client::halt`].
    pub fn halt(&self, reason: &str) -> Result<Halted, Error> {
        self.wait(self.client.halt(reason))
    }

    fn wait<T>(&self, work: impl Future<Output = T>) -> T {
        let runtime = self.driver.0.as_ref();
        runtime.expect("the runtime is there until the last clone is dropped").block_on(work)
    }
}
