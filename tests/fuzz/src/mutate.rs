//! Where inputs come from: valid ones, changed a little, in the ways in which files and messages go wrong.

use gavel_tests::Random;

/// No input grows beyond this.
const BYTES_MAX: usize = 64 * 1024;
/// Changes to one input.
const CHANGES_MAX: u64 = 4;
/// Numbers at the edges of what they may be, as text.
const EDGES: [&str; 12] = [
    "0",
    "1",
    "-1",
    "127",
    "255",
    "65535",
    "65536",
    "4294967295",
    "9007199254740993",
    "18446744073709551615",
    "18446744073709551616",
    "1e400",
];

/// Makes inputs from seeds, the same ones from the same randomness.
#[derive(Debug)]
pub struct Mutator {
    seeds: Vec<Vec<u8>>,
    words: &'static [&'static str],
    random: Random,
    input: Vec<u8>,
}

impl Mutator {
    /// From these seeds.
    #[must_use]
    pub fn new(seeds: Vec<Vec<u8>>, words: &'static [&'static str], random: Random) -> Self {
        Self { seeds, words, random, input: Vec::new() }
    }

    /// The next input.
    pub fn input(&mut self) -> &[u8] {
        let seed = self.below(self.seeds.len());
        self.input.clone_from(&self.seeds[seed]);
        for _ in 0..=self.random.below(CHANGES_MAX) {
            self.change();
            self.input.truncate(BYTES_MAX);
        }
        &self.input
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.random.below(bound.max(1) as u64)).unwrap_or(0)
    }

    /// A part of the input: where it begins, and its length.
    fn part(&mut self) -> (usize, usize) {
        let at = self.below(self.input.len());
        let longest = (self.input.len() - at).min(if self.random.below(4) == 0 { usize::MAX } else { 40 });
        (at, self.below(longest + 1))
    }

    fn change(&mut self) {
        if self.input.is_empty() {
            self.insert_word();
            return;
        }
        match self.random.below(12) {
            0 => self.flip_a_bit(),
            1 => self.replace_a_byte(),
            2 => self.write_a_binary_edge(),
            3 => {
                let at = self.below(self.input.len());
                self.input.truncate(at);
            }
            4 => {
                let (at, length) = self.part();
                self.input.drain(at..at + length);
            }
            5 => {
                let (at, length) = self.part();
                let part = self.input[at..at + length].to_vec();
                let times = 1 + self.below(8);
                self.insert(at, &part.repeat(times));
            }
            6 => self.splice(),
            7 => {
                let (at, length) = self.part();
                let byte = if self.random.below(2) == 0 { 0 } else { self.byte() };
                self.input[at..at + length].fill(byte);
            }
            8 => self.swap_parts(),
            9 => self.replace_a_number(),
            10 => self.replace_a_line(),
            _ => self.insert_word(),
        }
    }

    fn byte(&mut self) -> u8 {
        self.random.bits().to_le_bytes()[0]
    }

    fn flip_a_bit(&mut self) {
        let at = self.below(self.input.len());
        self.input[at] ^= 1 << self.random.below(8);
    }

    fn replace_a_byte(&mut self) {
        let at = self.below(self.input.len());
        self.input[at] = self.byte();
    }

    /// Lengths, counts and offsets are little-endian here, and hash counts small.
    fn write_a_binary_edge(&mut self) {
        let edges = [0, 1, 0x7f, 0xff, 0xffff, 0x0001_0000, u64::from(u32::MAX), u64::MAX, i64::MAX.unsigned_abs()];
        let edge = edges[self.below(edges.len())].to_le_bytes();
        let bytes = [1, 2, 4, 8][self.below(4)];
        let at = self.below(self.input.len());
        let end = (at + bytes).min(self.input.len());
        self.input[at..end].copy_from_slice(&edge[..end - at]);
    }

    fn insert(&mut self, at: usize, part: &[u8]) {
        self.input.splice(at..at, part.iter().copied());
    }

    /// A part of another seed, in the place of a part of this.
    fn splice(&mut self) {
        let other = self.below(self.seeds.len());
        let other = self.seeds[other].clone();
        let from = self.below(other.len());
        let length = self.below((other.len() - from).min(400) + 1);
        let (at, replaced) = self.part();
        self.input.splice(at..at + replaced, other[from..from + length].iter().copied());
    }

    fn swap_parts(&mut self) {
        let (at, length) = self.part();
        let part: Vec<u8> = self.input.drain(at..at + length).collect();
        let to = self.below(self.input.len() + 1);
        self.insert(to, &part);
    }

    /// A run of digits becomes a number at the edge.
    fn replace_a_number(&mut self) {
        let from = self.below(self.input.len());
        let Some(start) = (from..self.input.len()).find(|&at| self.input[at].is_ascii_digit()) else {
            return self.insert_word();
        };
        let digits = self.input[start..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        let edge = EDGES[self.below(EDGES.len())];
        self.input.splice(start..start + digits, edge.bytes());
    }

    /// A line is dropped, doubled or moved: texts are made of lines.
    fn replace_a_line(&mut self) {
        let mut lines: Vec<Vec<u8>> = self.input.split_inclusive(|&byte| byte == b'\n').map(<[u8]>::to_vec).collect();
        let line = lines.remove(self.below(lines.len()));
        for _ in 0..self.random.below(3) {
            let to = self.below(lines.len() + 1);
            lines.insert(to, line.clone());
        }
        self.input = lines.concat();
    }

    fn insert_word(&mut self) {
        let at = self.below(self.input.len() + 1);
        let word = match self.words {
            [] => "\u{1F600}",
            words => words[self.below(words.len())],
        };
        self.insert(at, word.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_randomness_gives_the_same_inputs_and_not_all_alike() {
        let inputs = || {
            let seeds = vec![b"one 1\ntwo 2\n".to_vec(), Vec::new()];
            let mut mutator = Mutator::new(seeds, &["word"], Random::of(7));
            (0..500).map(|_| mutator.input().to_vec()).collect::<Vec<_>>()
        };
        assert_eq!(inputs(), inputs());
        let different: std::collections::BTreeSet<Vec<u8>> = inputs().into_iter().collect();
        assert!(different.len() > 250, "{}", different.len());
    }
}
