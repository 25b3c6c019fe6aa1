//! Compiled components on disk, so that a component is compiled once on a machine.
//!
//! Compiled code is trusted code: loading a file that somebody else wrote would be running it. A
//! file is therefore used only if (1) the folder and the file belong to this user and nobody else
//! may write them, (2) its name is the digest of component, wasmtime version, target and settings,
//! and (3) it ends in the digest of its name and content, so that neither a damaged file nor that of
//! another component is taken for it. Anything else is ignored and compiled anew.

use crate::Error;
use rustix::fs::{Mode, OFlags};
use sha2::{Digest, Sha256};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use wasmtime::Engine;
use wasmtime::component::Component;

const DIGEST_BYTES: usize = 32;

/// A folder of compiled components, private to the user.
#[derive(Debug)]
pub(crate) struct Cache {
    dir: PathBuf,
}

impl Cache {
    /// Use `dir`, made if it is not there. `None` (with a line in the log) if it cannot be used.
    pub(crate) fn open(dir: &Path) -> Option<Self> {
        match prepare(dir) {
            Ok(()) => Some(Self { dir: dir.to_owned() }),
            Err(why) => {
                tracing::warn!(dir = %dir.display(), %why, "component cache not used, components are compiled at every start");
                None
            }
        }
    }

    /// The component of these bytes, from the cache if it is there, else compiled and kept.
    pub(crate) fn component(&self, engine: &Engine, bytes: &[u8]) -> Result<Component, wasmtime::Error> {
        let path = self.dir.join(file_name(engine, bytes));
        if let Some(component) = read(&path).and_then(|code| deserialize(engine, &code)) {
            return Ok(component);
        }
        let component = Component::new(engine, bytes)?;
        if let Err(why) = component.serialize().map_err(std::io::Error::other).and_then(|code| write(&path, &code)) {
            tracing::warn!(path = %path.display(), %why, "compiled component not kept");
        }
        Ok(component)
    }
}

/// Check that `path` belongs to this user and that nobody else may write it.
fn check_private(path: &Path, metadata: &rustix::fs::Stat) -> Result<(), Error> {
    let others_write = Mode::from_raw_mode(metadata.st_mode).intersects(Mode::WGRP | Mode::WOTH);
    if metadata.st_uid != rustix::process::geteuid().as_raw() || others_write {
        return Err(Error::Engine(format!("{} is not private to this user", path.display())));
    }
    Ok(())
}

fn prepare(dir: &Path) -> Result<(), Error> {
    let told = |why: std::io::Error| Error::Engine(format!("{}: {why}", dir.display()));
    if let Some(parent) = dir.parent() {
        std::fs::create_dir_all(parent).map_err(told)?;
    }
    match rustix::fs::mkdir(dir, Mode::RWXU) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => {}
        Err(why) => return Err(told(why.into())),
    }
    check_private(dir, &rustix::fs::lstat(dir).map_err(|why| told(why.into()))?)
}

fn file_name(engine: &Engine, bytes: &[u8]) -> String {
    let mut settings = DefaultHasher::new();
    engine.precompile_compatibility_hash().hash(&mut settings);
    format!("{}-{:016x}.cwasm", hex::encode(Sha256::digest(bytes)), settings.finish())
}

fn read(path: &Path) -> Option<Vec<u8>> {
    let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()).ok()?;
    check_private(path, &rustix::fs::fstat(&file).ok()?).ok()?;
    let mut code = Vec::new();
    std::fs::File::from(file).read_to_end(&mut code).ok()?;
    let content = code.len().checked_sub(DIGEST_BYTES)?;
    let intact = digest(path, &code[..content])[..] == code[content..];
    code.truncate(content);
    intact.then_some(code)
}

/// What a file ends in: it ties the code to the name, which says whose code it is.
fn digest(path: &Path, code: &[u8]) -> [u8; DIGEST_BYTES] {
    let mut digest = Sha256::new();
    digest.update(path.file_name().unwrap_or_default().as_encoded_bytes());
    digest.update(code);
    digest.finalize().into()
}

/// Written beside and renamed, so that no reader ever sees half a file.
fn write(path: &Path, code: &[u8]) -> std::io::Result<()> {
    let beside = path.with_extension(format!("tmp-{}", std::process::id()));
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = std::fs::File::from(rustix::fs::open(&beside, flags, Mode::RUSR | Mode::WUSR)?);
    file.write_all(code)?;
    file.write_all(&digest(path, code))?;
    std::fs::rename(&beside, path)
}

#[allow(unsafe_code, reason = "the one exception of the workspace: code that this user's wasmtime compiled")]
fn deserialize(engine: &Engine, code: &[u8]) -> Option<Component> {
    // SAFETY: `deserialize` demands bytes that `serialize` made. `read` gave them only after it
    // checked that the folder and the file are writable by this user alone, that the file's name
    // is that of this component under this engine's version, target and settings, and that the
    // content is as it was written. wasmtime itself checks version and settings once more.
    unsafe { Component::deserialize(engine, code) }.ok()
}
