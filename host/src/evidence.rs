//! Evidence bundles in the KERNELS form: written from a ledger, read and verified from a file.

use crate::kernel::Kernel;
use anyhow::{Context, Result};
use gavel_kernel::{ChainError, ChainStart, ChainVerifier, Entry, EntryData};
use gavel_ledger::{EntryView, Snapshot};
use serde::Deserialize;
use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::fmt;
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
    out.write_all(b"{")?;
    write_entries(kernel, snapshot, 0, out)
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
    let continues = serde_json::json!({"ledger_seq": start.ledger_seq, "prev_hash": start.prev_hash});
    write!(out, "{{\"continues\": {continues}, ")?;
    write_entries(kernel, snapshot, start.ledger_seq, out)
}

/// All of a bundle behind its opening brace.
fn write_entries(kernel: &Kernel, snapshot: &Snapshot, first_seq: u64, out: &mut impl Write) -> io::Result<()> {
    out.write_all(b"\"ledger_entries\": [")?;
    let mut count: u64 = 0;
    for record in kernel.ledger.records(snapshot) {
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

/// What a verified bundle holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BundleReport {
    /// Whose it is.
    pub kernel_id: String,
    /// Entries whose hashes and links were recomputed.
    pub entries: u64,
    /// What the first of them follows, as the bundle itself says: only the bundle before can prove
    /// it. `None` if it begins with the kernel.
    pub continues: Option<ChainStart>,
    /// The last entry's hash, recomputed.
    pub root_hash: String,
}

/// Verify a bundle file as it streams by: memory stays bounded however long it is.
///
/// # Errors
/// When it is no bundle, or the first entry that does not hold.
pub fn verify_bundle_file(path: &Path) -> Result<BundleReport> {
    verify_bundle(open_plain(path).with_context(|| path.display().to_string())?)
}

/// Open a file that may be compressed by zstd or gzip, which its first bytes tell.
///
/// # Errors
/// When it cannot be read.
pub fn open_plain(path: &Path) -> io::Result<Box<dyn Read>> {
    let mut file = BufReader::with_capacity(1 << 20, File::open(path)?);
    let first = file.fill_buf()?;
    if first.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        return Ok(Box::new(BufReader::with_capacity(1 << 20, zstd::Decoder::with_buffer(file)?)));
    }
    if first.starts_with(&[0x1f, 0x8b]) {
        return Ok(Box::new(BufReader::with_capacity(1 << 20, flate2::bufread::MultiGzDecoder::new(file))));
    }
    Ok(Box::new(file))
}

/// Verify a bundle from a reader.
///
/// # Errors
/// As [`verify_bundle_file`].
pub fn verify_bundle(reader: impl Read) -> Result<BundleReport> {
    let mut reading = Reading::default();
    let mut json = serde_json::Deserializer::from_reader(reader);
    let read = (&mut reading).deserialize(&mut json).and_then(|()| json.end());
    // A chain error stops the reading and says more than the parser's word for that.
    if let Some(why) = reading.broken.take() {
        return Err(why.into());
    }
    read.context("not an evidence bundle")?;
    anyhow::ensure!(reading.has_entries, "not an evidence bundle: `ledger_entries` is missing");
    let root_hash = reading.root_hash.context("not an evidence bundle: `root_hash` is missing")?;
    let verified = reading.chain.finish(&root_hash, reading.entry_count)?;
    Ok(BundleReport {
        kernel_id: reading.kernel_id.unwrap_or_default(),
        entries: verified.entries_verified,
        continues: reading.continues,
        root_hash: verified.root_hash,
    })
}

/// A bundle being read: the entries go through the chain one by one, the rest is kept.
#[derive(Debug, Default)]
struct Reading {
    chain: ChainVerifier,
    continues: Option<ChainStart>,
    has_entries: bool,
    root_hash: Option<String>,
    kernel_id: Option<String>,
    entry_count: Option<u64>,
    broken: Option<ChainError>,
}

impl<'de> DeserializeSeed<'de> for &mut Reading {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for &mut Reading {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an evidence bundle")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "ledger_entries" if self.has_entries => return Err(de::Error::duplicate_field("ledger_entries")),
                "continues" if self.has_entries => {
                    return Err(de::Error::custom("`continues` must come before `ledger_entries`"));
                }
                "continues" => self.continue_from(map.next_value()?),
                // A preserved bundle lies in what was said when it was preserved.
                "evidence" if !self.has_entries => map.next_value_seed(&mut *self)?,
                "ledger_entries" => {
                    self.has_entries = true;
                    map.next_value_seed(Entries(self))?;
                }
                "root_hash" => self.root_hash = Some(map.next_value()?),
                "kernel_id" => self.kernel_id = Some(map.next_value()?),
                "entry_count" => self.entry_count = map.next_value()?,
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }
}

/// What a bundle that does not begin with its kernel follows.
#[derive(Deserialize)]
struct Continues {
    ledger_seq: u64,
    prev_hash: String,
}

impl Reading {
    fn continue_from(&mut self, Continues { ledger_seq, prev_hash }: Continues) {
        let start = ChainStart { ledger_seq, prev_hash };
        self.chain = ChainVerifier::from_start(start.clone());
        self.continues = Some(start);
    }
}

struct Entries<'a>(&'a mut Reading);

impl<'de> DeserializeSeed<'de> for Entries<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Entries<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of ledger entries")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        while let Some(entry) = entries.next_element::<Entry>()? {
            if let Err(why) = self.0.chain.push(&entry) {
                let message = de::Error::custom(&why);
                self.0.broken = Some(why);
                return Err(message);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gavel_kernel::GENESIS_HASH;
    use serde_json::{Value, json};

    fn bundle() -> Value {
        let mut prev = GENESIS_HASH.to_owned();
        let entries: Vec<Entry> = (0..5)
            .map(|seq| {
                let entry = EntryData::halt(format!("reason {seq}"), 1_000 + seq).seal(seq, &prev);
                prev.clone_from(&entry.entry_hash);
                entry
            })
            .collect();
        json!({"ledger_entries": entries, "root_hash": prev, "exported_at_ms": 5, "kernel_id": "k", "variant": "strict", "entry_count": 5})
    }

    fn told(bundle: &Value) -> String {
        verify_bundle(bundle.to_string().as_bytes())
            .map_or_else(|why| format!("{why:#}"), |report| format!("{} entries", report.entries))
    }

    #[test]
    fn a_whole_bundle_holds_and_any_damage_is_named() {
        assert_eq!(told(&bundle()), "5 entries");
        let mut changed = bundle();
        changed["ledger_entries"][2]["intent"] = json!("another");
        assert!(told(&changed).contains("entry 2"), "{}", told(&changed));
        let mut removed = bundle();
        removed["ledger_entries"].as_array_mut().unwrap().remove(1);
        assert!(told(&removed).contains("entry 2"), "{}", told(&removed));
        let mut cut = bundle();
        cut["ledger_entries"].as_array_mut().unwrap().pop();
        assert!(told(&cut).contains("root_hash"), "{}", told(&cut));
        let mut recounted = bundle();
        recounted["entry_count"] = json!(4);
        assert!(told(&recounted).contains("entry_count"), "{}", told(&recounted));
    }

    #[test]
    fn a_bundle_that_continues_another_says_what_it_follows() {
        let whole = bundle();
        let rest: Vec<Value> = whole["ledger_entries"].as_array().unwrap()[2..].to_vec();
        let after = &whole["ledger_entries"][1]["entry_hash"];
        let text = |seq: u64, prev: &Value| {
            let (rest, root) = (json!(rest), &whole["root_hash"]);
            format!(
                r#"{{"continues":{{"ledger_seq":{seq},"prev_hash":{prev}}},"ledger_entries":{rest},"root_hash":{root},"entry_count":3}}"#
            )
        };
        let report = verify_bundle(text(2, after).as_bytes()).unwrap();
        assert_eq!((report.entries, report.continues.map(|start| start.ledger_seq)), (3, Some(2)));
        assert!(verify_bundle(text(1, after).as_bytes()).is_err());
        assert!(verify_bundle(text(2, &json!(GENESIS_HASH)).as_bytes()).is_err());
        let late = format!(r#"{{"ledger_entries":[],"continues":{{"ledger_seq":0,"prev_hash":{after}}}}}"#);
        assert!(format!("{:#}", verify_bundle(late.as_bytes()).unwrap_err()).contains("must come before"));
    }

    #[test]
    fn a_preserved_or_compressed_bundle_is_read_all_the_same() {
        let preserved = json!({"incident_id": "i", "evidence": bundle(), "integrity_hash": "x"});
        assert_eq!(told(&preserved), "5 entries");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bundle");
        std::fs::write(&path, zstd::encode_all(bundle().to_string().as_bytes(), 1).unwrap()).unwrap();
        assert_eq!(verify_bundle_file(&path).unwrap().entries, 5);
        let mut gzip = flate2::write::GzEncoder::new(File::create(&path).unwrap(), flate2::Compression::fast());
        gzip.write_all(bundle().to_string().as_bytes()).unwrap();
        gzip.finish().unwrap();
        assert_eq!(verify_bundle_file(&path).unwrap().entries, 5);
    }

    #[test]
    fn what_is_no_bundle_says_so() {
        for text in ["", "[]", "{}", "{\"ledger_entries\": 5}", "{\"ledger_entries\": []}", "\u{feff}{}"] {
            let why = format!("{:#}", verify_bundle(text.as_bytes()).unwrap_err());
            assert!(why.starts_with("not an evidence bundle"), "{text}: {why}");
        }
    }
}
