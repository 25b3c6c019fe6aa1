//! The policies of a host: the ones built in, what a package of one holds, the tests it ships, and how a configuration's
//! policies become a set.

pub mod builtin;
pub mod cases;
pub mod componentize;
pub mod manifest;
pub mod package;
pub mod suite;
pub mod templates;

use crate::config::{File, KernelFile, PolicyFile};
use anyhow::{Context, Result};
use gavel_runtime::{Policy, PolicySet, PolicySource, Sandbox};
use std::collections::BTreeMap;

/// Bytes of a component file. The largest that toolchains make, a Python runtime, is 18 MB.
const COMPONENT_BYTES_MAX: u64 = 64 << 20;

/// Load every policy that some kernel of `file` refers to; what nobody refers to is loaded too,
/// so that a mistake in it is found now and not on the day it is needed.
///
/// # Errors
/// When a component cannot be read, loaded, or does not accept its configuration.
pub async fn load_all(file: &File, sandbox: &Sandbox) -> Result<BTreeMap<String, Policy>> {
    let implied = file.kernels.iter().flat_map(rules).filter(|rule| !file.policies.contains_key(*rule));
    let implied: BTreeMap<String, PolicyFile> = implied.map(|rule| (rule.clone(), PolicyFile::default())).collect();
    let mut loaded = BTreeMap::new();
    for (name, policy) in file.policies.iter().chain(&implied) {
        let source = source(name, policy)?;
        loaded.insert(name.clone(), sandbox.load(source).await?);
    }
    Ok(loaded)
}

/// The set that `kernel` judges by: its custom rules in order.
#[must_use]
pub fn set_of(kernel: &KernelFile, loaded: &BTreeMap<String, Policy>) -> PolicySet {
    PolicySet::new(rules(kernel).filter_map(|rule| loaded.get(rule).cloned()).collect())
}

fn rules(kernel: &KernelFile) -> impl Iterator<Item = &String> {
    kernel.policy.iter().flat_map(|policy| &policy.custom_rules)
}

fn source(name: &str, policy: &PolicyFile) -> Result<PolicySource> {
    let component = policy.component.clone().unwrap_or_else(|| format!("{}{name}", builtin::PREFIX));
    let bytes = match component.strip_prefix(builtin::PREFIX) {
        Some(wanted) => {
            builtin::find(wanted).with_context(|| format!("policy {name}: no builtin is named {wanted}"))?.to_vec()
        }
        None => read_component(name, &component)?,
    };
    Ok(PolicySource { name: name.to_owned(), bytes, config: policy.config.clone(), limits: policy.limits.clone() })
}

fn read_component(name: &str, path: &str) -> Result<Vec<u8>> {
    let size = std::fs::metadata(path).with_context(|| format!("policy {name}: {path}"))?.len();
    anyhow::ensure!(
        size <= COMPONENT_BYTES_MAX,
        "policy {name}: {path} has {size} bytes, a component may have {COMPONENT_BYTES_MAX}"
    );
    std::fs::read(path).with_context(|| format!("policy {name}: {path}"))
}
