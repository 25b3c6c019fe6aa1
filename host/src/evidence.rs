//! Evidence bundles: written from a ledger, and read from a file to be verified.

use crate::archive::unpacked;
use crate::kernel::Kernel;
use crate::prove::Prover;
use anyhow::{Context, Result};
use gavel_kernel::{ChainStart, ChainVerifier, Entry, EntryData};
use gavel_ledger::note::VerifyingKey;
use gavel_ledger::tree::Hash;
use gavel_ledger::{EntryView, GENESIS_HASH, Ledger, Snapshot};
use gavel_proof::proof_file::Proved;
use gavel_proof::report::Report;
use gavel_proof::trust::TrustedKey;
use gavel_proof::verify::Verifier;
use serde_json::json;
use std::fs::File;
use std::io::{self, Read, Write};
use std::ops::Range;
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
    write_bundle_of(&Source::of(kernel), snapshot, out)
}

/// Write the bundle of the entries from `start` on. It says under `continues` what it follows, which
/// must come before the entries, so that they can be verified as they stream by.
///
/// # Errors
/// As for [`write_bundle`].
///
/// # Panics
/// As for [`write_bundle`].
pub fn write_bundle_from(
    kernel: &Kernel,
    snapshot: &Snapshot,
    start: &ChainStart,
    out: &mut impl Write,
) -> io::Result<()> {
    let source = Source::of(kernel);
    let first = source.ledger.view().first_here().map_err(io::Error::other)?.records;
    write_continuing(&source, snapshot, first, start, out)
}

/// [`write_bundle`] of a ledger that no kernel has open.
pub(crate) fn write_bundle_of(source: &Source<'_>, snapshot: &Snapshot, out: &mut impl Write) -> io::Result<()> {
    let begin = source.ledger.view().first_here().map_err(io::Error::other)?;
    if begin.entries == 0 {
        out.write_all(b"{")?;
        return write_entries(source, snapshot, begin.records, 0, out);
    }
    // What is before is in the archive: the bundle says what it follows.
    let start = ChainStart { ledger_seq: begin.entries, prev_hash: begin.chain_head };
    write_continuing(source, snapshot, begin.records, &start, out)
}

/// A bundle that says what it follows; its entries are in the records from `first` on.
fn write_continuing(
    source: &Source<'_>,
    snapshot: &Snapshot,
    first: u64,
    start: &ChainStart,
    out: &mut impl Write,
) -> io::Result<()> {
    let continues = json!({"ledger_seq": start.ledger_seq, "prev_hash": start.prev_hash});
    write!(out, "{{\"continues\": {continues}, ")?;
    write_entries(source, snapshot, first, start.ledger_seq, out)
}

/// Whose entries a bundle holds.
pub(crate) struct Source<'a> {
    pub(crate) ledger: &'a Ledger,
    pub(crate) kernel_id: &'a str,
    pub(crate) variant: String,
    pub(crate) now_ms: u64,
}

impl<'a> Source<'a> {
    fn of(kernel: &'a Kernel) -> Self {
        let (variant, now_ms) = (kernel.variant.to_string(), kernel.clock.now_ms());
        Self { ledger: &kernel.ledger, kernel_id: &kernel.id, variant, now_ms }
    }
}

/// All of a bundle behind its opening brace: the entries from `first_seq` on, which are in the records from `first` on.
fn write_entries(
    source: &Source<'_>,
    snapshot: &Snapshot,
    first: u64,
    first_seq: u64,
    out: &mut impl Write,
) -> io::Result<()> {
    let Source { ledger, kernel_id, variant, now_ms } = source;
    out.write_all(b"\"ledger_entries\": [")?;
    let mut count: u64 = 0;
    for record in ledger.view().records_between(first, snapshot.records) {
        let record = record.map_err(io::Error::other)?;
        let Some(view) = record.entry().filter(|view| view.ledger_seq >= first_seq) else { continue };
        out.write_all(if count == 0 { b"\n" } else { b",\n" })?;
        let entry = entry(view).map_err(io::Error::other)?;
        serde_json::to_writer(&mut *out, &entry)?;
        count += 1;
    }
    assert_eq!(first_seq + count, snapshot.entries, "the ledger holds the entries that its snapshot counts");
    let tail = serde_json::json!({
        "root_hash": snapshot.chain_head,
        "exported_at_ms": now_ms,
        "kernel_id": kernel_id,
        "variant": variant,
        "entry_count": count,
    });
    let tail = tail.to_string();
    write!(out, "\n], {}\n", tail.trim_start_matches('{'))
}

/// Verify the chain that a ledger holds up to `snapshot`: every hash and every link is computed again, from the first
/// segment on that is not only in an archive. Blocks.
///
/// # Errors
/// The first entry that does not hold.
pub(crate) fn verify_chain(ledger: &Ledger, snapshot: &Snapshot) -> Result<()> {
    let view = ledger.view();
    let begin = view.first_here()?;
    let before = begin.entries;
    let start = ChainStart { ledger_seq: before, prev_hash: begin.chain_head };
    let mut chain = ChainVerifier::from_start(start);
    for record in view.records_between(begin.records, snapshot.records) {
        if let Some(view) = record?.entry() {
            chain.push(&entry(view)?)?;
        }
    }
    chain.finish(&snapshot.chain_head, Some(snapshot.entries - before))?;
    Ok(())
}

/// What goes into a bundle that is asked for: everything that is committed at one moment, or a part of it.
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
    /// As for [`write_bundle`].
    pub fn write(&self, kernel: &Kernel, out: &mut impl Write) -> io::Result<()> {
        match &self.records {
            None => write_bundle(kernel, &self.snapshot, out),
            Some(range) => write_records(kernel, &self.snapshot, range.clone(), out),
        }
    }
}

/// Write the bundle of these records.
fn write_records(kernel: &Kernel, snapshot: &Snapshot, range: Range<u64>, out: &mut impl Write) -> io::Result<()> {
    let view = kernel.ledger.view();
    let sides = view.range(range.start, range.end, snapshot.records).map_err(io::Error::other)?;
    write!(out, "{{\"first_index\": {}, \"before\": {}", range.start, json!(hexes(&sides.before)))?;
    let (mut count, mut head) = (0_u64, None);
    for record in view.records_between(range.start, range.end) {
        let record = record.map_err(io::Error::other)?;
        let Some(view) = record.entry() else { continue };
        if count == 0 {
            write_continues(view, out)?;
        }
        out.write_all(if count == 0 { b",\n\"ledger_entries\": [\n" } else { b",\n" })?;
        let entry = entry(view).map_err(io::Error::other)?;
        serde_json::to_writer(&mut *out, &entry)?;
        count += 1;
        head = Some(entry.entry_hash);
    }
    out.write_all(if count == 0 { b",\n\"ledger_entries\": [" } else { b"\n" })?;
    let mut tail = json!({
        "root_hash": head.as_deref().unwrap_or(GENESIS_HASH),
        "exported_at_ms": kernel.clock.now_ms(),
        "kernel_id": kernel.id,
        "variant": kernel.variant,
        "entry_count": count,
        "after": hexes(&sides.after),
    });
    if let (Some(checkpoint), Some(key)) = (&snapshot.checkpoint, &snapshot.key) {
        tail["checkpoint"] = json!(**checkpoint);
        tail["key"] = json!(VerifyingKey::new(&view.origin(), key).map_err(io::Error::other)?.to_string());
    }
    let tail = tail.to_string();
    let rotations = match snapshot.checkpoint {
        Some(_) => Prover::of_kernel(kernel).map_err(io::Error::other)?.rotations().to_vec(),
        None => Vec::new(),
    };
    let rotations: Vec<_> = rotations.iter().map(Proved::to_json).collect();
    write!(
        out,
        "], {},\n\"rotations\": [{}],\n\"records\": [",
        tail.trim_start_matches('{').trim_end_matches('}'),
        rotations.join(",\n")
    )?;
    for (at, record) in view.records_between(range.start, range.end).enumerate() {
        let record = record.map_err(io::Error::other)?;
        write!(out, "{}{}", if at == 0 { "\n" } else { ",\n" }, record.as_str())?;
    }
    out.write_all(b"\n]}\n")
}

/// What the first entry follows, if it is not the first of its chain.
fn write_continues(first: EntryView<'_>, out: &mut impl Write) -> io::Result<()> {
    if first.ledger_seq == 0 {
        return Ok(());
    }
    write!(out, ", \"continues\": {}", json!({"ledger_seq": first.ledger_seq, "prev_hash": first.prev_hash}))
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

/// Verify a bundle file; what does not hold is an error.
///
/// # Errors
/// When it cannot be read or is no bundle, or the first entry or record that does not hold.
pub fn verify_bundle_file(path: &Path) -> Result<Report> {
    verify_bundle(open_plain(path).with_context(|| path.display().to_string())?)
}

/// Verify a bundle from a reader; what does not hold is an error.
///
/// # Errors
/// As [`verify_bundle_file`].
pub fn verify_bundle(reader: impl Read) -> Result<Report> {
    let report = verify_reader(reader, None, UNPACKED_BYTES_MAX)?;
    match &report.error {
        Some(why) => Err(anyhow::anyhow!("{why}")),
        None => Ok(report),
    }
}

/// Verify a bundle or a proof file as it streams by: memory stays bounded however long it is. If it is compressed, it
/// may unpack to at most `unpacked_bytes_max` bytes.
///
/// # Errors
/// When it cannot be read, or is compressed and damaged. What does not hold is told by the report.
pub fn verify_file(path: &Path, trusted: Option<TrustedKey>, unpacked_bytes_max: u64) -> Result<Report> {
    verify_reader(open_plain(path).with_context(|| path.display().to_string())?, trusted, unpacked_bytes_max)
}

fn verify_reader(mut reader: impl Read, trusted: Option<TrustedKey>, unpacked_bytes_max: u64) -> Result<Report> {
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

/// Open a file that may be compressed by zstd or gzip, which its first bytes tell.
///
/// # Errors
/// When it cannot be read.
pub fn open_plain(path: &Path) -> io::Result<Box<dyn Read>> {
    let file: Box<dyn Read> = unpacked(File::open(path)?)?;
    Ok(file)
}
