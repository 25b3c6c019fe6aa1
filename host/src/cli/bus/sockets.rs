//! A connection to a Unix socket of the bus: one line of JSON there, one back.

use super::reach::Heard;
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Bytes of a line that is read; the longest answers are those of the history.
const LINE_BYTES_MAX: u64 = 256 << 20;

/// An open connection.
pub(super) struct Socket {
    stream: BufReader<UnixStream>,
    path: PathBuf,
    patience: Duration,
}

impl Socket {
    pub(super) fn open(path: &Path, patience: Duration) -> Result<Self> {
        let stream = UnixStream::connect(path).with_context(|| {
            format!(
                "no server at {}: start one with a section `bus`, or say where it is with `--socket-dir` or `--url`",
                path.display()
            )
        })?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        Ok(Self { stream: BufReader::new(stream), path: path.to_owned(), patience })
    }

    /// Send a frame, and wait for its answer.
    pub(super) fn ask(&mut self, frame: &Value) -> Result<Value> {
        let line = format!("{frame}\n");
        self.stream.get_mut().write_all(line.as_bytes()).with_context(|| self.path.display().to_string())?;
        match self.line()? {
            Some(answer) => Ok(answer),
            None => bail!("{}: the server closed the connection", self.path.display()),
        }
    }

    /// What is pushed from now on, until the server or the wish to hear ends.
    pub(super) fn pushes(mut self, mut hear: impl FnMut(Heard) -> Result<bool>) -> Result<()> {
        // Nothing may happen for as long as nothing happens.
        self.stream.get_ref().set_read_timeout(None)?;
        while let Some(mut push) = self.line()? {
            let heard = match push["type"].as_str() {
                Some("EVENT") => Heard::Event(push["event"].take()),
                Some("EVENTS_MISSED") => Heard::Missed(push["missed"].as_u64().unwrap_or_default()),
                _ => continue,
            };
            if !hear(heard)? {
                break;
            }
        }
        Ok(())
    }

    /// The next line; `None` at the end.
    fn line(&mut self) -> Result<Option<Value>> {
        let mut line = Vec::new();
        let read = (&mut self.stream).take(LINE_BYTES_MAX).read_until(b'\n', &mut line);
        match read {
            Ok(0) => Ok(None),
            Ok(_) => {
                let value = serde_json::from_slice(&line);
                value.map(Some).with_context(|| format!("{} answered no JSON", self.path.display()))
            }
            Err(why) if matches!(why.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                bail!("{}: no answer within {:?} (--timeout)", self.path.display(), self.patience)
            }
            Err(why) => Err(why).with_context(|| self.path.display().to_string()),
        }
    }
}
