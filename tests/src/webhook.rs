//! A receiver of webhooks: what comes is kept, and answered as told.

use crate::client::read_request;
use crate::{PATIENCE, Request};
use std::io::{BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;

/// A receiver on a port of its own, for as long as the process lives.
#[derive(Debug)]
pub struct Webhook {
    address: SocketAddr,
    kept: Arc<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    requests: Mutex<Vec<Request>>,
    more: Condvar,
}

impl Webhook {
    /// One that answers the first requests with these statuses, and all others 204.
    #[must_use]
    pub fn start(statuses: &[u16]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let kept = Arc::new(Kept::default());
        let (statuses, keeping) = (statuses.to_vec(), Arc::clone(&kept));
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (statuses, keeping) = (statuses.clone(), Arc::clone(&keeping));
                thread::spawn(move || answer(stream, &statuses, &keeping));
            }
        });
        Self { address, kept }
    }

    /// Where it listens.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    /// Wait until so many requests have come; all that have.
    #[must_use]
    pub fn wait_for(&self, count: usize) -> Vec<Request> {
        let requests = self.kept.requests.lock().unwrap_or_else(PoisonError::into_inner);
        let (requests, patience) = self
            .kept
            .more
            .wait_timeout_while(requests, PATIENCE, |requests| requests.len() < count)
            .unwrap_or_else(PoisonError::into_inner);
        assert!(!patience.timed_out(), "{} of {count} webhooks came", requests.len());
        requests.clone()
    }
}

fn answer(stream: TcpStream, statuses: &[u16], kept: &Kept) {
    let mut stream = BufReader::new(stream);
    // The sender closes the connection when it has no more to say.
    while let Ok(request) = read_request(&mut stream) {
        let mut requests = kept.requests.lock().unwrap_or_else(PoisonError::into_inner);
        let status = statuses.get(requests.len()).copied().unwrap_or(204);
        requests.push(request);
        kept.more.notify_all();
        drop(requests);
        let answer = format!("HTTP/1.1 {status} Told\r\ncontent-length: 0\r\n\r\n");
        if stream.get_mut().write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}
