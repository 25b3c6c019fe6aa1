//! The file with the secret by which the parts of a fleet know each other, for fleets that span machines.
//!
//! Who has the secret may do everything in every kernel of the fleet, so a file that others may read is refused.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Characters of a secret, without what is around it.
const CHARS: std::ops::RangeInclusive<usize> = 32..=1_024;

/// The secret in this file.
///
/// # Errors
/// If it cannot be read, is open to others than its owner, or holds no secret.
pub(super) fn read(path: &Path) -> Result<String, String> {
    let shown = path.display();
    let metadata = std::fs::metadata(path).map_err(|why| format!("{shown}: {why}"))?;
    if let Some(open_to) = open_to(metadata.mode(), metadata.uid()) {
        let mode = metadata.mode() & 0o7777;
        return Err(format!(
            "{shown} has the mode {mode:04o}, so {open_to} it: `chmod 0600 {shown}`, and take a new secret"
        ));
    }
    if metadata.len() > *CHARS.end() as u64 + 2 {
        return Err(format!("{shown} has {} bytes: a secret has at most {}", metadata.len(), CHARS.end()));
    }
    let text = std::fs::read_to_string(path).map_err(|why| format!("{shown}: {why}"))?;
    let secret = text.trim();
    if !CHARS.contains(&secret.len()) {
        let make = format!("`head -c 32 /dev/urandom | base64 > {shown}`");
        let (least, most) = (CHARS.start(), CHARS.end());
        return Err(format!("{shown} has {} characters, a secret has {least} to {most}: {make}", secret.len()));
    }
    if !secret.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(format!("{shown} holds more than one word of visible ASCII: it is sent as a header"));
    }
    Ok(secret.to_owned())
}

/// Who can read or write a file of this mode and owner that must not. A file of root may be readable to a group: so service
/// managers and Kubernetes hand a secret to a process that is not root.
fn open_to(mode: u32, owner: u32) -> Option<&'static str> {
    if mode & 0o007 != 0 {
        Some("everybody can use")
    } else if mode & 0o020 != 0 {
        Some("its group can write")
    } else if mode & 0o050 != 0 && owner != 0 {
        Some("its group can read")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn only_its_owner_may_have_it() {
        for (mode, owner, open) in [
            (0o600, 7, false),
            (0o400, 7, false),
            (0o640, 7, true),
            (0o440, 0, false),
            (0o460, 0, true),
            (0o604, 0, true),
            (0o602, 7, true),
        ] {
            assert_eq!(open_to(mode, owner).is_some(), open, "{mode:o} of {owner}");
        }
    }

    #[test]
    fn a_secret_is_one_long_word() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let told = |text: &str, mode: u32| {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            read(&path)
        };
        let secret = "0123456789abcdef0123456789abcdef";
        assert_eq!(told(&format!("{secret}\n"), 0o600).unwrap(), secret);
        assert!(told(secret, 0o644).unwrap_err().contains("0644, so everybody can use it: `chmod 0600"));
        assert!(told("short", 0o600).unwrap_err().contains("has 5 characters, a secret has 32 to 1024"));
        assert!(told(&format!("{secret} {secret}"), 0o600).unwrap_err().contains("one word"));
        assert!(told(&"x".repeat(2_000), 0o600).unwrap_err().contains("2000 bytes"));
        assert!(read(&folder.path().join("none")).unwrap_err().contains("No such file"));
    }
}
