//! A small file system of one's own, to be filled, broken and mended.
//!
//! It is mounted in a mount namespace in which only a shell lives, so nothing changes for the machine and nothing is
//! left behind, however the test ends: the file system is gone with the shell. Everybody else reaches it through
//! `/proc/PID/root`. A machine that allows no such thing gives none, and the test that wanted one must say so.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use tempfile::TempDir;

/// Written at a time when a volume is filled.
const BLOCK_BYTES: usize = 4096;

/// What the shell prints after each command, before its exit code.
const ANSWER: &str = "@answer ";

/// A small file system. Gone when dropped.
#[derive(Debug)]
pub struct Volume {
    shell: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
    /// Where the room is that runs out: that of the file system, or of the device below it.
    store: PathBuf,
    path: PathBuf,
    _folder: TempDir,
}

impl Volume {
    /// A file system in memory of this size: a full one refuses to write. `Err` says why there is none here.
    ///
    /// # Errors
    /// When the machine allows no mount in a namespace.
    pub fn in_memory(bytes: u64) -> io::Result<Self> {
        let mount = |volume: &mut Self| {
            volume.run(&format!("mount -t tmpfs -o size={bytes} none {}", inside(&volume.path, volume.shell.id())))
        };
        Self::open(&["-m"], mount).or_else(|_| Self::open(&["-r", "-m"], mount))
    }

    /// A file system of 64 MiB on a device that has room for `bytes` only, as thin provisioning gives it: where the
    /// device is full a write is taken, and the sync fails with an input/output error.
    ///
    /// # Errors
    /// When the machine allows no loop device, which takes root at least.
    pub fn on_thin_device(bytes: u64) -> io::Result<Self> {
        Self::open(&["-m"], |volume| {
            let (store, path) = (inside(&volume.store, volume.shell.id()), inside(&volume.path, volume.shell.id()));
            volume.run(&format!("mount -t tmpfs -o size={bytes} none {store}"))?;
            volume.run(&format!("truncate -s 64M {store}/image"))?;
            volume.run(&format!("PATH=$PATH:/usr/sbin:/sbin mkfs.ext4 -q -F {store}/image"))?;
            volume.run(&format!("mount -o loop {store}/image {path}"))
        })
    }

    fn open(unshare: &[&str], mount: impl Fn(&mut Self) -> io::Result<()>) -> io::Result<Self> {
        let folder = tempfile::tempdir()?;
        let mut shell = Command::new("unshare")
            .args(unshare)
            .arg("sh")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let seen = |name: &str| -> io::Result<PathBuf> {
            fs::create_dir(folder.path().join(name))?;
            let path = folder.path().join(name);
            Ok(Path::new(&format!("/proc/{}/root", shell.id())).join(path.strip_prefix("/").unwrap_or(&path)))
        };
        let (store, path) = (seen("store")?, seen("volume")?);
        let (Some(commands), Some(answers)) = (shell.stdin.take(), shell.stdout.take()) else {
            return Err(io::Error::other("the shell has no pipes"));
        };
        let answers = BufReader::new(answers);
        let mut volume = Self { shell, commands, answers, store, path, _folder: folder };
        mount(&mut volume)?;
        if fs::metadata(volume.store.join("image")).is_err() {
            volume.store.clone_from(&volume.path);
        }
        Ok(volume)
    }

    /// Its root, for everybody.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Take all room but `left` bytes, or a little less.
    ///
    /// # Panics
    /// When the ballast cannot be written for another reason than that the volume is full.
    pub fn fill(&self, left: u64) {
        let mut ballast = File::create(self.ballast()).expect("a file for the ballast");
        let mut bytes = 0;
        while let Ok(count) = ballast.write(&[1; BLOCK_BYTES]) {
            bytes += count as u64;
        }
        ballast.set_len(bytes.saturating_sub(left)).expect("the ballast can be cut");
        ballast.sync_all().expect("the ballast is there");
    }

    /// Give the room back.
    ///
    /// # Panics
    /// When it was not taken.
    pub fn free(&self) {
        fs::remove_file(self.ballast()).expect("the ballast is there");
    }

    /// What an operator does with a file system on a device that failed, once the device is well: unmount, check and
    /// repair, mount.
    ///
    /// # Panics
    /// When that fails.
    pub fn repair(&mut self) {
        let (store, path) = (inside(&self.store, self.shell.id()), inside(&self.path, self.shell.id()));
        let repair = format!(
            "umount {path} && PATH=$PATH:/usr/sbin:/sbin e2fsck -f -y {store}/image >&2; test $? -le 1 && mount -o loop {store}/image {path}"
        );
        self.run(&repair).expect("the file system can be repaired");
    }

    fn ballast(&self) -> PathBuf {
        self.store.join("ballast")
    }

    /// Run a command in the shell.
    fn run(&mut self, command: &str) -> io::Result<()> {
        // Whatever the command prints goes where the shell's own errors go.
        writeln!(self.commands, "{{ {command}; }} >&2; echo '{ANSWER}'$?")?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer)?;
        if answer.trim_end().strip_prefix(ANSWER) == Some("0") {
            return Ok(());
        }
        // The shell is of no use any more, and its end is that of its errors.
        let _ = self.shell.kill();
        let mut told = String::new();
        self.shell.stderr.take().map(|mut pipe| pipe.read_to_string(&mut told)).transpose()?;
        Err(io::Error::other(format!("{command}: {}", told.trim())))
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        // It may be gone already; then there is nothing to end.
        let _ = self.shell.kill();
        let _ = self.shell.wait();
    }
}

/// A path as the shell itself sees it.
fn inside(path: &Path, pid: u32) -> String {
    let root = format!("/proc/{pid}/root");
    Path::new("/").join(path.strip_prefix(root).unwrap_or(path)).display().to_string()
}
