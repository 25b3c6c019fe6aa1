//! The doors of a message bus.

use super::Station;
use super::book::Draft;
use super::groups::{Settled, Wish, anything};
use super::read::{From, Wanted as Selected, patterns};
use super::readers::Reader;
use super::record::{DEAD, GROUPS, Group, KEY_BYTES_MAX, Letter, event_problem, name_problem, topic_problem};
use super::settings::Retention;
use super::{groups, no_group, no_topic, stream};
use crate::caller::{Caller, Role};
use crate::doors::{Body, Door, Doors, Params};
use crate::fault::Fault;
use crate::writer::{decoded, reading};
use axum::Json;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::Response;
use redb::ReadableDatabase;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Who may publish and consume.
const WORKING: &[Role] = &[Role::Agent, Role::Operator];
/// Names that one call may settle.
const OFFSETS_MAX: usize = 10_000;
/// Levels in the data of a message. What is read is wrapped in a few more, and readers of JSON stop at 128: a message that
/// can be published and not be read would stop whoever comes to it.
const DATA_DEPTH_MAX: usize = 64;

type App = State<Arc<Station>>;
type Answer = Result<Json<Value>, Fault>;

/// All of them.
pub(super) fn doors(station: Arc<Station>) -> Doors {
    of_consumers(of_topics(Doors::new())).with_state(station)
}

const NONE: Door = Door { roles: crate::ANY, summary: "", query: &[], body: "", answer: "" };

fn of_topics(doors: Doors<Arc<Station>>) -> Doors<Arc<Station>> {
    let read = &[
        ("from", "offset to begin at, or `end`; the oldest message if not given"),
        ("limit", "messages at most"),
        ("wait_ms", "how long to wait for a message if there is none"),
        ("events", "patterns of event names, with commas between: `fleet:*`"),
    ];
    doors
        .get(
            "/topics",
            Door {
                summary: "The topics with their sizes",
                query: &[("after", "the last name of the page before"), ("limit", "topics at most")],
                answer: r#"{"topics":[{"topic":"jobs","first":0,"next":2,"messages":2,"bytes":210}],"total":1,"more":false}"#,
                ..NONE
            },
            topics,
        )
        .get("/topics/{topic}", Door { summary: "A topic with its size and what it keeps", ..NONE }, topic)
        .put(
            "/topics/{topic}",
            Door {
                roles: crate::OPERATING,
                summary: "Make a topic, or say what it keeps",
                body: r#"{"messages_max":1000,"bytes_max":1048576,"age_ms":86400000}"#,
                ..NONE
            },
            set,
        )
        .delete(
            "/topics/{topic}",
            Door { roles: crate::OPERATING, summary: "Delete a topic with its messages and groups", ..NONE },
            remove,
        )
        .post(
            "/topics/{topic}/messages",
            Door {
                roles: WORKING,
                summary: "Publish a message; the answer comes when it is on disk",
                body: r#"{"event":"job:done","data":{"job":7},"key":"job-7"}"#,
                answer: r#"{"topic":"jobs","offset":0,"id":"5f0c9a2b7d11-0-0","sender":"agent-1","ts_ms":1760000000000}"#,
                ..NONE
            },
            publish,
        )
        .get(
            "/topics/{topic}/messages",
            Door { summary: "Messages from an offset on", query: read, ..NONE },
            messages,
        )
        .get(
            "/topics/{topic}/stream",
            Door {
                summary: "Messages from an offset on, as server-sent events; `Last-Event-ID` goes on after it",
                query: &[("from", "offset to begin at, or `end`"), ("events", "patterns of event names")],
                ..NONE
            },
            streamed,
        )
}

fn of_consumers(doors: Doors<Arc<Station>>) -> Doors<Arc<Station>> {
    let working = Door { roles: WORKING, ..NONE };
    let operating = Door { roles: crate::OPERATING, ..NONE };
    let group = "/topics/{topic}/groups/{group}";
    doors
        .get("/topics/{topic}/groups", Door { summary: "The consumer groups of a topic", ..NONE }, groups_of)
        .delete(group, Door { summary: "Delete a consumer group", ..operating }, disband)
        .post(
            &format!("{group}/lease"),
            Door {
                summary: "Lease messages for a time; a group that is not there is made",
                body: r#"{"max":10,"lease_ms":30000,"wait_ms":0}"#,
                answer: r#"{"lease":"0-1","until_ms":1760000030000,"messages":[],"missed":0}"#,
                ..working
            },
            lease,
        )
        .post(
            &format!("{group}/ack"),
            Door {
                summary: "Acknowledge leased messages",
                body: r#"{"offsets":[0,1],"lease":"0-1"}"#,
                answer: r#"{"done":[0,1],"not_held":[]}"#,
                ..working
            },
            ack,
        )
        .post(
            &format!("{group}/nack"),
            Door {
                summary: "Give leased messages back",
                body: r#"{"offsets":[1],"delay_ms":1000,"reason":"the printer is out of paper"}"#,
                answer: r#"{"done":[1],"not_held":[]}"#,
                ..working
            },
            nack,
        )
        .get(
            &format!("{group}/dead"),
            Door {
                summary: "The dead letters of a group",
                query: &[("from", "offset to begin at"), ("limit", "letters at most")],
                ..NONE
            },
            dead,
        )
        .post(
            &format!("{group}/dead/retry"),
            Door { summary: "Give dead letters to the group once more", body: r#"{"offsets":[3]}"#, ..operating },
            retry,
        )
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Listed {
    #[serde(default)]
    after: String,
    limit: Option<usize>,
}

async fn topics(State(station): App, Params(asked): Params<Listed>) -> Answer {
    let limit = station.limit(asked.limit)?;
    let (page, more) = station.shared.page(&asked.after, limit);
    let shown: Vec<Value> = page.iter().map(|(name, topic)| topic.shown(name, &station.settings)).collect();
    Ok(Json(json!({"topics": shown, "total": station.shared.totals().0, "more": more})))
}

async fn topic(State(station): App, Path(name): Path<String>) -> Answer {
    let topic = station.shared.topic(&name).ok_or_else(|| no_topic(&name))?;
    Ok(Json(topic.shown(&name, &station.settings)))
}

async fn set(State(station): App, caller: Caller, Path(name): Path<String>, Body(wanted): Body<Retention>) -> Answer {
    refuse(topic_problem(&name))?;
    station.settings.check_retention(&wanted).map_err(Fault::not_accepted)?;
    let by = caller.sender().to_owned();
    station.writer.change(0, move |desk, _| desk.set(&name, &by, wanted)).await.map(Json)
}

async fn remove(State(station): App, caller: Caller, Path(name): Path<String>) -> Answer {
    tracing::info!(topic = name, by = caller.sender(), "a topic is deleted");
    let told = name.clone();
    let messages = station.writer.change(0, move |desk, write| desk.remove(write, &name)).await?;
    Ok(Json(json!({"topic": told, "messages": messages, "deleted": true})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Published {
    event: String,
    #[serde(default)]
    data: Value,
    key: Option<String>,
}

async fn publish(
    State(station): App,
    caller: Caller,
    Path(name): Path<String>,
    Body(message): Body<Published>,
) -> Result<Response, Fault> {
    refuse(topic_problem(&name))?;
    refuse(event_problem(&message.event))?;
    let key_bytes = message.key.as_ref().map_or(1, String::len);
    if !(1..=KEY_BYTES_MAX).contains(&key_bytes) {
        return Err(Fault::not_accepted(format!("key: it has {key_bytes} bytes, 1 to {KEY_BYTES_MAX} are allowed")));
    }
    if station.settings.fleet_topics.contains(&name) && !caller.is_of_the_fleet() {
        let who = &caller.name;
        return Err(Fault::forbidden(format!(
            "only parts of the fleet publish to topic '{name}', and '{who}' is none"
        )));
    }
    if depth(&message.data) > DATA_DEPTH_MAX {
        return Err(Fault::not_accepted(format!("data: it has more than {DATA_DEPTH_MAX} levels")));
    }
    let bytes = message.event.len() + message.data.to_string().len();
    let most = station.settings.message_bytes_max;
    if bytes > most {
        return Err(Fault::too_large(format!("the message has {bytes} bytes, at most {most} are taken")));
    }
    let Published { event, data, key } = message;
    let draft = Draft { sender: caller.sender().to_owned(), of_the_fleet: caller.is_of_the_fleet(), event, data, key };
    let receipt = station.writer.change(bytes, move |desk, write| desk.publish(write, &name, draft)).await?;
    let counter = if receipt.duplicate { &station.counts.duplicates } else { &station.counts.published };
    counter.inc();
    Ok(axum::response::IntoResponse::into_response(Json(receipt)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Read {
    from: Option<String>,
    limit: Option<usize>,
    wait_ms: Option<u64>,
    events: Option<String>,
}

async fn messages(
    State(station): App,
    caller: Caller,
    Path(name): Path<String>,
    Params(asked): Params<Read>,
) -> Answer {
    let limit = station.limit(asked.limit)?;
    let wait = station.wait(asked.wait_ms)?;
    let events = Arc::new(patterns(asked.events.as_deref())?);
    let wanted = Selected { limit, bytes_max: station.settings.page_bytes_max, events };
    let from = station.begin(&name, From::read(asked.from.as_deref())?)?;
    told(&station.read(&name, from, &wanted, (wait, &Reader::from(&caller))).await?)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Listened {
    from: Option<String>,
    events: Option<String>,
}

async fn streamed(
    State(station): App,
    caller: Caller,
    Path(name): Path<String>,
    Params(asked): Params<Listened>,
    headers: HeaderMap,
) -> Result<Response, Fault> {
    let wanted = patterns(asked.events.as_deref())?;
    let last = headers.get("last-event-id").and_then(|id| id.to_str().ok()).filter(|id| !id.is_empty());
    let from = match last.map(str::parse::<u64>) {
        None => From::read(asked.from.as_deref())?,
        Some(Ok(last)) => From::Offset(last.saturating_add(1)),
        Some(Err(_)) => return Err(Fault::unreadable("the header Last-Event-ID is not an offset")),
    };
    let from = station.begin(&name, from)?;
    stream::answer(station, name, from, wanted, Reader::from(&caller))
}

async fn groups_of(State(station): App, Path(name): Path<String>) -> Answer {
    let topic = station.shared.topic(&name).ok_or_else(|| no_topic(&name))?;
    let database = Arc::clone(&station.database);
    let groups = reading(move || {
        let table = database.begin_read()?.open_table(GROUPS)?;
        let mut groups = Vec::new();
        for row in table.range((topic.id, "")..)? {
            let (place, text) = row?;
            let (id, name) = place.value();
            if id != topic.id {
                break;
            }
            let group: Group = decoded("group", text.value())?;
            groups.push(json!({
                "group": name,
                "next": group.next,
                "waiting": topic.next.saturating_sub(group.next.max(topic.first)),
                "pending": group.pending,
                "dead": group.dead,
                "dead_bytes": group.dead_bytes,
                "acked": group.acked,
                "missed": group.missed,
                "created_ms": group.created_ms,
            }));
        }
        Ok(groups)
    });
    Ok(Json(json!({"topic": name, "groups": groups.await?})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    max: Option<usize>,
    lease_ms: Option<u64>,
    wait_ms: Option<u64>,
    from: Option<u64>,
}

async fn lease(
    State(station): App,
    caller: Caller,
    Path((topic, group)): Path<(String, String)>,
    Body(wanted): Body<Wanted>,
) -> Answer {
    refuse(name_problem("group", &group))?;
    let most = station.settings.lease_ms_max;
    let lease_ms = wanted.lease_ms.unwrap_or(station.settings.lease_ms);
    if !(1..=most).contains(&lease_ms) {
        return Err(Fault::not_accepted(format!("lease_ms: {lease_ms} is not within 1 to {most}")));
    }
    let until = Instant::now() + station.wait(wanted.wait_ms)?;
    let max = station.limit(wanted.max.or(Some(1)))?;
    let wish = Wish { who: caller.sender().to_owned(), max, lease_ms, from: wanted.from };
    let mut place = None;
    loop {
        let (seen, mut bell) = station.shared.listen(&topic).ok_or_else(|| no_topic(&topic))?;
        let (there, soonest) = station.anything(&group, (seen.id, seen.next)).await?;
        if there {
            let (topic, group, wish) = (topic.clone(), group.clone(), wish.clone());
            let leased = station.writer.change(0, move |desk, write| desk.lease(write, &topic, &group, &wish)).await?;
            station.counts.leased.inc_by(leased.messages.len() as u64);
            station.counts.dead.inc_by(leased.buried);
            if !leased.messages.is_empty() || Instant::now() >= until {
                return told(&leased);
            }
            continue;
        }
        if Instant::now() >= until || station.stop.is_cancelled() {
            return Ok(Json(json!({"lease": null, "until_ms": null, "messages": []})));
        }
        if place.is_none() {
            place = Some(station.readers.place(&Reader::from(&caller), &station.settings)?);
        }
        tokio::select! {
            _ = bell.changed() => {}
            () = tokio::time::sleep_until(until.min(station.at(soonest))) => {}
            () = station.stop.cancelled() => {}
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Given {
    offsets: Vec<u64>,
    lease: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GivenBack {
    offsets: Vec<u64>,
    lease: Option<String>,
    #[serde(default)]
    delay_ms: u64,
    reason: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Chosen {
    offsets: Vec<u64>,
}

fn settled(caller: &Caller, offsets: Vec<u64>, lease: Option<String>) -> Result<Settled, Fault> {
    if offsets.len() > OFFSETS_MAX {
        return Err(Fault::not_accepted(format!("offsets: {} are more than {OFFSETS_MAX}", offsets.len())));
    }
    let operates = caller.require(crate::OPERATING).is_ok();
    Ok(Settled { who: caller.sender().to_owned(), operates, offsets, lease })
}

async fn ack(
    State(station): App,
    caller: Caller,
    Path((topic, group)): Path<(String, String)>,
    Body(given): Body<Given>,
) -> Answer {
    let settled = settled(&caller, given.offsets, given.lease)?;
    let (rung, bytes) = (topic.clone(), settled.offsets.len() * size_of::<u64>());
    let outcome = station.writer.change(bytes, move |desk, write| desk.ack(write, &topic, &group, &settled)).await?;
    station.counts.acked.inc_by(outcome.done.len() as u64);
    // Where a group had its hands full, there is room now.
    station.shared.ring(&rung);
    told(&outcome)
}

async fn nack(
    State(station): App,
    caller: Caller,
    Path((topic, group)): Path<(String, String)>,
    Body(given): Body<GivenBack>,
) -> Answer {
    let settled = settled(&caller, given.offsets, given.lease)?;
    let most = station.settings.lease_ms_max;
    if given.delay_ms > most {
        return Err(Fault::not_accepted(format!("delay_ms: {} is more than {most} (lease_ms_max)", given.delay_ms)));
    }
    let reason = given.reason.map(|reason| reason.chars().take(500).collect());
    let how = (given.delay_ms, reason);
    let (rung, bytes) = (topic.clone(), settled.offsets.len() * size_of::<u64>());
    let outcome =
        station.writer.change(bytes, move |desk, write| desk.nack(write, &topic, &group, &settled, how)).await?;
    station.counts.dead.inc_by(outcome.dead.len() as u64);
    station.shared.ring(&rung);
    told(&outcome)
}

async fn dead(State(station): App, Path((topic, name)): Path<(String, String)>, Params(asked): Params<Read>) -> Answer {
    let limit = station.limit(asked.limit)?;
    let from = match From::read(asked.from.as_deref())? {
        From::Offset(offset) => offset,
        From::Oldest => 0,
        From::End => u64::MAX,
    };
    let seen = station.shared.topic(&topic).ok_or_else(|| no_topic(&topic))?;
    let database = Arc::clone(&station.database);
    let (key, bytes_max) = (name.clone(), station.settings.page_bytes_max);
    let found = reading(move || {
        let read = database.begin_read()?;
        let Some(group) = groups::read_group(&read.open_table(GROUPS)?, seen.id, &key)? else { return Ok(None) };
        let (mut letters, mut bytes, mut next) = (Vec::new(), 0, None);
        for row in read.open_table(DEAD)?.range((group.id, from)..=(group.id, u64::MAX))? {
            let (place, row) = row?;
            if letters.len() >= limit || bytes >= bytes_max {
                next = Some(place.value().1);
                break;
            }
            bytes += row.value().1.len();
            letters.push(decoded::<Letter>("dead letter", row.value().1)?);
        }
        Ok(Some((letters, next, group.dead)))
    });
    let (letters, next, total) = found.await?.ok_or_else(|| no_group(&topic, &name))?;
    Ok(Json(json!({"dead": letters, "next": next, "total": total})))
}

async fn retry(
    State(station): App,
    Path((topic, group)): Path<(String, String)>,
    Body(chosen): Body<Chosen>,
) -> Answer {
    let rung = topic.clone();
    let revived =
        station.writer.change(0, move |desk, write| desk.revive(write, &topic, &group, &chosen.offsets)).await?;
    station.shared.ring(&rung);
    told(&revived)
}

async fn disband(State(station): App, Path((topic, group)): Path<(String, String)>) -> Answer {
    let shown = json!({"topic": topic, "group": group, "deleted": true});
    station.writer.change(0, move |desk, write| desk.disband(write, &topic, &group)).await?;
    Ok(Json(shown))
}

impl Station {
    fn limit(&self, asked: Option<usize>) -> Result<usize, Fault> {
        let most = self.settings.page_messages_max;
        match asked {
            None => Ok(most.min(100)),
            Some(limit) if (1..=most).contains(&limit) => Ok(limit),
            Some(limit) => Err(Fault::unreadable(format!("{limit} at a time: give 1 to {most}"))),
        }
    }

    fn wait(&self, asked: Option<u64>) -> Result<Duration, Fault> {
        let most = self.settings.wait_ms_max;
        match asked.unwrap_or(0) {
            wait_ms if wait_ms <= most => Ok(Duration::from_millis(wait_ms)),
            wait_ms => Err(Fault::unreadable(format!("wait_ms={wait_ms}: give 0 to {most}"))),
        }
    }

    async fn anything(&self, group: &str, topic: (u64, u64)) -> Result<(bool, Option<u64>), Fault> {
        let (database, group) = (Arc::clone(&self.database), group.to_owned());
        let bounds = (self.settings.in_flight_max, (self.clock)());
        reading(move || anything(&database.begin_read()?, topic, &group, bounds)).await
    }

    /// When to look again for a lease that ends at this time: not more often than each second, for clocks may be set.
    fn at(&self, soonest: Option<u64>) -> Instant {
        let left = soonest.map_or(60_000, |soonest| soonest.saturating_sub((self.clock)()).clamp(1, 1_000));
        Instant::now() + Duration::from_millis(left)
    }
}

/// The levels of a value; the body's reader has bounded them, so this ends.
fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(members) => 1 + members.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

fn told(answer: &impl Serialize) -> Answer {
    let value = serde_json::to_value(answer);
    value.map(Json).map_err(|why| Fault::broken(format!("the answer cannot be written: {why}")))
}

fn refuse(problem: Option<String>) -> Result<(), Fault> {
    problem.map_or(Ok(()), |problem| Err(Fault::not_accepted(problem)))
}
