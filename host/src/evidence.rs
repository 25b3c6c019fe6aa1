//! Evidence bundles: written from a ledger, and read from a file to be verified.

use crate::kernel::Kernel;
use anyhow::{Context, Result};
use flate2::bufread::MultiGzDecoder;
use gavel_kernel::{Entry, EntryData};
use gavel_ledger::{EntryView, Snapshot};
use gavel_proof::report::Report;
use gavel_proof::trust::TrustedKey;
use gavel_proof::verify::Verifier;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::Path;

/// Write the bundle of what `snapshot` holds: `ledger_entries`, `root_hash`, `exported_at_ms`,
/// `kernel_id`, `variant`, `entry_count`.
///
/// # Errors
/// When the ledger cannot be read or `out` cannot be written.
///
/// # Panics
/// When the ledger holds another number of entries than its snapshot counts: then nothing that it says can be proved.
pub fn write_bundle(kernel: &Kernel, snapshot: &Snapshot, out: &mut impl Write) -> io::Result<()> {
    out.write_all(b"{\"ledger_entries\": [")?;
    let mut count: u64 = 0;
    for record in kernel.ledger.records(snapshot) {
        let record = record.map_err(io::Error::other)?;
        let Some(view) = record.entry() else { continue };
        out.write_all(if count == 0 { b"\n" } else { b",\n" })?;
        let entry = entry(view).map_err(io::Error::other)?;
        serde_json::to_writer(&mut *out, &entry)?;
        count += 1;
    }
    assert_eq!(count, snapshot.entries, "the ledger holds the entries that its snapshot counts");
    let tail = serde_json::json!({
        "root_hash": snapshot.chain_head,
        "exported_at_ms": kernel.clock.now_ms(),
        "kernel_id": kernel.id,
        "variant": kernel.law.variant,
        "entry_count": count,
    });
    let tail = tail.to_string();
    write!(out, "\n], {}\n", tail.trim_start_matches('{'))
}

/// An entry of the chain in its export form.
fn entry(view: EntryView<'_>) -> Result<Entry> {
    let data: EntryData = serde_json::from_str(view.data).with_context(|| format!("entry {}", view.ledger_seq))?;
    Ok(Entry {
        ledger_seq: view.ledger_seq,
        prev_hash: view.prev_hash.to_owned(),
        entry_hash: view.entry_hash.to_owned(),
        data,
    })
}

/// Bytes that a compressed bundle may unpack to, unless the caller says otherwise. Verifying keeps none of them: the
/// limit only ends what would go on for ever.
pub const UNPACKED_BYTES_MAX: u64 = 64 << 30;

/// Bytes that are read at once.
const PIECE_BYTES: usize = 256 << 10;

/// Verify a bundle or a proof file as it streams by: memory stays bounded however long it is. What is compressed with
/// gzip or zstd, whatever its name, is unpacked, to at most `unpacked_bytes_max` bytes.
///
/// # Errors
/// When it cannot be read, or is compressed and damaged. What does not hold is told by the report.
pub fn verify_file(path: &Path, trusted: Option<TrustedKey>, unpacked_bytes_max: u64) -> Result<Report> {
    let file = File::open(path).with_context(|| path.display().to_string())?;
    let mut reader = unpacked(BufReader::with_capacity(PIECE_BYTES, file))?;
    let mut verifier = Verifier::new(trusted);
    let (mut piece, mut bytes) = (vec![0; PIECE_BYTES], 0);
    loop {
        let read = reader.read(&mut piece).context("not an evidence bundle: it cannot be read to its end")?;
        bytes += read as u64;
        anyhow::ensure!(
            bytes <= unpacked_bytes_max,
            "it unpacks to more than {unpacked_bytes_max} bytes (--max-bytes)"
        );
        if read == 0 || !verifier.push(&piece[..read]) {
            return Ok(verifier.finish());
        }
    }
}

/// By the first bytes, not by the name.
fn unpacked(mut reader: BufReader<File>) -> Result<Box<dyn Read>> {
    let start = reader.fill_buf().context("not an evidence bundle: it cannot be read")?;
    Ok(match start {
        [0x1f, 0x8b, ..] => Box::new(MultiGzDecoder::new(reader)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Box::new(zstd::Decoder::with_buffer(reader).context("not zstd")?),
        _ => Box::new(reader),
    })
}
