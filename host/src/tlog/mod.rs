//! The ledger as a C2SP tlog: what a client of <https://c2sp.org/tlog-tiles> fetches.
//!
//! Nothing of it is stored: a tile is read from the nodes of the ledger's tree when it is asked for, and is the
//! same for ever, because a complete subtree never changes. [`log`] is where the ledger is read.

pub(crate) mod log;

use gavel_proof::Hash;
use std::str::FromStr;

/// Hashes of a full tile, entries of a full bundle.
pub const TILE_WIDTH: u64 = 256;
/// Levels of the tree that one level of tiles spans.
const TILE_HEIGHT: u32 = 8;
/// The highest level of tiles that a tree of 64 bits has.
const LEVEL_MAX: u32 = 7;

/// The second half of a tile's path, `<N>[.p/<W>]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TilePath {
    /// Which tile of its level.
    pub index: u64,
    /// How many of its hashes or entries: 256, or fewer of a partial one.
    pub width: u64,
}

impl FromStr for TilePath {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (index, width) = match text.split_once(".p/") {
            None => (text, TILE_WIDTH),
            Some((index, width)) => (index, partial_width(width).ok_or("the width of a partial tile is 1 to 255")?),
        };
        let index = tile_index(index).ok_or("a tile is numbered as in x001/x234/067")?;
        Ok(Self { index, width })
    }
}

fn partial_width(text: &str) -> Option<u64> {
    let plain = !text.starts_with('0') && text.len() <= 3 && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|width| plain && (1..TILE_WIDTH).contains(width))
}

/// Three digits for each element, all but the last after an `x`, and no more elements than needed.
fn tile_index(text: &str) -> Option<u64> {
    let elements: Vec<&str> = text.split('/').collect();
    let (last, rest) = elements.split_last()?;
    if rest.first() == Some(&"x000") {
        return None;
    }
    let digits = rest.iter().map(|element| element.strip_prefix('x')).chain([Some(*last)]);
    digits.into_iter().try_fold(0_u64, |index, digits| {
        let digits = digits.filter(|digits| digits.len() == 3 && digits.bytes().all(|byte| byte.is_ascii_digit()))?;
        index.checked_mul(1_000)?.checked_add(digits.parse().ok()?)
    })
}

impl TilePath {
    /// The leaves below the tile at this level, if a tree of `size` leaves has all of them.
    fn leaves(self, level: u32, size: u64) -> Option<std::ops::Range<u64>> {
        let bits = TILE_HEIGHT * level;
        let start = self.index.checked_mul(TILE_WIDTH)?;
        let end = start.checked_add(self.width)?;
        let in_leaves = |nodes: u64| nodes.checked_mul(1_u64.checked_shl(bits)?);
        let (start, end) = (in_leaves(start)?, in_leaves(end)?);
        (end <= size).then_some(start..end)
    }

    /// The entries of a bundle, if a tree of `size` leaves has all of them.
    #[must_use]
    pub fn entries(self, size: u64) -> Option<std::ops::Range<u64>> {
        self.leaves(0, size)
    }
}

/// The level of a tile as a path names it.
#[must_use]
pub fn tile_level(text: &str) -> Option<u32> {
    let plain = text == "0" || !text.starts_with('0') && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|level| plain && *level <= 63)
}

/// The bytes of a tile, out of the nodes of the tree by height and number; `None` if a tree of `size` leaves does not
/// have all of it.
///
/// # Errors
/// When a node cannot be read.
pub fn tile<E>(
    size: u64,
    level: u32,
    path: TilePath,
    node: impl Fn(u32, u64) -> Result<Hash, E>,
) -> Result<Option<Vec<u8>>, E> {
    if level > LEVEL_MAX || path.leaves(level, size).is_none() {
        return Ok(None);
    }
    let first = path.index * TILE_WIDTH;
    let hashes = (first..first + path.width).map(|index| node(TILE_HEIGHT * level, index));
    Ok(Some(hashes.collect::<Result<Vec<_>, _>>()?.concat()))
}

/// Append an entry to a bundle: its length in two bytes, big-endian, then itself.
pub fn push_entry(bundle: &mut Vec<u8>, entry: &[u8]) {
    // A record has at most 65,535 bytes, for this very reason.
    let length = u16::try_from(entry.len()).unwrap_or_else(|_| unreachable!("a record of {} bytes", entry.len()));
    bundle.extend_from_slice(&length.to_be_bytes());
    bundle.extend_from_slice(entry);
}

#[cfg(test)]
mod tests {
    use super::*;
    use gavel_proof::tree::{Frontier, leaf_hash};
    use std::convert::Infallible;

    #[test]
    fn paths_are_those_of_the_specification_and_no_others() {
        let path = |index, width| Ok(TilePath { index, width });
        assert_eq!("x001/x234/067".parse(), path(1_234_067, 256));
        assert_eq!("000".parse(), path(0, 256));
        assert_eq!("x001/000".parse(), path(1_000, 256));
        assert_eq!("067.p/1".parse(), path(67, 1));
        assert_eq!("x001/067.p/255".parse(), path(1_067, 255));
        assert_eq!("x018/x446/x744/x073/x709/x551/615".parse(), path(u64::MAX, 256));
        for wrong in [
            "",
            "0",
            "67",
            "0067",
            "x067",
            "x000/001",
            "001/002",
            "x001/x002",
            "x1/002",
            "x001//002",
            "x001/002/",
            "-01",
            "+01",
            "000.p",
            "000.p/",
            "000.p/0",
            "000.p/01",
            "000.p/256",
            "000.p/1/2",
            "000.p/+1",
            "x018/x446/x744/x073/x709/x551/616",
            "x999/x999/x999/x999/x999/x999/x999/999",
        ] {
            assert!(wrong.parse::<TilePath>().is_err(), "{wrong}");
        }
        assert_eq!((tile_level("0"), tile_level("63")), (Some(0), Some(63)));
        for wrong in ["", "64", "00", "01", "-1", "+1", "x"] {
            assert_eq!(tile_level(wrong), None, "{wrong}");
        }
    }

    /// A tree whose leaves are the numbers from 0 on; every node by its definition.
    #[allow(clippy::unnecessary_wraps, reason = "what reads tiles asks for nodes that may not be there")]
    fn node(level: u32, index: u64) -> Result<Hash, Infallible> {
        let mut frontier = Frontier::new();
        (index << level..(index + 1) << level).for_each(|leaf| frontier.push(leaf_hash(&leaf.to_be_bytes())));
        Ok(frontier.root())
    }

    /// The example of the specification: 70,000 leaves.
    #[test]
    fn a_tree_of_70_000_has_the_tiles_of_the_specification() {
        let size = 70_000;
        let has = |level, index, width| {
            let tile = tile(size, level, TilePath { index, width }, node).unwrap();
            tile.is_some_and(|tile| {
                assert_eq!(tile.len() as u64, 32 * width);
                true
            })
        };
        assert!(has(0, 0, 256) && has(0, 272, 256) && !has(0, 273, 256));
        assert!(has(0, 273, 112) && !has(0, 273, 113) && !has(0, 274, 1));
        assert!(has(1, 0, 256) && has(1, 1, 17) && !has(1, 1, 18));
        assert!(has(2, 0, 1) && !has(2, 0, 2) && !has(3, 0, 1));
        for level in 3..=63 {
            assert!(!has(level, 0, 1) && !has(level, u64::MAX, 256), "{level}");
        }
    }
}
