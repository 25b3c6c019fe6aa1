//! Asking for sources and their pages, through the one door of the fleet.

use super::record::Record;
use super::slices::{elements, member};
use super::{Origin, Page, Position, Source};
use crate::peers::Peers;
use hyper::Method;
use serde_json::Value;

/// Kernels of governance that are followed.
const KERNELS_MAX: usize = 256;

/// What a source answered.
#[derive(Debug)]
pub(super) struct Fetched {
    /// What is new, or that the history is another one.
    pub(super) page: Page,
    /// Whether there is, or may be, more.
    pub(super) more: bool,
    /// Records that the source says it has.
    pub(super) holds: u64,
}

/// A kernel that was replaced. Its ledger is closed, and is read to its end.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Replaced {
    pub(super) source: Source,
    /// Records of its ledger, if that is known.
    pub(super) records: Option<u64>,
}

impl Replaced {
    /// Why not all of it may be there, if it is so; `next` records were read.
    pub(super) fn behind(&self, next: u64) -> Option<String> {
        let Self { records, .. } = self;
        let held = match records {
            Some(records) if next >= *records => return None,
            Some(records) => format!("with {records} records"),
            None => "with a number of records that is not known".to_owned(),
        };
        Some(format!(
            "its kernel was replaced {held}, of which {next} were read: the others are in its folder and in its archive"
        ))
    }
}

/// The ledgers of governance that there are now, and those of kernels that were replaced.
pub(super) async fn ledgers(peers: &Peers) -> Result<(Vec<Source>, Vec<Replaced>), String> {
    let answer = peers.get("/kernels").await.map_err(|why| why.to_string())?;
    let kernels = answer["kernels"].as_array().ok_or("/kernels: its answer has no list `kernels`")?;
    if kernels.len() > KERNELS_MAX {
        return Err(format!("/kernels: there are {} kernels, at most {KERNELS_MAX} are followed", kernels.len()));
    }
    let named = |kernel: &Value| kernel["kernel_id"].as_str().map(Source::kernel);
    let before = kernels.iter().filter_map(|kernel| kernel["predecessors"].as_array()).flatten();
    let replaced = before.filter_map(|kernel| {
        let source = named(kernel)?;
        Some(Replaced { source, records: kernel["records"].as_u64() })
    });
    Ok((kernels.iter().filter_map(named).collect(), replaced.collect()))
}

/// The records that follow on `position`.
pub(super) async fn page(
    peers: &Peers,
    source: &Source,
    position: &Position,
    records: usize,
) -> Result<Fetched, String> {
    // The last one that is known comes again, so that it is seen whether it is what it was.
    let known = position.hash.as_ref().map(|_| position.next.saturating_sub(1));
    let from = known.unwrap_or(position.next);
    let limit = records + usize::from(known.is_some());
    let fetched = asked(peers, source, position, (from, limit), known).await?;
    if !fetched.more || !fetched.page.records.is_empty() || fetched.page.rewritten.is_some() {
        return Ok(fetched);
    }
    // Where a page has room for the known record only, the next one is asked for without it.
    if known.is_some() {
        let fetched = asked(peers, source, position, (position.next, records), None).await?;
        if !fetched.more || !fetched.page.records.is_empty() {
            return Ok(fetched);
        }
    }
    Err(format!("{}: it has {} records and gives none from {} on", source.name, fetched.holds, position.next))
}

async fn asked(
    peers: &Peers,
    source: &Source,
    position: &Position,
    (from, limit): (u64, usize),
    known: Option<u64>,
) -> Result<Fetched, String> {
    let path = source.page(from, limit);
    let answer = peers.text(Method::GET, &path, None).await.map_err(|why| why.to_string())?;
    let answer = std::str::from_utf8(&answer).map_err(|why| format!("{path}: its answer is no text: {why}"))?;
    read(source, position, known, answer).map_err(|why| format!("{path}: {why}"))
}

/// Whether an answer is of the ledger that was asked for: a kernel that was replaced by another may have had the very id
/// that is the name of both.
fn is_of(source: &Source, answer: &str) -> Result<(), String> {
    let Origin::Kernel(id) = &source.origin else { return Ok(()) };
    let said = member(answer, "kernel_id").and_then(|text| serde_json::from_str::<String>(text).ok());
    match said {
        Some(said) if said == *id => Ok(()),
        Some(said) => Err(format!("kernel {said} answers: kernel {id} was replaced")),
        None => Err("its answer has no text `kernel_id`".to_owned()),
    }
}

/// What an answer says that begins with the record `known`, or after it.
fn read(source: &Source, position: &Position, known: Option<u64>, answer: &str) -> Result<Fetched, String> {
    is_of(source, answer)?;
    let list = if source.origin == Origin::Log { "entries" } else { "records" };
    let texts = member(answer, list).and_then(elements).ok_or_else(|| format!("its answer has no list `{list}`"))?;
    let mut records =
        texts.into_iter().map(|text| Record::read(&source.name, text)).collect::<Result<Vec<Record>, String>>()?;
    let says = |name: &str| member(answer, name).and_then(|text| serde_json::from_str::<Value>(text).ok()?.as_u64());
    let end = records.last().map_or(0, |last| last.index + 1);
    let holds = says("committed").or(says("size")).unwrap_or(end).max(end);
    if let Some(why) = known.and_then(|known| other_history(source, position, known, &records, holds)) {
        let page = Page {
            source: source.name.clone(),
            records: Vec::new(),
            position: Position::default(),
            rewritten: Some(why),
        };
        return Ok(Fetched { page, more: true, holds });
    }
    records.retain(|record| record.index >= position.next);
    if !records.is_sorted_by(|one, other| one.index < other.index) {
        return Err("its records are not in the order of their numbers".to_owned());
    }
    let next = if source.origin == Origin::Log { "next" } else { "next_index" };
    let more = says(next).ok_or_else(|| format!("its answer has no number `{next}`"))? < holds;
    let page = Page {
        source: source.name.clone(),
        position: position_after(source, position, &records),
        records,
        rewritten: None,
    };
    Ok(Fetched { page, more, holds })
}

/// How it is known that the history is not the one that was read before.
fn other_history(source: &Source, position: &Position, known: u64, records: &[Record], holds: u64) -> Option<String> {
    let hash = position.hash.as_ref()?;
    let first = records.first();
    match (first, &source.origin) {
        (Some(first), _) if first.index == known => (first.hash != *hash).then(|| {
            format!(
                "record {known} of {} has the hash {}, it had {hash} when it was read before",
                source.name, first.hash
            )
        }),
        // What is only in an archive cannot be compared; what was never there is no history.
        (Some(_), Origin::Kernel(_)) => None,
        (None, Origin::Kernel(_)) if holds > known => None,
        _ => Some(format!("{} has {holds} records, record {known} was read before and is not there", source.name)),
    }
}

fn position_after(source: &Source, position: &Position, records: &[Record]) -> Position {
    let (Some(first), Some(last)) = (records.first(), records.last()) else { return position.clone() };
    // The numbers of a log's entries may have gaps of their own: not every record of it is an entry.
    let gap = if source.origin == Origin::Log { 0 } else { first.index - position.next };
    Position { next: last.index + 1, hash: Some(last.hash.clone()), missed: position.missed + gap }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(index: u64, note: &str) -> String {
        format!(r#"{{"index":{index},"kind":"event","meta":{{"note":"{note}"}},"ts_ms":1}}"#)
    }

    fn read(source: &Source, position: &Position, answer: &str) -> Result<Fetched, String> {
        super::read(source, position, position.hash.as_ref().map(|_| position.next - 1), answer)
    }

    fn answer(records: &[String], next: u64, committed: u64) -> String {
        format!(r#"{{"kernel_id":"k","records":[{}],"next_index":{next},"committed":{committed}}}"#, records.join(","))
    }

    #[test]
    fn pages_follow_on_what_is_known() {
        let source = Source::kernel("k");
        let begin = Position::default();
        let first = read(&source, &begin, &answer(&[event(0, "a"), event(1, "b")], 2, 3)).unwrap();
        assert_eq!((first.page.records.len(), first.more, first.holds), (2, true, 3));
        let second = read(&source, &first.page.position, &answer(&[event(1, "b"), event(2, "c")], 3, 3)).unwrap();
        assert_eq!((second.page.records.len(), second.page.records[0].index, second.more), (1, 2, false));
        assert_eq!((second.page.position.next, second.page.position.missed), (3, 0));
        let idle = read(&source, &second.page.position, &answer(&[event(2, "c")], 3, 3)).unwrap();
        assert_eq!((idle.page.records.len(), idle.more), (0, false));
        assert_eq!(idle.page.position, second.page.position);
    }

    #[test]
    fn a_rewritten_history_is_seen() {
        let source = Source::kernel("k");
        let known = read(&source, &Position::default(), &answer(&[event(0, "a"), event(1, "b")], 2, 2)).unwrap();
        let position = known.page.position;
        let other = read(&source, &position, &answer(&[event(1, "x")], 2, 2)).unwrap();
        assert!(other.page.rewritten.unwrap().contains("record 1 of governance.k has the hash"));
        assert_eq!(other.page.position, Position::default());
        let shorter = read(&source, &position, &answer(&[], 1, 1)).unwrap();
        assert!(shorter.page.rewritten.unwrap().contains("has 1 records, record 1 was read before"));
        let log = read(&Source::log(), &position, r#"{"entries":[]}"#).unwrap();
        assert!(log.page.rewritten.is_some());
    }

    #[test]
    fn another_kernel_under_the_same_name_is_no_rewritten_history() {
        let source = Source::kernel("k");
        let known = read(&source, &Position::default(), &answer(&[event(0, "a"), event(1, "b")], 2, 2)).unwrap();
        let other = answer(&[event(1, "x")], 2, 2).replace("\"k\"", "\"k-2\"");
        let why = read(&source, &known.page.position, &other).unwrap_err();
        assert!(why.contains("kernel k-2 answers"), "{why}");
        let replaced = Replaced { source, records: Some(3) };
        assert!(replaced.behind(2).unwrap().contains("with 3 records, of which 2 were read"));
        assert_eq!(replaced.behind(3), None);
        assert!(Replaced { records: None, ..replaced }.behind(3).unwrap().contains("not known"));
    }

    #[test]
    fn what_is_only_in_an_archive_is_counted() {
        let source = Source::kernel("k");
        let later = read(&source, &Position::default(), &answer(&[event(5, "f")], 6, 6)).unwrap();
        assert_eq!((later.page.position.next, later.page.position.missed), (6, 5));
    }

    #[test]
    fn answers_that_lead_nowhere_are_refused() {
        let source = Source::kernel("k");
        let begin = Position::default();
        for (wrong, told) in [
            (r#"{"kernel_id":"k"}"#.to_owned(), "no list `records`"),
            (answer(&[], 0, 4).replace("\"k\"", "\"k-2\""), "kernel k-2 answers: kernel k was replaced"),
            (answer(&[], 0, 4).replace("kernel_id", "id"), "no text `kernel_id`"),
            (answer(&[event(1, "b"), event(0, "a")], 2, 2), "not in the order"),
            (r#"{"kernel_id":"k","records":[]}"#.to_owned(), "no number `next_index`"),
        ] {
            let why = read(&source, &begin, &wrong).unwrap_err();
            assert!(why.contains(told), "{wrong}: {why}");
        }
    }
}
