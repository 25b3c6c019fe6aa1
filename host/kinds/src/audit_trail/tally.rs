//! Counting records by what they say, over the columns of the index.

use std::collections::{BTreeMap, HashMap};
use tantivy::collector::{Collector, SegmentCollector};
use tantivy::columnar::{Column, StrColumn};
use tantivy::{DocId, Score, SegmentOrdinal, SegmentReader};

const DAY_MS: u64 = 86_400_000;
/// The columns whose values are counted.
pub(super) const COLUMNS: [&str; 4] = ["actor", "tool", "decision", "kind"];

/// What was counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Records.
    pub(super) records: u64,
    /// By value, in the order of [`COLUMNS`].
    pub(super) values: [HashMap<String, u64>; COLUMNS.len()],
    /// By day since 1970.
    pub(super) days: BTreeMap<u64, u64>,
}

/// Counts all records that match.
pub(super) struct Tally;

/// The same for one segment, by the numbers that values have in it.
pub(super) struct SegmentTally {
    columns: [Option<StrColumn>; COLUMNS.len()],
    ts: Column<u64>,
    records: u64,
    ordinals: [HashMap<u64, u64>; COLUMNS.len()],
    days: BTreeMap<u64, u64>,
}

impl Collector for Tally {
    type Fruit = Counts;
    type Child = SegmentTally;

    fn for_segment(&self, _: SegmentOrdinal, segment: &SegmentReader) -> tantivy::Result<SegmentTally> {
        let fast = segment.fast_fields();
        let mut columns = [const { None }; COLUMNS.len()];
        for (column, name) in columns.iter_mut().zip(COLUMNS) {
            *column = fast.str(name)?;
        }
        let (ordinals, days) = (Default::default(), BTreeMap::new());
        Ok(SegmentTally { columns, ts: fast.u64("ts")?, records: 0, ordinals, days })
    }

    fn requires_scoring(&self) -> bool {
        false
    }

    fn merge_fruits(&self, segments: Vec<tantivy::Result<Counts>>) -> tantivy::Result<Counts> {
        let mut all = Counts::default();
        for counts in segments {
            let counts = counts?;
            all.records += counts.records;
            for (all, values) in all.values.iter_mut().zip(counts.values) {
                for (value, count) in values {
                    *all.entry(value).or_default() += count;
                }
            }
            counts.days.into_iter().for_each(|(day, count)| *all.days.entry(day).or_default() += count);
        }
        Ok(all)
    }
}

impl SegmentCollector for SegmentTally {
    type Fruit = tantivy::Result<Counts>;

    fn collect(&mut self, document: DocId, _: Score) {
        self.records += 1;
        for (column, counted) in self.columns.iter().zip(&mut self.ordinals) {
            let ordinals = column.iter().flat_map(|column| column.term_ords(document));
            ordinals.for_each(|ordinal| *counted.entry(ordinal).or_default() += 1);
        }
        let day = self.ts.first(document).unwrap_or_default() / DAY_MS;
        *self.days.entry(day).or_default() += 1;
    }

    fn harvest(self) -> tantivy::Result<Counts> {
        let mut values: [HashMap<String, u64>; COLUMNS.len()] = Default::default();
        for ((column, counted), values) in self.columns.iter().zip(self.ordinals).zip(&mut values) {
            let Some(column) = column else { continue };
            for (ordinal, count) in counted {
                let mut value = String::new();
                column.ord_to_str(ordinal, &mut value)?;
                values.insert(value, count);
            }
        }
        Ok(Counts { records: self.records, values, days: self.days })
    }
}
