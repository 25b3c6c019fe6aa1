//! `gavel policy inspect`: what is in this package?

use super::super::Outcome;
use super::super::output::{line, print_json, shown};
use super::subject::{Subject, size};
use crate::signing::PublicKey;
use anyhow::Result;
use gavel_runtime::Inspection;
use serde_json::{Value, json};

/// Show what a policy is: digest, imports, what it says of itself, its schema, manifest, tests and signatures.
///
/// It is loaded as a server would, but for a configuration. Exit code 0: it would load. 1: it would not, and why; or no
/// signature of a given --key is on it.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  gavel policy inspect target/no-deletes.wasm
  gavel policy inspect no-deletes.wasm --key ed25519:d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a
  gavel policy inspect builtin:business-hours --json")]
pub(super) struct Args {
    /// A project's folder, a package's file, or builtin:NAME.
    #[arg(default_value = ".")]
    policy: String,
    /// A public key that must have signed it; may be given more than once, any one of them will do.
    #[arg(long = "key", value_name = "KEY")]
    keys: Vec<PublicKey>,
}

/// Characters of a text of the guest's that are shown.
const TEXT_CHARS_MAX: usize = 300;

pub(super) fn run(args: &Args, as_json: bool) -> Result<Outcome> {
    let subject = Subject::open(&args.policy)?;
    let sandbox = subject.sandbox()?;
    let source = subject.source(Value::Null);
    let inspected = super::super::runtime()?.block_on(sandbox.inspect(&source));
    let refused = match &inspected {
        Err(why) => Some(why.to_string()),
        Ok(inspection) => unlike(&subject, inspection).or_else(|| untrusted(&subject, &args.keys)),
    };
    let about = describe(&subject, inspected.as_ref().ok(), refused.as_deref());
    if as_json {
        print_json(&about)?;
    } else {
        print(&about)?;
    }
    Ok(if refused.is_none() { Outcome::Yes } else { Outcome::No })
}

/// Where the package's manifest is another policy's.
fn unlike(subject: &Subject, inspection: &Inspection) -> Option<String> {
    subject.package.manifest.as_ref()?.check(&inspection.metadata).err()
}

/// Where none of `keys` has signed it.
fn untrusted(subject: &Subject, keys: &[PublicKey]) -> Option<String> {
    let package = &subject.package;
    let trusted = package.signatures.iter().find(|signature| keys.contains(&signature.key));
    match trusted {
        _ if keys.is_empty() => None,
        Some(signature) => signature.verify(&package.digest).err().map(|why| why.to_string()),
        None if package.signatures.is_empty() => {
            Some("it is not signed: sign it with `gavel policy sign FILE --key KEYFILE`".into())
        }
        None => {
            let by: Vec<String> = package.signatures.iter().map(|signature| signature.key.to_string()).collect();
            Some(format!("it is signed by {}, by none of the given keys", by.join(", ")))
        }
    }
}

fn describe(subject: &Subject, inspection: Option<&Inspection>, refused: Option<&str>) -> Value {
    let package = &subject.package;
    let signatures: Vec<Value> = package
        .signatures
        .iter()
        .map(|signature| json!({"key": signature.key, "valid": signature.verify(&package.digest).is_ok()}))
        .collect();
    let schema = |text: &String| serde_json::from_str::<Value>(text).unwrap_or_else(|_| json!(text));
    let metadata = inspection.map(|inspection| &inspection.metadata);
    json!({
        "policy": subject.label,
        "digest": package.digest,
        "bytes": package.component.len(),
        "loads": refused.is_none(),
        "why_not": refused,
        "imports": inspection.map(|inspection| &inspection.imports),
        "exports": inspection.map(|inspection| &inspection.exports),
        "name": metadata.map(|metadata| &metadata.name),
        "version": metadata.map(|metadata| &metadata.version),
        "description": metadata.map(|metadata| &metadata.description),
        "config_schema": metadata.and_then(|metadata| metadata.config_schema.as_ref()).map(schema),
        "manifest": package.manifest,
        "tests": package.tests.as_ref().map(|tests| tests.cases.len()),
        "signatures": signatures,
    })
}

fn print(about: &Value) -> Result<()> {
    let text = |name: &str| about[name].as_str().map_or_else(|| "-".to_owned(), |text| shown(text, TEXT_CHARS_MAX));
    line(&text("policy"))?;
    for name in ["name", "version", "description", "digest"] {
        line(&format!("  {name:<12} {}", text(name)))?;
    }
    line(&format!("  {:<12} {}", "size", size(about["bytes"].as_u64().unwrap_or(0))))?;
    for name in ["imports", "exports"] {
        let names: Vec<String> = about[name]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|name| name.as_str().map(|name| shown(name, 200)))
            .collect();
        line(&format!("  {name:<12} {}", if names.is_empty() { "-".to_owned() } else { names.join(", ") }))?;
    }
    let manifest = &about["manifest"];
    let language = manifest["language"].as_str().map_or("none", |language| language);
    line(&format!(
        "  {:<12} {}",
        "manifest",
        if manifest.is_null() { "none".to_owned() } else { format!("yes, {language}") }
    ))?;
    let needs =
        manifest["needs"].as_object().map(|needs| needs.iter().map(|(limit, value)| format!("{limit} {value}")));
    let needs: Vec<String> = needs.into_iter().flatten().collect();
    line(&format!(
        "  {:<12} {}",
        "needs",
        if needs.is_empty() { "the defaults".to_owned() } else { needs.join(", ") }
    ))?;
    let tests = about["tests"].as_u64().map_or_else(|| "none".to_owned(), |cases| format!("{cases} cases"));
    line(&format!("  {:<12} {tests}", "tests"))?;
    print_signatures(about)?;
    match &about["config_schema"] {
        Value::Null => line(&format!("  {:<12} none", "schema"))?,
        schema => line(&format!("  {:<12} {}", "schema", shown(&schema.to_string(), TEXT_CHARS_MAX)))?,
    }
    match about["why_not"].as_str() {
        Some(why) => line(&format!("  {:<12} NO: {why}", "loads")),
        None => line(&format!("  {:<12} yes", "loads")),
    }
}

fn print_signatures(about: &Value) -> Result<()> {
    let signatures = about["signatures"].as_array().map_or(&[][..], Vec::as_slice);
    if signatures.is_empty() {
        return line(&format!("  {:<12} none", "signed"));
    }
    for signature in signatures {
        let valid = if signature["valid"] == true { "valid" } else { "NOT VALID: it is of another content" };
        line(&format!("  {:<12} {}  {valid}", "signed", signature["key"].as_str().unwrap_or("-")))?;
    }
    Ok(())
}
