//! Evidence bundles: written from a ledger, and read from a file to be verified.

use crate::kernel::Kernel;
use anyhow::{Context, Result};
use flate2::bufread::MultiGzDecoder;
use gavel_kernel::{Entry, EntryData};
use gavel_ledger::note::VerifyingKey;
use gavel_ledger::tree::{Hash, RangeProof};
use gavel_ledger::{EntryView, GENESIS_HASH, Snapshot};
use gavel_proof::report::Report;
use gavel_proof::trust::TrustedKey;
use gavel_proof::verify::Verifier;
use serde_json::json;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::ops::Range;
use std::path::Path;

/// What goes into a bundle: everything that is committed at one moment, or a part of it.
#[derive(Debug)]
pub struct Export {
    snapshot: Snapshot,
    /// The records to hold, if the bundle holds any.
    records: Option<Range<u64>>,
}

impl Export {
    /// The chain of entries alone, as the KERNELS package writes it.
    #[must_use]
    pub fn entries(kernel: &Kernel) -> Self {
        Self { snapshot: kernel.ledger.snapshot(), records: None }
    }

    /// With the records from number `from` to number `to`, and what ties them to the signed checkpoint.
    ///
    /// # Errors
    /// When there are no such records.
    pub fn with_records(kernel: &Kernel, from: Option<u64>, to: Option<u64>) -> Result<Self, String> {
        let snapshot = kernel.ledger.snapshot();
        let last = snapshot.records.saturating_sub(1);
        let (from, to) = (from.unwrap_or(0), to.unwrap_or(last));
        if from > to || to > last {
            return Err(format!("there are no records {from} to {to}: the ledger has the records 0 to {last}"));
        }
        Ok(Self { snapshot, records: Some(from..to + 1) })
    }

    /// Write the bundle. What is in it is described in `docs/formats/proof.md`.
    ///
    /// # Errors
    /// When the ledger cannot be read or `out` cannot be written.
    ///
    /// # Panics
    /// When the ledger holds another number of entries than its snapshot counts: then nothing that it says can be
    /// proved.
    pub fn write(&self, kernel: &Kernel, out: &mut impl Write) -> io::Result<()> {
        let Self { snapshot, records } = self;
        let range = records.clone().unwrap_or(0..snapshot.records);
        out.write_all(b"{")?;
        let sides = match records {
            Some(range) => Some(self.write_before(kernel, range, out)?),
            None => None,
        };
        out.write_all(b"\"ledger_entries\": [")?;
        let (count, head) = write_entries(kernel, range.clone(), out)?;
        if range.end - range.start == snapshot.records {
            assert_eq!(count, snapshot.entries, "the ledger holds the entries that its snapshot counts");
        }
        let tail = json!({
            "root_hash": head.as_deref().unwrap_or(GENESIS_HASH),
            "exported_at_ms": kernel.clock.now_ms(),
            "kernel_id": kernel.id,
            "variant": kernel.law.variant,
            "entry_count": count,
        });
        let tail = tail.to_string();
        write!(out, "\n], {}", tail.trim_start_matches('{').trim_end_matches('}'))?;
        if let Some(sides) = sides {
            self.write_records(kernel, range, &sides, out)?;
        }
        out.write_all(b"}\n")
    }

    /// What must be known before the entries: that they may begin in the middle of the chain.
    fn write_before(&self, kernel: &Kernel, range: &Range<u64>, out: &mut impl Write) -> io::Result<RangeProof> {
        let view = kernel.ledger.view();
        let sides = view.range(range.start, range.end, self.snapshot.records).map_err(io::Error::other)?;
        write!(out, "\"first_index\": {}, \"before\": {},\n", range.start, json!(hexes(&sides.before)))?;
        Ok(sides)
    }

    fn write_records(
        &self,
        kernel: &Kernel,
        range: Range<u64>,
        sides: &RangeProof,
        out: &mut impl Write,
    ) -> io::Result<()> {
        let Snapshot { checkpoint, key, .. } = &self.snapshot;
        let view = kernel.ledger.view();
        write!(out, ",\n\"after\": {}", json!(hexes(&sides.after)))?;
        if let Some(checkpoint) = checkpoint {
            write!(out, ",\n\"checkpoint\": {}", json!(**checkpoint))?;
        }
        if let Some(key) = key {
            let key = VerifyingKey::new(&view.origin(), key).map_err(io::Error::other)?;
            write!(out, ",\n\"key\": {}", json!(key.to_string()))?;
        }
        out.write_all(b",\n\"records\": [")?;
        for (at, record) in view.records_between(range.start, range.end).enumerate() {
            let record = record.map_err(io::Error::other)?;
            write!(out, "{}{}", if at == 0 { "\n" } else { ",\n" }, record.as_str())?;
        }
        out.write_all(b"\n]")
    }
}

/// The entries of these records; how many there are, and the hash of the last.
fn write_entries(kernel: &Kernel, range: Range<u64>, out: &mut impl Write) -> io::Result<(u64, Option<String>)> {
    let (mut count, mut head) = (0, None);
    for record in kernel.ledger.view().records_between(range.start, range.end) {
        let record = record.map_err(io::Error::other)?;
        let Some(view) = record.entry() else { continue };
        out.write_all(if count == 0 { b"\n" } else { b",\n" })?;
        let entry = entry(view).map_err(io::Error::other)?;
        serde_json::to_writer(&mut *out, &entry)?;
        count += 1;
        head = Some(entry.entry_hash);
    }
    Ok((count, head))
}

fn hexes(hashes: &[Hash]) -> Vec<String> {
    hashes.iter().map(hex::encode).collect()
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
