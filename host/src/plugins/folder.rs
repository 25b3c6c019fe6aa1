//! What lies in the plugin folders, and whether it stands still.
//!
//! A plugin is a folder `NAME` with a `plugin.yaml`, or a bare `NAME.wasm`. Looking costs a few calls to the file system
//! and works on every one, which being told of changes does not. What changed is taken when two looks saw the same, so
//! that a file that is still being copied is not read; so is what went away.

use super::files::only_ours;
use super::manifest::{FILE, Manifest};
use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Plugins that one folder may hold; more are not taken, and the folder is named as broken.
const PLUGINS_MAX: usize = 256;

/// What tells that a file is another or has changed: its number, time and size.
type Mark = Option<(u64, i64, i64, u64)>;

/// The marks of what a plugin consists of: its place, its manifest, its component.
pub(super) type Stamp = [Mark; 3];

/// A plugin's place in a folder.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Found {
    /// The folder's name, or the file's without its ending: what it is called until its name is known.
    pub(super) label: String,
    /// Its manifest, where there is one.
    pub(super) manifest: Option<PathBuf>,
    /// Its component, as far as the manifest can be read.
    pub(super) component: Option<PathBuf>,
    pub(super) stamp: Stamp,
}

/// What one look saw.
#[derive(Debug, Default)]
pub(super) struct Look {
    /// By place: the plugin's folder, or the bare component.
    pub(super) found: BTreeMap<PathBuf, Found>,
    /// Folders and places that are no plugins, or could not be looked into, and why.
    pub(super) broken: BTreeMap<PathBuf, String>,
    /// Places that are there and were not looked at: there are too many, or they cannot be.
    unseen: BTreeSet<PathBuf>,
}

impl Look {
    /// Whether nothing can be said of a place: what is there is neither new nor gone.
    pub(super) fn hides(&self, place: &Path) -> bool {
        let folder = || place.parent().is_some_and(|folder| self.broken.contains_key(folder) && !self.counted(folder));
        self.unseen.contains(place) || folder()
    }

    /// Whether a folder was read to its end, whatever else is wrong with it.
    fn counted(&self, folder: &Path) -> bool {
        self.unseen.iter().any(|place| place.parent() == Some(folder))
    }
}

/// What was seen before, so that a look can tell what is new.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// At the last look.
    last: BTreeMap<PathBuf, Stamp>,
    /// What was taken, or was refused.
    done: BTreeMap<PathBuf, Stamp>,
}

/// What is new.
#[derive(Debug, Default)]
pub(super) struct News {
    /// New or changed, and still.
    pub(super) changed: BTreeMap<PathBuf, Found>,
    /// Gone, and still gone.
    pub(super) gone: Vec<PathBuf>,
}

impl Seen {
    /// What is new at this look. `at_once`: without waiting for a second one.
    pub(super) fn news(&mut self, look: &Look, at_once: bool) -> News {
        let stamps: BTreeMap<PathBuf, Stamp> =
            look.found.iter().map(|(place, found)| (place.clone(), found.stamp)).collect();
        let still = |place: &PathBuf| at_once || self.last.get(place) == stamps.get(place);
        let changed = look
            .found
            .iter()
            .filter(|(place, found)| self.done.get(*place) != Some(&found.stamp) && still(place))
            .map(|(place, found)| (place.clone(), found.clone()))
            .collect();
        let absent = |place: &&PathBuf| !stamps.contains_key(*place) && !look.hides(place);
        let gone: Vec<_> = self.done.keys().filter(absent).filter(|place| still(place)).cloned().collect();
        self.last = stamps;
        News { changed, gone }
    }

    /// It was dealt with, and is no news until it changes.
    pub(super) fn done(&mut self, place: &Path, stamp: Stamp) {
        self.done.insert(place.to_owned(), stamp);
    }

    /// Everything that is there is news again; what goes away is still missed.
    pub(super) fn look_at_all_again(&mut self) {
        self.done.values_mut().for_each(|stamp| *stamp = [None; 3]);
    }

    /// It was dealt with that it is gone.
    pub(super) fn forget(&mut self, place: &Path) {
        self.done.remove(place);
    }
}

/// Look into the folders.
pub(super) fn look(folders: &[PathBuf]) -> Look {
    let mut look = Look::default();
    for folder in folders {
        if let Err(why) = look_into(folder, &mut look) {
            look.broken.insert(folder.clone(), why);
        }
    }
    look
}

/// Look at one place, and at nothing beside it.
pub(super) fn look_at(place: &Path) -> Look {
    let mut look = Look::default();
    let plugin = if place.exists() { plugin_at(place) } else { Ok(None) };
    match plugin {
        Ok(Some((label, manifest))) => drop(look.found.insert(place.to_owned(), found(place, label, manifest))),
        Ok(None) => {}
        Err(why) => {
            look.broken.insert(place.to_owned(), format!("{}: {why}", place.display()));
            look.unseen.insert(place.to_owned());
        }
    }
    look
}

fn look_into(folder: &Path, look: &mut Look) -> Result<(), String> {
    only_ours(folder, folder)?;
    let unreadable = |why: std::io::Error| format!("{} cannot be looked into: {why}", folder.display());
    let mut places = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        places.push(entry.map_err(unreadable)?.path());
    }
    places.sort();
    let mut count = 0;
    for place in places {
        let (label, manifest) = match plugin_at(&place) {
            Ok(Some(plugin)) => plugin,
            Ok(None) => continue,
            Err(why) => {
                look.broken.insert(place.clone(), format!("{}: {why}", place.display()));
                look.unseen.insert(place);
                continue;
            }
        };
        count += 1;
        if count > PLUGINS_MAX {
            look.unseen.insert(place);
            continue;
        }
        let found = found(&place, label, manifest);
        look.found.insert(place, found);
    }
    if count > PLUGINS_MAX {
        return Err(format!("{}: more than {PLUGINS_MAX} plugins; the others are left out", folder.display()));
    }
    Ok(())
}

/// What a place is called and where its manifest lies, if it is a plugin's.
fn plugin_at(place: &Path) -> std::io::Result<Option<(String, Option<PathBuf>)>> {
    let Some(name) = place.file_name().and_then(|name| name.to_str()).filter(|name| !name.starts_with('.')) else {
        return Ok(None);
    };
    let is_folder = match std::fs::metadata(place) {
        Ok(found) => found.is_dir(),
        // A link that points nowhere, or what was just taken away.
        Err(why) if why.kind() == ErrorKind::NotFound => false,
        Err(why) => return Err(why),
    };
    if is_folder {
        let manifest = place.join(FILE);
        return Ok(manifest.try_exists()?.then(|| (name.to_owned(), Some(manifest))));
    }
    Ok(name.strip_suffix(".wasm").map(|name| (name.to_owned(), None)))
}

fn found(place: &Path, label: String, manifest: Option<PathBuf>) -> Found {
    let component = match &manifest {
        Some(path) => Manifest::read(path).ok().map(|manifest| manifest.component),
        None => Some(place.to_owned()),
    };
    let stamp = [Some(place), manifest.as_deref(), component.as_deref()].map(|path| path.and_then(mark));
    Found { label, manifest, component, stamp }
}

fn mark(path: &Path) -> Mark {
    let found = std::fs::metadata(path).ok()?;
    // A folder's size and time change with what else lies in it.
    let (time, size) = if found.is_dir() { ((0, 0), 0) } else { ((found.mtime(), found.mtime_nsec()), found.len()) };
    Some((found.ino(), time.0, time.1, size))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn names(news: &News) -> Vec<&str> {
        news.changed.values().map(|found| found.label.as_str()).collect()
    }

    #[test]
    fn a_plugin_is_news_when_it_stands_still_and_once() {
        let folder = tempfile::tempdir().unwrap();
        let dirs = [folder.path().to_owned()];
        let mut seen = Seen::default();
        std::fs::write(folder.path().join("a.wasm"), "1").unwrap();
        std::fs::write(folder.path().join("notes.txt"), "1").unwrap();
        std::fs::create_dir(folder.path().join("no-plugin")).unwrap();
        assert!(seen.news(&look(&dirs), false).changed.is_empty());
        std::fs::write(folder.path().join("a.wasm"), "12").unwrap();
        assert!(seen.news(&look(&dirs), false).changed.is_empty(), "it is still being written");
        let news = seen.news(&look(&dirs), false);
        assert_eq!(names(&news), ["a"]);
        news.changed.iter().for_each(|(place, found)| seen.done(place, found.stamp));
        assert!(seen.news(&look(&dirs), false).changed.is_empty());
        std::fs::create_dir(folder.path().join("b")).unwrap();
        std::fs::write(folder.path().join("b/plugin.yaml"), "component: c.wasm\n").unwrap();
        assert_eq!(names(&seen.news(&look(&dirs), true)), ["b"], "at once where that is asked for");
    }

    #[test]
    fn what_a_manifest_names_is_part_of_the_plugin_and_what_lies_beside_it_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let dirs = [folder.path().to_owned()];
        let plugin = folder.path().join("b");
        std::fs::create_dir(&plugin).unwrap();
        std::fs::write(plugin.join("plugin.yaml"), "component: c.wasm\n").unwrap();
        let mut seen = Seen::default();
        let news = seen.news(&look(&dirs), true);
        news.changed.iter().for_each(|(place, found)| seen.done(place, found.stamp));
        std::fs::write(plugin.join("README"), "x").unwrap();
        assert!(seen.news(&look(&dirs), true).changed.is_empty());
        std::fs::write(plugin.join("c.wasm"), "x").unwrap();
        assert_eq!(names(&seen.news(&look(&dirs), true)), ["b"]);
    }

    #[test]
    fn of_one_place_nothing_beside_it_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("a");
        assert!(look_at(&place).found.is_empty(), "it is not there");
        std::fs::create_dir(&place).unwrap();
        assert!(look_at(&place).found.is_empty(), "it has no manifest");
        std::fs::write(place.join("plugin.yaml"), "component: c.wasm\n").unwrap();
        std::fs::write(folder.path().join("b.wasm"), "1").unwrap();
        assert_eq!(look_at(&place).found.into_keys().collect::<Vec<_>>(), [place]);
        let bare = folder.path().join("b.wasm");
        assert_eq!(look_at(&bare).found.into_keys().collect::<Vec<_>>(), [bare]);
        assert!(look_at(&folder.path().join("c.wasm")).found.is_empty());
    }

    #[test]
    fn what_is_gone_for_two_looks_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let dirs = [folder.path().to_owned()];
        let file = folder.path().join("a.wasm");
        std::fs::write(&file, "1").unwrap();
        let mut seen = Seen::default();
        let news = seen.news(&look(&dirs), true);
        news.changed.iter().for_each(|(place, found)| seen.done(place, found.stamp));
        std::fs::remove_file(&file).unwrap();
        assert!(seen.news(&look(&dirs), false).gone.is_empty());
        let gone = seen.news(&look(&dirs), false).gone;
        assert_eq!(gone, [file]);
        seen.forget(&gone[0]);
        assert!(seen.news(&look(&dirs), false).gone.is_empty());
    }

    #[test]
    fn a_folder_that_everybody_may_write_is_not_trusted() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.wasm"), "1").unwrap();
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        let seen = look(&[folder.path().to_owned()]);
        assert!(seen.found.is_empty());
        assert!(seen.broken.values().next().unwrap().contains("chmod o-w"), "{:?}", seen.broken);
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let dirs = [folder.path().to_owned()];
        let mut known = Seen::default();
        let news = known.news(&look(&dirs), true);
        news.changed.iter().for_each(|(place, found)| known.done(place, found.stamp));
        for look in [&seen, &seen] {
            assert!(known.news(look, false).gone.is_empty(), "what cannot be looked at is not gone");
        }
        std::fs::remove_file(folder.path().join("a.wasm")).unwrap();
        assert_eq!(known.news(&look(&dirs), true).gone.len(), 1);
        let missing = look(&[folder.path().join("missing")]);
        assert!(missing.broken.values().next().unwrap().contains("missing"));
    }

    #[test]
    fn of_too_many_plugins_those_that_serve_go_on() {
        let folder = tempfile::tempdir().unwrap();
        let dirs = [folder.path().to_owned()];
        let file = |n: usize| folder.path().join(format!("{n:04}.wasm"));
        (1..=PLUGINS_MAX).for_each(|n| std::fs::write(file(n), "1").unwrap());
        let mut seen = Seen::default();
        let news = seen.news(&look(&dirs), true);
        assert_eq!(news.changed.len(), PLUGINS_MAX);
        news.changed.iter().for_each(|(place, found)| seen.done(place, found.stamp));
        std::fs::write(file(0), "1").unwrap();
        std::fs::remove_file(file(7)).unwrap();
        std::fs::write(folder.path().join("0000a.wasm"), "1").unwrap();
        let crowded = look(&dirs);
        assert!(crowded.broken.values().any(|why| why.contains("more than 256")), "{:?}", crowded.broken);
        assert_eq!(seen.news(&crowded, true).gone, [file(7)], "the last one is there, and only what is gone is gone");
    }
}
