//! What is kept: findings, what each control remembers, how far each ledger was judged, and what is still to be sent.
//!
//! A page of records changes all of it in one transaction, or nothing. When the controls are others than before, all
//! ledgers are judged again from their first record; what was found before is found again under the same id, and stays
//! what it is.

use super::Settings;
use super::chain::Kept;
use super::control::{Check, Control};
use super::finding::{Finding, Standing, Step};
use super::judge::{self, Judged, State, Violation};
use crate::fault::Fault;
use crate::following::{CaughtUp, End, Page, Position, Sink};
use crate::kind::Clock;
use anyhow::{Context, Result};
use gavel_proof::hash::HexHash;
use redb::{Database, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition, WriteTransaction};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

type Table<K, V> = TableDefinition<'static, K, V>;

const META: Table<&str, &[u8]> = TableDefinition::new("meta");
const POSITIONS: Table<&str, &[u8]> = TableDefinition::new("positions");
/// By control and source.
const STATES: Table<(&str, &str), &[u8]> = TableDefinition::new("states");
const CHAINS: Table<&str, &[u8]> = TableDefinition::new("chains");
const FINDINGS: Table<&str, &[u8]> = TableDefinition::new("findings");
/// The ids of findings by their place.
const ORDER: Table<u64, &str> = TableDefinition::new("order");
/// Findings that are still to be sent.
const OUTBOX: Table<&str, ()> = TableDefinition::new("outbox");

/// The ids of findings that may go when there is no room, by their place: they are resolved, and were sent.
const SETTLED: Table<u64, &str> = TableDefinition::new("settled");

/// Findings that are looked at for one page of them.
const LOOKED_AT_MAX: usize = 10_000;

/// Numbers of findings by control and by how they stand.
pub(super) type Counted = BTreeMap<String, BTreeMap<&'static str, u64>>;

/// By control and source.
type States = BTreeMap<(String, String), State>;

/// The store, open.
pub(super) struct Store {
    database: Database,
    controls: Arc<Vec<Control>>,
    settings: Arc<Settings>,
    clock: Clock,
    memory: Mutex<Memory>,
}

/// What the database says, so that it need not be asked for each page.
#[derive(Default)]
struct Memory {
    states: States,
    positions: BTreeMap<String, Position>,
    /// When each source was read to its end for the last time.
    checked_ms: BTreeMap<String, u64>,
}

/// Which findings are asked for.
#[derive(Debug, Clone, Default)]
pub(super) struct Wanted {
    pub(super) control: Option<String>,
    pub(super) source: Option<String>,
    pub(super) state: Option<String>,
    pub(super) severity: Option<String>,
    /// Only those that were found before this one.
    pub(super) before: Option<u64>,
}

impl Wanted {
    fn wants(&self, finding: &Finding) -> bool {
        let agrees = |wanted: &Option<String>, said: &str| wanted.as_deref().is_none_or(|wanted| wanted == said);
        let severity = serde_json::to_value(finding.severity).unwrap_or_default();
        agrees(&self.control, &finding.control)
            && agrees(&self.source, &finding.source)
            && agrees(&self.state, finding.state.name())
            && agrees(&self.severity, severity.as_str().unwrap_or_default())
    }
}

impl Store {
    pub(super) fn open(
        folder: &Path,
        controls: Arc<Vec<Control>>,
        settings: Arc<Settings>,
        clock: Clock,
    ) -> Result<Self> {
        let path = folder.join("findings.redb");
        let database = Database::builder()
            .set_cache_size(settings.cache_bytes)
            .create(&path)
            .with_context(|| format!("{} cannot be opened", path.display()))?;
        prepare(&database, &controls)?;
        let store = Self { database, controls, settings, clock, memory: Mutex::default() };
        store.read(&mut store.memory())?;
        Ok(store)
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the database says counts, after a transaction that failed too.
    fn read(&self, memory: &mut Memory) -> Result<()> {
        let read = self.database.begin_read()?;
        (memory.states, memory.positions) = (States::new(), BTreeMap::new());
        for row in read.open_table(STATES)?.iter()? {
            let (key, value) = row?;
            let (control, source) = key.value();
            memory.states.insert((control.to_owned(), source.to_owned()), serde_json::from_slice(value.value())?);
        }
        for row in read.open_table(POSITIONS)?.iter()? {
            let (source, value) = row?;
            memory.positions.insert(source.value().to_owned(), serde_json::from_slice(value.value())?);
        }
        Ok(())
    }

    /// Do it in one transaction; if it fails, nothing was done.
    fn change<T>(
        &self,
        memory: &mut Memory,
        work: impl FnOnce(&mut Change<'_>, &mut Memory) -> Result<T>,
    ) -> Result<T> {
        let write = self.database.begin_write()?;
        let mut change = Change { write: &write, store: self, now_ms: (self.clock)() };
        let done = work(&mut change, memory).and_then(|done| {
            write.commit()?;
            Ok(done)
        });
        if done.is_err() {
            self.read(memory)?;
        }
        done
    }

    /// The findings that are wanted, the last first, and where the next page begins.
    pub(super) fn findings(&self, wanted: &Wanted, limit: usize) -> Result<(Vec<Finding>, Option<u64>)> {
        let read = self.database.begin_read()?;
        let (order, findings) = (read.open_table(ORDER)?, read.open_table(FINDINGS)?);
        let mut found = Vec::new();
        let rows = order.range(..wanted.before.unwrap_or(u64::MAX))?.rev();
        for (looked_at, row) in rows.enumerate() {
            let (seq, id) = row?;
            if found.len() == limit || looked_at == LOOKED_AT_MAX {
                // What stands here was not looked at yet.
                return Ok((found, Some(seq.value() + 1)));
            }
            let finding: Option<Finding> = get(&findings, id.value())?;
            found.extend(finding.filter(|finding| wanted.wants(finding)));
        }
        Ok((found, None))
    }

    pub(super) fn finding(&self, id: &str) -> Result<Option<Finding>> {
        get(&self.database.begin_read()?.open_table(FINDINGS)?, id)
    }

    /// Somebody does something about a finding. Durable when it returns.
    pub(super) fn step(&self, id: &str, step: Step) -> Result<Result<Finding, Fault>> {
        let shown: String = id.chars().take(64).collect();
        let mut memory = self.memory();
        self.change(&mut memory, |change, _| {
            let mut findings = change.write.open_table(FINDINGS)?;
            let Some(mut finding) = get::<Finding>(&findings, id)? else {
                return Ok(Err(Fault::absent(format!("there is no finding '{}'", shown.escape_debug()))));
            };
            if let Err(fault) = finding.step(step) {
                return Ok(Err(fault));
            }
            findings.insert(id, serde_json::to_vec(&finding)?.as_slice())?;
            settle(change.write, &finding)?;
            Ok(Ok(finding))
        })
    }

    /// Findings that are still to be sent, the first `most` of them.
    pub(super) fn outbox(&self, most: usize) -> Result<Vec<Finding>> {
        let read = self.database.begin_read()?;
        let (outbox, findings) = (read.open_table(OUTBOX)?, read.open_table(FINDINGS)?);
        let mut found = Vec::new();
        for row in outbox.iter()?.take(most) {
            found.extend(get::<Finding>(&findings, row?.0.value())?);
        }
        Ok(found)
    }

    pub(super) fn sent(&self, ids: &[String]) -> Result<()> {
        let mut memory = self.memory();
        self.change(&mut memory, |change, _| {
            let findings = change.write.open_table(FINDINGS)?;
            for id in ids {
                change.write.open_table(OUTBOX)?.remove(id.as_str())?;
                if let Some(finding) = get::<Finding>(&findings, id)? {
                    settle(change.write, &finding)?;
                }
            }
            Ok(())
        })
    }

    /// The checkpoint of a source that was seen last.
    pub(super) fn kept(&self, source: &str) -> Result<Option<Kept>> {
        get(&self.database.begin_read()?.open_table(CHAINS)?, source)
    }

    /// A checkpoint was seen; with it, how it is known that the history was rewritten, if it was.
    pub(super) fn keep(&self, source: &str, kept: Option<&Kept>, rewritten: Option<&str>) -> Result<()> {
        let mut memory = self.memory();
        self.change(&mut memory, |change, _| {
            if let Some(why) = rewritten {
                change.rewritten(source, why)?;
            }
            if let Some(kept) = kept {
                change.write.open_table(CHAINS)?.insert(source, serde_json::to_vec(kept)?.as_slice())?;
            }
            Ok(())
        })
    }

    /// How far each source was judged, and when it was read to its end for the last time.
    pub(super) fn coverage(&self) -> BTreeMap<String, (Position, Option<u64>)> {
        let memory = self.memory();
        let told = |(source, position): (&String, &Position)| {
            (source.clone(), (position.clone(), memory.checked_ms.get(source).copied()))
        };
        let mut told: BTreeMap<_, _> = memory.positions.iter().map(told).collect();
        for (source, checked_ms) in &memory.checked_ms {
            told.entry(source.clone()).or_insert((Position::default(), Some(*checked_ms)));
        }
        told
    }

    /// What a control remembers of a source: judged, matched, not judged.
    pub(super) fn counts(&self, control: &str, source: &str) -> (u64, u64, u64) {
        let memory = self.memory();
        let state = memory.states.get(&(control.to_owned(), source.to_owned()));
        state.map_or((0, 0, 0), |state| (state.judged, state.matched, state.not_judged))
    }

    /// How the findings stand, and how many there was no room for.
    pub(super) fn standing(&self) -> Result<(Counted, u64)> {
        let read = self.database.begin_read()?;
        let findings = read.open_table(FINDINGS)?;
        let mut counted = Counted::new();
        for row in findings.iter()? {
            let finding: Finding = serde_json::from_slice(row?.1.value())?;
            *counted.entry(finding.control).or_default().entry(finding.state.name()).or_default() += 1;
        }
        let suppressed = get(&read.open_table(META)?, "suppressed")?.unwrap_or(0);
        Ok((counted, suppressed))
    }
}

/// A transaction that goes on.
struct Change<'a> {
    write: &'a WriteTransaction,
    store: &'a Store,
    now_ms: u64,
}

impl Change<'_> {
    /// Keep what was judged of a source.
    fn judged(&self, control: &Control, source: &str, judged: Judged) -> Result<()> {
        for violation in judged.violations {
            self.find(control, source, violation)?;
        }
        let mut findings = self.write.open_table(FINDINGS)?;
        for (id, why) in judged.over {
            let Some(mut finding) = get::<Finding>(&findings, &id)? else { continue };
            let step = Step { state: Standing::Resolved, who: "compliance_monitor".into(), when_ms: self.now_ms, why };
            // Somebody may have resolved it before.
            if finding.step(step).is_ok() {
                findings.insert(id.as_str(), serde_json::to_vec(&finding)?.as_slice())?;
                settle(self.write, &finding)?;
            }
        }
        Ok(())
    }

    fn find(&self, control: &Control, source: &str, violation: Violation) -> Result<()> {
        let mut findings = self.write.open_table(FINDINGS)?;
        if findings.get(violation.id(&control.id, source).as_str())?.is_some() {
            return Ok(());
        }
        let mut order = self.write.open_table(ORDER)?;
        if findings.len()? >= self.store.settings.findings_max && !self.make_room(&mut findings, &mut order)? {
            return self.suppress();
        }
        let mut meta = self.write.open_table(META)?;
        let seq = get::<u64>(&meta, "next_seq")?.unwrap_or(0);
        meta.insert("next_seq", serde_json::to_vec(&(seq + 1))?.as_slice())?;
        let finding = Finding::of(control, source, violation, seq, self.now_ms);
        tracing::warn!(id = finding.id, control = control.id, source, "a control does not hold: {}", finding.message);
        findings.insert(finding.id.as_str(), serde_json::to_vec(&finding)?.as_slice())?;
        order.insert(seq, finding.id.as_str())?;
        self.write.open_table(OUTBOX)?.insert(finding.id.as_str(), ())?;
        Ok(())
    }

    /// Take away the oldest finding that is resolved and was sent; whether there was one.
    fn make_room(
        &self,
        findings: &mut redb::Table<'_, &str, &[u8]>,
        order: &mut redb::Table<'_, u64, &str>,
    ) -> Result<bool> {
        let mut settled = self.write.open_table(SETTLED)?;
        let oldest = settled.pop_first()?.map(|(seq, id)| (seq.value(), id.value().to_owned()));
        let Some((seq, id)) = oldest else { return Ok(false) };
        order.remove(seq)?;
        findings.remove(id.as_str())?;
        Ok(true)
    }

    /// There is no room for another finding: that is counted and told.
    fn suppress(&self) -> Result<()> {
        let mut meta = self.write.open_table(META)?;
        let count = get::<u64>(&meta, "suppressed")?.unwrap_or(0) + 1;
        meta.insert("suppressed", serde_json::to_vec(&count)?.as_slice())?;
        Ok(())
    }

    /// The history of a source is another one: a finding of every control that watches it.
    fn rewritten(&self, source: &str, why: &str) -> Result<()> {
        let watching = self.store.controls.iter().filter(|control| matches!(control.check, Check::Chain(_)));
        for control in watching.filter(|control| control.is_about(source)) {
            let message = format!("the history of {source} was rewritten: {why}");
            self.find(control, source, Violation { message, evidence: Vec::new(), mark: why.to_owned() })?;
        }
        Ok(())
    }

    fn save(&self, states: &States, changed: &BTreeSet<(String, String)>) -> Result<()> {
        let mut table = self.write.open_table(STATES)?;
        for key in changed {
            if let Some(state) = states.get(key) {
                table.insert((key.0.as_str(), key.1.as_str()), serde_json::to_vec(state)?.as_slice())?;
            }
        }
        Ok(())
    }

    fn take(&self, memory: &mut Memory, page: &Page) -> Result<()> {
        if let Some(why) = &page.rewritten {
            self.rewritten(&page.source, why)?;
            memory.states.retain(|(_, source), _| *source != page.source);
            self.write.open_table(STATES)?.retain(|(_, source), _| source != page.source)?;
        }
        let mut changed = BTreeSet::new();
        for control in self.store.controls.iter().filter(|control| control.is_about(&page.source)) {
            let key = (control.id.clone(), page.source.clone());
            let state = memory.states.entry(key.clone()).or_default();
            let mut judged = Judged::default();
            for record in &page.records {
                judge::record(control, state, record, self.store.settings.pending_max, &mut judged);
            }
            self.judged(control, &page.source, judged)?;
            changed.insert(key);
        }
        self.save(&memory.states, &changed)?;
        let position = serde_json::to_vec(&page.position)?;
        self.write.open_table(POSITIONS)?.insert(page.source.as_str(), position.as_slice())?;
        memory.positions.insert(page.source.clone(), page.position.clone());
        Ok(())
    }
}

impl Sink for Store {
    fn position(&self, source: &str) -> Position {
        self.memory().positions.get(source).cloned().unwrap_or_default()
    }

    fn take(&self, page: &Page) -> Result<()> {
        let mut memory = self.memory();
        self.change(&mut memory, |change, memory| change.take(memory, page))
    }

    /// What did not come is judged. Nothing is written where nothing is found.
    fn settle(&self, caught_up: &CaughtUp) -> Result<()> {
        let mut memory = self.memory();
        let mut all = Vec::new();
        let mut changed = BTreeSet::new();
        for (source, End { read_ms, is_final }) in caught_up {
            memory.checked_ms.insert(source.clone(), *read_ms);
            // Of a ledger that is closed for good nobody expects anything fresh.
            let due = |control: &&Control| !*is_final || !matches!(control.check, Check::Fresh(_));
            for control in self.controls.iter().filter(|control| control.is_about(source)).filter(due) {
                let key = (control.id.clone(), source.clone());
                let state = memory.states.entry(key.clone()).or_default();
                let mut judged = Judged::default();
                if judge::elapsed(control, source, state, *read_ms, &mut judged) {
                    changed.insert(key);
                    all.push((control, source, judged));
                }
            }
        }
        if changed.is_empty() {
            return Ok(());
        }
        self.change(&mut memory, |change, memory| {
            for (control, source, judged) in all {
                change.judged(control, source, judged)?;
            }
            change.save(&memory.states, &changed)
        })
    }
}

/// Make the tables, and forget what was judged by other controls than these.
fn prepare(database: &Database, controls: &[Control]) -> Result<()> {
    let digest = Sha256::digest(serde_json::to_vec(controls)?);
    let digest = HexHash::of(&digest.into());
    let write = database.begin_write()?;
    {
        let mut meta = write.open_table(META)?;
        let (mut positions, mut states) = (write.open_table(POSITIONS)?, write.open_table(STATES)?);
        write.open_table(CHAINS)?;
        write.open_table(ORDER)?;
        write.open_table(SETTLED)?;
        {
            let findings = write.open_table(FINDINGS)?;
            let is_there = |id: &str| findings.get(id).is_ok_and(|found| found.is_some());
            // One that is not there would be looked for again and again, in place of those that are.
            write.open_table(OUTBOX)?.retain(|id, ()| is_there(id))?;
        }
        if meta.insert("settled", b"true".as_slice())?.is_none() {
            settle_all(&write)?;
        }
        if get::<String>(&meta, "controls")?.as_deref() != Some(digest.as_str()) {
            positions.retain(|_, _| false)?;
            states.retain(|_, _| false)?;
            meta.insert("controls", serde_json::to_vec(digest.as_str())?.as_slice())?;
        }
    }
    write.commit()?;
    Ok(())
}

/// From now on this finding may go when there is no room, if it is resolved and was sent.
fn settle(write: &WriteTransaction, finding: &Finding) -> Result<()> {
    let id = finding.id.as_str();
    if finding.state == Standing::Resolved && write.open_table(OUTBOX)?.get(id)?.is_none() {
        write.open_table(SETTLED)?.insert(finding.seq, id)?;
    }
    Ok(())
}

/// In a file that was written before there was the table of findings that may go, find them, and remove what points at none.
fn settle_all(write: &WriteTransaction) -> Result<()> {
    let findings = write.open_table(FINDINGS)?;
    let mut gone = Vec::new();
    for row in write.open_table(ORDER)?.iter()? {
        let (seq, id) = row?;
        match get::<Finding>(&findings, id.value())? {
            Some(finding) => settle(write, &finding)?,
            None => gone.push(seq.value()),
        }
    }
    let mut order = write.open_table(ORDER)?;
    for seq in gone {
        order.remove(seq)?;
    }
    Ok(())
}

fn get<T: DeserializeOwned>(table: &impl ReadableTable<&'static str, &'static [u8]>, key: &str) -> Result<Option<T>> {
    Ok(table.get(key)?.map(|value| serde_json::from_slice(value.value())).transpose()?)
}

/// For a report: anything as JSON.
pub(super) fn told(value: &impl Serialize) -> serde_json::Value {
    serde_json::to_value(value).unwrap_or_default()
}
