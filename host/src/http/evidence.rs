//! The evidence bundle as a stream: however long the ledger, memory stays bounded.

use crate::evidence::Export;
use crate::kernel::Kernel;
use axum::body::{Body, Bytes};
use std::io;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Bytes of a piece of the stream.
const CHUNK_BYTES: usize = 64 << 10;
/// Pieces that wait for a slow reader.
const CHUNKS_WAITING: usize = 4;

/// Stream the bundle.
pub(super) fn stream(kernel: &Arc<Kernel>, export: Export) -> Body {
    let (pieces, mut ready) = mpsc::channel::<io::Result<Bytes>>(CHUNKS_WAITING);
    let kernel = Arc::clone(kernel);
    tokio::task::spawn_blocking(move || {
        let mut out = Pieces { pieces, chunk: Vec::with_capacity(CHUNK_BYTES) };
        if let Err(why) = export.write(&kernel, &mut out).and_then(|()| io::Write::flush(&mut out)) {
            tracing::warn!(kernel = kernel.id, %why, "evidence was not exported to the end");
            // An error in the stream cuts the connection: the caller sees that the bundle is not whole.
            let _ = out.pieces.blocking_send(Err(why));
        }
    });
    Body::from_stream(futures_util::stream::poll_fn(move |cx| ready.poll_recv(cx)))
}

struct Pieces {
    pieces: mpsc::Sender<io::Result<Bytes>>,
    chunk: Vec<u8>,
}

impl io::Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.chunk.extend_from_slice(bytes);
        if self.chunk.len() >= CHUNK_BYTES {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let chunk = std::mem::replace(&mut self.chunk, Vec::with_capacity(CHUNK_BYTES));
        if chunk.is_empty() {
            return Ok(());
        }
        self.pieces.blocking_send(Ok(chunk.into())).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}
