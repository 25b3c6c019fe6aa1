//! From the text of a pattern to its states, by one pass that writes them as it reads.

use super::{STATES_MAX, Set, Step};

/// Groups in groups: the reader calls itself for each.
const GROUPS_DEPTH_MAX: usize = 16;
/// Larger counts are longer than any text that is worth a pattern.
const REPEAT_MAX: usize = 1_000;

pub(super) fn program(text: &str) -> Result<Vec<Step>, String> {
    let mut parser = Parser { rest: text, steps: Vec::new(), depth: 0 };
    parser.alternatives()?;
    if !parser.rest.is_empty() {
        return Err("has a `)` without its `(`".into());
    }
    parser.push(Step::Match)?;
    Ok(parser.steps)
}

struct Parser<'t> {
    rest: &'t str,
    steps: Vec<Step>,
    depth: usize,
}

impl Parser<'_> {
    fn alternatives(&mut self) -> Result<(), String> {
        let mut jumps = Vec::new();
        loop {
            let start = self.steps.len();
            self.sequence()?;
            if !self.take('|') {
                break;
            }
            // What was read is one side of a fork, and jumps over the other ones.
            self.insert_fork(start)?;
            jumps.push(self.steps.len());
            self.push(Step::Jump(0))?;
        }
        let end = self.steps.len();
        for jump in jumps {
            self.steps[jump] = Step::Jump(end);
        }
        Ok(())
    }

    fn sequence(&mut self) -> Result<(), String> {
        while !self.rest.is_empty() && !self.rest.starts_with(['|', ')']) {
            let start = self.steps.len();
            let is_repeatable = self.item()?;
            if let Some((least, most)) = self.repetition()? {
                if !is_repeatable {
                    return Err("repeats `^` or `$`".into());
                }
                self.repeat(start, least, most)?;
            }
        }
        Ok(())
    }

    /// One character, set or group. False for what stands between characters.
    fn item(&mut self) -> Result<bool, String> {
        let Some(character) = self.next() else { return Ok(false) };
        let step = match character {
            '^' | '$' => {
                self.push(if character == '^' { Step::Begin } else { Step::End })?;
                return Ok(false);
            }
            '(' => {
                self.group()?;
                return Ok(true);
            }
            '.' => {
                Step::Set(Set { ranges: vec![('\n', '\n'), ('\r', '\r'), ('\u{2028}', '\u{2029}')], is_negated: true })
            }
            '[' => Step::Set(self.set()?),
            '\\' => match self.escape()? {
                Escape::Character(character) => Step::Character(character),
                Escape::Set(set) => Step::Set(set),
            },
            '*' | '+' | '?' => return Err(format!("has `{character}` after nothing that it could repeat")),
            ']' | '{' | '}' => {
                return Err(format!("has a bare `{character}`; write `\\{character}` for the character"));
            }
            other => Step::Character(other),
        };
        self.push(step)?;
        Ok(true)
    }

    fn group(&mut self) -> Result<(), String> {
        if self.take('?') && !self.take(':') {
            return Err("has a group `(?…)` other than `(?:…)`: look-around and names are not supported".into());
        }
        if self.depth == GROUPS_DEPTH_MAX {
            return Err(format!("has groups nested deeper than {GROUPS_DEPTH_MAX}"));
        }
        self.depth += 1;
        self.alternatives()?;
        self.depth -= 1;
        if self.take(')') { Ok(()) } else { Err("has a `(` without its `)`".into()) }
    }

    /// `?` `*` `+` `{m}` `{m,}` `{m,n}`, if one stands here.
    fn repetition(&mut self) -> Result<Option<(usize, Option<usize>)>, String> {
        let bounds = if self.take('?') {
            (0, Some(1))
        } else if self.take('*') {
            (0, None)
        } else if self.take('+') {
            (1, None)
        } else if self.take('{') {
            self.counts()?
        } else {
            return Ok(None);
        };
        // Lazy: another order of looking, the same texts.
        self.take('?');
        if self.rest.starts_with(['?', '*', '+', '{']) {
            return Err("repeats a repetition; put the inner one in a group".into());
        }
        Ok(Some(bounds))
    }

    fn counts(&mut self) -> Result<(usize, Option<usize>), String> {
        let wrong =
            || format!("has `{{` without counts up to {REPEAT_MAX} as in `{{2,5}}`; write `\\{{` for the character");
        let (inside, rest) = self.rest.split_once('}').ok_or_else(wrong)?;
        let count = |text: &str| {
            let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            is_number.then(|| text.parse().ok()).flatten().filter(|count| *count <= REPEAT_MAX).ok_or_else(wrong)
        };
        let bounds = match inside.split_once(',') {
            None => (count(inside)?, Some(count(inside)?)),
            Some((least, "")) => (count(least)?, None),
            Some((least, most)) => (count(least)?, Some(count(most)?)),
        };
        if bounds.1.is_some_and(|most| most < bounds.0) {
            return Err(format!("has `{{{inside}}}`, whose second count is the smaller"));
        }
        self.rest = rest;
        Ok(bounds)
    }

    /// Repeat the steps from `start` on.
    fn repeat(&mut self, start: usize, least: usize, most: Option<usize>) -> Result<(), String> {
        let once = self.steps.split_off(start);
        for _ in 0..least {
            self.copy(&once, start)?;
        }
        match most {
            None => {
                let fork = self.steps.len();
                self.push(Step::Fork(fork + 1, fork + once.len() + 2))?;
                self.copy(&once, start)?;
                self.push(Step::Jump(fork))?;
            }
            Some(most) => {
                let end = self.steps.len() + (most - least) * (once.len() + 1);
                for _ in least..most {
                    let fork = self.steps.len();
                    self.push(Step::Fork(fork + 1, end))?;
                    self.copy(&once, start)?;
                }
            }
        }
        Ok(())
    }

    /// Write steps again that were written for another place.
    fn copy(&mut self, steps: &[Step], written_at: usize) -> Result<(), String> {
        let offset = self.steps.len();
        let moved = |to: &usize| to - written_at + offset;
        for step in steps {
            self.push(match step {
                Step::Jump(to) => Step::Jump(moved(to)),
                Step::Fork(one, other) => Step::Fork(moved(one), moved(other)),
                other => other.clone(),
            })?;
        }
        Ok(())
    }

    /// Put a fork before the steps from `at` on: to them, or behind them and the jump that follows.
    fn insert_fork(&mut self, at: usize) -> Result<(), String> {
        let moved = |to: &mut usize| *to += usize::from(*to >= at);
        for step in &mut self.steps[at..] {
            match step {
                Step::Jump(to) => moved(to),
                Step::Fork(one, other) => {
                    moved(one);
                    moved(other);
                }
                _ => {}
            }
        }
        let behind = self.steps.len() + 2;
        self.push(Step::Match)?; // only to count it
        self.steps.pop();
        self.steps.insert(at, Step::Fork(at + 1, behind));
        Ok(())
    }

    /// What is between `[` and `]`.
    fn set(&mut self) -> Result<Set, String> {
        let mut set = Set { ranges: Vec::new(), is_negated: self.take('^') };
        loop {
            let first = match self.next() {
                None => return Err("has a `[` without its `]`".into()),
                Some(']') => return Ok(set),
                Some('\\') => self.escape()?,
                Some('[') => return Err("has a bare `[` in a set; write `\\[` for the character".into()),
                Some(other) => Escape::Character(other),
            };
            let first = match first {
                Escape::Set(inner) if inner.is_negated => {
                    return Err("has `\\D`, `\\W` or `\\S` in a set, which is not supported".into());
                }
                Escape::Set(mut inner) => {
                    set.ranges.append(&mut inner.ranges);
                    continue;
                }
                Escape::Character(first) => first,
            };
            let is_range = self.rest.starts_with('-') && !self.rest.starts_with("-]");
            let last = if is_range { self.range_end()? } else { first };
            if last < first {
                return Err(format!("has the range `{first}-{last}`, whose end comes before its beginning"));
            }
            set.ranges.push((first, last));
        }
    }

    fn range_end(&mut self) -> Result<char, String> {
        self.take('-');
        match self.next() {
            Some('\\') => match self.escape()? {
                Escape::Character(last) => Ok(last),
                Escape::Set(_) => Err("has a range that ends with a set".into()),
            },
            Some(last) => Ok(last),
            None => Err("has a `[` without its `]`".into()),
        }
    }

    /// What stands after a backslash.
    fn escape(&mut self) -> Result<Escape, String> {
        let Some(character) = self.next() else { return Err("ends with a backslash".into()) };
        let set = |ranges: &[(char, char)]| {
            Escape::Set(Set { ranges: ranges.to_vec(), is_negated: character.is_ascii_uppercase() })
        };
        Ok(match character {
            'd' | 'D' => set(&[('0', '9')]),
            'w' | 'W' => set(&[('a', 'z'), ('A', 'Z'), ('0', '9'), ('_', '_')]),
            's' | 'S' => set(&WHITE_SPACE),
            'n' => Escape::Character('\n'),
            't' => Escape::Character('\t'),
            'r' => Escape::Character('\r'),
            'f' => Escape::Character('\u{c}'),
            'v' => Escape::Character('\u{b}'),
            'x' => Escape::Character(self.hexadecimal(2)?),
            'u' => Escape::Character(self.hexadecimal(4)?),
            other if other.is_ascii_punctuation() => Escape::Character(other),
            other => return Err(format!("has `\\{other}`, which is not supported")),
        })
    }

    fn hexadecimal(&mut self, digits: usize) -> Result<char, String> {
        let code = self.rest.get(..digits).filter(|code| code.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let character = code.and_then(|code| u32::from_str_radix(code, 16).ok()).and_then(char::from_u32);
        let character =
            character.ok_or_else(|| format!("has an escape without {digits} hexadecimal digits of a character"))?;
        self.rest = &self.rest[digits..];
        Ok(character)
    }

    fn push(&mut self, step: Step) -> Result<(), String> {
        if self.steps.len() == STATES_MAX {
            return Err(format!("needs more than {STATES_MAX} states; make it or its counts smaller"));
        }
        self.steps.push(step);
        Ok(())
    }

    fn next(&mut self) -> Option<char> {
        let mut characters = self.rest.chars();
        let next = characters.next();
        self.rest = characters.as_str();
        next
    }

    fn take(&mut self, character: char) -> bool {
        let rest = self.rest.strip_prefix(character);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }
}

enum Escape {
    Character(char),
    Set(Set),
}

/// `\s` of ECMAScript.
const WHITE_SPACE: [(char, char); 10] = [
    ('\t', '\r'),
    (' ', ' '),
    ('\u{a0}', '\u{a0}'),
    ('\u{1680}', '\u{1680}'),
    ('\u{2000}', '\u{200a}'),
    ('\u{2028}', '\u{2029}'),
    ('\u{202f}', '\u{202f}'),
    ('\u{205f}', '\u{205f}'),
    ('\u{3000}', '\u{3000}'),
    ('\u{feff}', '\u{feff}'),
];
