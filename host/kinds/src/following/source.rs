//! Where records come from.

use std::fmt::Write as _;

/// What is followed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Origin {
    /// The ledger of a kernel of governance, by its id: a ledger is never used for another kernel.
    Kernel(String),
    /// The immutable log.
    Log,
}

/// A ledger with its name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Source {
    /// `governance.ID`, or `immutable_log`.
    pub(crate) name: String,
    /// What it is.
    pub(crate) origin: Origin,
}

const KERNELS: &str = "governance.";
const LOG: &str = "immutable_log";

impl Source {
    /// The ledger of a kernel.
    pub(crate) fn kernel(id: &str) -> Self {
        Self { name: format!("{KERNELS}{id}"), origin: Origin::Kernel(id.to_owned()) }
    }

    /// The immutable log.
    pub(crate) fn log() -> Self {
        Self { name: LOG.to_owned(), origin: Origin::Log }
    }

    /// The source of this name, if one can have it.
    pub(crate) fn named(name: &str) -> Option<Self> {
        match name.strip_prefix(KERNELS) {
            Some(id) if !id.is_empty() => Some(Self::kernel(id)),
            _ => (name == LOG).then(Self::log),
        }
    }

    /// Where the main API has the records from `from` on, a page of `limit`.
    pub(crate) fn page(&self, from: u64, limit: usize) -> String {
        match &self.origin {
            Origin::Kernel(id) => {
                let id = escaped(id);
                format!("/kernels/{id}/records?from_index={from}&limit={limit}&of={id}")
            }
            Origin::Log => format!("/immutable_log/entries?from={from}&limit={limit}"),
        }
    }

    /// Where the main API has record `index`.
    pub(crate) fn record(&self, index: u64) -> String {
        match &self.origin {
            Origin::Kernel(id) => {
                let id = escaped(id);
                format!("/kernels/{id}/records/{index}?of={id}")
            }
            Origin::Log => format!("/immutable_log/entries/{index}"),
        }
    }

    /// Where the main API proves that record `index` is in the log.
    pub(crate) fn proof(&self, index: u64) -> String {
        match &self.origin {
            Origin::Kernel(id) => {
                let id = escaped(id);
                format!("/kernels/{id}/prove?index={index}&of={id}")
            }
            Origin::Log => format!("/immutable_log/prove/{index}"),
        }
    }

    /// Where the main API has the ledger's latest checkpoint.
    pub(crate) fn checkpoint(&self) -> String {
        match &self.origin {
            Origin::Kernel(id) => format!("/kernels/{}/checkpoint", escaped(id)),
            Origin::Log => "/immutable_log/checkpoint".to_owned(),
        }
    }

    /// Where the main API proves that the log of `new` records begins with that of `old`.
    pub(crate) fn consistency(&self, old: u64, new: u64) -> String {
        match &self.origin {
            Origin::Kernel(id) => format!("/kernels/{}/consistency?old={old}", escaped(id)),
            Origin::Log => format!("/immutable_log/consistency?from={old}&to={new}"),
        }
    }
}

/// A text as a part of a path or of a query.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back_to_their_source() {
        for source in [Source::kernel("k-1"), Source::kernel("ü/x"), Source::log()] {
            assert_eq!(Source::named(&source.name), Some(source));
        }
        for name in ["governance.", "governance", "k", ""] {
            assert_eq!(Source::named(name), None, "{name}");
        }
        assert_eq!(Source::kernel("a b/ü").proof(7), "/kernels/a%20b%2F%C3%BC/prove?index=7&of=a%20b%2F%C3%BC");
    }
}
