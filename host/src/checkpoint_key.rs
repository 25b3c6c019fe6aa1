//! The key that signs a kernel's checkpoints: made at the first start, beside the ledger, for its owner's eyes only.
//!
//! A rotation has three steps, and a crash between any two of them leaves a ledger that opens: the new key is written
//! beside the old one, the ledger records it, the new file takes the place of the old. Which of the two files is in
//! force is for the ledger to say, so both are handed to it.

use crate::kernel::LEDGER;
use crate::signing::{SigningError, SigningKey};
use anyhow::{Context, Result};
use gavel_ledger::note::CheckpointKey;
use gavel_ledger::{Ledger, View};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// The private key, as PKCS#8 in PEM, in the kernel's folder.
pub(crate) const KEY_FILE: &str = "checkpoint.key";
const NEXT_KEY_FILE: &str = "checkpoint.key.new";

/// The keys at hand of the kernel whose folder this is: what [`gavel_ledger::Options::keys`] wants. One is made if there is
/// no ledger yet, if its ledger has none, or if its own `is_lost`; a ledger that misses its key gets no other one.
///
/// # Errors
/// When a key cannot be read or made, or others than its owner may read it.
pub(crate) fn keys(kernel: &Path, is_lost: bool) -> Result<Vec<CheckpointKey>> {
    let (current, next) = (kernel.join(KEY_FILE), kernel.join(NEXT_KEY_FILE));
    fs::create_dir_all(kernel).with_context(|| kernel.display().to_string())?;
    let mut keys = Vec::new();
    if !current.exists() && !next.exists() {
        let ledger = kernel.join(LEDGER);
        if !is_lost && View::open(&ledger).is_ok_and(|(report, _)| report.key.is_some()) {
            return Ok(keys);
        }
        let made = match SigningKey::create(&current) {
            // Somebody else starts at this moment, and only one of us will own the ledger.
            Err(SigningError::File { why, .. }) if why.kind() == ErrorKind::AlreadyExists => SigningKey::read(&current),
            made => made,
        };
        keys.push(made?.checkpoint_key());
        return Ok(keys);
    }
    for path in [current, next] {
        if path.exists() {
            keys.push(SigningKey::read(&path)?.checkpoint_key());
        }
    }
    Ok(keys)
}

/// After the ledger was opened: the file of the key in force gets its place, whatever a crash left.
///
/// # Errors
/// When a file cannot be renamed or removed.
pub(crate) fn settle(kernel: &Path, in_force: Option<[u8; 32]>) -> Result<()> {
    let (current, next) = (kernel.join(KEY_FILE), kernel.join(NEXT_KEY_FILE));
    if !next.exists() {
        return Ok(());
    }
    if in_force == Some(SigningKey::read(&next)?.public().raw()) {
        fs::rename(&next, &current)?;
    } else {
        fs::remove_file(&next)?;
    }
    fs::File::open(kernel)?.sync_all()?;
    Ok(())
}

/// Has the checkpoints of the kernel in this folder signed by a new key; returns its public half.
///
/// # Errors
/// When no key can be made or the ledger takes no records. The old key is in force then.
pub(crate) fn rotate(kernel: &Path, ledger: &Ledger, now_ms: u64) -> Result<[u8; 32]> {
    let next: PathBuf = kernel.join(NEXT_KEY_FILE);
    if let Some(why) = ledger.snapshot().poisoned {
        // Whether the ledger has heard of an earlier key is not known before it is opened again.
        anyhow::bail!("the ledger stopped: {why}");
    }
    // Of a rotation that the ledger never heard of, or whose file has not its place yet.
    settle(kernel, ledger.key())?;
    let key = SigningKey::create(&next)?;
    fs::File::open(kernel)?.sync_all()?;
    ledger.rotate_key(key.checkpoint_key(), now_ms)?;
    settle(kernel, Some(key.public().raw()))?;
    Ok(key.public().raw())
}
