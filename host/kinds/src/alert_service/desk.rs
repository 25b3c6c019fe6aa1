//! The writing side: alerts raised, acknowledged, resolved and forgotten.
//!
//! What must always hold: an alert and the notifications that it makes are written in the same commit, so that what was
//! accepted is told at least once, whatever happens in between.

use super::matching::{Route, Severity, Step};
use super::record::{ALERTS, Act, Alert, Counters, KEYS, META, PENDING, Pending, Reason, SILENCES, Silence, Status};
use super::settings::Settings;
use super::shared::Shared;
use crate::fault::Fault;
use crate::kind::Clock;
use crate::redb_file::begin;
use crate::writer::{Book, Stop, decoded, encoded, lacks};
use redb::{Database, ReadableDatabase, ReadableTable, WriteTransaction};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What the writing thread knows.
pub(super) struct Desk {
    pub(super) settings: Arc<Settings>,
    pub(super) clock: Clock,
    pub(super) shared: Arc<Shared>,
    pub(super) counters: Counters,
    /// Those that operators put in the place of the settings'.
    pub(super) routes: Option<Vec<Route>>,
    /// Alerts that are not resolved, by number.
    pub(super) open: BTreeMap<u64, Open>,
    /// When the next steps of alerts are taken.
    pub(super) due: BTreeSet<(u64, u64)>,
    /// Alerts that are resolved.
    done: BTreeSet<u64>,
    /// Alerts that are not resolved, by who raised them.
    senders: BTreeMap<String, usize>,
    /// Notifications on their way, by receiver.
    pub(super) waiting: BTreeMap<String, u64>,
    pub(super) silences: BTreeMap<u64, Silence>,
    /// There are notifications that no worker has seen.
    pub(super) fresh: bool,
}

/// What is kept in memory of an alert.
pub(super) struct Open {
    due_ms: Option<u64>,
    by: String,
    pub(super) silence: Option<String>,
}

/// Something that is raised.
#[derive(Debug, Clone)]
pub(super) struct Raised {
    pub(super) by: String,
    pub(super) of_the_fleet: bool,
    pub(super) severity: Severity,
    pub(super) source: String,
    pub(super) name: String,
    pub(super) message: String,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) dedupe_key: Option<String>,
}

impl Raised {
    /// By which the same is known again. Of each sender apart: nobody can hide an alert of Guardian behind one of its own.
    /// The parts of the fleet are one sender.
    fn digest(&self) -> String {
        let scope = if self.of_the_fleet { None } else { Some(&self.by) };
        let what = match &self.dedupe_key {
            Some(key) => serde_json::json!([scope, key]),
            None => serde_json::json!([scope, self.source, self.name, self.labels]),
        };
        hex::encode(Sha256::digest(what.to_string().as_bytes()))
    }
}

impl Desk {
    /// Read what the file has.
    pub(super) fn open(
        database: &Database,
        settings: Arc<Settings>,
        clock: Clock,
        shared: Arc<Shared>,
    ) -> Result<Self, redb::Error> {
        let mut desk = Self {
            settings,
            clock,
            shared,
            counters: Counters::default(),
            routes: None,
            open: BTreeMap::new(),
            due: BTreeSet::new(),
            done: BTreeSet::new(),
            senders: BTreeMap::new(),
            waiting: BTreeMap::new(),
            silences: BTreeMap::new(),
            fresh: true,
        };
        if lacks(database, &[&META, &ALERTS, &KEYS, &PENDING, &SILENCES])? {
            let write = begin(database)?;
            write.open_table(META)?;
            write.open_table(ALERTS)?;
            write.open_table(KEYS)?;
            write.open_table(PENDING)?;
            write.open_table(SILENCES)?;
            write.commit()?;
        }
        desk.restore(database)?;
        desk.prepare(database)?;
        Ok(desk)
    }

    /// Write what is missing, if anything is.
    fn prepare(&mut self, database: &Database) -> Result<(), redb::Error> {
        let orphans = self.waiting.keys().any(|name| !self.settings.receivers.contains_key(name));
        if !self.counters.store.is_empty() && !orphans {
            return Ok(());
        }
        if self.counters.store.is_empty() {
            let mut random = [0; 6];
            // Without randomness the clock tells two stores apart.
            if getrandom::fill(&mut random).is_err() {
                random.copy_from_slice(&(self.clock)().to_be_bytes()[2..]);
            }
            self.counters.store = hex::encode(random);
        }
        let write = begin(database)?;
        self.drop_orphans(&write)?;
        self.flush(&write)?;
        write.commit()?;
        // What was fresh before is so still: nobody has seen it.
        self.fresh = true;
        self.committed();
        Ok(())
    }

    /// Write an alert, and know it as it is now.
    pub(super) fn put(&mut self, write: &WriteTransaction, number: u64, alert: &Alert) -> Result<(), redb::Error> {
        write.open_table(ALERTS)?.insert(number, encoded(alert)?.as_str())?;
        self.know(number, alert);
        Ok(())
    }

    fn know(&mut self, number: u64, alert: &Alert) {
        self.unknow(number);
        if alert.is_over() {
            self.done.insert(number);
            return;
        }
        self.due.extend(alert.due_ms.map(|due_ms| (due_ms, number)));
        *self.senders.entry(alert.by.clone()).or_default() += 1;
        let open = Open { due_ms: alert.due_ms, by: alert.by.clone(), silence: alert.silence.clone() };
        self.open.insert(number, open);
    }

    /// Know nothing of it any more.
    pub(super) fn unknow(&mut self, number: u64) {
        self.done.remove(&number);
        let Some(open) = self.open.remove(&number) else { return };
        if let Some(due_ms) = open.due_ms {
            self.due.remove(&(due_ms, number));
        }
        if let Some(count) = self.senders.get_mut(&open.by) {
            *count -= 1;
            if *count == 0 {
                self.senders.remove(&open.by);
            }
        }
    }

    /// Raise an alert; or count it, if it is one that is not resolved; or open it again, if it was resolved a moment ago.
    /// Gives it, and whether it was only counted.
    pub(super) fn raise(&mut self, write: &WriteTransaction, raised: Raised) -> Result<(Alert, bool), Stop> {
        let digest = raised.digest();
        let now_ms = (self.clock)();
        let known = write.open_table(KEYS)?.get(digest.as_str())?.map(|number| number.value());
        if let Some(number) = known
            && let Some(mut alert) = find(write, number)?
            && self.is_the_same(&alert, &raised, now_ms)
        {
            let known = alert.resolved.is_none();
            if !known {
                self.check_room(&raised)?;
            }
            self.again(write, number, &mut alert, raised, now_ms)?;
            return Ok((alert, known));
        }
        self.check_room(&raised)?;
        let number = self.counters.alert;
        self.counters.alert += 1;
        let mut alert = Alert {
            id: format!("a{number}"),
            status: Status::Open,
            severity: raised.severity,
            source: raised.source,
            name: raised.name,
            message: raised.message,
            labels: raised.labels,
            dedupe_key: raised.dedupe_key,
            by: raised.by,
            first_ms: now_ms,
            last_ms: now_ms,
            count: 1,
            route: String::new(),
            steps: Vec::new(),
            step: 0,
            due_ms: None,
            reason: Reason::Opened,
            silence: None,
            acknowledged: None,
            resolved: None,
            told: BTreeSet::new(),
            notifications: Vec::new(),
            digest: digest.clone(),
        };
        (alert.route, alert.steps) = self.route(&alert);
        self.advance(write, number, &mut alert, now_ms)?;
        self.put(write, number, &alert)?;
        write.open_table(KEYS)?.insert(digest.as_str(), number)?;
        self.forget(write)?;
        Ok((alert, false))
    }

    /// Whether what is raised is this alert once more.
    fn is_the_same(&self, alert: &Alert, raised: &Raised, now_ms: u64) -> bool {
        let Some(resolved) = &alert.resolved else { return true };
        // What is worse than what was resolved is something else.
        raised.severity <= alert.severity && now_ms < resolved.at_ms.saturating_add(self.settings.dedupe_window_ms)
    }

    /// Count a known alert. One that is worse than before, or was resolved, begins its way anew.
    fn again(
        &mut self,
        write: &WriteTransaction,
        number: u64,
        alert: &mut Alert,
        raised: Raised,
        now_ms: u64,
    ) -> Result<(), redb::Error> {
        alert.count += 1;
        alert.last_ms = now_ms.max(alert.last_ms);
        alert.message = raised.message;
        let reopened = alert.resolved.take().is_some();
        if reopened {
            // Who was told that it is over is told of its end only if told of it again.
            alert.told.clear();
        }
        if reopened || raised.severity > alert.severity {
            alert.severity = raised.severity;
            alert.status = Status::Open;
            alert.acknowledged = None;
            (alert.route, alert.steps) = self.route(alert);
            (alert.step, alert.reason) = (0, if reopened { Reason::Reopened } else { Reason::Raised });
            self.advance(write, number, alert, now_ms)?;
        }
        self.put(write, number, alert)
    }

    fn check_room(&self, raised: &Raised) -> Result<(), Fault> {
        let (its, most) = (self.senders.get(&raised.by).copied().unwrap_or(0), self.settings.open_per_sender_max);
        if its >= most && !raised.of_the_fleet {
            return Err(Fault::too_many(format!(
                "the alert is not taken: {its} of '{}' are not resolved, at most {most} may be (open_per_sender_max)",
                raised.by
            )));
        }
        let (open, most) = (self.open.len(), self.settings.open_for(raised.of_the_fleet));
        if open >= most {
            return Err(Fault::unavailable(format!(
                "the alert is not taken: {open} are not resolved, at most {most} may be (open_max, less the tenth that \
                 is the fleet's); resolve some"
            )));
        }
        Ok(())
    }

    /// The route of an alert: its name, and its steps.
    fn route(&self, alert: &Alert) -> (String, Vec<Step>) {
        let routes = self.routes.as_ref().unwrap_or(&self.settings.routes);
        match routes.iter().find(|route| route.matcher.matches(alert.traits())) {
            Some(route) => (route.name.clone(), route.steps.clone()),
            None => ("default".to_owned(), self.settings.default_route.clone()),
        }
    }

    /// Forget the oldest alerts that are resolved, where there are too many.
    fn forget(&mut self, write: &WriteTransaction) -> Result<(), redb::Error> {
        while self.open.len() + self.done.len() > self.settings.alerts_max {
            let Some(number) = self.done.pop_first() else { break };
            let Some(alert) = find(write, number)? else { continue };
            write.open_table(ALERTS)?.remove(number)?;
            let mut keys = write.open_table(KEYS)?;
            let is_last = keys.get(alert.digest.as_str())?.is_some_and(|last| last.value() == number);
            if is_last {
                keys.remove(alert.digest.as_str())?;
            }
        }
        Ok(())
    }

    /// Somebody sees to it: nobody else is told.
    pub(super) fn acknowledge(&mut self, write: &WriteTransaction, number: u64, act: Act) -> Result<Alert, Stop> {
        let mut alert = find(write, number)?.ok_or_else(|| super::no_alert(number))?;
        match alert.status {
            Status::Open => {}
            Status::Acknowledged => return Ok(alert),
            Status::Resolved => {
                return Err(Fault::conflict(format!("alert '{}' is resolved already", alert.id)).into());
            }
        }
        alert.status = Status::Acknowledged;
        alert.acknowledged = Some(act);
        (alert.due_ms, alert.silence) = (None, None);
        self.put(write, number, &alert)?;
        Ok(alert)
    }

    /// It is over: whoever was told of it is told that.
    pub(super) fn resolve(&mut self, write: &WriteTransaction, number: u64, act: Act) -> Result<Alert, Stop> {
        let mut alert = find(write, number)?.ok_or_else(|| super::no_alert(number))?;
        if alert.is_over() {
            return Ok(alert);
        }
        alert.status = Status::Resolved;
        alert.resolved = Some(act);
        (alert.due_ms, alert.silence) = (None, None);
        let now_ms = (self.clock)();
        for receiver in alert.told.clone() {
            self.notify(write, number, &mut alert, &receiver, Reason::Resolved, now_ms)?;
        }
        self.put(write, number, &alert)?;
        Ok(alert)
    }

    /// Put routes in the place of the settings', or the settings' back.
    pub(super) fn set_routes(&mut self, write: &WriteTransaction, routes: Option<Vec<Route>>) -> Result<(), Stop> {
        let mut meta = write.open_table(META)?;
        match &routes {
            Some(routes) => meta.insert("routes", encoded(routes)?.as_str())?,
            None => meta.remove("routes")?,
        };
        drop(meta);
        self.routes = routes;
        Ok(())
    }
}

/// An alert.
pub(super) fn find(write: &WriteTransaction, number: u64) -> Result<Option<Alert>, redb::Error> {
    let text = write.open_table(ALERTS)?.get(number)?.map(|text| text.value().to_owned());
    Ok(text.map(|text| decoded("alert", &text)).transpose()?)
}

impl Book for Desk {
    fn flush(&mut self, write: &WriteTransaction) -> Result<(), redb::Error> {
        write.open_table(META)?.insert("counters", encoded(&self.counters)?.as_str())?;
        Ok(())
    }

    fn committed(&mut self) {
        let soonest = self.due.first().map(|(due_ms, _)| *due_ms);
        let fresh = std::mem::take(&mut self.fresh);
        self.shared.update((self.open.len(), self.done.len()), &self.waiting, soonest, fresh);
    }

    fn restore(&mut self, database: &Database) -> Result<(), redb::Error> {
        let read = database.begin_read()?;
        self.open.clear();
        self.due.clear();
        self.done.clear();
        self.senders.clear();
        for row in read.open_table(ALERTS)?.iter()? {
            let (number, text) = row?;
            self.know(number.value(), &decoded::<Alert>("alert", text.value())?);
        }
        self.waiting.clear();
        for row in read.open_table(PENDING)?.iter()? {
            let (place, text) = row?;
            decoded::<Pending>("notification", text.value())?;
            *self.waiting.entry(place.value().0.to_owned()).or_default() += 1;
        }
        self.silences.clear();
        for row in read.open_table(SILENCES)?.iter()? {
            let (number, text) = row?;
            self.silences.insert(number.value(), decoded("silence", text.value())?);
        }
        let meta = read.open_table(META)?;
        let text = |key: &str| Ok::<_, redb::Error>(meta.get(key)?.map(|text| text.value().to_owned()));
        self.counters = text("counters")?.map(|text| decoded("counters", &text)).transpose()?.unwrap_or_default();
        self.routes = text("routes")?.map(|text| decoded("routes", &text)).transpose()?;
        self.fresh = true;
        self.committed();
        Ok(())
    }
}
