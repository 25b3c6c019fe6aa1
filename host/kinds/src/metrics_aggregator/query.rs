//! Answering from the rows: steps of time, each with one number a series.
//!
//! The coarsest rows that fit into a step are read, or coarser ones where finer ones are kept no more; what is not rolled up
//! yet is read from finer ones. A row counts where it begins.

use super::row::Cell;
use super::series::Series;
use super::store::{GRAINS, Grain, Store};
use super::text::Form;
use redb::ReadTransaction;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

/// What to make of the values of a step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Function {
    /// By how much a counter grew, each second.
    Rate,
    /// By how much a counter grew.
    Increase,
    /// The mean of a gauge.
    Avg,
    /// The least of a gauge.
    Min,
    /// The most of a gauge.
    Max,
    /// The value of a histogram below which this share of what it saw in the step lies.
    Quantile(f64),
}

impl Function {
    pub(super) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "rate" => Self::Rate,
            "increase" => Self::Increase,
            "avg" => Self::Avg,
            "min" => Self::Min,
            "max" => Self::Max,
            "p50" => Self::Quantile(0.5),
            "p90" => Self::Quantile(0.9),
            "p99" => Self::Quantile(0.99),
            _ => return None,
        })
    }

    /// What it can be made of.
    pub(super) fn form(self) -> Form {
        match self {
            Self::Rate | Self::Increase | Self::Quantile(_) => Form::Counter,
            Self::Avg | Self::Min | Self::Max => Form::Gauge,
        }
    }
}

/// What is asked for.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) function: Function,
    pub(super) times: Range<u64>,
    pub(super) step_ms: u64,
    /// One series of all.
    pub(super) merge: bool,
    pub(super) now_ms: u64,
}

/// The rows to read, the oldest first.
fn parts(read: &ReadTransaction, store: &Store, asked: &Asked) -> Result<Vec<(Grain, Range<u64>)>, redb::Error> {
    let Range { mut start, end } = asked.times.clone();
    let mut at = GRAINS.iter().rposition(|grain| grain.ms <= asked.step_ms).unwrap_or(0);
    while at + 1 < GRAINS.len() && start < asked.now_ms.saturating_sub(store.keep_ms()[at]) {
        at += 1;
    }
    let mut parts = Vec::new();
    loop {
        let grain = GRAINS[at];
        let until = if at == 0 { end } else { Store::rolled_until(read, grain)?.clamp(start, end.max(start)) };
        if start < until {
            parts.push((grain, start..until));
            start = until;
        }
        if at == 0 {
            return Ok(parts);
        }
        at -= 1;
    }
}

/// The values of series, by steps.
#[derive(Debug, Default)]
struct Steps {
    cells: BTreeMap<u32, BTreeMap<u64, Cell>>,
    /// In which steps instances were scraped: a counter without a cell stood still there.
    seen: BTreeMap<String, BTreeSet<u64>>,
}

fn steps(store: &Store, of: &BTreeMap<u32, Arc<Series>>, asked: &Asked) -> Result<(Steps, &'static str), redb::Error> {
    let read = store.read()?;
    let parts = parts(&read, store, asked)?;
    let instances: BTreeSet<&str> = of.values().map(|series| series.instance()).collect();
    let form = |id| of.get(&id).map(|series| series.form);
    let mut steps = Steps::default();
    let step_of = |time: u64| time - time % asked.step_ms.max(1);
    for (grain, times) in &parts {
        let mut see = |time: u64, instance: &str, cells: &mut dyn Iterator<Item = (u32, Cell)>| {
            let step = step_of(time);
            steps.seen.entry(instance.to_owned()).or_default().insert(step);
            for (id, cell) in cells.filter(|(id, _)| of.contains_key(id)) {
                let of_series = steps.cells.entry(id).or_default();
                of_series.entry(step).and_modify(|before| *before = before.with(cell)).or_insert(cell);
            }
        };
        Store::each(&read, *grain, times.clone(), &form, &mut see, &|instance| instances.contains(instance))?;
    }
    Ok((steps, parts.first().map_or("raw", |(grain, _)| grain.name)))
}

/// By how much counters grew together, from one time until another.
pub(super) fn increase(store: &Store, of: &[Arc<Series>], times: Range<u64>, now_ms: u64) -> Result<f64, redb::Error> {
    let of = by_id(of, Form::Counter);
    if of.is_empty() {
        return Ok(0.0);
    }
    let step_ms = match times.end.saturating_sub(times.start) {
        0..=600_000 => 0,
        600_001..=86_400_000 => 60_000,
        _ => 3_600_000,
    };
    let asked = Asked { function: Function::Increase, times, step_ms, merge: true, now_ms };
    let read = store.read()?;
    let instances: BTreeSet<&str> = of.values().map(|series| series.instance()).collect();
    let form = |id| of.get(&id).map(|series| series.form);
    let mut sum = 0.0;
    let mut see = |_: u64, _: &str, cells: &mut dyn Iterator<Item = (u32, Cell)>| {
        sum += cells.filter(|(id, _)| of.contains_key(id)).map(|(_, cell)| cell.sum).sum::<f64>();
    };
    for (grain, times) in parts(&read, store, &asked)? {
        Store::each(&read, grain, times, &form, &mut see, &|instance| instances.contains(instance))?;
    }
    Ok(sum)
}

fn by_id(of: &[Arc<Series>], form: Form) -> BTreeMap<u32, Arc<Series>> {
    of.iter().filter(|series| series.form == form).map(|series| (series.id, Arc::clone(series))).collect()
}

type Labels = BTreeMap<String, String>;
type Points = BTreeMap<u64, f64>;

/// The answer: which rows it is made of, and for each series its labels and points.
pub(super) fn answer(
    store: &Store,
    of: &[Arc<Series>],
    asked: &Asked,
) -> Result<(&'static str, Vec<Value>), redb::Error> {
    let of = by_id(of, asked.function.form());
    let (steps, grain) = steps(store, &of, asked)?;
    let series = match asked.function {
        Function::Quantile(share) => quantiles(&of, &steps, share, asked.merge),
        Function::Rate | Function::Increase => grown(&of, &steps, asked),
        Function::Avg | Function::Min | Function::Max => gauges(&of, &steps, asked),
    };
    let told = series.into_iter().map(|(labels, points)| {
        let points: Vec<Value> = points.into_iter().map(|(time, value)| json!([time, value])).collect();
        json!({"labels": labels, "points": points})
    });
    Ok((grain, told.collect()))
}

fn labels_of(series: &Series, merge: bool) -> Labels {
    if merge { Labels::new() } else { series.labels.clone() }
}

fn grown(of: &BTreeMap<u32, Arc<Series>>, steps: &Steps, asked: &Asked) -> BTreeMap<Labels, Points> {
    let mut all: BTreeMap<Labels, Points> = BTreeMap::new();
    for (id, series) in of {
        let Some(seen) = steps.seen.get(series.instance()) else { continue };
        let points = all.entry(labels_of(series, asked.merge)).or_default();
        let cells = steps.cells.get(id);
        for step in seen {
            let sum = cells.and_then(|cells| cells.get(step)).map_or(0.0, |cell| cell.sum);
            // The last step may not be over yet.
            let end = (step + asked.step_ms).min(asked.times.end).min(asked.now_ms).max(step + 1);
            let per = if asked.function == Function::Rate { seconds(end - step) } else { 1.0 };
            *points.entry(*step).or_default() += sum / per;
        }
    }
    all
}

fn seconds(ms: u64) -> f64 {
    std::time::Duration::from_millis(ms).as_secs_f64()
}

fn gauges(of: &BTreeMap<u32, Arc<Series>>, steps: &Steps, asked: &Asked) -> BTreeMap<Labels, Points> {
    let mut all: BTreeMap<Labels, BTreeMap<u64, Cell>> = BTreeMap::new();
    for (id, series) in of {
        let cells = all.entry(labels_of(series, asked.merge)).or_default();
        for (step, cell) in steps.cells.get(id).into_iter().flatten() {
            cells.entry(*step).and_modify(|before| *before = before.with(*cell)).or_insert(*cell);
        }
    }
    let value = |cell: Cell| match asked.function {
        Function::Min => cell.min,
        Function::Max => cell.max,
        _ => cell.sum / f64::from(cell.count.max(1)),
    };
    let told = |cells: BTreeMap<u64, Cell>| cells.into_iter().map(|(step, cell)| (step, value(cell))).collect();
    all.into_iter().map(|(labels, cells)| (labels, told(cells))).collect()
}

/// By how much the buckets of a histogram grew, by their upper bounds.
type Buckets = Vec<(f64, f64)>;

fn quantiles(of: &BTreeMap<u32, Arc<Series>>, steps: &Steps, share: f64, merge: bool) -> BTreeMap<Labels, Points> {
    let mut all: BTreeMap<Labels, BTreeMap<u64, Buckets>> = BTreeMap::new();
    for (id, series) in of {
        let Some(bound) = series.labels.get("le").and_then(|bound| bound.parse::<f64>().ok()) else { continue };
        let mut labels = labels_of(series, merge);
        labels.remove("le");
        let by_step = all.entry(labels).or_default();
        let cells = steps.cells.get(id);
        for step in steps.seen.get(series.instance()).into_iter().flatten() {
            let grown = cells.and_then(|cells| cells.get(step)).map_or(0.0, |cell| cell.sum);
            by_step.entry(*step).or_default().push((bound, grown));
        }
    }
    let told = |by_step: BTreeMap<u64, Buckets>| {
        by_step.into_iter().filter_map(|(step, buckets)| Some((step, quantile(buckets, share)?))).collect()
    };
    all.into_iter().map(|(labels, by_step)| (labels, told(by_step))).collect()
}

/// The value below which this share lies, taking what is in a bucket as spread evenly over it. What lies above the last
/// bound is said to be at it.
pub(super) fn quantile(mut buckets: Buckets, share: f64) -> Option<f64> {
    buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
    // The same bound of several series.
    buckets.dedup_by(|later, earlier| {
        let same = later.0.total_cmp(&earlier.0).is_eq();
        if same {
            earlier.1 += later.1;
        }
        same
    });
    let total = buckets.last()?.1;
    if total <= 0.0 {
        return None;
    }
    let wanted = share * total;
    let (mut below, mut count_below) = (0.0, 0.0);
    for (bound, count) in buckets {
        if count >= wanted {
            if bound.is_infinite() {
                return Some(below);
            }
            let inside = count - count_below;
            let part = if inside > 0.0 { (wanted - count_below) / inside } else { 1.0 };
            return Some(below + (bound - below) * part);
        }
        (below, count_below) = (bound, count);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_lies_where_its_bucket_says() {
        let check = |buckets: &[(f64, f64)], share, wanted: Option<f64>| {
            let told = quantile(buckets.to_vec(), share);
            assert!(
                told.zip(wanted).is_some_and(|(a, b)| (a - b).abs() < 1e-9) || told == wanted,
                "{told:?} {wanted:?}"
            );
        };
        let inf = f64::INFINITY;
        check(&[(0.1, 0.0), (0.2, 10.0), (inf, 10.0)], 0.5, Some(0.15));
        check(&[(inf, 10.0), (0.2, 10.0), (0.1, 10.0)], 0.5, Some(0.05));
        check(&[(0.1, 1.0), (inf, 100.0)], 0.99, Some(0.1));
        check(&[(0.1, 1.0), (0.1, 1.0), (inf, 2.0), (inf, 2.0)], 0.5, Some(0.1));
        check(&[(0.1, 0.0), (inf, 0.0)], 0.5, None);
        check(&[], 0.5, None);
    }
}
