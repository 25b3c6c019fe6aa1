//! What shall hold: of all events of a window, this share is good.
//!
//! The budget is what may be bad. It burns at rate 1 if it would last exactly as long as the window. While it burns faster
//! than allowed over both a short and a long time, there is an alert: the long one says that it matters, the short one that
//! it still goes on.

use super::query;
use super::series::Selector;
use super::{Aggregator, Arc};
use crate::redb_file;
use crate::{Fault, PeerError, SettingsError};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// An objective.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Objective {
    /// Counters of what was good.
    pub(super) good: Selector,
    /// Counters of everything.
    pub(super) total: Selector,
    /// The share that shall be good.
    pub(super) target: f64,
    #[serde(default = "window")]
    pub(super) window_ms: u64,
    #[serde(default = "short")]
    pub(super) short_ms: u64,
    #[serde(default = "long")]
    pub(super) long_ms: u64,
    /// How fast the budget may burn. 14.4 spends the budget of 30 days in 50 hours.
    #[serde(default = "burn")]
    pub(super) burn_max: f64,
    /// Events of the long time below which nothing is alerted.
    #[serde(default = "events")]
    pub(super) events_min: u64,
}

fn window() -> u64 {
    30 * 86_400_000
}

fn short() -> u64 {
    5 * 60_000
}

fn long() -> u64 {
    3_600_000
}

fn burn() -> f64 {
    14.4
}

fn events() -> u64 {
    20
}

/// What was told of an objective.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct State {
    pub(super) burning: bool,
    /// When the alert service last took it.
    pub(super) told_ms: u64,
    pub(super) alert: Option<String>,
}

/// Between two alerts of the same objective while it goes on burning.
const TELL_AGAIN_MS: u64 = 600_000;

/// What every fleet shall hold, until somebody says otherwise.
pub(super) fn usual() -> [(&'static str, Objective); 2] {
    let all = |name: &str| Selector { name: name.to_owned(), ..Selector::default() };
    // What the kernels ask each other says nothing of what clients see.
    let of_clients = || [("from".to_owned(), "client".to_owned())].into();
    let requests = || Selector { labels: of_clients(), ..all("gavel_fleet_requests_total") };
    let one = |good, total, target| Objective {
        good,
        total,
        target,
        window_ms: window(),
        short_ms: short(),
        long_ms: long(),
        burn_max: burn(),
        events_min: events(),
    };
    let answered = Selector { not: [("status".to_owned(), "5*".to_owned())].into(), ..requests() };
    let bound = [("le".to_owned(), "0.04096".to_owned())].into();
    let soon = Selector { labels: bound, ..all("gavel_decision_seconds_bucket") };
    [
        ("main_api_availability", one(answered, requests(), 0.999)),
        ("decision_latency", one(soon, all("gavel_decision_seconds_count"), 0.99)),
    ]
}

impl Objective {
    /// Whether it can be kept: `longest_ms` is how long numbers are.
    pub(super) fn check(&self, longest_ms: u64) -> Result<(), SettingsError> {
        let wrong = |why: String| Err(SettingsError(why));
        if !(0.5..=0.999_999).contains(&self.target) {
            return wrong(format!("target: {} is not from 0.5 to 0.999999", self.target));
        }
        if !(1.0..=1_000.0).contains(&self.burn_max) {
            return wrong(format!("burn_max: {} is not from 1 to 1000", self.burn_max));
        }
        for (name, selector) in [("good", &self.good), ("total", &self.total)] {
            let labels = selector.labels.iter().chain(&selector.not);
            let bytes = labels.map(|(label, value)| label.len() + value.len()).sum::<usize>() + selector.name.len();
            if selector.name.is_empty() || bytes > SELECTOR_BYTES_MAX {
                return wrong(format!("{name}: it has a name, and at most {SELECTOR_BYTES_MAX} bytes together"));
            }
        }
        crate::ranges::check(&[
            ("window_ms", self.window_ms, 3_600_000, longest_ms),
            ("short_ms", self.short_ms, 60_000, self.long_ms),
            ("long_ms", self.long_ms, 60_000, self.window_ms),
        ])
        .map_err(SettingsError)
    }
}

const SELECTOR_BYTES_MAX: usize = 2_048;

/// How much there was in a time, and how much of it was good.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Counted {
    pub(super) good: f64,
    pub(super) total: f64,
}

impl Counted {
    fn bad_share(self) -> Option<f64> {
        (self.total > 0.0).then(|| ((self.total - self.good) / self.total).clamp(0.0, 1.0))
    }
}

impl Aggregator {
    /// What happened in the last so many milliseconds.
    pub(super) fn counted(&self, objective: &Objective, window_ms: u64, now_ms: u64) -> Result<Counted, redb::Error> {
        // The last scrape is part of it.
        let times = now_ms.saturating_sub(window_ms)..now_ms + 1;
        let (good, total) = {
            let catalogue = self.catalogue();
            (catalogue.chosen(&objective.good), catalogue.chosen(&objective.total))
        };
        let good = query::increase(&self.store, &good, times.clone(), now_ms)?;
        let total = query::increase(&self.store, &total, times, now_ms)?;
        Ok(Counted { good, total })
    }

    /// How an objective stands.
    pub(super) fn standing(&self, name: &str, objective: &Objective, now_ms: u64) -> Result<Value, redb::Error> {
        let whole = self.counted(objective, objective.window_ms, now_ms)?;
        let burn = |window_ms| -> Result<Value, redb::Error> {
            let counted = self.counted(objective, window_ms, now_ms)?;
            let rate = counted.bad_share().map(|bad| bad / (1.0 - objective.target));
            Ok(json!({"window_ms": window_ms, "good": counted.good, "total": counted.total, "rate": rate}))
        };
        let bad = whole.bad_share();
        let budget = (1.0 - objective.target) * whole.total;
        Ok(json!({
            "name": name,
            "objective": objective,
            "good": whole.good,
            "total": whole.total,
            "compliance": bad.map(|bad| 1.0 - bad),
            "met": bad.map(|bad| 1.0 - bad >= objective.target),
            "error_budget": {
                "events": budget,
                "used": (whole.total - whole.good).max(0.0),
                "left_share": bad.map(|bad| 1.0 - bad / (1.0 - objective.target)),
            },
            "burn_rates": {"short": burn(objective.short_ms)?, "long": burn(objective.long_ms)?},
            "burn_max": objective.burn_max,
            "burning": self.states().get(name).is_some_and(|state| state.burning),
        }))
    }

    /// Look at all objectives, and tell the alert service of those whose budget burns too fast, and when one no longer does.
    pub(super) async fn watch_objectives(self: &Arc<Self>, now_ms: u64) -> Result<(), Fault> {
        let this = Arc::clone(self);
        let seen = redb_file::aside("objectives cannot be looked at", move || {
            let objectives = this.objectives().clone();
            let mut seen = Vec::with_capacity(objectives.len());
            for (name, objective) in objectives {
                let short = this.counted(&objective, objective.short_ms, now_ms)?;
                let long = this.counted(&objective, objective.long_ms, now_ms)?;
                seen.push((name, objective, short, long));
            }
            Ok(seen)
        });
        for (name, objective, short, long) in seen.await? {
            let too_fast = |counted: Counted| {
                counted.bad_share().is_some_and(|bad| bad / (1.0 - objective.target) > objective.burn_max)
            };
            #[allow(clippy::cast_precision_loss, reason = "compared with a count of events")]
            let enough = long.total >= objective.events_min as f64;
            let burning = enough && too_fast(short) && too_fast(long);
            // It may have been dropped meanwhile.
            if !self.objectives().contains_key(&name) {
                continue;
            }
            let before = self.states().get(&name).cloned().unwrap_or_default();
            let again = now_ms.saturating_sub(before.told_ms) >= TELL_AGAIN_MS;
            let told = match (before.burning, burning) {
                (false, false) => continue,
                (true, true) if !again => continue,
                (_, true) => self.tell(&name, &objective, short, long, now_ms).await,
                (true, false) => self.tell_the_end(before, "the error budget burns no faster than allowed").await,
            };
            match told {
                Ok(state) => self.set_state(name, state).await?,
                // Tried again after the next scrape.
                Err(why) => tracing::warn!(objective = name, "the alert service does not hear of it: {why}"),
            }
        }
        Ok(())
    }

    async fn tell(
        &self,
        name: &str,
        objective: &Objective,
        short: Counted,
        long: Counted,
        now_ms: u64,
    ) -> Result<State, PeerError> {
        let rate = |counted: Counted| counted.bad_share().unwrap_or(0.0) / (1.0 - objective.target);
        let (short, long) = (rate(short), rate(long));
        let message = format!(
            "objective {name} (target {}): its error budget burns {long:.1} times as fast as it may over {} min and {short:.1} \
             times over {} min; allowed are {}: see /metrics_aggregator/objectives/{name}",
            objective.target,
            objective.long_ms / 60_000,
            objective.short_ms / 60_000,
            objective.burn_max,
        );
        let alert = json!({
            "severity": "critical",
            "source": "metrics_aggregator",
            "name": "objective_burning",
            "message": message,
            "labels": {"objective": name},
            "dedupe_key": format!("objective:{name}"),
        });
        let answer = self.peers.post("/alert_service/alerts", &alert).await?;
        Ok(State { burning: true, told_ms: now_ms, alert: id_of(&answer["id"]) })
    }

    /// Resolve the alert. One that somebody resolved, or that is gone, is over as well.
    pub(super) async fn tell_the_end(&self, before: State, why: &str) -> Result<State, PeerError> {
        if let Some(alert) = before.alert {
            let note = json!({"note": why});
            match self.peers.post(&format!("/alert_service/alerts/{alert}/resolve"), &note).await {
                Ok(_) => {}
                Err(PeerError::Refused { status, .. }) if status < 500 && status != 429 => {}
                Err(why) => return Err(why),
            }
        }
        Ok(State::default())
    }
}

/// An id, which may be a number.
fn id_of(id: &Value) -> Option<String> {
    match id {
        Value::String(id) if id.bytes().all(|c| c.is_ascii_alphanumeric() || b"-_.".contains(&c)) => Some(id.clone()),
        Value::Number(id) => Some(id.to_string()),
        _ => None,
    }
}
