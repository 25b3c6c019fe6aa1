//! `gavel restore`: back from the archive, or out of a packed bundle.

use super::Outcome;
use super::output::{line, note, print_json};
use crate::archive::{Archive, ArchivedLedger, Wanted, restore_ledger, restore_segments, unpacked};
use crate::evidence::verify_bundle_file;
use anyhow::{Context, Result, ensure};
use gavel_proof::note::VerifyingKey;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use std::fs::File;
use std::io::{IsTerminal, Read, Seek, Write};
use std::path::{Path, PathBuf};

/// Bring a ledger back from the archive, or unpack an evidence bundle; verify it before it counts.
///
/// With `--from`: rebuilds a kernel's ledger in a new folder from its archived segments, or with `--segment` puts
/// single ones back into the folder that they left. Needs no server. With a BUNDLE: verifies it (plain, gzip or zstd)
/// and writes it as plain JSON. Nothing is ever overwritten.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  gavel restore --from s3://evidence/prod --kernel payments --into ./payments-ledger
  gavel restore --from file:///mnt/archive --kernel k --into /var/lib/gavel/kernels/k/ledger --segment 3
  gavel restore evidence.json.zst --out evidence.json")]
pub(super) struct Args {
    /// An evidence bundle: plain, gzip or zstd.
    #[arg(required_unless_present = "from", conflicts_with = "from", requires = "out")]
    bundle: Option<PathBuf>,
    /// The new file for the plain bundle; `-` writes to standard output.
    #[arg(long, value_name = "FILE", conflicts_with = "from")]
    out: Option<PathBuf>,
    /// The most bytes that the plain bundle may have.
    #[arg(long, default_value_t = 64 << 30, value_name = "BYTES")]
    max_bytes: u64,
    /// The archive: `file:///FOLDER`, `s3://BUCKET/PREFIX`, `gs://…` or `az://…`; credentials from the environment.
    #[arg(long, value_name = "URL", requires_all = ["kernel", "into"])]
    from: Option<String>,
    /// An option of the store, such as `aws_region=eu-central-1`.
    #[arg(long = "option", value_name = "KEY=VALUE", value_parser = key_value)]
    options: Vec<(String, String)>,
    /// The kernel.
    #[arg(long, value_name = "ID")]
    kernel: Option<String>,
    /// Which of the kernel's ledgers, if the archive has several: 32 hex digits.
    #[arg(long, value_name = "HEX")]
    ledger: Option<String>,
    /// The new folder for the ledger; with `--segment` the ledger's own.
    #[arg(long, value_name = "DIR")]
    into: Option<PathBuf>,
    /// Put only this segment back; may be given several times.
    #[arg(long = "segment", value_name = "N", requires = "from")]
    segments: Vec<u32>,
    /// The key that must have signed the last checkpoint: NAME+HEX+BASE64, or a file with that.
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
}

pub(super) fn key_value(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned()));
    pair.ok_or_else(|| format!("`{text}` is not KEY=VALUE"))
}

pub(super) fn run(args: &Args, as_json: bool) -> Result<Outcome> {
    match (&args.bundle, &args.from, &args.kernel, &args.into) {
        (Some(bundle), ..) => {
            let out = args.out.as_deref().unwrap_or(Path::new("-"));
            unpack(bundle, out, args.max_bytes, as_json)
        }
        (None, Some(url), Some(kernel), Some(into)) => {
            let archive = Archive::at(url, args.options.iter().cloned())?;
            let runtime = super::runtime()?;
            if args.segments.is_empty() {
                let restored = runtime.block_on(whole(args, &archive, kernel, into))?;
                tell(&restored, into, as_json)?;
            } else {
                runtime.block_on(single(args, &archive, into, as_json))?;
            }
            Ok(Outcome::Yes)
        }
        _ => anyhow::bail!("give a BUNDLE, or `--from`, `--kernel` and `--into`"),
    }
}

async fn whole(args: &Args, archive: &Archive, kernel: &str, into: &Path) -> Result<ArchivedLedger> {
    let key = args.key.as_deref().map(read_key).transpose()?;
    let wanted = Wanted { kernel_id: kernel, ledger_id: args.ledger.as_deref(), key: key.as_ref() };
    let progress = segments_bar();
    let restored = restore_ledger(archive, wanted, into, |done, count| {
        progress.set_length(count.into());
        progress.set_position(done.into());
    });
    let restored = restored.await;
    progress.finish_and_clear();
    restored
}

async fn single(args: &Args, archive: &Archive, into: &Path, as_json: bool) -> Result<()> {
    let restored = restore_segments(archive, into, &args.segments).await?;
    if as_json {
        return print_json(&json!({"restored": restored}));
    }
    for segment in restored {
        line(&format!("segment {} is back in {}, verified", segment.segment, into.display()))?;
    }
    Ok(())
}

fn tell(restored: &ArchivedLedger, into: &Path, as_json: bool) -> Result<()> {
    if as_json {
        return print_json(restored);
    }
    line(&format!("{}: ledger of kernel {}, verified", into.display(), restored.kernel_id))?;
    let tail = if restored.tail { " sealed, and a copy of what came after" } else { " sealed" };
    line(&format!("  segments   {}{tail}", restored.segments))?;
    line(&format!("  records    {}", restored.records))?;
    line(&format!("  entries    {}", restored.entries))?;
    line(&format!("  tree root  {}", restored.root))?;
    line(&format!(
        "  signed     {}",
        if restored.signed { "by the key that was given" } else { "(no key was given)" }
    ))?;
    note("what was recorded after the last run of `gavel archive` is not in it, nor are blobs");
    Ok(())
}

fn read_key(given: &str) -> Result<VerifyingKey> {
    if let Ok(key) = given.parse() {
        return Ok(key);
    }
    let text = std::fs::read_to_string(given).with_context(|| format!("{given}: neither a key nor a file with one"))?;
    text.trim().parse().with_context(|| given.to_owned())
}

/// How many segments are done, where somebody looks.
pub(super) fn segments_bar() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:40} {pos} of {len} segments  {eta} left");
    ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// Unpack into a file without a name, verify that, and only then give it its own.
fn unpack(bundle: &Path, out: &Path, max_bytes: u64, as_json: bool) -> Result<Outcome> {
    let packed = File::open(bundle).with_context(|| bundle.display().to_string())?;
    let to_stdout = out == Path::new("-");
    ensure!(to_stdout || !out.exists(), "{} exists: nothing is overwritten, give another file", out.display());
    let folder = out.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut plain = if to_stdout { tempfile::NamedTempFile::new() } else { tempfile::NamedTempFile::new_in(folder) }?;
    let copied = std::io::copy(&mut unpacked(packed)?.take(max_bytes.saturating_add(1)), &mut plain);
    let bytes = copied.with_context(|| format!("{}: it breaks off, or is damaged", bundle.display()))?;
    ensure!(bytes <= max_bytes, "{} unpacks to more than {max_bytes} bytes (`--max-bytes`)", bundle.display());
    plain.flush()?;
    let report = verify_bundle_file(plain.path());
    let report = report.with_context(|| bundle.display().to_string())?;
    if to_stdout {
        plain.rewind()?;
        std::io::copy(plain.as_file_mut(), &mut std::io::stdout().lock())?;
        return Ok(Outcome::Yes);
    }
    plain.as_file_mut().flush()?;
    plain.as_file().sync_all()?;
    plain.persist_noclobber(out).with_context(|| out.display().to_string())?;
    File::open(folder)?.sync_all()?;
    if as_json {
        print_json(
            &json!({"file": out, "bytes": bytes, "kernel_id": report.kernel_id, "entry_count": report.entries}),
        )?;
    } else {
        line(&format!("{}: {} entries of kernel {}, verified", out.display(), report.entries, report.kernel_id))?;
    }
    Ok(Outcome::Yes)
}
