//! `gavel evidence`: export the evidence bundle, and check it before it is called exported.

use super::Outcome;
use super::client::{Client, Remote};
use super::output::{line, print_json};
use crate::evidence::{UNPACKED_BYTES_MAX, verify_file};
use anyhow::{Context, Result, bail};
use gavel_proof::report::Report;
use serde_json::json;
use std::fs::File;
use std::io::{Read, Write, copy};
use std::path::{Path, PathBuf};
use ureq::Body;
use ureq::http::Response;

const EVIDENCE: &str = "/evidence";

/// Export a kernel's evidence bundle from a server into a file, and verify what was written.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  gavel evidence --out evidence.json
  gavel evidence --records --out evidence.json.zst
  gavel evidence --records --from 1000 --to 1999 --out part.json.gz
  gavel evidence --out - | jq .root_hash")]
pub(super) struct Args {
    /// The file to write, compressed if its name ends with .gz or .zst; `-` writes to standard output, unverified.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// With the records, and all that ties them to the signed checkpoint: what `gavel verify --key` needs.
    #[arg(long)]
    records: bool,
    /// The first record.
    #[arg(long, value_name = "INDEX", requires = "records")]
    from: Option<u64>,
    /// The last record, included.
    #[arg(long, value_name = "INDEX", requires = "records")]
    to: Option<u64>,
    #[command(flatten)]
    remote: Remote,
}

pub(super) fn run(args: &Args, as_json: bool) -> Result<Outcome> {
    let client = args.remote.client()?;
    if args.out == Path::new("-") {
        let mut response = answered(&client, &route(args))?;
        copy(&mut response.body_mut().as_reader(), &mut std::io::stdout().lock()).context("the bundle broke off")?;
        return Ok(Outcome::Yes);
    }
    let report = save_and_verify(&client, &route(args), &args.out)?;
    if as_json {
        print_json(
            &json!({"file": args.out, "kernel_id": report.kernel_id, "entry_count": report.entries, "root_hash": report.root_hash}),
        )?;
    } else {
        line(&format!("{}: {} entries of kernel {}, verified", args.out.display(), report.entries, report.kernel_id))?;
        line(&format!("  root hash  {}", report.root_hash.unwrap_or_default()))?;
    }
    Ok(Outcome::Yes)
}

/// Export the bundle of the client's kernel into `out` and verify what was written.
pub(super) fn export(client: &Client, out: &Path) -> Result<Report> {
    save_and_verify(client, EVIDENCE, out)
}

fn route(args: &Args) -> String {
    let bounds = [("from", args.from), ("to", args.to)];
    let bounds = bounds.into_iter().filter_map(|(name, at)| Some(format!("&{name}={}", at?)));
    let bounds: String = bounds.collect();
    if args.records { format!("{EVIDENCE}?records=true{bounds}") } else { EVIDENCE.to_owned() }
}

fn save_and_verify(client: &Client, route: &str, out: &Path) -> Result<Report> {
    save(&mut answered(client, route)?.body_mut().as_reader(), out)?;
    let report = verify_file(out, None, UNPACKED_BYTES_MAX)?;
    if let Some(why) = &report.error {
        bail!("{}: {why}", out.display());
    }
    Ok(report)
}

fn answered(client: &Client, route: &str) -> Result<Response<Body>> {
    let mut response = client.get(route)?;
    if response.status().as_u16() >= 400 {
        let mut text = String::new();
        response.body_mut().as_reader().take(64 << 10).read_to_string(&mut text)?;
        bail!("the server answered {}: {text}", response.status());
    }
    Ok(response)
}

/// Written beside and renamed when whole: a bundle that broke off never has the asked name.
fn save(body: &mut impl Read, out: &Path) -> Result<()> {
    let folder = out.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut beside = tempfile::NamedTempFile::new_in(folder).with_context(|| folder.display().to_string())?;
    match out.extension().and_then(|extension| extension.to_str()) {
        Some("gz") => {
            let mut packed = flate2::write::GzEncoder::new(&mut beside, flate2::Compression::default());
            copy(body, &mut packed).context("the bundle broke off")?;
            packed.finish()?;
        }
        Some("zst") => {
            let mut packed = zstd::Encoder::new(&mut beside, zstd::DEFAULT_COMPRESSION_LEVEL)?;
            copy(body, &mut packed).context("the bundle broke off")?;
            packed.finish()?;
        }
        _ => _ = copy(body, &mut beside).context("the bundle broke off")?,
    }
    beside.flush()?;
    beside.as_file().sync_all()?;
    beside.persist(out).with_context(|| out.display().to_string())?;
    File::open(folder)?.sync_all()?;
    Ok(())
}
