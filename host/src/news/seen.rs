//! Which messages a handler has had: delivery is at least once, and acting must be once.

use std::collections::{HashMap, VecDeque};

/// Ids that came before, the latest `max` of them.
#[derive(Debug)]
pub struct Seen {
    max: usize,
    order: VecDeque<String>,
    digests: HashMap<String, [u8; 32]>,
}

/// What is known of an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Noted {
    /// It came for the first time, or so long ago that it was forgotten.
    New,
    /// It came before, with the same content.
    Again,
    /// It came before, with another content.
    Other,
}

impl Seen {
    /// Remember so many.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self { max: max.max(1), order: VecDeque::new(), digests: HashMap::new() }
    }

    /// Take note of a message: its id, and the digest of what it says.
    pub fn note(&mut self, id: &str, digest: [u8; 32]) -> Noted {
        match self.digests.get(id) {
            Some(known) if *known == digest => return Noted::Again,
            Some(_) => return Noted::Other,
            None => {}
        }
        if self.order.len() == self.max {
            let oldest = self.order.pop_front();
            oldest.and_then(|oldest| self.digests.remove(&oldest));
        }
        self.order.push_back(id.to_owned());
        self.digests.insert(id.to_owned(), digest);
        Noted::New
    }

    /// Forget an id again: what it asked for was not taken on, and may be asked for again.
    pub fn forget(&mut self, id: &str) {
        if self.digests.remove(id).is_some() {
            self.order.retain(|known| known != id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_before_is_known_until_there_is_no_room() {
        let mut seen = Seen::new(2);
        assert_eq!(seen.note("a", [1; 32]), Noted::New);
        assert_eq!(seen.note("a", [1; 32]), Noted::Again);
        assert_eq!(seen.note("a", [2; 32]), Noted::Other);
        assert_eq!(seen.note("b", [1; 32]), Noted::New);
        assert_eq!(seen.note("c", [1; 32]), Noted::New);
        assert_eq!(seen.note("b", [1; 32]), Noted::Again);
        assert_eq!(seen.note("a", [1; 32]), Noted::New, "it was forgotten");
        seen.forget("a");
        assert_eq!(seen.note("a", [9; 32]), Noted::New);
        assert_eq!(seen.order.len(), seen.digests.len());
    }
}
