//! Lines over a Unix socket. A connection that is idle has no buffer; a client that takes no more lines is cut off.

use std::io;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Mutex, Notify};

/// Read at once.
const CHUNK_BYTES: usize = 16 << 10;
/// What is read, and thrown away, of a client that still writes when its connection ends: closing a socket in which
/// something lies unread would take the answer from it.
const LINGER_BYTES_MAX: usize = 16 << 20;
/// How long a client has to see the end and close.
const LINGER: Duration = Duration::from_secs(1);

pub(super) enum Line {
    Text(Vec<u8>),
    TooLong,
    End,
}

/// The lines that come in.
pub(super) struct Lines {
    half: OwnedReadHalf,
    /// Read, but not given out yet.
    there: Vec<u8>,
    /// In the first so many bytes of it there is no end of a line.
    searched: usize,
    line_bytes_max: usize,
}

impl Lines {
    pub(super) fn new(half: OwnedReadHalf, line_bytes_max: usize) -> Self {
        Self { half, there: Vec::new(), searched: 0, line_bytes_max }
    }

    /// The next line, without its end; the last one need not have one. Given up, it loses nothing.
    pub(super) async fn next(&mut self) -> io::Result<Line> {
        loop {
            if let Some(at) = self.there[self.searched..].iter().position(|&byte| byte == b'\n') {
                let end = self.searched + at;
                if end > self.line_bytes_max {
                    return Ok(Line::TooLong);
                }
                let rest = self.there.split_off(end + 1);
                let mut line = std::mem::replace(&mut self.there, rest);
                line.pop();
                self.searched = 0;
                return Ok(Line::Text(line));
            }
            self.searched = self.there.len();
            if self.searched > self.line_bytes_max {
                return Ok(Line::TooLong);
            }
            self.half.readable().await?;
            match self.read() {
                Ok(0) if self.there.is_empty() => return Ok(Line::End),
                Ok(0) => {
                    self.searched = 0;
                    return Ok(Line::Text(std::mem::take(&mut self.there)));
                }
                Ok(_) => {}
                Err(why) if why.kind() == io::ErrorKind::WouldBlock => {}
                Err(why) => return Err(why),
            }
        }
    }

    /// Read what there is. The space for it is on the stack: it is not kept while nothing comes.
    fn read(&mut self) -> io::Result<usize> {
        let mut chunk = [0; CHUNK_BYTES];
        let read = self.half.try_read(&mut chunk)?;
        self.there.extend_from_slice(&chunk[..read]);
        Ok(read)
    }

    /// Take what the client still writes, until it sees that nothing more comes.
    pub(super) async fn linger(mut self) {
        self.there = Vec::new();
        let read = async {
            let mut left = LINGER_BYTES_MAX;
            let mut chunk = vec![0; CHUNK_BYTES];
            while let Ok(read @ 1..) = self.half.read(&mut chunk).await {
                left = left.saturating_sub(read);
                if left == 0 {
                    return;
                }
            }
        };
        // A client that neither closes nor ends is closed all the same.
        let _ = tokio::time::timeout(LINGER, read).await;
    }
}

/// The way out, one line at a time, whoever writes it.
pub(super) struct Outlet {
    /// `None` once a line could not be written whole: nothing may follow half a line.
    half: Mutex<Option<OwnedWriteHalf>>,
    cut: Notify,
    write_timeout: Duration,
}

impl Outlet {
    pub(super) fn new(half: OwnedWriteHalf, write_timeout: Duration) -> Self {
        Self { half: Mutex::new(Some(half)), cut: Notify::new(), write_timeout }
    }

    /// Write a line, and wait until the client's socket has it. `false` if it takes no more.
    pub(super) async fn line(&self, mut line: String) -> bool {
        line.push('\n');
        let mut half = self.half.lock().await;
        let Some(writing) = half.as_mut() else { return false };
        let written = match writing.try_write(line.as_bytes()) {
            Ok(written) if written == line.len() => return true,
            Ok(written) => written,
            Err(why) if why.kind() == io::ErrorKind::WouldBlock => 0,
            Err(_) => line.len() + 1,
        };
        if let Some(rest) = line.as_bytes().get(written..)
            && let Ok(Ok(())) = tokio::time::timeout(self.write_timeout, writing.write_all(rest)).await
        {
            return true;
        }
        *half = None;
        self.cut.notify_one();
        false
    }

    /// Wait until the client was cut off.
    pub(super) async fn cut(&self) {
        self.cut.notified().await;
    }

    /// Nothing follows: the client sees the end of the answers.
    pub(super) async fn end(&self) {
        *self.half.lock().await = None;
    }
}
