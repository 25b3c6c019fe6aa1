//! What is kept of the series of one instance at one time: a row of numbers.
//!
//! Raw rows: 20 bytes a series: its id (4), its value (8), by how much it grew since the row before (8). Rolled-up rows: 40
//! bytes: its id (4), how many values (4), least, most, sum, last (8 each), where for a counter the values are those by
//! which it grew, and last is what it had grown to. All little-endian, in the order of ids. In rolled-up rows counters that
//! did not grow are left out: where an instance has a row, a counter that is not in it stood still.

use super::text::Form;
use std::collections::BTreeMap;

/// Some values of one series.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Cell {
    pub(super) count: u32,
    pub(super) min: f64,
    pub(super) max: f64,
    pub(super) sum: f64,
    pub(super) last: f64,
}

impl Cell {
    /// With what came after it.
    pub(super) fn with(self, later: Self) -> Self {
        Self {
            count: self.count.saturating_add(later.count),
            min: self.min.min(later.min),
            max: self.max.max(later.max),
            sum: self.sum + later.sum,
            last: later.last,
        }
    }
}

/// The cells of a row, by the ids of their series.
pub(super) type Row = BTreeMap<u32, Cell>;

/// One value of a series as it was scraped.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Point {
    pub(super) id: u32,
    pub(super) value: f64,
    pub(super) grown: f64,
}

const POINT_BYTES: usize = 20;
const CELL_BYTES: usize = 40;

/// A raw row as bytes.
pub(super) fn write_points(points: &[Point]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(points.len() * POINT_BYTES);
    for point in points {
        bytes.extend_from_slice(&point.id.to_le_bytes());
        bytes.extend_from_slice(&point.value.to_le_bytes());
        bytes.extend_from_slice(&point.grown.to_le_bytes());
    }
    bytes
}

/// The points of a raw row.
pub(super) fn read_points(bytes: &[u8]) -> impl Iterator<Item = Point> + '_ {
    bytes.chunks_exact(POINT_BYTES).map(|one| Point { id: id(one), value: number(one, 4), grown: number(one, 12) })
}

/// The cells of a raw row. What is not known has gone.
pub(super) fn cells_of_points(bytes: &[u8], form: impl Fn(u32) -> Option<Form>) -> impl Iterator<Item = (u32, Cell)> {
    read_points(bytes).filter_map(move |Point { id, value, grown }| {
        let counted = if form(id)? == Form::Counter { grown } else { value };
        Some((id, Cell { count: 1, min: counted, max: counted, sum: counted, last: value }))
    })
}

/// A rolled-up row as bytes.
pub(super) fn write_cells(row: &Row) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(row.len() * CELL_BYTES);
    for (id, cell) in row {
        bytes.extend_from_slice(&id.to_le_bytes());
        bytes.extend_from_slice(&cell.count.to_le_bytes());
        for value in [cell.min, cell.max, cell.sum, cell.last] {
            bytes.extend_from_slice(&value.to_le_bytes());
        }
    }
    bytes
}

/// The cells of a rolled-up row.
pub(super) fn read_cells(bytes: &[u8]) -> impl Iterator<Item = (u32, Cell)> + '_ {
    bytes.chunks_exact(CELL_BYTES).map(|one| {
        let count = one[4..8].try_into().map_or(0, u32::from_le_bytes);
        let (min, max, sum, last) = (number(one, 8), number(one, 16), number(one, 24), number(one, 32));
        (id(one), Cell { count, min, max, sum, last })
    })
}

/// Add cells to a row.
pub(super) fn add(row: &mut Row, cells: impl Iterator<Item = (u32, Cell)>) {
    for (id, cell) in cells {
        row.entry(id).and_modify(|before| *before = before.with(cell)).or_insert(cell);
    }
}

fn id(bytes: &[u8]) -> u32 {
    bytes[..4].try_into().map_or(0, u32::from_le_bytes)
}

fn number(bytes: &[u8], at: usize) -> f64 {
    bytes[at..at + 8].try_into().map_or(0.0, f64::from_le_bytes)
}

/// By how much a counter grew. One that is smaller than before began anew.
pub(super) fn grown(before: Option<f64>, now: f64, born: bool) -> f64 {
    match before {
        Some(before) if now >= before => now - before,
        Some(_) => now,
        // A counter that was not there at the last scrape began since at 0; at the first scrape nothing is known.
        None if born => now,
        None => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_that_begins_anew_loses_nothing_and_invents_nothing() {
        let check = |before, now, born, wanted: f64| assert!((grown(before, now, born) - wanted).abs() < 1e-9);
        check(Some(5.0), 8.0, false, 3.0);
        check(Some(5.0), 2.0, false, 2.0);
        check(Some(5.0), 5.0, false, 0.0);
        check(None, 7.0, true, 7.0);
        check(None, 7.0, false, 0.0);
    }

    #[test]
    fn rows_come_back_as_they_were_written() {
        let points = [Point { id: 3, value: 1.5, grown: 0.5 }, Point { id: 9, value: -2.0, grown: 0.0 }];
        assert_eq!(read_points(&write_points(&points)).collect::<Vec<_>>(), points);
        let cell = Cell { count: 2, min: -1.0, max: 4.0, sum: 3.0, last: 4.0 };
        let row = Row::from([(3, cell), (7, cell.with(cell))]);
        assert_eq!(read_cells(&write_cells(&row)).collect::<Row>(), row);
        assert_eq!(row[&7].count, 4);
    }
}
