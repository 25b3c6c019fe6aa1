//! What another policy would have decided, over real history.
//!
//! Decisions are judged in the order of the ledger, and the candidate's counters begin empty and
//! count what the candidate adds, at the times of the requests: a rate limit sees the traffic as it
//! came. What a human approved passes here too if the candidate only escalates it: nobody can be asked again.

use super::history::{Past, Recorded};
use super::rejudge::{difference, word};
use super::{Bench, Report};
use crate::policies::catalogue::Catalogue;
use crate::policies::document::{Edit, SetDocument};
use anyhow::{Context, Result};
use gavel_runtime::{Counters, PolicySet, WindowedCounters};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Keys that the candidate may keep counters under.
const COUNTER_KEYS_MAX: usize = 1_000_000;

/// What is tried.
#[derive(Debug, Clone)]
pub enum Candidate {
    /// The set that decided, with this edit.
    Edit(Edit),
    /// This set, whatever decided.
    Set(SetDocument),
}

/// Judge every decision of `past` with the candidate, whose components are in `components`; `seen`
/// is called now and then with how many decisions that were.
///
/// # Errors
/// When the ledger cannot be read, or the candidate cannot be loaded.
pub async fn what_if(
    past: Past,
    bench: &Bench,
    candidate: &Candidate,
    components: &Catalogue,
    mut seen: impl FnMut(u64),
) -> Result<Report> {
    let mut report = Report::default();
    let mut sets: BTreeMap<String, PolicySet> = BTreeMap::new();
    let counters: Arc<dyn Counters> = WindowedCounters::new(COUNTER_KEYS_MAX).into();
    for decision in past {
        report.decisions += 1;
        if report.decisions % 256 == 0 {
            seen(report.decisions);
        }
        let recorded = match decision? {
            Ok(recorded) => recorded,
            Err(why) => {
                report.skip(why);
                continue;
            }
        };
        if !sets.contains_key(&recorded.set) {
            sets.insert(recorded.set.clone(), load(bench, candidate, &recorded, components).await?);
        }
        let set = &sets[&recorded.set];
        let judged = set.judge(Arc::clone(&recorded.request), Arc::clone(&counters)).await;
        let now = word(judged.denial().as_ref(), recorded.approved);
        report.count((now != recorded.word).then(|| difference(recorded, now, None)));
    }
    Ok(report)
}

async fn load(bench: &Bench, candidate: &Candidate, recorded: &Recorded, components: &Catalogue) -> Result<PolicySet> {
    let document = match candidate {
        Candidate::Set(document) => document.clone(),
        Candidate::Edit(edit) => bench.document(&recorded.set)?.edited(std::slice::from_ref(edit), None)?,
    };
    let set = bench.load(&document, Some(components)).await;
    set.with_context(|| format!("the candidate in place of policy set {}", recorded.set))
}
