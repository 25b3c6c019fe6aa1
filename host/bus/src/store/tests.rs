//! The store: what is audited, kept, found, and left by a crash or a file that fails.

use super::*;
use serde_json::json;
use std::sync::Mutex;

#[derive(Default)]
struct Kept(Mutex<Vec<Audited>>, Mutex<bool>);

impl Audit for Kept {
    fn record(&self, changes: Vec<Audited>) -> BoxFuture<'_, Vec<Result<(), String>>> {
        let fails = *self.1.lock().unwrap();
        let ruling = if fails { Err("the ledger is full".to_owned()) } else { Ok(()) };
        let rulings = vec![ruling; changes.len()];
        if !fails {
            self.0.lock().unwrap().extend(changes);
        }
        Box::pin(std::future::ready(rulings))
    }
}

fn set(namespace: &str, key: &str, value: Value) -> Change {
    Change::Set { namespace: namespace.to_owned(), key: key.to_owned(), value }
}

#[tokio::test]
async fn what_is_set_is_audited_kept_and_found() {
    let audit = Arc::new(Kept::default());
    let store = Store::open(None, StoreLimits::default(), audit.clone()).await.unwrap();
    for (space, key) in [("a", "b:c"), ("a:b", "c"), ("a", "d"), ("a\0", "z")] {
        store.change("e", &Sender::Host, set(space, key, json!({ "in": space }))).await.unwrap();
    }
    assert_eq!(store.get("a", "b:c").unwrap(), Some(json!({ "in": "a" })));
    assert_eq!(store.get("a:b", "c").unwrap(), Some(json!({ "in": "a:b" })));
    assert_eq!(store.keys("a", "*").unwrap(), (vec!["b:c".to_owned(), "d".to_owned()], false));
    assert_eq!(store.change("e", &Sender::Host, Change::Clear { namespace: "a".to_owned() }).await, Ok(2));
    assert_eq!(store.get("a\0", "z").unwrap(), Some(json!({ "in": "a\0" })), "its neighbour stays");
    let gone = Change::Delete { namespace: "a".to_owned(), key: "d".to_owned() };
    assert_eq!(store.change("e", &Sender::Host, gone).await, Ok(0));
    assert_eq!(audit.0.lock().unwrap().len(), 6);
}

#[tokio::test]
async fn a_change_that_cannot_be_audited_is_not_made() {
    let audit = Arc::new(Kept::default());
    let store = Store::open(None, StoreLimits::default(), audit.clone()).await.unwrap();
    *audit.1.lock().unwrap() = true;
    let why = store.change("e", &Sender::Host, set("a", "b", json!(1))).await.unwrap_err();
    assert_eq!(why.to_string(), "the state was not changed: the ledger is full");
    assert_eq!(store.get("a", "b").unwrap(), None);
    assert_eq!((store.counts().audit_refusals, store.counts().changes), (1, 0));
    *audit.1.lock().unwrap() = false;
    assert_eq!(prepare(&store.database).unwrap(), []);
}

#[tokio::test]
async fn what_a_crash_interrupted_is_made_once_at_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("state");
    let change = Audited { event_id: "e".to_owned(), sender: "host".to_owned(), change: set("a", "b", json!(1)) };
    {
        let database = Database::create(&file).unwrap();
        prepare(&database).unwrap();
        intend(&database, std::slice::from_ref(&change)).unwrap();
    }
    let audit = Arc::new(Kept::default());
    let store = Store::open(Some(&file), StoreLimits::default(), audit.clone()).await.unwrap();
    assert_eq!(store.get("a", "b").unwrap(), Some(json!(1)));
    assert_eq!(*audit.0.lock().unwrap(), [change]);
    assert_eq!(prepare(&store.database).unwrap(), []);
}

#[test]
fn what_was_refused_before_is_not_made_with_what_is_intended_now() {
    let database = Database::builder().create_with_backend(redb::backends::InMemoryBackend::new()).unwrap();
    prepare(&database).unwrap();
    let change =
        |key: &str| Audited { event_id: "e".to_owned(), sender: "host".to_owned(), change: set("a", key, json!(1)) };
    intend(&database, &[change("refused"), change("refused too")]).unwrap();
    intend(&database, &[change("meant")]).unwrap();
    assert_eq!(prepare(&database).unwrap(), [change("meant")]);
}

#[tokio::test]
async fn what_is_too_long_is_refused_with_its_size() {
    let limits = StoreLimits { value_bytes_max: 4, name_bytes_max: 3, ..StoreLimits::default() };
    let store = Store::open(None, limits, Arc::new(NoAudit)).await.unwrap();
    for change in [set("a", "b", json!("long")), set("long", "b", json!(1)), set("", "b", json!(1))] {
        assert!(matches!(store.change("e", &Sender::Host, change).await, Err(StoreError::Invalid(_))));
    }
}

#[test]
fn globs() {
    for (pattern, text, fits) in [
        ("*", "", true),
        ("a*c", "abbc", true),
        ("a*c", "abcb", false),
        ("?b*", "ab", true),
        ("a*b*c", "a-b-b-c", true),
        ("", "a", false),
    ] {
        assert_eq!(glob(pattern.as_bytes(), text.as_bytes()), fits, "{pattern} {text}");
    }
}

/// A file that fails from some moment on.
#[derive(Debug, Clone, Default)]
struct Failing(Arc<redb::backends::InMemoryBackend>, Arc<std::sync::atomic::AtomicBool>);

impl Failing {
    fn well(&self) -> std::io::Result<()> {
        if self.1.load(Ordering::SeqCst) { Err(std::io::Error::other("no space is left")) } else { Ok(()) }
    }
}

impl redb::StorageBackend for Failing {
    fn len(&self) -> std::io::Result<u64> {
        self.0.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
        self.0.read(offset, out)
    }
    fn set_len(&self, len: u64) -> std::io::Result<()> {
        self.well().and_then(|()| self.0.set_len(len))
    }
    fn sync_data(&self) -> std::io::Result<()> {
        self.well().and_then(|()| self.0.sync_data())
    }
    fn write(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
        self.well().and_then(|()| self.0.write(offset, data))
    }
}

/// Records, and with that the file begins to fail.
struct Breaks(Arc<std::sync::atomic::AtomicBool>);

impl Audit for Breaks {
    fn record(&self, changes: Vec<Audited>) -> BoxFuture<'_, Vec<Result<(), String>>> {
        self.0.store(true, Ordering::SeqCst);
        Box::pin(std::future::ready(vec![Ok(()); changes.len()]))
    }
}

#[tokio::test]
async fn a_change_that_may_still_be_made_at_the_next_start_is_told_so() {
    let file = Failing::default();
    let database = Arc::new(Database::builder().create_with_backend(file.clone()).unwrap());
    prepare(&database).unwrap();
    let audit = Breaks(Arc::clone(&file.1));
    let change = Audited { event_id: "e".to_owned(), sender: "host".to_owned(), change: set("a", "b", json!(1)) };
    let why = carry_out(&database, &audit, vec![change]).await.unwrap_err();
    assert!(matches!(why, StoreError::Open(_)), "{why}");
    assert!(why.to_string().starts_with("the state was not changed, but may be at the next start: "), "{why}");
}

#[tokio::test]
async fn a_change_that_could_not_be_made_is_not_made_at_the_next_start() {
    let database = Database::builder().create_with_backend(redb::backends::InMemoryBackend::new()).unwrap();
    prepare(&database).unwrap();
    let database = Arc::new(database);
    let change = Audited { event_id: "e".to_owned(), sender: "host".to_owned(), change: set("a", "b", json!(1)) };
    intend(&database, &[change]).unwrap();
    let why = given_up(&database, StoreError::Failed("as it was told".to_owned())).await;
    assert_eq!(why, StoreError::Failed("as it was told".to_owned()));
    assert_eq!(prepare(&database).unwrap(), []);
}
