//! The order of one peer's messages, whatever order the server delivers them in.
//!
//! The server sends again what was not acknowledged, and after a lost connection it may send newer messages before those.
//! So what comes is held until everything before it was handled. A number that does not come is passed over when two
//! things are sure: its sender had it in the stream before the one that is held (the `floor`), and the server has sent
//! everything that it has sent to nobody else but here (`nothing outstanding`): then the stream no longer has it.
//! Where the sender has said nothing newer, that is never sure. Then it is passed over when nothing is on its way and
//! nothing has come for long, or when there is no room for more ([`Waits`]).
//!
//! No input or output here: this decides, `import` does.

use super::position::Position;
use std::collections::BTreeMap;

/// Messages that came and cannot be handled yet, and how far it went.
#[derive(Debug)]
pub(super) struct Order<T> {
    done: Position,
    held: BTreeMap<Position, T>,
    /// By outbox: its sender knows that the stream has all up to this number.
    floors: BTreeMap<u64, u64>,
}

/// What can be done now.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next<T> {
    /// Handle this one, then call [`Order::done`].
    Handle(Position, T),
    /// Nothing is held.
    Empty,
    /// What comes before the first that is held is still on its way from its sender.
    Early,
    /// What comes before the first that is held is lost, unless the server still waits for its acknowledgement.
    Gap,
}

/// How it stands with a message that waits for one before it, of which nobody knows whether it comes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Waits {
    /// Messages that are held.
    pub(super) held: usize,
    /// As many as the server sends without an acknowledgement.
    pub(super) window: usize,
    /// Messages that were sent here and not acknowledged, the held ones among them.
    pub(super) outstanding: usize,
    /// Messages that the stream has and were not sent here yet.
    pub(super) pending: u64,
    /// Whether it waits for longer than its sender's repetition is known again by the server.
    pub(super) long: bool,
}

impl Waits {
    /// Whether what it waits for is given up: it cannot come, or would have come.
    pub(super) fn in_vain(self) -> bool {
        let full = self.held >= self.window;
        let quiet = self.pending == 0 && self.outstanding <= self.held;
        full || (self.long && quiet)
    }
}

/// What becomes of a message that came.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Came<T> {
    /// It is held.
    Held,
    /// It is held, in the place of the same message that came before.
    Instead(T),
    /// It was handled before: it needs to be acknowledged only.
    Duplicate(T),
}

impl<T> Order<T> {
    pub(super) fn new(done: Position) -> Self {
        Self { done, held: BTreeMap::new(), floors: BTreeMap::new() }
    }

    /// Take a message in.
    pub(super) fn put(&mut self, at: Position, floor: u64, message: T) -> Came<T> {
        if at <= self.done {
            return Came::Duplicate(message);
        }
        let known = self.floors.entry(at.epoch).or_default();
        *known = floor.max(*known);
        match self.held.insert(at, message) {
            None => Came::Held,
            Some(earlier) => Came::Instead(earlier),
        }
    }

    /// What can be done now.
    pub(super) fn next(&mut self) -> Next<T> {
        let Some((&first, _)) = self.held.first_key_value() else { return Next::Empty };
        let expected = Position { epoch: self.done.epoch, number: self.done.number + 1 };
        if first == expected {
            return self.held.pop_first().map_or(Next::Empty, |(at, message)| Next::Handle(at, message));
        }
        let floor = self.floors.get(&first.epoch).copied().unwrap_or_default();
        if floor + 1 >= first.number { Next::Gap } else { Next::Early }
    }

    /// This one was handled.
    pub(super) fn done(&mut self, at: Position) {
        debug_assert!(at > self.done, "the order goes forward");
        self.done = at;
        self.floors = self.floors.split_off(&at.epoch);
    }

    /// What stands before the first that is held will never come: go on with that. Gives how many were missed, as far as
    /// that can be known: of an earlier outbox nobody knows how many there were.
    pub(super) fn pass_gap(&mut self) -> u64 {
        let Some((&first, _)) = self.held.first_key_value() else { return 0 };
        let before = if first.epoch == self.done.epoch { self.done.number } else { 0 };
        self.done = Position { epoch: first.epoch, number: first.number - 1 };
        self.done.number - before
    }

    /// The first that is held.
    pub(super) fn first(&self) -> Option<Position> {
        self.held.first_key_value().map(|(&first, _)| first)
    }

    /// How many are held.
    pub(super) fn held(&self) -> usize {
        self.held.len()
    }

    /// Forget what is held: it will come again.
    pub(super) fn forget(&mut self) {
        self.held.clear();
    }

    /// Whether one that is held is of this kind.
    pub(super) fn holds(&self, wanted: impl Fn(&T) -> bool) -> bool {
        self.held.values().any(wanted)
    }

    /// How far it went.
    pub(super) fn position(&self) -> Position {
        self.done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(epoch: u64, number: u64) -> Position {
        Position { epoch, number }
    }

    /// Handle all that can be, and give it.
    fn drain(order: &mut Order<u64>) -> Vec<u64> {
        let mut handled = Vec::new();
        while let Next::Handle(at, number) = order.next() {
            order.done(at);
            handled.push(number);
        }
        handled
    }

    #[test]
    fn what_comes_too_early_waits_for_what_is_missing() {
        let mut order = Order::new(at(1, 2));
        assert_eq!(order.put(at(1, 2), 0, 2), Came::Duplicate(2));
        assert_eq!(order.put(at(1, 5), 2, 5), Came::Held);
        assert_eq!(order.put(at(1, 5), 2, 5), Came::Instead(5));
        assert_eq!(order.next(), Next::Early, "its sender does not know yet that the stream has 3 and 4");
        order.put(at(1, 4), 2, 4);
        order.put(at(1, 3), 2, 3);
        assert_eq!(drain(&mut order), [3, 4, 5]);
        assert_eq!((order.next(), order.position()), (Next::Empty, at(1, 5)));
    }

    #[test]
    fn what_the_stream_lost_is_passed_over_and_counted() {
        let mut order = Order::new(at(1, 2));
        order.put(at(1, 6), 4, 6);
        assert_eq!(order.next(), Next::Early, "5 may come yet");
        order.put(at(1, 7), 5, 7);
        assert_eq!(order.next(), Next::Gap);
        assert_eq!(order.pass_gap(), 3);
        assert_eq!(drain(&mut order), [6, 7]);
    }

    #[test]
    fn what_waits_for_a_number_that_does_not_come_does_not_wait_for_ever() {
        let mut order = Order::new(at(1, 2));
        order.put(at(1, 4), 2, 4);
        assert_eq!((order.next(), order.first()), (Next::Early, Some(at(1, 4))));
        let waits = Waits { held: 1, window: 4, outstanding: 1, pending: 0, long: false };
        assert!(!waits.in_vain(), "its sender may send it again");
        let long = Waits { long: true, ..waits };
        assert!(long.in_vain());
        assert!(!Waits { pending: 1, ..long }.in_vain(), "it may be the next that the stream has");
        assert!(!Waits { outstanding: 2, ..long }.in_vain(), "it may be on its way");
        for number in 5..=7 {
            order.put(at(1, number), 2, number);
        }
        let full = Waits { held: order.held(), outstanding: 4, pending: 9, ..waits };
        assert!(full.in_vain(), "no more is sent before one is acknowledged");
        assert_eq!(order.pass_gap(), 1);
        assert_eq!(drain(&mut order), [4, 5, 6, 7]);
    }

    #[test]
    fn a_new_outbox_of_the_peer_begins_anew() {
        let mut order = Order::new(at(1, 40));
        order.put(at(2, 1), 0, 1);
        assert_eq!(order.next(), Next::Gap, "more of the old one may be outstanding");
        assert_eq!(order.pass_gap(), 0);
        assert_eq!(drain(&mut order), [1]);
        assert_eq!(order.put(at(1, 41), 40, 41), Came::Duplicate(41));
    }

    /// In whatever order, however often: each once, in order, if all of them come. No gap is passed, as if all that is
    /// missing were outstanding.
    #[test]
    fn each_once_and_in_order_however_they_come() {
        for seed in 0..300_u64 {
            let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            let mut below = |most: u64| {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                random % most
            };
            let mut order = Order::new(at(1, 0));
            let mut handled = Vec::new();
            let shuffled: Vec<u64> = (0..below(200)).map(|_| 1 + below(40)).collect();
            for number in shuffled.into_iter().chain(1..=40) {
                // A floor that its sender could have known.
                order.put(at(1, number), (number - 1).saturating_sub(below(8)), number);
                handled.extend(drain(&mut order));
            }
            assert_eq!(handled, (1..=40).collect::<Vec<_>>(), "seed {seed}");
            assert_eq!(order.held(), 0);
        }
    }
}
