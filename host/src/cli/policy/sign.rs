//! `gavel policy key` and `gavel policy sign`: whose policy is this?

use super::super::Outcome;
use super::super::output::{line, note, print_json};
use super::subject::{read_package, replace};
use crate::policies::package::Package;
use crate::signing::SigningKey;
use anyhow::{Context, Result};
use serde_json::json;
use std::path::PathBuf;

/// Make a key that signs policies. The private half goes to a file for you alone, the public half into configurations.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  gavel policy key --out release.pem")]
pub(super) struct KeyArgs {
    /// The new file of the private key (PKCS#8 in PEM, mode 600); an existing one is never written over.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// Sign a package: the signature is appended to its file, its digest stays the same.
///
/// Signing again with the same key replaces its signature; other keys' signatures stay.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  gavel policy sign target/no-deletes.wasm --key release.pem")]
pub(super) struct Args {
    /// The package's file.
    file: PathBuf,
    /// The private key, as `gavel policy key` makes it.
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
}

pub(super) fn make_key(args: &KeyArgs, as_json: bool) -> Result<Outcome> {
    let public = SigningKey::create(&args.out)?.public();
    if as_json {
        print_json(&json!({"key": public, "file": args.out}))?;
        return Ok(Outcome::Yes);
    }
    note(&format!("The private key is in {}; keep it where only you can read it.", args.out.display()));
    note("The public key, under a name of your choice, for a configuration that trusts it:");
    let name = args.out.file_stem().and_then(|stem| stem.to_str()).unwrap_or("release");
    line(&format!("signatures: {{keys: {{{name}: \"{public}\"}}}}"))?;
    Ok(Outcome::Yes)
}

pub(super) fn run(args: &Args, as_json: bool) -> Result<Outcome> {
    let key = SigningKey::read(&args.key)?;
    let mut package = Package::read(&read_package(&args.file)?).with_context(|| args.file.display().to_string())?;
    package.add_signature(key.sign(&package.digest)).with_context(|| args.file.display().to_string())?;
    replace(&args.file, &package.to_bytes())?;
    let signatures = package.signatures.len();
    if as_json {
        print_json(&json!({
            "file": args.file, "digest": package.digest, "key": key.public(), "signatures": signatures,
        }))?;
    } else {
        line(&format!("{}: signed by {} ({signatures} in all)", args.file.display(), key.public()))?;
        line(&format!("  digest  {}", package.digest))?;
    }
    Ok(Outcome::Yes)
}
