//! The index on disk: derived from the ledgers and never the truth.
//!
//! How far each ledger was taken stands in the payload of the very commit that holds its documents, so a kill leaves both
//! as they were. An index of another form, or one that is damaged, is set aside (`index.aside`) and made anew: all of it
//! can be read again from the ledgers. Whoever writes is there only while there is something to write; what is read is
//! mapped from files.

use super::Settings;
use super::schema::{self, Fields};
use crate::following::{CaughtUp, Page, Position, Sink};
use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};
use tantivy::directory::MmapDirectory;
use tantivy::indexer::IndexWriterOptions;
use tantivy::{Index, IndexReader, IndexSettings, IndexWriter, ReloadPolicy, Searcher, Term};

/// Blocks of stored records that a reader keeps: 16 KiB each.
const CACHED_BLOCKS: usize = 8;

/// What the payload of a commit says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Extent {
    /// The form of the index.
    form: u64,
    /// The number of the next record.
    pub(super) next_seq: u64,
    /// How far each ledger was taken.
    pub(super) positions: BTreeMap<String, Position>,
}

/// The index, open.
pub(super) struct Store {
    folder: PathBuf,
    settings: Settings,
    pub(super) fields: Fields,
    open: RwLock<Open>,
    writing: Mutex<Writing>,
    /// What is durable, for those who must not wait until a commit is done.
    told: RwLock<Extent>,
}

struct Open {
    index: Index,
    reader: IndexReader,
}

struct Writing {
    writer: Option<IndexWriter>,
    durable: Extent,
    staged: Extent,
    uncommitted: usize,
}

impl Writing {
    fn of(durable: Extent) -> Self {
        Self { writer: None, staged: durable.clone(), durable, uncommitted: 0 }
    }

    /// What was staged is given up.
    fn roll_back(&mut self) {
        self.writer = None;
        (self.staged, self.uncommitted) = (self.durable.clone(), 0);
    }
}

impl Store {
    /// Open the index in `folder`, or make it. One that cannot be used is set aside.
    pub(super) fn open(folder: &Path, settings: Settings) -> Result<Self> {
        let (_, fields) = schema::schema();
        let (open, extent) = match open(folder, settings.checksum_bytes_max) {
            Ok(opened) => opened,
            Err(why) => {
                set_aside(folder, &format!("{why:#}"))?;
                open(folder, 0)?
            }
        };
        let (told, writing) = (RwLock::new(extent.clone()), Mutex::new(Writing::of(extent)));
        Ok(Self { folder: folder.to_owned(), settings, fields, open: RwLock::new(open), writing, told })
    }

    /// What is committed now, and the index that it is of.
    pub(super) fn searcher(&self) -> (Index, Searcher) {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        (open.index.clone(), open.reader.searcher())
    }

    /// What is durable. Never waits for a commit.
    pub(super) fn extent(&self) -> Extent {
        self.told.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn tell(&self, durable: &Extent) {
        *self.told.write().unwrap_or_else(PoisonError::into_inner) = durable.clone();
    }

    /// A search failed: if the files are damaged, make the index anew. Whether it was.
    pub(super) fn suspect(&self) -> Result<bool> {
        let mut writing = self.writing();
        let (index, _) = self.searcher();
        let why = match index.validate_checksum() {
            Ok(damaged) if damaged.is_empty() => return Ok(false),
            Ok(damaged) => format!("{} of its files are damaged", damaged.len()),
            Err(why) => why.to_string(),
        };
        writing.roll_back();
        set_aside(&self.folder, &why)?;
        let (open, extent) = open(&self.folder, 0)?;
        *self.open.write().unwrap_or_else(PoisonError::into_inner) = open;
        self.tell(&extent);
        *writing = Writing::of(extent);
        Ok(true)
    }

    fn writing(&self) -> MutexGuard<'_, Writing> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, writing: &mut Writing, page: &Page) -> Result<()> {
        if writing.writer.is_none() {
            writing.writer = Some(self.writer()?);
        }
        let Writing { writer: Some(writer), staged, uncommitted, .. } = writing else { return Ok(()) };
        if page.rewritten.is_some() {
            writer.delete_term(Term::from_field_text(self.fields.source, &page.source));
            *uncommitted += 1;
        }
        for record in &page.records {
            writer.add_document(schema::document(&self.fields, &page.source, record, staged.next_seq))?;
            staged.next_seq += 1;
            *uncommitted += 1;
        }
        staged.positions.insert(page.source.clone(), page.position.clone());
        if *uncommitted >= self.settings.commit_records {
            self.commit(writing)?;
        }
        Ok(())
    }

    fn writer(&self) -> Result<IndexWriter> {
        let options = IndexWriterOptions::builder()
            .num_worker_threads(1)
            .num_merge_threads(1)
            .memory_budget_per_thread(self.settings.writer_bytes)
            .build();
        let (index, _) = self.searcher();
        index.writer_with_options(options).context("the index cannot be written")
    }

    fn commit(&self, writing: &mut Writing) -> Result<()> {
        let Writing { writer: Some(writer), durable, staged, uncommitted } = writing else { return Ok(()) };
        let mut prepared = writer.prepare_commit()?;
        prepared.set_payload(&serde_json::to_string(staged)?);
        prepared.commit()?;
        (*durable, *uncommitted) = (staged.clone(), 0);
        self.tell(durable);
        self.open.read().unwrap_or_else(PoisonError::into_inner).reader.reload()?;
        Ok(())
    }
}

impl Sink for Store {
    fn position(&self, source: &str) -> Position {
        self.writing().staged.positions.get(source).cloned().unwrap_or_default()
    }

    fn take(&self, page: &Page) -> Result<()> {
        let mut writing = self.writing();
        self.add(&mut writing, page).inspect_err(|_| writing.roll_back())
    }

    fn settle(&self, _: &CaughtUp) -> Result<()> {
        let mut writing = self.writing();
        if writing.uncommitted > 0 {
            return self.commit(&mut writing).inspect_err(|_| writing.roll_back());
        }
        // Nothing came in this round: the memory of whoever writes is given back, once merges are done.
        if let Some(writer) = writing.writer.take() {
            writer.wait_merging_threads()?;
            self.open.read().unwrap_or_else(PoisonError::into_inner).reader.reload()?;
        }
        Ok(())
    }
}

fn open(folder: &Path, checksum_bytes_max: u64) -> Result<(Open, Extent)> {
    let dir = folder.join("index");
    std::fs::create_dir_all(&dir).with_context(|| format!("{} cannot be made", dir.display()))?;
    let directory = MmapDirectory::open(&dir)?;
    let index = if Index::exists(&directory)? { Index::open(directory)? } else { made(directory)? };
    schema::register(&index);
    let (schema, _) = schema::schema();
    ensure!(index.schema() == schema, "its fields are not those that this version writes");
    let extent = extent(&index)?;
    if bytes_of(&dir)? <= checksum_bytes_max {
        let damaged = index.validate_checksum()?;
        ensure!(damaged.is_empty(), "{} of its files are damaged", damaged.len());
    }
    let reader = index
        .reader_builder()
        .reload_policy(ReloadPolicy::Manual)
        .doc_store_cache_num_blocks(CACHED_BLOCKS)
        .try_into()?;
    Ok((Open { index, reader }, extent))
}

fn made(directory: MmapDirectory) -> Result<Index> {
    let settings = IndexSettings { docstore_compress_dedicated_thread: false, ..IndexSettings::default() };
    let index = Index::create(directory, schema::schema().0, settings)?;
    let mut writer: IndexWriter = index.writer_with_num_threads(1, super::WRITER_BYTES_MIN)?;
    let mut prepared = writer.prepare_commit()?;
    prepared.set_payload(&serde_json::to_string(&Extent { form: schema::VERSION, ..Extent::default() })?);
    prepared.commit()?;
    Ok(index)
}

fn extent(index: &Index) -> Result<Extent> {
    let payload = index.load_metas()?.payload.context("it does not say how far it goes")?;
    let extent: Extent = serde_json::from_str(&payload).context("what it says of how far it goes cannot be read")?;
    ensure!(extent.form == schema::VERSION, "its form is {}, this version writes {}", extent.form, schema::VERSION);
    Ok(extent)
}

fn bytes_of(dir: &Path) -> Result<u64> {
    let mut bytes = 0;
    for file in std::fs::read_dir(dir)? {
        bytes += file?.metadata()?.len();
    }
    Ok(bytes)
}

/// The index out of the way, under a name that is kept until the next one.
fn set_aside(folder: &Path, why: &str) -> Result<()> {
    let (index, aside) = (folder.join("index"), folder.join("index.aside"));
    if aside.exists() {
        std::fs::remove_dir_all(&aside).with_context(|| format!("{} cannot be removed", aside.display()))?;
    }
    let renamed = std::fs::rename(&index, &aside);
    renamed.with_context(|| format!("{why}; and it cannot be renamed to {}", aside.display()))?;
    tracing::warn!(index = %index.display(), aside = %aside.display(), why, "the index of the audit trail is set aside and made anew; the ledgers are not affected");
    Ok(())
}
