//! The bus beside models of it, on inputs that chance makes: patterns, who owns an event and who hears of it, and the
//! state, whose namespaces and keys never run into each other.

#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "a test that cannot go on has failed")]

use futures_util::future::BoxFuture;
use gavel_bus::*;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Answers with its name.
struct Named(String);

impl Plugin for Named {
    fn startup(&self, _config: Value, _handle: Handle) -> BoxFuture<'_, Result<(), Fault>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn handle(&self, _event: Arc<Event>) -> BoxFuture<'_, Result<Value, Fault>> {
        Box::pin(std::future::ready(Ok(json!(self.0))))
    }
}

/// Few words, so that they meet.
fn word() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["a", "b", "ab", "a/b", "error"]).prop_map(str::to_owned)
}

fn event_name() -> impl Strategy<Value = String> {
    prop::collection::vec(word(), 1..4).prop_map(|words| words.join(":"))
}

fn pattern() -> impl Strategy<Value = String> {
    let half = || prop_oneof![word(), Just("*".to_owned())];
    prop_oneof![half(), (half(), half()).prop_map(|(space, name)| format!("{space}:{name}")), event_name()]
}

/// What the specification says of a pattern, in other words than the code: each half as a set of texts.
fn fits(pattern: &str, name: &str) -> bool {
    let half = |wanted: &str, found: &str| wanted == "*" || wanted == found;
    match (pattern.find(':'), name.find(':')) {
        (None, _) => half(pattern, name),
        (Some(_), None) => false,
        (Some(p), Some(n)) => half(&pattern[..p], &name[..n]) && half(&pattern[p + 1..], &name[n + 1..]),
    }
}

#[derive(Debug, Clone)]
struct Owns {
    commands: BTreeSet<String>,
    spaces: BTreeSet<String>,
    subscribes: Vec<String>,
}

fn owns() -> impl Strategy<Value = Owns> {
    let sets = (
        prop::collection::btree_set(event_name(), 0..3),
        prop::collection::btree_set(word(), 0..2),
        prop::collection::vec(pattern(), 0..3),
    );
    sets.prop_map(|(commands, spaces, subscribes)| Owns { commands, spaces, subscribes })
}

fn registration(at: usize, owns: &Owns) -> Registration {
    Registration {
        metadata: Metadata { name: format!("p{at}"), version: "1".to_owned(), ..Metadata::default() },
        capabilities: Capabilities {
            commands: owns.commands.iter().cloned().collect(),
            event_namespaces: owns.spaces.iter().cloned().collect(),
            subscribes: owns.subscribes.iter().filter_map(|text| Pattern::parse(text).ok()).collect(),
            ..Capabilities::default()
        },
        config: Value::Null,
        digest: "native".to_owned(),
        factory: Arc::new(move || Named(format!("p{at}"))),
    }
}

/// Who owns each name, or `None` if two plugins claim one.
fn owners(all: &[Owns], of: impl Fn(&Owns) -> &BTreeSet<String>) -> Option<BTreeMap<String, usize>> {
    let claims: Vec<_> =
        all.iter().enumerate().flat_map(|(at, owns)| of(owns).iter().map(move |name| (name.clone(), at))).collect();
    let owners: BTreeMap<_, _> = claims.iter().cloned().collect();
    (owners.len() == claims.len()).then_some(owners)
}

fn in_runtime<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// Names that would meet if they were written one after the other.
fn place() -> impl Strategy<Value = (String, String)> {
    let part = || "[ab:/\0]{1,3}";
    (part(), part())
}

#[derive(Debug, Clone)]
enum Deed {
    Set(String, String, i64),
    Delete(String, String),
    Clear(String),
}

fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        6 => (place(), any::<i64>()).prop_map(|((space, key), value)| Deed::Set(space, key, value)),
        2 => place().prop_map(|(space, key)| Deed::Delete(space, key)),
        1 => place().prop_map(|(space, _)| Deed::Clear(space)),
    ]
}

/// Do it in the store and in the model; how many keys both say that there were.
async fn carry_out(store: &Store, model: &mut BTreeMap<(String, String), i64>, deed: Deed) -> (usize, usize) {
    let (change, expected) = match deed {
        Deed::Set(namespace, key, value) => {
            let before = model.insert((namespace.clone(), key.clone()), value);
            (Change::Set { namespace, key, value: json!(value) }, usize::from(before.is_some()))
        }
        Deed::Delete(namespace, key) => {
            let before = model.remove(&(namespace.clone(), key.clone()));
            (Change::Delete { namespace, key }, usize::from(before.is_some()))
        }
        Deed::Clear(namespace) => {
            let before = model.len();
            model.retain(|(space, _), _| *space != namespace);
            (Change::Clear { namespace }, before - model.len())
        }
    };
    (store.change("e", &Sender::Host, change).await.unwrap(), expected)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_pattern_fits_what_the_specification_says(pattern in pattern(), name in event_name()) {
        let parsed = Pattern::parse(&pattern).unwrap();
        prop_assert_eq!(parsed.matches(&name), fits(&pattern, &name), "{} {}", pattern, name);
    }

    #[test]
    fn an_event_has_one_owner_and_is_heard_by_those_who_subscribe(
        all in prop::collection::vec(owns(), 1..6),
        names in prop::collection::vec(event_name(), 1..20),
    ) {
        let bus = Bus::new(Options::default(), || 0);
        let registered = bus.register(all.iter().enumerate().map(|(at, owns)| registration(at, owns)).collect());
        let exact = owners(&all, |owns| &owns.commands);
        let spaces = owners(&all, |owns| &owns.spaces);
        let (Some(exact), Some(spaces)) = (exact, spaces) else {
            prop_assert!(matches!(registered, Err(RegisterError::TwoOwners { .. })), "{:?}", registered);
            prop_assert_eq!(bus.plugins().len(), 0);
            return Ok(());
        };
        prop_assert!(registered.is_ok(), "{:?}", registered);
        in_runtime(async {
            for name in names {
                let space = name.split(':').next().unwrap_or_default();
                let owner = exact.get(&name).or_else(|| spaces.get(space)).map(|at| format!("p{at}"));
                let heard = all.iter().filter(|owns| owns.subscribes.iter().any(|text| fits(text, &name))).count();
                prop_assert_eq!(bus.owner(&name), owner.clone());
                // Twice: the second time it is known who takes part.
                for _ in 0..2 {
                    let answered = bus.dispatch(Sender::Host, Draft::new(&name, json!({}))).await;
                    match &owner {
                        Some(owner) => prop_assert_eq!(&answered.unwrap().answer["result"], owner),
                        None if heard == 0 => prop_assert_eq!(answered, Err(Error::NoHandler(name.clone()))),
                        None => prop_assert_eq!(&answered.unwrap().answer["subscribers"], heard),
                    }
                    let told = bus.emit(Sender::Host, Draft::new(&name, json!({}))).await.unwrap();
                    prop_assert_eq!(told.queued, heard + usize::from(owner.is_some()));
                }
            }
            Ok(())
        })?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn namespaces_and_keys_never_run_into_each_other(deeds in prop::collection::vec(deed(), 1..40)) {
        in_runtime(async {
            let store = Store::open(None, StoreLimits::default(), Arc::new(NoAudit)).await.unwrap();
            let mut model: BTreeMap<(String, String), i64> = BTreeMap::new();
            for deed in deeds {
                let (found, expected) = carry_out(&store, &mut model, deed.clone()).await;
                prop_assert_eq!(found, expected, "{:?}", deed);
            }
            for ((space, key), value) in &model {
                prop_assert_eq!(store.get(space, key).unwrap(), Some(json!(value)));
            }
            let spaces: BTreeSet<&String> = model.keys().map(|(space, _)| space).collect();
            for space in spaces {
                let keys: Vec<_> = model.keys().filter(|(its, _)| its == space).map(|(_, key)| key.clone()).collect();
                prop_assert_eq!(store.keys(space, "*").unwrap(), (keys, false));
            }
            Ok(())
        })?;
    }
}
