//! Reading what lies in a plugin folder: plain files that nobody but the operator can write, so many bytes at most.
//!
//! What lies there may be hostile. Opening never waits (a pipe), reading never goes on without an end (a device), and a
//! link counts as what it points to.

use rustix::fs::OFlags;
use std::fs::Metadata;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The permission of others to write.
const OTHERS_WRITE: u32 = 0o002;

/// The user who may write everything anyway.
const ROOT: u32 = 0;

/// The bytes of a plain file that has `limit` of them at most; `named` says where the limit comes from.
///
/// # Errors
/// Why it is not read, without its name.
pub(super) fn read(path: &Path, limit: u64, named: &str) -> Result<Vec<u8>, String> {
    let opened = std::fs::OpenOptions::new().read(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed()).open(path);
    let file = opened.map_err(|why| why.to_string())?;
    let found = file.metadata().map_err(|why| why.to_string())?;
    if !found.is_file() {
        return Err("it is no plain file".to_owned());
    }
    let too_long = |bytes: u64| format!("{bytes} bytes, {limit} are allowed ({named})");
    if found.len() > limit {
        return Err(too_long(found.len()));
    }
    let mut bytes = Vec::new();
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(|why| why.to_string())?;
    // Its length may be another by now, or have been none in the first place.
    if bytes.len() as u64 > limit { Err(too_long(bytes.len() as u64)) } else { Ok(bytes) }
}

/// Where a path below `root` really lies, if that is below `root` too, and if nobody else can write it or a folder on the
/// way to it, `root` among them.
///
/// # Errors
/// Why it is not trusted.
pub(super) fn only_ours(root: &Path, path: &Path) -> Result<PathBuf, String> {
    let real = |path: &Path| path.canonicalize().map_err(|why| format!("{}: {why}", path.display()));
    let (real_root, real_path) = (real(root)?, real(path)?);
    if !real_path.starts_with(&real_root) {
        let (path, real_path, root) = (path.display(), real_path.display(), root.display());
        return Err(format!("{path} is {real_path}, which is outside {root}: put the file itself there"));
    }
    for part in real_path.ancestors().take_while(|part| part.starts_with(&real_root)) {
        let found = std::fs::metadata(part).map_err(|why| format!("{}: {why}", part.display()))?;
        trusted(part, &found)?;
    }
    Ok(real_path)
}

fn trusted(path: &Path, found: &Metadata) -> Result<(), String> {
    let path = path.display();
    if found.mode() & OTHERS_WRITE != 0 {
        return Err(format!("{path}: everybody may write it, so nothing in it is trusted: `chmod o-w {path}`"));
    }
    let (owner, us) = (found.uid(), rustix::process::geteuid().as_raw());
    if owner != ROOT && owner != us {
        return Err(format!(
            "{path}: it belongs to user {owner}, so nothing in it is trusted: `chown {us} {path}`, or give it to root"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn only_plain_files_of_a_length_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("a"), "1234").unwrap();
        assert_eq!(read(&at("a"), 4, "x").unwrap(), b"1234");
        assert!(read(&at("a"), 3, "x").unwrap_err().contains("4 bytes, 3 are allowed (x)"));
        let pipe = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, at("pipe"), pipe, rustix::fs::Mode::RUSR, 0).unwrap();
        symlink("/dev/zero", at("endless")).unwrap();
        for odd in ["pipe", "endless", "."] {
            assert!(read(&at(odd), 4, "x").unwrap_err().contains("no plain file"), "{odd}");
        }
    }

    #[test]
    fn a_link_counts_as_what_it_points_to() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("plugins");
        let inner = root.join("a/b");
        std::fs::create_dir_all(&inner).unwrap();
        std::fs::write(inner.join("c.wasm"), "1").unwrap();
        std::fs::write(folder.path().join("out.wasm"), "1").unwrap();
        symlink("b/c.wasm", root.join("a/in.wasm")).unwrap();
        symlink("../../out.wasm", root.join("a/out.wasm")).unwrap();
        assert_eq!(only_ours(&root, &root.join("a/in.wasm")).unwrap(), inner.canonicalize().unwrap().join("c.wasm"));
        assert!(only_ours(&root, &root.join("a/out.wasm")).unwrap_err().contains("outside"));
        std::fs::set_permissions(&inner, Permissions::from_mode(0o777)).unwrap();
        for path in ["a/in.wasm", "a/b/c.wasm"] {
            assert!(only_ours(&root, &root.join(path)).unwrap_err().contains("everybody may write it"), "{path}");
        }
    }
}
