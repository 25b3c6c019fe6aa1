//! Where the numbers lie: one redb file.
//!
//! Rows of four tables have the key time (8, big-endian) and instance: `raw`, as scraped, and `minute`, `hour`, `day`. Each
//! of these is made of the rows of the one before, when its time is over; `meta` says up to where. So whatever is killed in
//! between is made up for from what is on disk, and comes out the same.

use super::row::{self, Cell, Point, Row};
use super::series::Series;
use super::text::Form;
use crate::redb_file::{begin, corrupt};
use redb::{Database, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::ops::Range;

type Rows = TableDefinition<'static, &'static [u8], &'static [u8]>;
/// Things with a name, as JSON.
pub(super) type Named = TableDefinition<'static, &'static str, &'static [u8]>;

const RAW: Rows = TableDefinition::new("raw");
const SERIES: TableDefinition<'_, u32, &[u8]> = TableDefinition::new("series");
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
pub(super) const OBJECTIVES: Named = TableDefinition::new("objectives");
pub(super) const STATES: Named = TableDefinition::new("objective_states");

/// Rows that one commit makes of others; the next goes on.
const ROLLED_MAX: usize = 2_000;

/// Is shown the cells of a row, with their time and instance.
pub(super) type See<'a> = dyn FnMut(u64, &str, &mut dyn Iterator<Item = (u32, Cell)>) + 'a;

/// How fine rows are.
#[derive(Clone, Copy)]
pub(super) struct Grain {
    pub(super) name: &'static str,
    /// 0 for rows as they were scraped.
    pub(super) ms: u64,
    table: Rows,
}

/// From the finest.
pub(super) const GRAINS: [Grain; 4] = [
    Grain { name: "raw", ms: 0, table: RAW },
    Grain { name: "minute", ms: 60_000, table: TableDefinition::new("minute") },
    Grain { name: "hour", ms: 3_600_000, table: TableDefinition::new("hour") },
    Grain { name: "day", ms: 86_400_000, table: TableDefinition::new("day") },
];

/// What one scrape found.
#[derive(Debug, Default)]
pub(super) struct Harvest {
    pub(super) now_ms: u64,
    pub(super) new: Vec<Series>,
    pub(super) gone: Vec<u32>,
    /// By instance.
    pub(super) points: BTreeMap<String, Vec<Point>>,
}

pub(super) struct Store {
    database: Database,
    /// For how long rows of each grain are kept.
    keep_ms: [u64; 4],
}

impl Store {
    pub(super) fn open(database: Database, keep_ms: [u64; 4]) -> Result<Self, redb::Error> {
        let write = begin(&database)?;
        for grain in GRAINS {
            write.open_table(grain.table)?;
        }
        write.open_table(SERIES)?;
        write.open_table(META)?;
        write.open_table(OBJECTIVES)?;
        write.open_table(STATES)?;
        write.commit()?;
        Ok(Self { database, keep_ms })
    }

    pub(super) fn keep_ms(&self) -> [u64; 4] {
        self.keep_ms
    }

    pub(super) fn read(&self) -> Result<ReadTransaction, redb::Error> {
        Ok(self.database.begin_read()?)
    }

    /// All series, and the number of the next.
    pub(super) fn series(&self) -> Result<(Vec<Series>, u32), redb::Error> {
        let read = self.read()?;
        let next = read.open_table(META)?.get("next_series")?.map_or(0, |next| next.value());
        let mut all = Vec::new();
        for entry in read.open_table(SERIES)?.iter()? {
            let (_, value) = entry?;
            all.push(serde_json::from_slice(value.value()).map_err(|why| corrupt("a series", &why))?);
        }
        Ok((all, u32::try_from(next).unwrap_or(u32::MAX)))
    }

    /// When the last scrape was, and the last values of all that was scraped lately, by instance.
    pub(super) fn last(&self) -> Result<(u64, BTreeMap<String, Vec<Point>>), redb::Error> {
        let read = self.read()?;
        let (mut at_ms, mut last) = (0, BTreeMap::new());
        for entry in read.open_table(RAW)?.iter()? {
            let (key, value) = entry?;
            at_ms = time(key.value());
            last.insert(instance(key.value()), row::read_points(value.value()).collect());
        }
        Ok((at_ms, last))
    }

    /// Keep what was scraped, roll up what is over, and remove what is too old. Gives whether there is more to roll up.
    pub(super) fn keep(&self, harvest: &Harvest, form: &dyn Fn(u32) -> Option<Form>) -> Result<bool, redb::Error> {
        let write = begin(&self.database)?;
        {
            let mut series = write.open_table(SERIES)?;
            for one in &harvest.new {
                series.insert(one.id, json(one)?.as_slice())?;
            }
            for id in &harvest.gone {
                series.remove(id)?;
            }
            if let Some(newest) = harvest.new.iter().map(|one| one.id).max() {
                write.open_table(META)?.insert("next_series", u64::from(newest) + 1)?;
            }
            let mut raw = write.open_table(RAW)?;
            for (instance, points) in &harvest.points {
                raw.insert(key(harvest.now_ms, instance).as_slice(), row::write_points(points).as_slice())?;
            }
        }
        let mut room = ROLLED_MAX;
        for at in 1..GRAINS.len() {
            roll(&write, at, harvest.now_ms, form, &mut room)?;
        }
        self.trim(&write, harvest.now_ms)?;
        write.commit()?;
        Ok(room == 0)
    }

    fn trim(&self, write: &WriteTransaction, now_ms: u64) -> Result<(), redb::Error> {
        for (grain, keep_ms) in GRAINS.into_iter().zip(self.keep_ms) {
            let mut table = write.open_table(grain.table)?;
            let end = now_ms.saturating_sub(keep_ms).to_be_bytes();
            table.retain_in::<&[u8], _>(..end.as_slice(), |_, _| false)?;
        }
        Ok(())
    }

    /// Call for each cell with its time, from the finest rows that serve. `until` is as far as there are rows of that grain.
    pub(super) fn each(
        read: &ReadTransaction,
        grain: Grain,
        times: Range<u64>,
        form: &dyn Fn(u32) -> Option<Form>,
        see: &mut See<'_>,
        of: &dyn Fn(&str) -> bool,
    ) -> Result<(), redb::Error> {
        if times.is_empty() {
            return Ok(());
        }
        let (first, last) = (times.start.to_be_bytes(), times.end.to_be_bytes());
        for entry in read.open_table(grain.table)?.range::<&[u8]>(first.as_slice()..last.as_slice())? {
            let (key, value) = entry?;
            let (time, instance) = (time(key.value()), instance(key.value()));
            if !of(&instance) {
                continue;
            }
            if grain.ms == 0 {
                see(time, &instance, &mut row::cells_of_points(value.value(), form));
            } else {
                see(time, &instance, &mut row::read_cells(value.value()));
            }
        }
        Ok(())
    }

    /// Up to when rows of this grain are made.
    pub(super) fn rolled_until(read: &ReadTransaction, grain: Grain) -> Result<u64, redb::Error> {
        Ok(read.open_table(META)?.get(grain.name)?.map_or(0, |until| until.value()))
    }

    /// All things of a table, by name.
    pub(super) fn named<T: DeserializeOwned>(&self, table: Named) -> Result<BTreeMap<String, T>, redb::Error> {
        let read = self.read()?;
        let mut all = BTreeMap::new();
        for entry in read.open_table(table)?.iter()? {
            let (name, value) = entry?;
            let thing = serde_json::from_slice(value.value()).map_err(|why| corrupt(name.value(), &why))?;
            all.insert(name.value().to_owned(), thing);
        }
        Ok(all)
    }

    /// Put a thing into a table, or take it out. Gives whether it was there.
    pub(super) fn set<T: Serialize>(&self, table: Named, name: &str, thing: Option<&T>) -> Result<bool, redb::Error> {
        let write = begin(&self.database)?;
        let was = {
            let mut table = write.open_table(table)?;
            match thing {
                Some(thing) => table.insert(name, json(thing)?.as_slice())?.is_some(),
                None => table.remove(name)?.is_some(),
            }
        };
        write.commit()?;
        Ok(was)
    }

    /// Put these in once, when the file is new.
    pub(super) fn begin_with<T: Serialize>(&self, table: Named, all: &[(&str, T)]) -> Result<(), redb::Error> {
        let write = begin(&self.database)?;
        {
            let mut meta = write.open_table(META)?;
            if meta.get("begun")?.is_some() {
                return Ok(());
            }
            meta.insert("begun", 1)?;
            let mut table = write.open_table(table)?;
            for (name, thing) in all {
                table.insert(*name, json(thing)?.as_slice())?;
            }
        }
        write.commit()?;
        Ok(())
    }
}

/// Make the rows of a grain whose time is over, of those of the finer one.
fn roll(
    write: &WriteTransaction,
    at: usize,
    now_ms: u64,
    form: &dyn Fn(u32) -> Option<Form>,
    room: &mut usize,
) -> Result<(), redb::Error> {
    let (finer, grain) = (GRAINS[at - 1], GRAINS[at]);
    let mut meta = write.open_table(META)?;
    let finished = match finer.ms {
        0 => now_ms,
        _ => meta.get(finer.name)?.map_or(0, |until| until.value()),
    };
    let finished = finished - finished % grain.ms;
    let mut until = meta.get(grain.name)?.map_or(0, |until| until.value());
    let (source, mut table) = (write.open_table(finer.table)?, write.open_table(grain.table)?);
    while until < finished && *room > 0 {
        let first = source.range::<&[u8]>(until.to_be_bytes().as_slice()..)?.next().transpose()?;
        let Some(start) = first.map(|(key, _)| time(key.value())).filter(|start| *start < finished) else {
            until = finished;
            break;
        };
        let start = start - start % grain.ms;
        until = start + grain.ms;
        let mut rows: BTreeMap<String, Row> = BTreeMap::new();
        let (first, last) = (start.to_be_bytes(), until.to_be_bytes());
        for entry in source.range::<&[u8]>(first.as_slice()..last.as_slice())? {
            let (key, value) = entry?;
            let row = rows.entry(instance(key.value())).or_default();
            if finer.ms == 0 {
                row::add(row, row::cells_of_points(value.value(), form));
            } else {
                row::add(row, row::read_cells(value.value()));
            }
        }
        for (instance, mut row) in rows {
            row.retain(|id, cell| cell.sum != 0.0 || form(*id) == Some(Form::Gauge));
            table.insert(key(start, &instance).as_slice(), row::write_cells(&row).as_slice())?;
            *room = room.saturating_sub(1);
        }
    }
    meta.insert(grain.name, until)?;
    Ok(())
}

fn key(time_ms: u64, instance: &str) -> Vec<u8> {
    [&time_ms.to_be_bytes()[..], instance.as_bytes()].concat()
}

fn time(key: &[u8]) -> u64 {
    key.get(..8).and_then(|time| time.try_into().ok()).map_or(0, u64::from_be_bytes)
}

fn instance(key: &[u8]) -> String {
    String::from_utf8_lossy(key.get(8..).unwrap_or_default()).into_owned()
}

fn json<T: Serialize>(thing: &T) -> Result<Vec<u8>, redb::Error> {
    serde_json::to_vec(thing).map_err(|why| corrupt("a thing", &why))
}
