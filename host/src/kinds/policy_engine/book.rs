//! What is known of one policy: its versions, which one is active, and every step that led there. One file a policy.
//!
//! ```text
//! FOLDER/lock                  held by the process whose folder it is
//! FOLDER/books/NAME.json       a book, replaced whole
//! FOLDER/catalogue/            components, and what each version is made of, by digest
//! ```
//!
//! What always holds: `active` is a version of the book, and so is each of `earlier`; versions are numbered from 1 and
//! never changed. A book that says otherwise is not opened.

use crate::policies::catalogue::{Unwritten, replace_whole};
use anyhow::{Context, Result, ensure};
use gavel_kinds::Fault;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::path::{Path, PathBuf};

/// Versions that `rollback` can go back through.
const EARLIER_MAX: usize = 100;
/// The format of the file.
const FORMAT: u32 = 1;

/// One policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Book {
    format: u32,
    /// Its name.
    pub(super) policy: String,
    /// In the order in which they came.
    pub(super) versions: Vec<Version>,
    /// The number of the version that judges.
    pub(super) active: u32,
    /// Since when.
    pub(super) since_ms: u64,
    /// Who made it so.
    pub(super) by: String,
    /// What judged before, the latest last: where `rollback` leads.
    pub(super) earlier: Vec<u32>,
    /// What was done, the latest last.
    pub(super) steps: Vec<Step>,
    /// Steps that are forgotten.
    pub(super) steps_forgotten: u64,
}

/// One version of a policy: a component, its configuration and its limits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Version {
    /// From 1.
    #[serde(rename = "version")]
    pub(super) number: u32,
    /// Of component, configuration and limits together: where they lie in the catalogue.
    pub(super) digest: String,
    /// Of the component alone.
    pub(super) component: String,
    /// What its author calls it, if the component says so.
    pub(super) package: Option<String>,
    /// The names of the trusted keys that signed it.
    pub(super) signed_by: Vec<String>,
    /// When it came.
    pub(super) added_ms: u64,
    /// Who brought it.
    pub(super) by: String,
    /// Why, in their words.
    pub(super) why: String,
}

/// Something that was done with a policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Step {
    /// When.
    pub(super) at_ms: u64,
    /// Who.
    pub(super) who: String,
    /// Why, in their words.
    pub(super) why: String,
    /// What.
    pub(super) action: Action,
    /// The version that it is about.
    pub(super) version: u32,
    /// The kernel that it was handed to, and the set that serves there since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) deployed: Option<Deployed>,
}

/// Where a version was handed to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Deployed {
    /// The kernel.
    pub(super) kernel: String,
    /// The digest of the policy set that it judges by since.
    pub(super) set: String,
}

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Action {
    /// A version came.
    Added,
    /// It judges.
    Swapped,
    /// What judged before judges again.
    RolledBack,
    /// It was handed to a kernel that decides.
    Deployed,
}

/// Who does something, when, and why.
#[derive(Debug, Clone)]
pub(super) struct Reason {
    pub(super) who: String,
    pub(super) why: String,
    pub(super) at_ms: u64,
}

impl Book {
    /// Of a policy with nothing in it yet; the first version that is added is active.
    pub(super) fn new(policy: &str) -> Self {
        Self {
            format: FORMAT,
            policy: policy.to_owned(),
            versions: Vec::new(),
            active: 0,
            since_ms: 0,
            by: String::new(),
            earlier: Vec::new(),
            steps: Vec::new(),
            steps_forgotten: 0,
        }
    }

    /// The number that the next version gets.
    pub(super) fn next(&self) -> u32 {
        self.versions.last().map_or(1, |last| last.number.saturating_add(1))
    }

    /// The version of this number.
    pub(super) fn version(&self, number: u32) -> Result<&Version, Fault> {
        let found = self.versions.iter().find(|version| version.number == number);
        found.ok_or_else(|| {
            let last = self.versions.len();
            Fault::absent(format!("policy {} has no version {number}: it has 1 to {last}", self.policy))
        })
    }

    /// The one version with this digest: its own, or its component's.
    pub(super) fn by_digest(&self, digest: &str) -> Result<&Version, Fault> {
        if let Some(version) = self.versions.iter().find(|version| version.digest == digest) {
            return Ok(version);
        }
        let mut found = self.versions.iter().filter(|version| version.component == digest);
        match (found.next(), found.next()) {
            (Some(version), None) => Ok(version),
            (None, _) => Err(Fault::absent(format!("policy {} has no version with digest {digest}", self.policy))),
            (Some(one), Some(other)) => Err(Fault::conflict(format!(
                "policy {}: versions {} and {} have the component {digest}: give `version`",
                self.policy, one.number, other.number
            ))),
        }
    }

    /// With one more version.
    pub(super) fn added(mut self, version: Version, steps_max: usize) -> Self {
        let reason = Reason { who: version.by.clone(), why: version.why.clone(), at_ms: version.added_ms };
        let number = version.number;
        self.versions.push(version);
        if self.active == 0 {
            (self.active, self.since_ms, self.by) = (number, reason.at_ms, reason.who.clone());
        }
        self.noting(Action::Added, number, &reason, None, steps_max)
    }

    /// With another version active.
    pub(super) fn swapped(mut self, to: u32, reason: &Reason, steps_max: usize) -> Self {
        self.earlier.push(self.active);
        let too_many = self.earlier.len().saturating_sub(EARLIER_MAX);
        self.earlier.drain(..too_many);
        self.activated(Action::Swapped, to, reason, steps_max)
    }

    /// Where `rollback` leads.
    pub(super) fn before(&self) -> Option<u32> {
        self.earlier.last().copied()
    }

    /// With what judged before active again; unchanged if nothing did.
    pub(super) fn rolled_back(mut self, reason: &Reason, steps_max: usize) -> Self {
        match self.earlier.pop() {
            Some(to) => self.activated(Action::RolledBack, to, reason, steps_max),
            None => self,
        }
    }

    /// With a note that a kernel that decides has this version.
    pub(super) fn deployed(self, version: u32, to: Deployed, reason: &Reason, steps_max: usize) -> Self {
        self.noting(Action::Deployed, version, reason, Some(to), steps_max)
    }

    fn activated(mut self, action: Action, to: u32, reason: &Reason, steps_max: usize) -> Self {
        (self.active, self.since_ms, self.by) = (to, reason.at_ms, reason.who.clone());
        self.noting(action, to, reason, None, steps_max)
    }

    fn noting(mut self, action: Action, version: u32, reason: &Reason, to: Option<Deployed>, most: usize) -> Self {
        let Reason { who, why, at_ms } = reason.clone();
        self.steps.push(Step { at_ms, who, why, action, version, deployed: to });
        let too_many = self.steps.len().saturating_sub(most);
        self.steps.drain(..too_many);
        self.steps_forgotten += too_many as u64;
        self
    }

    fn check(&self, name: &str) -> Result<()> {
        ensure!(self.format == FORMAT, "it has format {}, this version of Gavel reads {FORMAT}", self.format);
        ensure!(self.policy == name, "it is the book of policy {}", self.policy);
        let has = |number: &u32| self.versions.iter().any(|version| version.number == *number);
        ensure!(has(&self.active), "version {} is active and is not in it", self.active);
        ensure!(self.earlier.iter().all(has), "it was active by a version that is not in it");
        Ok(())
    }
}

/// The books on disk, and the folder that they are in, which is this process's alone.
#[derive(Debug)]
pub(super) struct Shelf {
    folder: PathBuf,
    /// Held as long as the engine lives.
    _lock: File,
}

impl Shelf {
    /// The books of a kernel's folder.
    ///
    /// # Errors
    /// If another process has the folder, or a book cannot be read.
    pub(super) fn open(folder: &Path) -> Result<(Self, Vec<Book>)> {
        let lock = lock(&folder.join("lock"))?;
        let books_folder = folder.join("books");
        std::fs::create_dir_all(&books_folder).with_context(|| books_folder.display().to_string())?;
        let mut books = Vec::new();
        for entry in std::fs::read_dir(&books_folder).with_context(|| books_folder.display().to_string())? {
            let path = entry?.path();
            // What was being written aside when the process was killed has another ending.
            let Some(name) = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".json")) else { continue };
            books.push(read(&path, name).with_context(|| format!("the book {}", path.display()))?);
        }
        Ok((Self { folder: books_folder, _lock: lock }, books))
    }

    /// Put a book in the place of the one before. Blocks until it is on disk.
    pub(super) fn write(&self, book: &Book) -> Result<(), Unwritten> {
        let text = serde_json::to_vec(book).map_err(|why| Unwritten::Untouched(why.into()))?;
        replace_whole(&self.folder.join(format!("{}.json", book.policy)), &text)
    }
}

fn read(path: &Path, name: &str) -> Result<Book> {
    let book: Book = serde_json::from_slice(&std::fs::read(path)?)?;
    book.check(name)?;
    Ok(book)
}

fn lock(path: &Path) -> Result<File> {
    let shown = path.display();
    let file = File::options().write(true).create(true).truncate(false).open(path);
    let file = file.with_context(|| format!("{shown} cannot be opened"))?;
    let held = flock(&file, FlockOperation::NonBlockingLockExclusive);
    held.map_err(|why| anyhow::anyhow!("{shown} is held by another policy engine: stop that one first ({why})"))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(number: u32, component: &str) -> Version {
        Version {
            number,
            digest: format!("d{number}"),
            component: component.to_owned(),
            package: None,
            signed_by: Vec::new(),
            added_ms: u64::from(number),
            by: "ann".into(),
            why: "new".into(),
        }
    }

    fn reason(at_ms: u64) -> Reason {
        Reason { who: "bob".into(), why: "because".into(), at_ms }
    }

    fn book() -> Book {
        let book = Book::new("p").added(version(1, "a"), 10).added(version(2, "a"), 10);
        book.added(version(3, "b"), 10)
    }

    #[test]
    fn the_first_version_is_active_and_others_wait() {
        let book = book();
        assert_eq!((book.active, book.next(), book.before(), book.by.as_str()), (1, 4, None, "ann"));
        assert_eq!(book.by_digest("d2").unwrap().number, 2);
        assert_eq!(book.by_digest("b").unwrap().number, 3);
        assert!(book.by_digest("a").unwrap_err().message.contains("versions 1 and 2"));
        assert_eq!(book.version(9).unwrap_err().status, 404);
    }

    #[test]
    fn rolling_back_goes_the_way_back_and_ends_at_its_beginning() {
        let mut book = book().swapped(2, &reason(5), 10).swapped(3, &reason(6), 10);
        assert_eq!((book.active, book.since_ms, book.before()), (3, 6, Some(2)));
        for expected in [2, 1] {
            book = book.rolled_back(&reason(7), 10);
            assert_eq!(book.active, expected);
        }
        let again = book.clone().rolled_back(&reason(8), 10);
        assert_eq!(again, book, "there is nothing before");
    }

    #[test]
    fn history_is_bounded_and_says_how_much_it_forgot() {
        let mut book = book();
        for step in 0..200 {
            book = book.swapped(1 + step % 3, &reason(u64::from(step)), 10);
        }
        assert_eq!((book.steps.len(), book.steps_forgotten, book.earlier.len()), (10, 193, EARLIER_MAX));
        assert_eq!(book.steps.last().unwrap().at_ms, 199);
    }

    #[test]
    fn a_book_is_read_back_and_a_false_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let (shelf, books) = Shelf::open(folder.path()).unwrap();
        assert!(books.is_empty());
        let book = book().swapped(2, &reason(5), 10);
        shelf.write(&book).unwrap();
        let second = Shelf::open(folder.path()).unwrap_err().to_string();
        assert!(second.contains("is held by another policy engine"), "{second}");
        drop(shelf);
        let (shelf, books) = Shelf::open(folder.path()).unwrap();
        assert_eq!(books, std::slice::from_ref(&book));
        shelf.write(&Book { active: 9, ..book }).unwrap();
        drop(shelf);
        let why = format!("{:#}", Shelf::open(folder.path()).unwrap_err());
        assert!(why.contains("version 9 is active and is not in it"), "{why}");
    }
}
