//! Regular expressions of a subset that is matched in linear time: all states at once, never back.
//!
//! | written | matches |
//! |---|---|
//! | `.` | any character but a line break |
//! | `[a-z_]` `[^0-9]` | one of, or none of |
//! | `\d` `\w` `\s` and `\D` `\W` `\S` | ASCII digits, ASCII word characters, white space, and what they are not |
//! | `^` `$` | the beginning and the end of the text |
//! | `x?` `x*` `x+` `x{2}` `x{2,}` `x{2,5}` | repetition; a `?` after it changes nothing here |
//! | `(x)` `(?:x)` `x\|y` | groups, alternatives |
//! | `\.` `\n` `\t` `\r` `\f` `\v` `\x41` `\u0041` | characters |
//!
//! As in JSON Schema a pattern is searched for, not anchored. What is beyond the subset (look-around, references back,
//! `\b`, `\p{…}`) is an error when the pattern is read, never another meaning.

mod parse;

/// The most states that a pattern may have; `{m,n}` multiplies them.
const STATES_MAX: usize = 2_000;

/// A pattern, read.
#[derive(Debug)]
pub(crate) struct Pattern {
    program: Vec<Step>,
}

#[derive(Debug, Clone)]
enum Step {
    Character(char),
    Set(Set),
    Begin,
    End,
    /// Go on at both.
    Fork(usize, usize),
    Jump(usize),
    Match,
}

/// A set of characters, as ranges.
#[derive(Debug, Clone, Default)]
struct Set {
    ranges: Vec<(char, char)>,
    is_negated: bool,
}

impl Set {
    fn has(&self, character: char) -> bool {
        self.ranges.iter().any(|(first, last)| (*first..=*last).contains(&character)) != self.is_negated
    }
}

impl Pattern {
    /// Read a pattern.
    ///
    /// # Errors
    ///
    /// What it is that cannot be read, as the end of a sentence about the pattern.
    pub(crate) fn new(text: &str) -> Result<Self, String> {
        parse::program(text).map(|program| Self { program })
    }

    /// Is it anywhere in the text?
    pub(crate) fn is_in(&self, text: &str) -> bool {
        let size = self.program.len();
        let (mut now, mut next) = (States::new(size), States::new(size));
        let mut characters = text.chars();
        let mut at_begin = true;
        loop {
            let character = characters.next();
            // It may begin at every place.
            if self.enter(0, &mut now, at_begin, character.is_none()) {
                return true;
            }
            let Some(character) = character else { return false };
            let at_end = characters.as_str().is_empty();
            next.clear();
            for index in 0..now.list.len() {
                let state = now.list[index];
                let is_on = match &self.program[state] {
                    Step::Character(wanted) => *wanted == character,
                    Step::Set(set) => set.has(character),
                    _ => false,
                };
                if is_on && self.enter(state + 1, &mut next, false, at_end) {
                    return true;
                }
            }
            core::mem::swap(&mut now, &mut next);
            at_begin = false;
        }
    }

    /// Add a state and all that follow from it without a character. True when one of them is the match.
    fn enter(&self, state: usize, states: &mut States, at_begin: bool, at_end: bool) -> bool {
        states.pending.push(state);
        while let Some(state) = states.pending.pop() {
            if !states.add(state) {
                continue;
            }
            match &self.program[state] {
                Step::Match => return true,
                Step::Jump(to) => states.pending.push(*to),
                Step::Fork(one, other) => states.pending.extend([*one, *other]),
                Step::Begin if at_begin => states.pending.push(state + 1),
                Step::End if at_end => states.pending.push(state + 1),
                _ => {}
            }
        }
        false
    }
}

/// A set of states that is cleared in no time.
struct States {
    list: Vec<usize>,
    place: Vec<usize>,
    pending: Vec<usize>,
}

impl States {
    fn new(size: usize) -> Self {
        Self { list: Vec::with_capacity(size), place: vec![0; size], pending: Vec::new() }
    }

    fn clear(&mut self) {
        self.list.clear();
    }

    /// False if it is there already.
    fn add(&mut self, state: usize) -> bool {
        let is_there = self.list.get(self.place[state]) == Some(&state);
        if !is_there {
            self.place[state] = self.list.len();
            self.list.push(state);
        }
        !is_there
    }
}

#[cfg(test)]
mod tests;
