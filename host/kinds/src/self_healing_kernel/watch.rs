//! Rules over what happens to components: when one was unhealthy so many times within so long, somebody is told.
//!
//! Events are read from the topic `fleet` of the message bus, from where the last read stopped, which is on disk together
//! with what was made of it: none is missed or counted twice over a kill. Only what Guardian itself published counts.
//! A rule never heals: what it alerts names what could be done, and somebody decides.

use super::Healer;
use super::playbooks;
use crate::redb_file::aside;
use crate::{Fault, PeerError};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::sync::{Arc, PoisonError, Weak};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// A rule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Rule {
    pub(super) name: String,
    pub(super) component: String,
    pub(super) times: usize,
    pub(super) within_ms: u64,
    pub(super) severity: String,
    pub(super) by: String,
    pub(super) created_ms: u64,
    /// When it was unhealthy lately.
    pub(super) seen_ms: Vec<u64>,
    /// How often somebody was told.
    pub(super) alerts: u64,
}

/// What is watched for, as it is asked.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    pub(super) name: Option<String>,
    pub(super) component: String,
    pub(super) times: usize,
    pub(super) within_ms: u64,
    #[serde(default = "warning")]
    pub(super) severity: String,
}

fn warning() -> String {
    "warning".to_owned()
}

/// Times that a rule may count to.
const TIMES_MAX: usize = 100;

impl Wanted {
    /// The rule, if it can be kept.
    pub(super) fn rule(self, by: String, now_ms: u64) -> Result<Rule, Fault> {
        let Self { name, component, times, within_ms, severity } = self;
        let name = name.unwrap_or_else(|| component.clone());
        for (what, text) in [("name", &name), ("component", &component)] {
            if !is_name(text) {
                return Err(Fault::not_accepted(format!("{what}: it has 1 to 64 letters, digits, '-' and '_'")));
            }
        }
        if !(1..=TIMES_MAX).contains(&times) {
            return Err(Fault::not_accepted(format!("times: {times} is not from 1 to {TIMES_MAX}")));
        }
        if !(1_000..=30 * 86_400_000).contains(&within_ms) {
            return Err(Fault::not_accepted("within_ms: it may be 1000 to 2592000000"));
        }
        if !["info", "warning", "critical"].contains(&severity.as_str()) {
            return Err(Fault::not_accepted("severity: it is info, warning or critical"));
        }
        Ok(Rule { name, component, times, within_ms, severity, by, created_ms: now_ms, seen_ms: Vec::new(), alerts: 0 })
    }
}

/// Whether a text can be a component's name in a path.
pub(super) fn is_name(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|c| c.is_ascii_alphanumeric() || b"-_".contains(&c))
}

impl Rule {
    /// Count an event. Gives the alert if that was one too many; counting begins anew then.
    pub(super) fn count(&mut self, event: &Value) -> Option<Value> {
        let data = &event["data"];
        let unwell = data["status"] == "unhealthy" || data["status"] == "failed";
        let counts = event["event"] == "fleet:status" && event["sender"] == "guardian" && unwell;
        let at_ms = event["ts_ms"].as_u64()?;
        if !counts || data["name"] != self.component.as_str() || at_ms < self.created_ms {
            return None;
        }
        self.seen_ms.push(at_ms);
        let since = at_ms.saturating_sub(self.within_ms);
        self.seen_ms.retain(|seen| *seen >= since);
        if self.seen_ms.len() < self.times {
            return None;
        }
        self.seen_ms.clear();
        self.alerts += 1;
        Some(self.alert(data))
    }

    fn alert(&self, data: &Value) -> Value {
        let Self { name, component, times, within_ms, severity, .. } = self;
        let detail: String = data["detail"].as_str().unwrap_or_default().chars().take(300).collect();
        let issue = if data["pid"].is_null() { "process_crashed" } else { "connection_timeout" };
        let tried: Vec<&str> = playbooks::issue(issue).1.iter().map(|playbook| playbook.name).collect();
        let tried = tried.join(", ");
        let message = format!(
            "{component} was unhealthy {times} times within {} s, at last: {detail}; suggested for {issue}: {tried} \
             (POST /self_healing_kernel/heal), after a look at its log",
            within_ms / 1_000
        );
        json!({
            "severity": severity, "source": "self_healing_kernel", "name": "component_keeps_failing", "message": message,
            "labels": {"component": component, "rule": name, "issue_type": issue},
            "dedupe_key": format!("watch:{name}:{component}"),
        })
    }
}

/// Between two reads where something is wrong, and where the bus does not wait.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Read events as long as there are rules, until `stop`.
pub(super) async fn run(healer: Weak<Healer>, changed: Arc<Notify>, stop: CancellationToken) {
    let (first, most) = PAUSES;
    let mut pause = first;
    loop {
        let reading = async {
            let healer = healer.upgrade()?;
            let read = healer.read_on(pause).await;
            healer.set_watch_error(read.as_ref().err().map(ToString::to_string));
            Some(read)
        };
        let read = tokio::select! {
            () = stop.cancelled() => return,
            read = reading => read,
        };
        let wait = match read {
            None => return,
            Some(Ok(Next::Idle)) => None,
            Some(Ok(Next::Again)) => {
                pause = first;
                continue;
            }
            Some(Ok(Next::After(wait))) => Some(wait),
            Some(Err(why)) => {
                tracing::warn!("events of the fleet cannot be read: {why}");
                let wait = pause;
                pause = (pause * 2).min(most);
                Some(wait)
            }
        };
        let waited = async {
            match wait {
                Some(wait) => tokio::time::sleep(wait).await,
                None => changed.notified().await,
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = waited => {}
        }
    }
}

/// What to do after a read.
enum Next {
    /// There is nothing to watch for, until a rule comes.
    Idle,
    Again,
    After(Duration),
}

impl Healer {
    /// Why events could not be read, or alerts not handed over, the last time.
    pub(super) fn watch_error(&self) -> Option<String> {
        self.watch_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_watch_error(&self, why: Option<String>) {
        *self.watch_error.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }

    /// The events from an offset on, as many as the bus gives at once where no number is asked for.
    async fn events(&self, offset: u64) -> Result<Value, PeerError> {
        let topic = "/message_bus/topics/fleet/messages";
        let wait_ms = self.settings.watch_wait_ms;
        let mut answer = self.peers.get(&format!("{topic}?from={offset}&wait_ms={wait_ms}")).await;
        if let Err(PeerError::Refused { status: 400, .. }) = answer {
            // A bus may be set not to wait for so long (`wait_ms_max`).
            answer = self.peers.get(&format!("{topic}?from={offset}")).await;
        }
        if let Err(PeerError::Refused { status: 422, message, .. }) = &answer {
            tracing::warn!("the events of the fleet are others than before, and read from the oldest on: {message}");
            answer = self.peers.get(topic).await;
        }
        answer
    }

    async fn read_on(self: &Arc<Self>, pause: Duration) -> Result<Next, Fault> {
        self.deliver_alerts().await?;
        let this = Arc::clone(self);
        let read = aside("the rules cannot be read", move || Ok((this.store.rules()?, this.store.offset()?)));
        let (rules, offset) = read.await?;
        if rules.is_empty() {
            return Ok(Next::Idle);
        }
        let begun = Instant::now();
        let answer = match self.events(offset).await {
            Ok(answer) => answer,
            // Nothing was published on it yet.
            Err(PeerError::Refused { status: 404, .. }) => return Ok(Next::After(pause.max(PAUSES.0 * 5))),
            Err(why) => return Err(super::heal::fault(&why)),
        };
        let messages = answer["messages"].as_array().map(Vec::as_slice).unwrap_or_default();
        let next = answer["next"].as_u64().unwrap_or(offset);
        if messages.is_empty() && next == offset {
            let soon = begun.elapsed() < PAUSES.0;
            return Ok(if soon { Next::After(PAUSES.0) } else { Next::Again });
        }
        let mut rules: Vec<Rule> = rules.into_values().collect();
        let alerts: Vec<Value> = messages
            .iter()
            .flat_map(|event| rules.iter_mut().filter_map(|rule| rule.count(event)).collect::<Vec<_>>())
            .collect();
        let this = Arc::clone(self);
        aside("what was read cannot be kept", move || this.store.advance(next, &rules, &alerts)).await?;
        self.deliver_alerts().await?;
        Ok(Next::Again)
    }

    /// Hand over the alerts that wait, the oldest first.
    async fn deliver_alerts(self: &Arc<Self>) -> Result<(), Fault> {
        loop {
            let this = Arc::clone(self);
            let Some((number, alert)) = aside("alerts cannot be read", move || this.store.next_alert()).await? else {
                return Ok(());
            };
            match self.peers.post("/alert_service/alerts", &alert).await {
                Ok(_) => {}
                Err(PeerError::Refused { status, message, .. }) if (400..500).contains(&status) && status != 429 => {
                    tracing::error!(status, message, "an alert is refused, and not sent again");
                }
                Err(why) => return Err(super::heal::fault(&why)),
            }
            let this = Arc::clone(self);
            aside("an alert cannot be put away", move || this.store.alert_taken(number)).await?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(ts_ms: u64, status: &str, sender: &str) -> Value {
        let data = json!({"name": "audit_trail", "status": status, "detail": "no answer", "pid": null});
        json!({"event": "fleet:status", "sender": sender, "ts_ms": ts_ms, "data": data})
    }

    fn rule(times: usize, within_ms: u64) -> Rule {
        let wanted = Wanted { name: None, component: "audit_trail".into(), times, within_ms, severity: warning() };
        wanted.rule("op".into(), 100).unwrap()
    }

    #[test]
    fn a_rule_counts_what_guardian_says_within_its_time() {
        let mut rule = rule(3, 1_000);
        let told: Vec<bool> = [
            event(50, "unhealthy", "guardian"),
            event(200, "unhealthy", "guardian"),
            event(300, "unhealthy", "somebody"),
            event(400, "healthy", "guardian"),
            event(500, "failed", "guardian"),
            event(1_300, "unhealthy", "guardian"),
            event(1_400, "unhealthy", "guardian"),
            event(1_500, "unhealthy", "guardian"),
        ]
        .iter()
        .map(|event| rule.count(event).is_some())
        .collect();
        assert_eq!(told, [false, false, false, false, false, false, true, false]);
        assert_eq!((rule.alerts, rule.seen_ms.as_slice()), (1, &[1_500][..]));
    }

    #[test]
    fn rules_that_cannot_be_kept_are_refused() {
        let refused = |component: &str, times, within_ms, severity: &str| {
            let component = component.to_owned();
            Wanted { name: None, component, times, within_ms, severity: severity.into() }.rule("op".into(), 0).is_err()
        };
        assert!(!refused("audit_trail", 1, 1_000, "info"));
        assert!(refused("../x", 1, 1_000, "info"));
        assert!(refused("audit_trail", 0, 1_000, "info"));
        assert!(refused("audit_trail", 1, 999, "info"));
        assert!(refused("audit_trail", 1, 1_000, "loud"));
    }
}
