//! The ledger from outside: what it does (`log`), what it makes of damage (`damage`) and of crashes
//! (`crash`), and that old ledgers open for ever (`golden`). What a single module does alone is
//! tested beside it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed; its helpers are part of it")]

mod crash;
mod damage;
mod golden;
mod log;
mod sealed;
mod segments;
mod sim;
mod tampering;

use gavel_ledger::{
    AppendError, Committed, Draft, Error, Identity, Image, Kind, Ledger, MemoryStorage, Options, RecordView, Recovered,
};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

type Fate = Result<Committed, AppendError>;

fn options() -> Options {
    Options::new(Identity { kernel_id: "k-1".into(), variant: "strict".into() }, 1_700_000_000_000)
}

fn open(storage: &MemoryStorage) -> Result<(Ledger, Recovered), Error> {
    Ledger::open_storage(Box::new(storage.clone()), &options())
}

fn open_image(log: &[u8], mark: &[u8]) -> Result<(Ledger, Recovered), Error> {
    open(&MemoryStorage::from_image(Image { log: log.to_vec(), mark: mark.to_vec(), ..Image::default() }))
}

fn draft(kind: Kind, meta: &str, entry: Option<&str>) -> Draft {
    Draft { kind, ts_ms: 1_700_000_000_001, meta: meta.into(), entry: entry.map(str::to_owned), closes: None }
}

/// A decision that closes its request.
fn denial(number: u64) -> Draft {
    draft(
        Kind::Decision,
        &format!(r#"{{"number":{number}}}"#),
        Some(&format!(r#"{{"decision":"DENY","request_id":"r-{number}"}}"#)),
    )
}

/// A decision that waits for its outcome.
fn intention(number: u64) -> Draft {
    draft(Kind::Decision, &format!(r#"{{"number":{number}}}"#), None)
}

fn outcome(decision_index: u64) -> Draft {
    let entry = Some(r#"{"decision":"ALLOW"}"#);
    Draft {
        closes: Some(decision_index),
        ..draft(Kind::Outcome, &format!(r#"{{"decision_index":{decision_index}}}"#), entry)
    }
}

fn halt() -> Draft {
    draft(Kind::Halt, "{}", Some(r#"{"decision":"HALT"}"#))
}

fn records(ledger: &Ledger) -> Vec<RecordView> {
    ledger.records(&ledger.snapshot()).collect::<Result<_, _>>().unwrap()
}

/// The records that [`hold_the_writer`] appends.
const GATES: u64 = 2;

/// Occupies both threads of the writer until what it returns is dropped: one in a callback, the
/// other, its batch committed, behind it.
fn hold_the_writer(ledger: &Ledger) -> SyncSender<()> {
    let (gate, opened) = sync_channel::<()>(0);
    let (entered, at_the_gate) = sync_channel(1);
    let records = ledger.snapshot().records;
    ledger.append(draft(Kind::Event, r#"{"gate":1}"#, None), move |_| {
        entered.send(()).unwrap();
        let _ = opened.recv();
    });
    at_the_gate.recv().unwrap();
    ledger.append(draft(Kind::Event, r#"{"gate":2}"#, None), |_| {});
    while ledger.snapshot().records < records + GATES {
        std::thread::yield_now();
    }
    gate
}

/// Appends all drafts as one batch.
fn append_as_one_batch(ledger: &Ledger, drafts: Vec<Draft>) -> Vec<Fate> {
    let gate = hold_the_writer(ledger);
    let fates: Vec<Receiver<Fate>> = drafts.into_iter().map(|draft| append(ledger, draft)).collect();
    drop(gate);
    fates.into_iter().map(|fate| fate.recv().unwrap()).collect()
}

fn append(ledger: &Ledger, draft: Draft) -> Receiver<Fate> {
    let (sender, receiver) = sync_channel(1);
    ledger.append(draft, move |fate| sender.send(fate).unwrap());
    receiver
}
