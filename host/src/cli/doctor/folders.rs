//! The data folder: whether it can be used, how large it is, what of ledgers and reports is in it.

use super::Findings;
use super::ports::{Ours, of_lock};
use crate::cli::fleet::reach::bytes;
use crate::config::File;
use crate::host::component_cache;
use rustix::fs::{Access, StatVfsMountFlags, access, statvfs};
use rustix::process::geteuid;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

const AREA: &str = "data";
/// Below this much free space records soon stop, and with them decisions.
const SPACE_BYTES: (u64, u64) = (128 << 20, 1 << 30);
/// Files and folders that are counted of one folder.
const ENTRIES_MAX: usize = 200_000;
/// Advice where something cannot be read.
pub(super) const AS_WHOM: &str = "run `gavel doctor` as the user that runs the fleet";

pub(super) fn look(data: &Path, file: Option<&File>, ours: &Ours, findings: &mut Findings) {
    let shown = data.display();
    match fs::metadata(data) {
        Ok(folder) if folder.is_dir() => {
            owner(data, &folder, findings);
            space(data, findings);
            sizes(data, findings);
            ledgers(data, file, ours, findings);
            reports(data, findings);
        }
        Ok(_) => findings.error(AREA, format!("{shown} is no folder"), "give another with --data"),
        Err(why) if why.kind() == std::io::ErrorKind::NotFound => not_there(data, findings),
        Err(why) => findings.error(AREA, format!("{shown}: {why}"), AS_WHOM),
    }
    cache(findings);
}

/// Nothing was ever started here.
fn not_there(data: &Path, findings: &mut Findings) {
    let shown = data.display();
    let Some(parent) = data.ancestors().skip(1).find(|parent| parent.is_dir()) else {
        findings.note(AREA, format!("{shown} is not there yet"), "the first start makes it");
        return;
    };
    if let Err(why) = access(parent, Access::WRITE_OK | Access::EXEC_OK) {
        let found = format!("{shown} is not there, and in {} it cannot be made: {why}", parent.display());
        findings.error(AREA, found, "make it for the user that runs the fleet, or give another with --data");
    } else {
        findings.note(AREA, format!("{shown} is not there yet"), "the first start makes it");
        space(parent, findings);
    }
}

fn owner(data: &Path, folder: &fs::Metadata, findings: &mut Findings) {
    let (shown, uid, me) = (data.display(), folder.uid(), geteuid().as_raw());
    let mode = folder.mode() & 0o7777;
    let found = format!("{shown} belongs to user {uid}, mode {mode:04o}");
    if let Err(why) = access(data, Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK) {
        findings.error(AREA, format!("{found}; user {me} cannot use it: {why}"), AS_WHOM);
    } else if uid != me {
        let advice = "files that are made now belong to the other one: run the fleet as always the same user";
        findings.warning(AREA, format!("{found}, and this is user {me}"), advice);
    } else if mode & 0o002 != 0 {
        let advice = format!("`chmod o-w {shown}`: who can write here can take ledgers away");
        findings.warning(AREA, format!("{found}: everybody can write in it"), advice);
    } else {
        findings.ok(AREA, found);
    }
}

fn space(folder: &Path, findings: &mut Findings) {
    let shown = folder.display();
    let Ok(volume) = statvfs(folder) else { return };
    let free = volume.f_bavail.saturating_mul(volume.f_frsize);
    let found = format!("{} free on the volume of {shown}", bytes(Some(free)));
    let (error, warning) = SPACE_BYTES;
    if volume.f_flag.contains(StatVfsMountFlags::RDONLY) {
        findings.error(
            AREA,
            format!("the volume of {shown} is read-only"),
            "mount it to be written, or give another --data",
        );
    } else if free < error {
        findings.error(AREA, found, "make room: without it no decision can be recorded, so none is an allow");
    } else if free < warning {
        findings.warning(AREA, found, "make room soon, or set `retention` and `archive` (docs/configuration.md)");
    } else {
        findings.ok(AREA, found);
    }
    if volume.f_files > 0 && volume.f_favail < 1_000 {
        findings.warning(
            AREA,
            format!("{} files can still be made there", volume.f_favail),
            "remove files, or format with more",
        );
    }
}

/// What each part takes.
fn sizes(data: &Path, findings: &mut Findings) {
    let mut parts: Vec<(String, PathBuf)> =
        ["kernels", "policies", "workspace", "backup"].map(|name| (name.to_owned(), data.join(name))).into();
    for entry in fs::read_dir(data.join("fleet")).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            parts.push((format!("fleet/{}", entry.file_name().to_string_lossy()), entry.path()));
        }
    }
    let mut sized: Vec<(u64, String)> = Vec::new();
    for (name, path) in parts.into_iter().filter(|(_, path)| path.is_dir()) {
        let (size, whole) = size(&path);
        sized.push((size, format!("{name} {}{}", if whole { "" } else { "more than " }, bytes(Some(size)))));
    }
    sized.sort_by(|a, b| b.cmp(a));
    if !sized.is_empty() {
        let told: Vec<String> = sized.into_iter().map(|(_, told)| told).collect();
        findings.ok("sizes", told.join(", "));
    }
}

/// Bytes of the files below a folder, and whether all were counted. Links are not followed.
fn size(folder: &Path) -> (u64, bool) {
    let (mut open, mut sum, mut seen) = (vec![folder.to_owned()], 0, 0);
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            seen += 1;
            if seen > ENTRIES_MAX {
                return (sum, false);
            }
            match entry.metadata() {
                Ok(found) if found.is_dir() => open.push(entry.path()),
                Ok(found) if found.is_file() => sum += found.len(),
                _ => {}
            }
        }
    }
    (sum, true)
}

/// The ledgers of the governance kernel.
fn ledgers(data: &Path, file: Option<&File>, ours: &Ours, findings: &mut Findings) {
    const AREA: &str = "ledgers";
    let kernels = data.join("kernels");
    let mut found = 0;
    for entry in fs::read_dir(&kernels).into_iter().flatten().flatten() {
        let (name, ledger) = (entry.file_name().to_string_lossy().into_owned(), entry.path().join("ledger"));
        if !ledger.is_dir() {
            continue;
        }
        found += 1;
        let (size, _) = size(&ledger);
        let told = format!("{name}: {} in {}", bytes(Some(size)), ledger.display());
        match of_lock(&ledger.join("lock"), ours) {
            Some((holder, false)) => findings.warning(
                AREA,
                format!("{told}, open in {holder}, which is not of a fleet on this data"),
                "a ledger is one process's alone: end that one (is it `gavel serve`?) before the fleet starts governance",
            ),
            Some((holder, true)) => findings.ok(AREA, format!("{told}, open in {holder}")),
            None => findings.ok(AREA, format!("{told}, closed; `gavel verify {}` checks it", ledger.display())),
        }
    }
    let configured = file.map_or(0, |file| file.kernels.len());
    if found == 0 && configured > 0 {
        findings.note(AREA, format!("none in {}", kernels.display()), "the first start of governance makes them");
    }
}

/// Reports of Guardian that wait, or cannot be read.
fn reports(data: &Path, findings: &mut Findings) {
    const AREA: &str = "reports";
    let folder = data.join("fleet").join("reports");
    let (mut waiting, mut unreadable) = (0_usize, Vec::new());
    for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
        let path = entry.path();
        match path.extension().and_then(OsStr::to_str) {
            Some("json") if is_json(&path) => waiting += 1,
            Some("json" | "unreadable") => unreadable.push(path.display().to_string()),
            _ => {}
        }
    }
    if !unreadable.is_empty() {
        let advice = "read them by hand: a healing or a kernel that was given up is not on record; then remove them";
        findings.warning(AREA, format!("cannot be read: {}", unreadable.join(", ")), advice);
    }
    match waiting {
        0 => findings.ok(AREA, "none wait"),
        waiting => findings.note(
            AREA,
            format!("{waiting} wait in {}", folder.display()),
            "they are delivered when immutable_log, message_bus and alert_service are up",
        ),
    }
}

fn is_json(path: &Path) -> bool {
    fs::read(path).is_ok_and(|bytes| serde_json::from_slice::<serde_json::Value>(&bytes).is_ok())
}

/// The cache of compiled policies: without it every start compiles them.
fn cache(findings: &mut Findings) {
    const AREA: &str = "cache";
    let Some(folder) = component_cache() else {
        let advice =
            "give the user a home folder, or set XDG_CACHE_HOME: without, policies are compiled at every start";
        findings.note(AREA, "there is no folder for compiled policies", advice);
        return;
    };
    let shown = folder.display();
    if !folder.is_dir() {
        findings.note(AREA, format!("{shown} is not there yet"), "the first start makes it, and takes longer");
    } else if let Err(why) = access(&folder, Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK) {
        findings.warning(AREA, format!("{shown} cannot be used: {why}"), "policies are compiled at every start");
    } else {
        findings.ok(AREA, format!("{} of compiled policies in {shown}", bytes(Some(size(&folder).0))));
    }
}
