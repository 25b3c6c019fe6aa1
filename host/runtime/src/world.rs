//! Whether a component is of the world that a policy lives in, and what to do where it is not.
//!
//! It looks at names only: that what is imported is offered and what must be exported is. Types are checked when the
//! component is linked. A component of another version, another world or another system (WASI) is told apart from one
//! that is merely wrong, because each is mended in another way.

use crate::Error;
use wasmtime::Engine;
use wasmtime::component::Component;

/// The package of the contract, and the versions of it that this sandbox speaks: `0.1.x`.
const PACKAGE: &str = "gavel:policy";
const VERSIONS: &str = "0.1.";
/// The interfaces that the world offers.
const OFFERED: [&str; 4] = ["types", "log", "config", "counters"];
/// What a policy exports.
const EXPORTED: [&str; 2] = ["evaluate", "describe"];
/// Names of exports that a message lists.
const NAMES_SHOWN_MAX: usize = 10;

/// What a component asks for and what it gives, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Surface {
    pub(crate) imports: Vec<String>,
    pub(crate) exports: Vec<String>,
}

impl Surface {
    pub(crate) fn of(engine: &Engine, component: &Component) -> Self {
        let component = component.component_type();
        Self {
            imports: component.imports(engine).map(|(name, _)| name.to_owned()).collect(),
            exports: component.exports(engine).map(|(name, _)| name.to_owned()).collect(),
        }
    }

    pub(crate) fn check(&self, policy: &str) -> Result<(), Error> {
        self.imports.iter().try_for_each(|import| check_import(policy, import))?;
        if EXPORTED.iter().all(|wanted| self.exports.iter().any(|export| export == wanted)) {
            return Ok(());
        }
        let shown: Vec<&str> = self.exports.iter().take(NAMES_SHOWN_MAX).map(String::as_str).collect();
        let exports = if shown.is_empty() { "nothing".to_owned() } else { shown.join(", ") };
        let why = match shown.iter().find_map(|export| foreign_version(export)) {
            Some(version) => return Err(wrong_version(policy, version)),
            None => {
                format!("it exports {exports}; a policy exports {}: build it for that world", EXPORTED.join(" and "))
            }
        };
        Err(Error::WrongWorld { policy: policy.to_owned(), why })
    }
}

fn check_import(policy: &str, import: &str) -> Result<(), Error> {
    if let Some(version) = foreign_version(import) {
        return Err(wrong_version(policy, version));
    }
    if interface(import).is_some_and(|(interface, _)| OFFERED.contains(&interface)) {
        return Ok(());
    }
    let advice = if import.starts_with("wasi:") {
        "a policy has no WASI (no clock, randomness, files or network): leave out what asks for it, or make the component with `gavel policy componentize`, which seals it"
    } else if import.starts_with("gavel:") {
        "a policy may import only gavel:policy/log, config and counters: build the component for that world"
    } else {
        "a policy may import only gavel:policy/log, config and counters"
    };
    Err(Error::ForbiddenImport { policy: policy.to_owned(), import: import.to_owned(), advice })
}

/// An item of the contract: its interface and its version.
fn interface(name: &str) -> Option<(&str, &str)> {
    name.strip_prefix(PACKAGE)?.strip_prefix('/')?.split_once('@')
}

/// The version of the contract that `name` belongs to, where this sandbox does not speak it.
fn foreign_version(name: &str) -> Option<&str> {
    interface(name).map(|(_, version)| version).filter(|version| !version.starts_with(VERSIONS))
}

fn wrong_version(policy: &str, version: &str) -> Error {
    Error::WrongVersion { policy: policy.to_owned(), version: version.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(imports: &[&str], exports: &[&str]) -> String {
        let owned = |names: &[&str]| names.iter().map(ToString::to_string).collect();
        let surface = Surface { imports: owned(imports), exports: owned(exports) };
        surface.check("p").map_or_else(|why| why.to_string(), |()| "good".into())
    }

    #[test]
    fn each_fault_says_what_mends_it() {
        let log = "gavel:policy/log@0.1.0";
        assert_eq!(told(&["gavel:policy/types@0.1.0", log], &EXPORTED), "good");
        assert_eq!(told(&["gavel:policy/log@0.1.7"], &["describe", "evaluate", "more"]), "good");
        for (import, why) in [
            ("gavel:policy/log@0.2.0", "is built against gavel:policy@0.2.0, this sandbox speaks gavel:policy@0.1.0"),
            ("gavel:policy/log", "a policy may import only"),
            ("gavel:policy/clock@0.1.0", "imports gavel:policy/clock@0.1.0, which world"),
            ("gavel:tool/files@0.1.0", "build the component for that world"),
            ("wasi:clocks/wall-clock@0.2.6", "`gavel policy componentize`, which seals it"),
            ("env", "imports env, which world gavel:policy/policy@0.1.0 does not offer"),
        ] {
            let told = told(&[log, import], &EXPORTED);
            assert!(told.starts_with("policy p: ") && told.contains(why), "{told}");
        }
        let tool = told(&[], &["call", "describe"]);
        assert!(tool.contains("it exports call, describe; a policy exports evaluate and describe"), "{tool}");
        assert!(told(&[], &[]).contains("it exports nothing"));
    }
}
