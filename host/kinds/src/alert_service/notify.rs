//! Telling: the steps of an alert, the notifications that they make, what became of these, and silences.

use super::desk::{Desk, find};
use super::matching::Matcher;
use super::record::{Alert, Delivery, PENDING, Pending, Reason, SILENCES, Silence, Told};
use crate::fault::Fault;
use crate::webhook::Sent;
use crate::writer::{Stop, decoded, encoded};
use redb::{ReadableTable, WriteTransaction};

/// So many steps are taken in one commit at most.
const STEPS_TOGETHER_MAX: usize = 128;

/// What came of a try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    /// The receiver has it, or is not to have it any more.
    Done(Delivery),
    /// It is tried again.
    Again,
}

impl Desk {
    /// Take the next step of an alert: tell its receivers, unless it is silenced, and say when the step after that is due.
    pub(super) fn advance(
        &mut self,
        write: &WriteTransaction,
        number: u64,
        alert: &mut Alert,
        now_ms: u64,
    ) -> Result<(), redb::Error> {
        if let Some((id, until_ms)) = self.silenced(alert, now_ms) {
            alert.silence = Some(id);
            alert.due_ms = Some(until_ms);
            return Ok(());
        }
        alert.silence = None;
        alert.due_ms = None;
        let Some(step) = alert.steps.get(alert.step).cloned() else { return Ok(()) };
        let reason = alert.reason;
        alert.step += 1;
        alert.reason = Reason::Escalated;
        if alert.step < alert.steps.len() {
            alert.due_ms = Some(now_ms.saturating_add(step.after_ms));
        }
        for receiver in &step.receivers {
            self.notify(write, number, alert, receiver, reason, now_ms)?;
        }
        Ok(())
    }

    /// The silence that holds an alert back, and until when: of several the longest.
    fn silenced(&self, alert: &Alert, now_ms: u64) -> Option<(String, u64)> {
        let active = self.silences.values().filter(|silence| silence.until_ms > now_ms);
        let silence = active.filter(|silence| silence.matcher.matches(alert.traits())).max_by_key(|s| s.until_ms)?;
        Some((silence.id.clone(), silence.until_ms))
    }

    /// Have a receiver told.
    pub(super) fn notify(
        &mut self,
        write: &WriteTransaction,
        number: u64,
        alert: &mut Alert,
        receiver: &str,
        reason: Reason,
        now_ms: u64,
    ) -> Result<(), redb::Error> {
        let its = self.counters.notification;
        self.counters.notification += 1;
        let id = format!("{}-{its}", self.counters.store);
        let mut told = Told {
            id: id.clone(),
            receiver: receiver.to_owned(),
            reason,
            state: Delivery::Pending,
            tries: 0,
            at_ms: now_ms,
            why: None,
        };
        let waiting = self.waiting.get(receiver).copied().unwrap_or(0);
        let refused = if !self.settings.receivers.contains_key(receiver) {
            Some((Delivery::GivenUp, "the settings no longer name this receiver".to_owned()))
        } else if waiting >= self.settings.pending_max {
            Some((Delivery::Dropped, format!("{waiting} notifications wait for it already (pending_max)")))
        } else {
            None
        };
        if let Some((state, why)) = refused {
            tracing::error!(alert = alert.id, receiver, why, "a notification is dropped");
            (told.state, told.why) = (state, Some(why));
            alert.remember(told);
            return Ok(());
        }
        let body = serde_json::json!({
            "id": id,
            "reason": reason,
            "step": alert.step,
            "ts_ms": now_ms,
            "alert": super::told(alert),
        });
        let pending = Pending { id, alert: number, body: body.to_string(), tries: 0, next_ms: now_ms };
        write.open_table(PENDING)?.insert((receiver, its), encoded(&pending)?.as_str())?;
        *self.waiting.entry(receiver.to_owned()).or_default() += 1;
        self.fresh = true;
        alert.told.insert(receiver.to_owned());
        alert.remember(told);
        Ok(())
    }

    /// Take the steps that are due.
    pub(super) fn escalate(&mut self, write: &WriteTransaction) -> Result<usize, Stop> {
        let now_ms = (self.clock)();
        let due = self.due.range(..=(now_ms, u64::MAX)).take(STEPS_TOGETHER_MAX);
        let due: Vec<u64> = due.map(|(_, number)| *number).collect();
        for &number in &due {
            let Some(mut alert) = find(write, number)? else {
                self.unknow(number);
                continue;
            };
            self.advance(write, number, &mut alert, now_ms)?;
            self.put(write, number, &alert)?;
        }
        Ok(due.len())
    }

    /// Write down what became of a try.
    pub(super) fn settle(
        &mut self,
        write: &WriteTransaction,
        receiver: &str,
        number: u64,
        sent: &Sent,
    ) -> Result<After, Stop> {
        let now_ms = (self.clock)();
        let text = write.open_table(PENDING)?.get((receiver, number))?.map(|text| text.value().to_owned());
        let Some(text) = text else { return Ok(After::Done(Delivery::Delivered)) };
        let mut pending: Pending = decoded("notification", &text)?;
        pending.tries += 1;
        let (after, why) = match sent {
            Sent::Delivered => (After::Done(Delivery::Delivered), None),
            Sent::Again(why) if pending.tries < self.settings.tries_max => (After::Again, Some(why.clone())),
            Sent::Again(why) | Sent::Never(why) => (After::Done(Delivery::GivenUp), Some(why.clone())),
        };
        let state = match after {
            After::Again => {
                pending.next_ms = now_ms.saturating_add(self.settings.pause_ms(pending.tries));
                write.open_table(PENDING)?.insert((receiver, number), encoded(&pending)?.as_str())?;
                Delivery::Pending
            }
            After::Done(state) => {
                self.take_away(write, receiver, number)?;
                state
            }
        };
        self.mark(write, &pending, |told| {
            (told.state, told.tries, told.at_ms, told.why) = (state, pending.tries, now_ms, why);
        })?;
        Ok(after)
    }

    fn take_away(&mut self, write: &WriteTransaction, receiver: &str, number: u64) -> Result<(), redb::Error> {
        write.open_table(PENDING)?.remove((receiver, number))?;
        if let Some(waiting) = self.waiting.get_mut(receiver) {
            *waiting = waiting.saturating_sub(1);
        }
        Ok(())
    }

    /// Change what an alert remembers of a notification, if it still does.
    fn mark(
        &mut self,
        write: &WriteTransaction,
        pending: &Pending,
        change: impl FnOnce(&mut Told),
    ) -> Result<(), redb::Error> {
        let Some(mut alert) = find(write, pending.alert)? else { return Ok(()) };
        let Some(told) = alert.notifications.iter_mut().find(|told| told.id == pending.id) else { return Ok(()) };
        change(told);
        self.put(write, pending.alert, &alert)
    }

    /// Give up what waits for receivers that the settings no longer name.
    pub(super) fn drop_orphans(&mut self, write: &WriteTransaction) -> Result<(), redb::Error> {
        let gone: Vec<String> =
            self.waiting.keys().filter(|name| !self.settings.receivers.contains_key(*name)).cloned().collect();
        for receiver in gone {
            let mut rows = Vec::new();
            for row in write.open_table(PENDING)?.range((receiver.as_str(), 0)..=(receiver.as_str(), u64::MAX))? {
                let (place, text) = row?;
                rows.push((place.value().1, decoded::<Pending>("notification", text.value())?));
            }
            tracing::error!(
                receiver,
                notifications = rows.len(),
                "given up: the settings no longer name this receiver"
            );
            for (number, pending) in rows {
                self.take_away(write, &receiver, number)?;
                self.mark(write, &pending, |told| {
                    told.state = Delivery::GivenUp;
                    told.why = Some("the settings no longer name this receiver".to_owned());
                })?;
            }
            self.waiting.remove(&receiver);
        }
        Ok(())
    }

    /// Hold back what matches, for a time.
    pub(super) fn silence(
        &mut self,
        write: &WriteTransaction,
        (by, why): (String, String),
        matcher: Matcher,
        until_ms: u64,
    ) -> Result<Silence, Stop> {
        let now_ms = (self.clock)();
        let over: Vec<u64> =
            self.silences.iter().filter(|(_, silence)| silence.until_ms <= now_ms).map(|(number, _)| *number).collect();
        let (active, most) = (self.silences.len() - over.len(), self.settings.silences_max);
        if active >= most {
            return Err(
                Fault::too_many(format!("{active} silences are active, at most {most} may be (silences_max)")).into()
            );
        }
        let mut rows = write.open_table(SILENCES)?;
        for number in over {
            rows.remove(number)?;
            self.silences.remove(&number);
        }
        let number = self.counters.silence;
        self.counters.silence += 1;
        let silence = Silence { id: format!("s{number}"), matcher, until_ms, by, why, created_ms: now_ms };
        rows.insert(number, encoded(&silence)?.as_str())?;
        self.silences.insert(number, silence.clone());
        Ok(silence)
    }

    /// End a silence: what it held back is told now.
    pub(super) fn speak(&mut self, write: &WriteTransaction, number: u64) -> Result<usize, Stop> {
        let gone = self.silences.get(&number).ok_or_else(|| super::no_silence(number))?.id.clone();
        write.open_table(SILENCES)?.remove(number)?;
        self.silences.remove(&number);
        let held: Vec<u64> = self
            .open
            .iter()
            .filter(|(_, open)| open.silence.as_ref() == Some(&gone))
            .map(|(number, _)| *number)
            .collect();
        let now_ms = (self.clock)();
        for &number in &held {
            let Some(mut alert) = find(write, number)? else { continue };
            // The steps that are due are taken by who looks after them, in pieces.
            alert.due_ms = Some(now_ms);
            self.put(write, number, &alert)?;
        }
        Ok(held.len())
    }
}
