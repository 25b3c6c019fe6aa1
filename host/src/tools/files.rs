//! The seeds' file tools, confined to one folder by a capability.

use super::{Params, text};
use crate::config::ToolLimits;
use cap_std::fs::{Dir, OpenOptions};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// One call of a file tool.
pub(super) struct Files<'a> {
    pub(super) dir: &'a Dir,
    pub(super) limits: &'a ToolLimits,
    /// When the caller stops waiting; long work looks at it and stops too.
    pub(super) until: Instant,
}

/// Lines that one search returns, unless it asks for fewer.
const MATCHES_MAX: usize = 1_000;
/// Characters of a line that a search returns.
const LINE_CHARS_MAX: usize = 500;
/// Folders within folders that a search follows.
const DEPTH_MAX: usize = 64;

/// Makes the name of each half-written file different within the process.
static WRITES: AtomicU64 = AtomicU64::new(0);

impl Files<'_> {
    /// `read_file` {path} → the file's text.
    pub(super) fn read(&self, params: &Params) -> Result<Value, String> {
        let path = text(params, "path")?;
        let bytes = self.content(Path::new(path))?;
        let content = String::from_utf8(bytes).map_err(|why| format!("'{path}' is not UTF-8 text: {why}"))?;
        Ok(Value::String(content))
    }

    /// `write_file` {path, content} → {path, bytes}. Whole or not at all: it is written beside and
    /// then renamed. Folders on the way are made.
    pub(super) fn write(&self, params: &Params) -> Result<Value, String> {
        let (path, content) = (text(params, "path")?, text(params, "content")?);
        let limit = self.limits.max_file_bytes;
        if content.len() as u64 > limit {
            return Err(format!(
                "{} bytes for '{path}', a file may have {limit} (tools.limits.max_file_bytes)",
                content.len()
            ));
        }
        let told = |why: std::io::Error| format!("'{path}' cannot be written: {why}");
        let target = Path::new(path);
        let name = target.file_name().ok_or_else(|| format!("'{path}' names no file"))?;
        let parent = target.parent().filter(|parent| !parent.as_os_str().is_empty());
        if let Some(parent) = parent {
            self.dir.create_dir_all(parent).map_err(told)?;
        }
        let number = WRITES.fetch_add(1, Ordering::Relaxed);
        let beside = target.with_file_name(format!(".{}.{}-{number}.part", name.to_string_lossy(), std::process::id()));
        self.write_new(&beside, content)
            .and_then(|()| self.dir.rename(&beside, self.dir, target))
            .inspect_err(|_| drop(self.dir.remove_file(&beside)))
            .map_err(told)?;
        Ok(json!({"path": path, "bytes": content.len()}))
    }

    fn write_new(&self, path: &Path, content: &str) -> std::io::Result<()> {
        let mut file = self.dir.open_with(path, OpenOptions::new().write(true).create_new(true))?;
        file.write_all(content.as_bytes())
    }

    /// `search` `{query, path?, max_results?}` → the lines that contain `query`, as
    /// `{matches: [{path, line, text}], files_searched, truncated}`. Files that are no UTF-8 text or
    /// too large are passed over; links are not followed.
    pub(super) fn search(&self, params: &Params) -> Result<Value, String> {
        let query = text(params, "query")?;
        if query.is_empty() {
            return Err("parameter 'query' is empty".into());
        }
        let root = if params.contains_key("path") { text(params, "path")? } else { "." };
        let wanted = match params.get("max_results") {
            None => MATCHES_MAX,
            Some(max) => {
                let max = max.as_u64().ok_or("parameter 'max_results' must be a whole number")?;
                usize::try_from(max).map_or(MATCHES_MAX, |max| max.min(MATCHES_MAX))
            }
        };
        let mut search = Search { query, wanted, matches: Vec::new(), files: 0, truncated: false };
        self.walk(Path::new(root), &mut search)?;
        Ok(json!({"matches": search.matches, "files_searched": search.files, "truncated": search.truncated}))
    }

    fn walk(&self, root: &Path, search: &mut Search<'_>) -> Result<(), String> {
        let told = |path: &Path, why: std::io::Error| format!("'{}' cannot be searched: {why}", path.display());
        if self.dir.metadata(root).map_err(|why| told(root, why))?.is_file() {
            self.search_file(root, search)?;
            return Ok(());
        }
        let mut folders: Vec<(PathBuf, usize)> = vec![(root.to_owned(), 0)];
        while let Some((folder, depth)) = folders.pop() {
            let mut entries: Vec<_> =
                self.dir.read_dir(&folder).map_err(|why| told(&folder, why))?.filter_map(Result::ok).collect();
            entries.sort_by_key(cap_std::fs::DirEntry::file_name);
            for entry in entries {
                let path = folder.join(entry.file_name());
                let kind = entry.file_type().map_err(|why| told(&path, why))?;
                if kind.is_dir() && depth < DEPTH_MAX {
                    folders.push((path, depth + 1));
                } else if kind.is_file() && !self.search_file(&path, search)? {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Search one file; `false` when enough was found or looked at.
    fn search_file(&self, path: &Path, search: &mut Search<'_>) -> Result<bool, String> {
        if Instant::now() >= self.until {
            return Err(format!(
                "the search took longer than {} ms (tools.limits.deadline_ms)",
                self.limits.deadline_ms
            ));
        }
        if search.files >= self.limits.max_search_files {
            search.truncated = true;
            return Ok(false);
        }
        search.files += 1;
        let Ok(Ok(content)) = self.content(path).map(String::from_utf8) else { return Ok(true) };
        Ok(search.lines(path, &content))
    }

    /// The bytes of a regular file within the size limit.
    fn content(&self, path: &Path) -> Result<Vec<u8>, String> {
        let told = |why: std::io::Error| format!("'{}' cannot be read: {why}", path.display());
        let metadata = self.dir.metadata(path).map_err(told)?;
        if !metadata.is_file() {
            return Err(format!("'{}' is not a regular file", path.display()));
        }
        let limit = self.limits.max_file_bytes;
        let mut bytes = Vec::new();
        self.dir.open(path).map_err(told)?.take(limit + 1).read_to_end(&mut bytes).map_err(told)?;
        if bytes.len() as u64 > limit {
            return Err(format!("'{}' is larger than {limit} bytes (tools.limits.max_file_bytes)", path.display()));
        }
        Ok(bytes)
    }
}

struct Search<'a> {
    query: &'a str,
    wanted: usize,
    matches: Vec<Value>,
    files: usize,
    truncated: bool,
}

impl Search<'_> {
    /// Note the matching lines of a file; `false` when enough were found.
    fn lines(&mut self, path: &Path, content: &str) -> bool {
        for (number, line) in content.lines().enumerate().filter(|(_, line)| line.contains(self.query)) {
            if self.matches.len() >= self.wanted {
                self.truncated = true;
                return false;
            }
            let shown: String = line.chars().take(LINE_CHARS_MAX).collect();
            let path = path.strip_prefix(".").unwrap_or(path);
            self.matches.push(json!({"path": path.to_string_lossy(), "line": number + 1, "text": shown}));
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cap_std::ambient_authority;
    use std::time::Duration;

    struct Folder {
        temp: tempfile::TempDir,
        dir: Dir,
        limits: ToolLimits,
    }

    fn folder() -> Folder {
        let temp = tempfile::tempdir().unwrap();
        std::fs::write(temp.path().join("secret.txt"), "outside").unwrap();
        std::fs::create_dir(temp.path().join("workspace")).unwrap();
        let dir = Dir::open_ambient_dir(temp.path().join("workspace"), ambient_authority()).unwrap();
        Folder { temp, dir, limits: ToolLimits { max_file_bytes: 1000, ..ToolLimits::default() } }
    }

    impl Folder {
        fn files(&self) -> Files<'_> {
            Files { dir: &self.dir, limits: &self.limits, until: Instant::now() + Duration::from_mins(1) }
        }
    }

    fn params(value: &Value) -> Params {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn what_is_written_is_read_and_found() {
        let folder = folder();
        let files = folder.files();
        let written = files.write(&params(&json!({"path": "a/b/notes.txt", "content": "one\ntwo needle\n"}))).unwrap();
        assert_eq!(written, json!({"path": "a/b/notes.txt", "bytes": 15}));
        assert_eq!(files.read(&params(&json!({"path": "a/b/notes.txt"}))).unwrap(), json!("one\ntwo needle\n"));
        let found = files.search(&params(&json!({"query": "needle"}))).unwrap();
        assert_eq!(found["matches"], json!([{"path": "a/b/notes.txt", "line": 2, "text": "two needle"}]));
        let left: Vec<_> = std::fs::read_dir(folder.temp.path().join("workspace/a/b")).unwrap().collect();
        assert_eq!(left.len(), 1, "no half-written file stays");
    }

    #[test]
    fn nothing_outside_the_workspace_is_reached() {
        let folder = folder();
        std::os::unix::fs::symlink("../secret.txt", folder.temp.path().join("workspace/link")).unwrap();
        std::os::unix::fs::symlink("/etc", folder.temp.path().join("workspace/etc")).unwrap();
        let files = folder.files();
        for path in ["../secret.txt", "/etc/hostname", "link", "etc/hostname", "a/../../secret.txt"] {
            assert!(files.read(&params(&json!({"path": path}))).is_err(), "{path}");
            assert!(files.write(&params(&json!({"path": path, "content": "x"}))).is_err() || path == "link", "{path}");
        }
        assert_eq!(std::fs::read_to_string(folder.temp.path().join("secret.txt")).unwrap(), "outside");
        let found = files.search(&params(&json!({"query": "outside"}))).unwrap();
        assert_eq!(found["matches"], json!([]));
    }

    #[test]
    fn sizes_and_kinds_are_checked() {
        let folder = folder();
        let files = folder.files();
        let big = "x".repeat(1001);
        let refused = files.write(&params(&json!({"path": "big", "content": big}))).unwrap_err();
        assert_eq!(refused, "1001 bytes for 'big', a file may have 1000 (tools.limits.max_file_bytes)");
        std::fs::write(folder.temp.path().join("workspace/big"), &big).unwrap();
        assert!(files.read(&params(&json!({"path": "big"}))).unwrap_err().contains("larger than 1000 bytes"));
        assert_eq!(files.read(&params(&json!({"path": "."}))).unwrap_err(), "'.' is not a regular file");
        assert!(files.read(&params(&json!({"path": 5}))).unwrap_err().contains("must be a string"));
        std::fs::write(folder.temp.path().join("workspace/bin"), [0xff, 0xfe]).unwrap();
        assert!(files.read(&params(&json!({"path": "bin"}))).unwrap_err().contains("UTF-8"));
    }
}
