//! Whether a component is of the world that it is loaded for, and what to do where it is not.
//!
//! It looks at names only: that what is imported is offered and what must be exported is. Types are checked when the
//! component is linked. A component of another version, another world or another system (WASI) is told apart from one
//! that is merely wrong, because each is mended in another way.

use crate::Error;
use crate::error::Subject;
use wasmtime::Engine;
use wasmtime::component::Component;

/// The versions of every package that this sandbox speaks: `0.1.x`.
const VERSIONS: &str = "0.1.";
/// Names of exports that a message lists.
const NAMES_SHOWN_MAX: usize = 10;

/// A world that components are built against.
#[derive(Debug)]
pub(crate) struct World {
    /// What a component of it is called.
    pub(crate) kind: &'static str,
    /// Its full name.
    pub(crate) name: &'static str,
    /// Packages, and what the world offers of each.
    offered: &'static [(&'static str, &'static [&'static str])],
    /// What may be imported, in words.
    importable: &'static str,
    /// What a component of it exports.
    exported: &'static [&'static str],
}

/// World `policy`: the judges of requests.
pub(crate) static POLICY: World = World {
    kind: "policy",
    name: "gavel:policy/policy@0.1.0",
    offered: &[("gavel:policy", &["types", "log", "config", "counters"])],
    importable: "gavel:policy/log, config and counters",
    exported: &["evaluate", "describe"],
};

/// What both worlds of a growing layer offer.
const GROWTH: &[(&str, &[&str])] = &[("gavel:policy", &["types", "log", "config"]), ("gavel:kasmina", &["types"])];

/// World `strategy`: how fast a seed is blended in.
pub(crate) static STRATEGY: World = World {
    kind: "strategy",
    name: "gavel:kasmina/strategy@0.1.0",
    offered: GROWTH,
    importable: "gavel:policy/log and config",
    exported: &["step", "describe"],
};

/// World `tamiyo`: which seed goes on to which stage.
pub(crate) static TAMIYO: World = World {
    kind: "tamiyo",
    name: "gavel:kasmina/tamiyo@0.1.0",
    offered: GROWTH,
    importable: "gavel:policy/log and config",
    exported: &["decide", "describe"],
};

/// World `plugin`: what answers events on the bus.
pub(crate) static PLUGIN: World = World {
    kind: "plugin",
    name: "gavel:plugin/plugin@0.1.0",
    offered: &[("gavel:plugin", &["types", "bus", "state", "tools", "log", "config"])],
    importable: "gavel:plugin/bus, state, tools, log and config",
    exported: &["describe", "startup", "pre-event", "handle-event", "hear-event", "post-event", "shutdown"],
};

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

    /// Whether the component called `name` is of `world`.
    pub(crate) fn check(&self, world: &'static World, name: &str) -> Result<(), Error> {
        self.imports.iter().try_for_each(|import| world.check_import(name, import))?;
        if world.exported.iter().all(|wanted| self.exports.iter().any(|export| export == wanted)) {
            return Ok(());
        }
        let shown: Vec<&str> = self.exports.iter().take(NAMES_SHOWN_MAX).map(String::as_str).collect();
        let exports = if shown.is_empty() { "nothing".to_owned() } else { shown.join(", ") };
        if let Some((package, version)) = shown.iter().find_map(|export| world.foreign_version(export)) {
            return Err(world.wrong_version(name, package, version));
        }
        let wanted = world.exported.join(" and ");
        let why = format!("it exports {exports}; a {} exports {wanted}: build it for that world", world.kind);
        Err(Error::WrongWorld { subject: world.subject(name), world: world.name, why })
    }
}

impl World {
    /// A component of it, for a message.
    pub(crate) fn subject(&self, name: &str) -> Subject {
        Subject { kind: self.kind, name: name.to_owned() }
    }

    fn check_import(&self, name: &str, import: &str) -> Result<(), Error> {
        if let Some((package, version)) = self.foreign_version(import) {
            return Err(self.wrong_version(name, package, version));
        }
        if self.item(import).is_some_and(|(_, offered, interface, _)| offered.contains(&interface)) {
            return Ok(());
        }
        let kind = self.kind;
        let advice = if import.starts_with("wasi:") {
            format!(
                "a {kind} has no WASI (no clock, randomness, files or network): leave out what asks for it, or make the component with `gavel policy componentize`, which seals it"
            )
        } else if import.starts_with("gavel:") {
            format!("a {kind} may import only {}: build the component for that world", self.importable)
        } else {
            format!("a {kind} may import only {}", self.importable)
        };
        let (subject, import) = (self.subject(name), import.to_owned());
        Err(Error::ForbiddenImport { subject, import, world: self.name, advice })
    }

    /// What `name` is of the world's packages: the package, what is offered of it, the interface, the version.
    fn item<'a>(&self, name: &'a str) -> Option<(&'static str, &'static [&'static str], &'a str, &'a str)> {
        self.offered.iter().find_map(|(package, offered)| {
            let (interface, version) = name.strip_prefix(package)?.strip_prefix('/')?.split_once('@')?;
            Some((*package, *offered, interface, version))
        })
    }

    /// The package and version that `name` belongs to, where this sandbox does not speak it.
    fn foreign_version<'a>(&self, name: &'a str) -> Option<(&'static str, &'a str)> {
        self.item(name)
            .filter(|(.., version)| !version.starts_with(VERSIONS))
            .map(|(package, _, _, version)| (package, version))
    }

    fn wrong_version(&self, name: &str, package: &'static str, version: &str) -> Error {
        Error::WrongVersion { subject: self.subject(name), package, version: version.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(world: &'static World, imports: &[&str], exports: &[&str]) -> String {
        let owned = |names: &[&str]| names.iter().map(ToString::to_string).collect();
        let surface = Surface { imports: owned(imports), exports: owned(exports) };
        surface.check(world, "p").map_or_else(|why| why.to_string(), |()| "good".into())
    }

    const LOG: &str = "gavel:policy/log@0.1.0";

    #[test]
    fn each_fault_says_what_mends_it() {
        let exported = POLICY.exported;
        assert_eq!(told(&POLICY, &["gavel:policy/types@0.1.0", LOG], exported), "good");
        assert_eq!(told(&POLICY, &["gavel:policy/log@0.1.7"], &["describe", "evaluate", "more"]), "good");
        for (import, why) in [
            ("gavel:policy/log@0.2.0", "is built against gavel:policy@0.2.0, this sandbox speaks gavel:policy@0.1.0"),
            ("gavel:policy/log", "a policy may import only"),
            ("gavel:policy/clock@0.1.0", "imports gavel:policy/clock@0.1.0, which world"),
            ("gavel:tool/files@0.1.0", "build the component for that world"),
            ("wasi:clocks/wall-clock@0.2.6", "`gavel policy componentize`, which seals it"),
            ("env", "imports env, which world gavel:policy/policy@0.1.0 does not offer"),
        ] {
            let told = told(&POLICY, &[LOG, import], exported);
            assert!(told.starts_with("policy p: ") && told.contains(why), "{told}");
        }
        let tool = told(&POLICY, &[], &["call", "describe"]);
        assert!(tool.contains("it exports call, describe; a policy exports evaluate and describe"), "{tool}");
        assert!(told(&POLICY, &[], &[]).contains("it exports nothing"));
    }

    #[test]
    fn a_plugin_exports_all_of_its_world() {
        let bus = ["gavel:plugin/types@0.1.0", "gavel:plugin/bus@0.1.3", "gavel:plugin/tools@0.1.0"];
        assert_eq!(told(&PLUGIN, &bus, PLUGIN.exported), "good");
        let deaf: Vec<&str> = PLUGIN.exported.iter().copied().filter(|export| *export != "hear-event").collect();
        let told_of = told(&PLUGIN, &bus, &deaf);
        assert!(told_of.contains("a plugin exports describe and startup and pre-event and handle-event"), "{told_of}");
        let clock = told(&PLUGIN, &["wasi:clocks/wall-clock@0.2.6"], PLUGIN.exported);
        assert!(clock.contains("a plugin has no WASI (no clock, randomness, files or network)"), "{clock}");
        let policy = told(&PLUGIN, &[LOG], PLUGIN.exported);
        assert!(policy.contains("a plugin may import only gavel:plugin/bus, state, tools, log and config"), "{policy}");
    }

    #[test]
    fn the_worlds_of_a_growing_layer_offer_less() {
        let offered = ["gavel:policy/types@0.1.0", LOG, "gavel:policy/config@0.1.0", "gavel:kasmina/types@0.1.0"];
        assert_eq!(told(&STRATEGY, &offered, &["step", "describe"]), "good");
        assert_eq!(told(&TAMIYO, &offered, &["decide", "describe"]), "good");
        let counters = told(&STRATEGY, &["gavel:policy/counters@0.1.0"], &["step", "describe"]);
        assert_eq!(
            counters,
            "strategy p: imports gavel:policy/counters@0.1.0, which world gavel:kasmina/strategy@0.1.0 does not offer; \
             a strategy may import only gavel:policy/log and config: build the component for that world"
        );
        let newer = told(&TAMIYO, &["gavel:kasmina/types@0.2.0"], &["decide", "describe"]);
        assert!(newer.starts_with("tamiyo p: is built against gavel:kasmina@0.2.0, this sandbox speaks"), "{newer}");
        let policy = told(&TAMIYO, &[LOG], &["evaluate", "describe"]);
        assert!(policy.contains("it exports evaluate, describe; a tamiyo exports decide and describe"), "{policy}");
    }
}
