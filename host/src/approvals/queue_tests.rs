//! The queue by itself: who gets an approval, once, and what is given back.

use super::super::book::Cause;
use super::*;

fn queue(limits: ApprovalsFile) -> Queue {
    Queue::new(Arc::new(Desk::new(limits)), "k", Metrics::default())
}

fn bound(actor: &str, request: &str) -> Bound {
    Bound { actor: actor.into(), request_digest: request.into(), policy_set: "set".into(), jurisdiction: "law".into() }
}

fn ask(queue: &Queue, bound: &Bound, caller: &str, now_ms: u64) -> Asked {
    let expiry_ms = queue.limits().expiry_ms;
    queue.ask(bound, caller, now_ms, |number, now_ms| Approval {
        id: format!("apr-{number}"),
        number,
        record: 0,
        request_id: "r".into(),
        caller: caller.into(),
        mode: "submit".into(),
        bound: bound.clone(),
        tool: None,
        intent: "i".into(),
        arguments_digest: String::new(),
        reasons: vec![Cause { policy: "p".into(), reason: "ask".into() }],
        created_ms: now_ms,
        expires_ms: now_ms + expiry_ms,
        word: None,
        used: None,
    })
}

fn at(record: u64) -> Use {
    Use { request_id: "r".into(), caller: "agent".into(), ts_ms: 0, record }
}

/// One that waits; its id.
fn waiting(queue: &Queue, bound: &Bound, now_ms: u64) -> String {
    let asked = ask(queue, bound, "agent", now_ms);
    let Asked::Waits(approval) = &asked else { panic!("{asked:?}") };
    queue.recorded(&asked, at(1));
    approval.id.clone()
}

fn say(queue: &Queue, id: &str, approved: bool, by: &str) {
    let word = Given { approved, by: by.into(), keyed: true, reason: String::new(), ts_ms: 0, record: 2 };
    assert!(queue.said(id, word).is_some());
}

fn state(queue: &Queue, id: &str, now_ms: u64) -> Option<ApprovalState> {
    queue.get(id, now_ms).map(|(_, state)| state)
}

#[test]
fn an_approval_allows_one_request_of_those_that_come_at_once() {
    let queue = queue(ApprovalsFile::default());
    let bound = bound("a", "x");
    let id = waiting(&queue, &bound, 1);
    assert!(matches!(ask(&queue, &bound, "agent", 2), Asked::Waits(found) if found.id == id));
    say(&queue, &id, true, "alice");
    let asked = ask(&queue, &bound, "agent", 3);
    assert!(matches!(&asked, Asked::Allowed(found) if found.id == id));
    // Another one has nothing to use, and waits for a word of its own.
    assert!(matches!(ask(&queue, &bound, "agent", 3), Asked::Waits(found) if found.id != id));
    queue.recorded(&asked, at(5));
    assert_eq!(state(&queue, &id, 4), Some(ApprovalState::Used));
    assert_eq!(queue.get(&id, 4).unwrap().0.used.unwrap().record, 5);
}

#[test]
fn what_certainly_left_no_record_is_given_back_and_what_perhaps_did_is_not() {
    let queue = queue(ApprovalsFile::default());
    let bound = bound("a", "x");
    let id = waiting(&queue, &bound, 1);
    say(&queue, &id, true, "alice");
    let asked = ask(&queue, &bound, "agent", 2);
    queue.not_recorded(&asked, true);
    let asked = ask(&queue, &bound, "agent", 2);
    assert!(matches!(&asked, Asked::Allowed(found) if found.id == id));
    queue.not_recorded(&asked, false);
    assert!(matches!(ask(&queue, &bound, "agent", 2), Asked::Waits(found) if found.id != id));
}

#[test]
fn nobody_sees_what_waits_before_a_record_says_it() {
    let queue = queue(ApprovalsFile::default());
    let (first, second) = (ask(&queue, &bound("a", "x"), "agent", 1), ask(&queue, &bound("a", "x"), "agent", 1));
    let Asked::Waits(approval) = &first else { panic!("{first:?}") };
    assert!(matches!(&second, Asked::Waits(other) if other.id == approval.id), "both ask for the same");
    assert_eq!(state(&queue, &approval.id, 1), None);
    queue.not_recorded(&first, true);
    queue.recorded(&second, at(7));
    assert_eq!(state(&queue, &approval.id, 1), Some(ApprovalState::Waiting));
    let lost = ask(&queue, &bound("a", "y"), "agent", 1);
    queue.not_recorded(&lost, true);
    assert_eq!(queue.page(&Wanted { limit: 10, ..Wanted::default() }, 1).waiting, 1);
}

#[test]
fn what_is_rejected_stays_so_until_it_expires_and_what_expired_does_not_come_back() {
    let queue = queue(ApprovalsFile { expiry_ms: 100, ..ApprovalsFile::default() });
    let (x, y) = (bound("a", "x"), bound("a", "y"));
    let (rejected, approved) = (waiting(&queue, &x, 0), waiting(&queue, &y, 0));
    say(&queue, &rejected, false, "alice");
    say(&queue, &approved, true, "alice");
    assert!(matches!(ask(&queue, &x, "agent", 99), Asked::Rejected(found) if found.id == rejected));
    assert!(matches!(ask(&queue, &x, "agent", 100), Asked::Waits(found) if found.id != rejected));
    assert_eq!(state(&queue, &approved, 100), Some(ApprovalState::Expired));
    assert!(
        matches!(ask(&queue, &y, "agent", 50), Asked::Waits(found) if found.id != approved),
        "the clock was set back"
    );
}

#[test]
fn whoever_approved_it_cannot_use_it_unless_it_may() {
    for (self_approval, caller, allowed) in [(false, "alice", false), (false, "agent", true), (true, "alice", true)] {
        let queue = queue(ApprovalsFile { self_approval, ..ApprovalsFile::default() });
        let bound = bound("a", "x");
        let id = waiting(&queue, &bound, 1);
        say(&queue, &id, true, "alice");
        let asked = ask(&queue, &bound, caller, 2);
        assert_eq!(matches!(asked, Asked::Allowed(_)), allowed, "{asked:?}");
        assert_eq!(matches!(asked, Asked::Own(_)), !allowed, "{asked:?}");
    }
}

#[test]
fn one_actor_does_not_take_all_places_and_all_actors_not_more_than_there_are() {
    let limits = ApprovalsFile { waiting_max: 3, waiting_per_actor_max: 2, expiry_ms: 100, ..ApprovalsFile::default() };
    let queue = queue(limits);
    let _ = (waiting(&queue, &bound("a", "1"), 0), waiting(&queue, &bound("a", "2"), 0));
    assert_eq!(ask(&queue, &bound("a", "3"), "agent", 0), Asked::Full("approvals.waiting_per_actor_max"));
    let _ = waiting(&queue, &bound("b", "1"), 0);
    assert_eq!(ask(&queue, &bound("c", "1"), "agent", 0), Asked::Full("approvals.waiting_max"));
    assert!(matches!(ask(&queue, &bound("a", "1"), "agent", 0), Asked::Waits(_)), "that one waits already");
    assert!(matches!(ask(&queue, &bound("c", "1"), "agent", 100), Asked::Waits(_)), "the others expired");
}

#[test]
fn pages_go_on_where_the_last_one_ended() {
    let queue = queue(ApprovalsFile::default());
    for n in 0..5 {
        let _ = waiting(&queue, &bound(if n % 2 == 0 { "even" } else { "odd" }, &n.to_string()), 1);
    }
    let page = |wanted: Wanted| {
        let Page { approvals, more, waiting } = queue.page(&wanted, 2);
        (approvals.into_iter().map(|(found, _)| found.number).collect::<Vec<_>>(), more, waiting)
    };
    let all = |limit, after| Wanted { after, limit, ..Wanted::default() };
    assert_eq!(page(all(3, None)), (vec![0, 1, 2], true, 5));
    assert_eq!(page(all(3, Some(2))), (vec![3, 4], false, 5));
    assert_eq!(page(Wanted { actor: Some("odd".into()), ..all(9, None) }), (vec![1, 3], false, 2));
    assert_eq!(page(Wanted { state: Some(ApprovalState::Used), ..all(9, None) }), (vec![], false, 5));
}

#[tokio::test]
async fn whoever_waits_hears_the_word() {
    let queue = Arc::new(queue(ApprovalsFile { waiters_max: 1, ..ApprovalsFile::default() }));
    let id = waiting(&queue, &bound("a", "x"), 1);
    let (waits, waited_for) = (Arc::clone(&queue), id.clone());
    let waiting = tokio::spawn(async move { waits.wait(&waited_for, Duration::from_mins(10), || 2).await });
    while queue.waiters.available_permits() > 0 {
        tokio::task::yield_now().await;
    }
    // There is no second place: this one is answered at once.
    queue.wait(&id, Duration::from_mins(10), || 2).await;
    say(&queue, &id, true, "alice");
    waiting.await.unwrap();
    queue.end_waits();
    assert_eq!(state(&queue, &id, 2), Some(ApprovalState::Approved));
}
