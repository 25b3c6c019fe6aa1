//! A path of a request, taken apart by its text alone. What could be read in two ways is refused.

use core::fmt;

/// `PATH_MAX` of Linux. It also bounds the work of matching.
const LENGTH_BYTES_MAX: usize = 4_096;

/// A path without `.`, `..` and empty segments.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Path<'a> {
    absolute: bool,
    segments: Vec<&'a str>,
}

impl<'a> Path<'a> {
    pub(crate) fn parse(text: &'a str) -> Result<Self, Refusal> {
        if text.is_empty() {
            return Err(Refusal::Empty);
        }
        if text.len() > LENGTH_BYTES_MAX {
            return Err(Refusal::TooLong);
        }
        if text.chars().any(char::is_control) {
            return Err(Refusal::ControlCharacter);
        }
        if text.contains('\\') {
            return Err(Refusal::Backslash);
        }
        let absolute = text.starts_with('/');
        let mut segments = Vec::new();
        for segment in text.split('/') {
            match segment {
                "" | "." => {}
                ".." if segments.pop().is_some() => {}
                ".." if absolute => return Err(Refusal::LeavesRoot),
                ".." => return Err(Refusal::LeavesWorkspace),
                _ => segments.push(segment),
            }
        }
        if !absolute {
            // Of the text as it came, and of the outcome: a tool may take either apart.
            let first = text.split('/').next();
            first.into_iter().chain(segments.first().copied()).try_for_each(not_special)?;
        }
        Ok(Self { absolute, segments })
    }

    pub(crate) fn is_absolute(&self) -> bool {
        self.absolute
    }

    pub(crate) fn segments(&self) -> &[&'a str] {
        &self.segments
    }

    /// The same path, relative if it is below the root or the root itself.
    pub(crate) fn relative_to(mut self, root: &[String]) -> Self {
        if self.absolute
            && self.segments.len() >= root.len()
            && self.segments.iter().zip(root).all(|(is, root)| is == root)
        {
            self.segments.drain(..root.len());
            self.absolute = false;
        }
        self
    }
}

/// To the tools that know them, a home folder (`~`), a drive (`C:`) or a scheme (`file:`) is no segment of a relative path.
fn not_special(first_segment: &str) -> Result<(), Refusal> {
    if first_segment.starts_with('~') {
        Err(Refusal::Home)
    } else if first_segment.contains(':') {
        Err(Refusal::DriveOrScheme)
    } else {
        Ok(())
    }
}

/// Why a text is not a path that can be judged; the end of a sentence that begins with the path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    Empty,
    TooLong,
    ControlCharacter,
    Backslash,
    Home,
    DriveOrScheme,
    LeavesWorkspace,
    LeavesRoot,
}

impl fmt::Display for Refusal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Refusal::Empty => "is empty",
            Refusal::TooLong => "is longer than 4096 bytes",
            Refusal::ControlCharacter => "has a control character",
            Refusal::Backslash => "has a backslash, which is a separator to some systems and a letter to others",
            Refusal::Home => "begins with `~`, which many tools expand to a home folder",
            Refusal::DriveOrScheme => "begins with a drive or a scheme",
            Refusal::LeavesWorkspace => "leaves the workspace",
            Refusal::LeavesRoot => "goes above the root of the file system",
        })
    }
}
