//! A server that answers what a test tells it to, byte for byte: for the clients' tests.

use crate::PATIENCE;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

/// What is done with a request.
#[derive(Debug, Clone)]
pub enum Script {
    /// These bytes are sent, and the connection is kept.
    Say(Vec<u8>),
    /// These bytes are sent, and the connection is closed.
    SayAndClose(Vec<u8>),
    /// Nothing ever comes.
    Never,
}

/// A server for one test. It answers the n-th request by the n-th script, and all that come after by the last one.
#[derive(Debug)]
pub struct FakeServer {
    /// `http://ADDRESS`.
    pub url: String,
    address: SocketAddr,
    told: Arc<Told>,
}

#[derive(Debug)]
struct Told {
    scripts: Vec<Script>,
    requests: Mutex<Vec<String>>,
    connections: AtomicUsize,
    over: AtomicBool,
}

impl Script {
    /// An answer with this status and body, and header lines of its own.
    #[must_use]
    pub fn answer(status: u16, body: &str, headers: &[&str]) -> Self {
        let length = format!("content-length: {}", body.len());
        let head = [&[length.as_str()], headers, &["", ""]].concat().join("\r\n");
        let head = format!("HTTP/1.1 {status} X\r\n{head}");
        Self::Say((head + body).into_bytes())
    }
}

impl FakeServer {
    /// A server that listens, with at least one script.
    #[must_use]
    pub fn start(scripts: &[Script]) -> Self {
        assert!(!scripts.is_empty(), "a fake server knows what to say");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("its address");
        let told = Arc::new(Told {
            scripts: scripts.to_vec(),
            requests: Mutex::default(),
            connections: AtomicUsize::new(0),
            over: AtomicBool::new(false),
        });
        thread::spawn({
            let told = Arc::clone(&told);
            move || {
                for stream in listener.incoming().map_while(Result::ok) {
                    if told.over.load(Ordering::SeqCst) {
                        return;
                    }
                    told.connections.fetch_add(1, Ordering::SeqCst);
                    let told = Arc::clone(&told);
                    // A client that goes away is none of its business.
                    thread::spawn(move || drop(told.talk(stream)));
                }
            }
        });
        Self { url: format!("http://{address}"), address, told }
    }

    /// The requests that came, heads and bodies.
    #[must_use]
    pub fn requests(&self) -> Vec<String> {
        self.told.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many connections were made.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.told.connections.load(Ordering::SeqCst)
    }
}

impl Drop for FakeServer {
    fn drop(&mut self) {
        self.told.over.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts, so that the port is free again.
        drop(TcpStream::connect(self.address));
    }
}

impl Told {
    fn talk(&self, mut stream: TcpStream) -> io::Result<()> {
        stream.set_read_timeout(Some(PATIENCE))?;
        while let Some(request) = read_request(&mut stream)? {
            let script = {
                let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
                requests.push(request);
                self.scripts[(requests.len() - 1).min(self.scripts.len() - 1)].clone()
            };
            match script {
                Script::Say(bytes) => stream.write_all(&bytes)?,
                Script::SayAndClose(bytes) => {
                    stream.write_all(&bytes)?;
                    return stream.shutdown(Shutdown::Both);
                }
                Script::Never => {}
            }
        }
        Ok(())
    }
}

/// A whole request; `None` when the client has closed the connection.
fn read_request(stream: &mut TcpStream) -> io::Result<Option<String>> {
    let (mut seen, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        let text = String::from_utf8_lossy(&seen);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.to_ascii_lowercase().lines().find_map(|line| {
                let length = line.strip_prefix("content-length:")?;
                length.trim().parse::<usize>().ok()
            });
            if body.len() >= length.unwrap_or(0) {
                return Ok(Some(text.into_owned()));
            }
        }
        let read = stream.read(&mut buffer)?;
        if read == 0 {
            return Ok(None);
        }
        seen.extend_from_slice(&buffer[..read]);
    }
}
