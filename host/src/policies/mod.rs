//! The policies of a host, and their life.
//!
//! What belongs together: `package`, `manifest`, `suite` and `cases` are what an author makes and
//! tries; `admit` stands between a file and a policy that may judge; `catalogue` keeps what judged,
//! by digest; `document` is what a set is made of; `statute` is the law before the sets; `life` is what a kernel judges
//! by at this moment, and `change` how that is changed; `shadow` and `health` watch; `watch` looks into a folder.
//!
//! Here: how a configuration's policies become sets.

pub mod admit;
pub mod builtin;
pub mod cases;
pub mod catalogue;
pub mod change;
pub mod componentize;
pub mod document;
pub mod health;
pub mod history;
pub mod life;
pub mod manifest;
pub mod package;
pub mod shadow;
pub mod statute;
pub mod suite;
pub mod templates;
pub mod watch;

use crate::config::{DIGEST_PREFIX, File, KernelFile, PolicyFile};
use admit::Admission;
use anyhow::{Context, Result, ensure};
use document::{Member, SetDocument};
use package::Package;
use std::collections::BTreeMap;
use std::path::Path;

/// The set that `kernel` judges by according to `file`: its custom rules in order. Their components
/// are taken into the catalogue.
///
/// # Errors
/// When a component cannot be read or is not accepted.
pub fn configured(file: &File, kernel: &KernelFile, admission: &Admission) -> Result<SetDocument> {
    let rules = kernel.policy.as_ref().map_or(&[][..], |policy| &policy.custom_rules);
    of_rules(rules, &file.policies, admission)
}

/// The set of the custom rules `rules`, in order, of which `policies` says what they are. Their components are taken
/// into the catalogue.
///
/// # Errors
/// As for [`configured`].
pub fn of_rules(
    rules: &[String],
    policies: &BTreeMap<String, PolicyFile>,
    admission: &Admission,
) -> Result<SetDocument> {
    let members = rules.iter().map(|rule| match policies.get(rule) {
        Some(policy) => member(rule, policy, admission),
        None => member(rule, &PolicyFile::default(), admission),
    });
    Ok(SetDocument { policies: members.collect::<Result<_>>()? })
}

/// The policies that no kernel refers to, so that a mistake in one is found now and not on the day
/// it is needed.
///
/// # Errors
/// As for [`configured`].
pub fn unused(file: &File, admission: &Admission) -> Result<SetDocument> {
    let used = |name: &String| {
        file.kernels.iter().flat_map(|kernel| &kernel.policy).any(|policy| policy.custom_rules.contains(name))
    };
    let members = file.policies.iter().filter(|(name, _)| !used(name));
    Ok(SetDocument { policies: members.map(|(name, policy)| member(name, policy, admission)).collect::<Result<_>>()? })
}

fn member(name: &str, policy: &PolicyFile, admission: &Admission) -> Result<Member> {
    let component = policy.component.clone().unwrap_or_else(|| format!("{}{name}", builtin::PREFIX));
    let package = keep_component(name, &component, admission)?;
    Ok(Member {
        config: policy.config.clone(),
        limits: policy.limits.clone(),
        quarantine: policy.quarantine,
        ..Member::new(name.to_owned(), package.digest)
    })
}

/// The component of policy `name` as a configuration names it, taken into the catalogue.
pub(crate) fn keep_component(name: &str, component: &str, admission: &Admission) -> Result<Package> {
    let what = format!("policy {name}");
    match component.strip_prefix(builtin::PREFIX) {
        Some(wanted) => admission.keep_builtin(wanted).context(what),
        None if component.starts_with(DIGEST_PREFIX) => admission.catalogue().component(component).context(what),
        None => read_package(&what, Path::new(component), admission),
    }
}

/// Read a component's file and take it into the catalogue.
fn read_package(what: &str, path: &Path, admission: &Admission) -> Result<Package> {
    let size = std::fs::metadata(path).with_context(|| format!("{what}: {}", path.display()))?.len();
    let limit = admission.max_component_bytes();
    ensure!(
        size <= limit,
        "{what}: {} has {size} bytes, a component may have {limit} (limits.max_component_bytes)",
        path.display()
    );
    let bytes = std::fs::read(path).with_context(|| format!("{what}: {}", path.display()))?;
    admission.keep(what, &bytes)
}
