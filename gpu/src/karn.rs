//! Karn: learns from field reports which blueprints are worth growing.
//!
//! A report may come more than once; it is taken once, by the id of its event. What it says goes into the blueprint's
//! record in the registry, and nowhere else: so a ranking is a reading of the registry alone ([`rank`]), the same for
//! everyone who shares it. Which ids were taken is Karn's own: whoever keeps the registry keeps him beside it (he has a
//! serialised form), or a report that comes again after a restart counts twice.
//!
//! How often a blueprint was used is counted from the report of the epoch ([`Karn::take_epoch`]), which whoever drives a
//! layer passes on once the boundary is kept: a boundary that is put back has used nothing.

use crate::Error;
use crate::blueprint::{Record, Registry};
use crate::report::{EpochReport, FieldReport};
use crate::state::Lifecycle;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, VecDeque};

/// How many ids of events are remembered by default.
pub const EVENT_IDS_KEPT: usize = 65_536;

/// Takes field reports.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(from = "Kept", into = "Kept")]
pub struct Karn {
    seen: BTreeSet<String>,
    order: VecDeque<String>,
    kept_max: usize,
}

/// Karn as he is kept.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    event_ids_kept: usize,
    /// Oldest first.
    event_ids: Vec<String>,
}

impl From<Kept> for Karn {
    fn from(kept: Kept) -> Self {
        let mut karn = Self::new(kept.event_ids_kept);
        kept.event_ids.iter().for_each(|id| karn.remember(id));
        karn
    }
}

impl From<Karn> for Kept {
    fn from(karn: Karn) -> Self {
        Self { event_ids_kept: karn.kept_max, event_ids: karn.order.into() }
    }
}

impl Default for Karn {
    fn default() -> Self {
        Self::new(EVENT_IDS_KEPT)
    }
}

impl Karn {
    /// One that knows nothing yet and remembers this many ids of events, the newest.
    #[must_use]
    pub fn new(event_ids_kept: usize) -> Self {
        Self { seen: BTreeSet::new(), order: VecDeque::new(), kept_max: event_ids_kept.max(1) }
    }

    /// Take a report into its blueprint's record. Returns whether it was new.
    ///
    /// # Errors
    /// If the registry has no such blueprint, or a metric is not finite; the report is not taken then.
    pub fn take(&mut self, event_id: &str, report: &FieldReport, blueprints: &mut Registry) -> Result<bool, Error> {
        if self.seen.contains(event_id) {
            return Ok(false);
        }
        check(event_id, report, blueprints)?;
        count(report, blueprints);
        self.remember(event_id);
        Ok(true)
    }

    /// Take the whole report of an epoch, by the id of its event: the seeds that germinated at its boundary count as uses
    /// of their blueprints, and every field report in it is taken. Returns whether it was new. Field reports that come
    /// this way must not be given to [`Self::take`] too: they would be known there by another id.
    ///
    /// # Errors
    /// If the registry has not every blueprint that it names, or a metric is not finite; nothing is taken then.
    pub fn take_epoch(
        &mut self,
        event_id: &str,
        report: &EpochReport,
        blueprints: &mut Registry,
    ) -> Result<bool, Error> {
        if self.seen.contains(event_id) {
            return Ok(false);
        }
        let used: Vec<&str> = germinated(report).collect();
        used.iter().try_for_each(|id| known(id, blueprints))?;
        report.field_reports.iter().try_for_each(|field| check(event_id, field, blueprints))?;
        for id in used {
            if let Some(record) = blueprints.record_mut(id) {
                record.used = record.used.saturating_add(1);
            }
        }
        report.field_reports.iter().for_each(|field| count(field, blueprints));
        self.remember(event_id);
        Ok(true)
    }

    fn remember(&mut self, event_id: &str) {
        if !self.seen.insert(event_id.to_owned()) {
            return;
        }
        self.order.push_back(event_id.to_owned());
        while self.order.len() > self.kept_max {
            if let Some(oldest) = self.order.pop_front() {
                self.seen.remove(&oldest);
            }
        }
    }
}

/// The blueprints of the seeds that germinated at a boundary, one for each seed.
fn germinated(report: &EpochReport) -> impl Iterator<Item = &str> {
    let landed = |seed: usize| report.landed.iter().any(|l| l.seed == seed && l.to == Lifecycle::Germinated);
    let begun = report.transitions.iter().map(|(transition, _)| transition);
    let begun = begun.filter(move |transition| transition.to == Lifecycle::Germinated && landed(transition.seed));
    begun.filter_map(|transition| transition.blueprint_id.as_deref())
}

fn known(id: &str, blueprints: &Registry) -> Result<(), Error> {
    if blueprints.record(id).is_some() { Ok(()) } else { blueprints.find(id).map(drop) }
}

fn check(event_id: &str, report: &FieldReport, blueprints: &Registry) -> Result<(), Error> {
    if !report.gain().is_finite() {
        let problem = format!("its metrics {} and {} must be finite", report.pre_metric, report.post_metric);
        return Err(Error::Data { name: format!("field report {event_id}"), problem });
    }
    known(&report.blueprint_id, blueprints)
}

fn count(report: &FieldReport, blueprints: &mut Registry) {
    if let Some(record) = blueprints.record_mut(&report.blueprint_id) {
        record.count(report.outcome, report.gain());
    }
}

/// How blueprints are ranked.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ranking {
    /// How many standard deviations of doubt the bounds take in: 1.96 is 95 %.
    pub doubt: f64,
    /// How many seeds of a blueprint are tried before its record counts.
    pub tries: u64,
    /// A blueprint is given up when even the upper bound of its fossilised share lies below this.
    pub hope_min: f64,
}

impl Default for Ranking {
    fn default() -> Self {
        Self { doubt: 1.96, tries: 2, hope_min: 0.5 }
    }
}

/// A blueprint with what its record makes of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Ranked {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Lower bound of its fossilised share times its mean gain (none below 0).
    pub score: f64,
    /// Whether it has had fewer seeds than are tried before its record counts.
    pub untried: bool,
    /// Its record.
    pub record: Record,
}

/// How often a blueprint was tried: its uses, or its ends where more of these are known.
#[must_use]
pub fn tried(record: &Record) -> u64 {
    record.used.max(record.ended())
}

/// The blueprints that are worth growing, best first: those still to be tried, the least used first, then by score;
/// equals by name. What is given up is left out. `among` are names or ids; none means all.
#[must_use]
pub fn rank(blueprints: &Registry, among: &[String], ranking: &Ranking) -> Vec<Ranked> {
    let wanted = |id: &str, name: &str| among.is_empty() || among.iter().any(|asked| asked == id || asked == name);
    let current = |id: &str, name: &str| blueprints.find(name).is_ok_and(|found| found.id() == id);
    let mut ranked: Vec<Ranked> = blueprints
        .all()
        // An id whose name went to another description is asked for by that id only.
        .filter(|(id, found, _)| wanted(id, &found.name) && (current(id, &found.name) || among.iter().any(|a| a == id)))
        .filter(|(_, _, record)| hope(record, ranking) >= ranking.hope_min)
        .map(|(id, found, record)| Ranked {
            id: id.to_owned(),
            name: found.name.clone(),
            score: wilson(record.fossilized, record.ended(), ranking.doubt).0 * record.mean_gain.max(0.0),
            untried: tried(record) < ranking.tries,
            record: *record,
        })
        .collect();
    ranked.sort_by(|a, b| {
        let turn = |ranked: &Ranked| if ranked.untried { tried(&ranked.record) } else { u64::MAX };
        let order = b.untried.cmp(&a.untried).then(turn(a).cmp(&turn(b)));
        order.then(b.score.total_cmp(&a.score)).then_with(|| a.name.cmp(&b.name)).then_with(|| a.id.cmp(&b.id))
    });
    ranked
}

/// The upper bound of the share that fossilises; 1 before anything ended.
fn hope(record: &Record, ranking: &Ranking) -> f64 {
    wilson(record.fossilized, record.ended(), ranking.doubt).1
}

/// Wilson's bounds of a share, from `hits` out of `all`; nothing known is anything from 0 to 1.
#[must_use]
pub fn wilson(hits: u64, all: u64, doubt: f64) -> (f64, f64) {
    if all == 0 {
        return (0.0, 1.0);
    }
    #[allow(clippy::cast_precision_loss, reason = "counts of seeds are far below 2^52")]
    let (hits, all) = (hits as f64, all as f64);
    let (share, square) = (hits / all, doubt * doubt);
    let middle = share + square / (2.0 * all);
    let half = doubt * (share * (1.0 - share) / all + square / (4.0 * all * all)).sqrt();
    let scale = 1.0 + square / all;
    (((middle - half) / scale).max(0.0), ((middle + half) / scale).min(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blueprint::{Blueprint, Function, Outcome};
    use crate::report::FieldEvaluation;

    fn registry() -> Registry {
        let mut registry = Registry::empty();
        for (name, function) in [("one", Function::Mlp), ("two", Function::ResidualScale), ("three", Function::Mlp)] {
            registry.add(Blueprint::new(name, function)).unwrap();
        }
        registry
    }

    fn report(registry: &Registry, name: &str, outcome: Outcome, gain: f64) -> FieldReport {
        let blueprint_id = registry.find(name).unwrap().id();
        let eval = FieldEvaluation { max_latency_ms: 0.0, avg_memory_mb: 0.0, gradient_norm_variance: 0.0 };
        FieldReport { blueprint_id, seed_id: 1, pre_metric: 0.5, post_metric: 0.5 + gain, outcome, eval }
    }

    fn feed(karn: &mut Karn, registry: &mut Registry, name: &str, outcomes: &[(Outcome, f64)]) {
        for (number, &(outcome, gain)) in outcomes.iter().enumerate() {
            let id = registry.find(name).unwrap().id();
            registry.record_mut(&id).unwrap().used += 1;
            let report = report(registry, name, outcome, gain);
            assert!(karn.take(&format!("{name}-{number}"), &report, registry).unwrap());
        }
    }

    fn names(registry: &Registry) -> Vec<String> {
        rank(registry, &[], &Ranking::default()).into_iter().map(|ranked| ranked.name).collect()
    }

    #[test]
    fn a_report_counts_once() {
        let (mut karn, mut registry) = (Karn::new(2), registry());
        let good = report(&registry, "one", Outcome::Fossilized, 0.02);
        let taken: Vec<_> =
            ["a", "a", "b", "a"].iter().map(|id| karn.take(id, &good, &mut registry).unwrap()).collect();
        assert_eq!(taken, [true, false, true, false]);
        let record = registry.record(&good.blueprint_id).unwrap();
        assert_eq!((record.fossilized, record.ended()), (2, 2));
        assert!((record.mean_gain - 0.02).abs() < 1e-12);
        // Only the newest two ids are remembered.
        assert!(karn.take("c", &good, &mut registry).unwrap() && karn.take("a", &good, &mut registry).unwrap());
    }

    #[test]
    fn a_report_that_cannot_be_right_is_refused_and_may_come_again() {
        let (mut karn, mut registry) = (Karn::default(), registry());
        let mut bad = report(&registry, "one", Outcome::Culled, f64::NAN);
        assert!(karn.take("a", &bad, &mut registry).unwrap_err().to_string().contains("must be finite"));
        bad.blueprint_id = "nothing".to_owned();
        bad.post_metric = 0.5;
        assert!(matches!(karn.take("a", &bad, &mut registry), Err(Error::NoBlueprint { .. })));
        assert!(registry.all().all(|(_, _, record)| record.ended() == 0));
        let good = report(&registry, "one", Outcome::Culled, 0.0);
        assert!(karn.take("a", &good, &mut registry).unwrap());
    }

    #[test]
    fn an_epoch_counts_once_and_its_germinations_count_as_uses() {
        use crate::govern::{Ruling, Transition};
        use crate::report::Landed;
        let (mut karn, mut registry) = (Karn::default(), registry());
        let id = registry.find("one").unwrap().id();
        let begun = |seed: usize| Transition {
            command_id: "a".to_owned(),
            layer_id: "hidden".to_owned(),
            seed,
            epoch: 3,
            from: Lifecycle::Dormant,
            to: Lifecycle::Germinated,
            blueprint_id: Some(id.clone()),
            strategy: None,
            alpha: 0.0,
            weights: 1,
            evaluation_score: 0.0,
            reason: String::new(),
        };
        let landed = Landed { seed: 1, from: Lifecycle::Dormant, to: Lifecycle::Germinated };
        let mut report = EpochReport {
            transitions: vec![(begun(1), Ruling::Allowed), (begun(2), Ruling::Denied("no".to_owned()))],
            landed: vec![landed],
            field_reports: vec![
                report(&registry, "two", Outcome::Culled, -0.1),
                report(&registry, "two", Outcome::Culled, f64::NAN),
            ],
            ..EpochReport::default()
        };
        assert!(karn.take_epoch("hidden-3", &report, &mut registry).is_err());
        assert!(registry.all().all(|(_, _, record)| tried(record) == 0), "all of it or nothing");
        report.field_reports.pop();
        let mut again: Karn = serde_json::from_str(&serde_json::to_string(&karn).unwrap()).unwrap();
        assert!(again.take_epoch("hidden-3", &report, &mut registry).unwrap());
        let mut kept: Karn = serde_json::from_str(&serde_json::to_string(&again).unwrap()).unwrap();
        assert!(kept == again && !kept.take_epoch("hidden-3", &report, &mut registry).unwrap(), "after a restart too");
        assert_eq!(registry.record(&id).unwrap().used, 1, "what was denied was not used");
        assert_eq!(registry.record(&report.field_reports[0].blueprint_id).unwrap().culled, 1);
    }

    #[test]
    fn the_untried_come_first_then_the_best_and_the_hopeless_not_at_all() {
        use Outcome::{Culled, Fossilized};
        let (mut karn, mut registry) = (Karn::default(), registry());
        assert_eq!(names(&registry), ["one", "three", "two"], "untried: by name");
        feed(&mut karn, &mut registry, "one", &[(Fossilized, 0.01), (Fossilized, 0.01)]);
        assert_eq!(names(&registry), ["three", "two", "one"]);
        feed(&mut karn, &mut registry, "three", &[(Fossilized, 0.03), (Fossilized, 0.03), (Culled, 0.0)]);
        feed(&mut karn, &mut registry, "two", &[(Culled, 0.0); 4]);
        // 2 of 3 with a gain of 0.02 come behind 2 of 2 with 0.01: Wilson's lower bounds are 0.21 and 0.34.
        let ranked = rank(&registry, &[], &Ranking::default());
        assert_eq!(ranked.iter().map(|ranked| ranked.name.as_str()).collect::<Vec<_>>(), ["three", "one"]);
        assert!((ranked[0].score - 0.207_6 * 0.02).abs() < 1e-5, "{}", ranked[0].score);
        assert_eq!(rank(&registry, &["one".to_owned(), "two".to_owned()], &Ranking::default()).len(), 1);
    }

    #[test]
    fn the_bounds_are_wilsons() {
        let (low, high) = wilson(8, 10, 1.96);
        assert!((low - 0.490_2).abs() < 1e-4 && (high - 0.943_3).abs() < 1e-4, "{low} to {high}");
        assert!(wilson(0, 4, 1.96).1 < 0.5 && wilson(0, 3, 1.96).1 > 0.5);
        assert_eq!(wilson(0, 0, 1.96), (0.0, 1.0));
    }
}
