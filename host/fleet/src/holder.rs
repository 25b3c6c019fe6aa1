//! Who listens on a port of this machine. Read from `/proc`; nothing is signalled or changed.

use serde::Serialize;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use tokio::sync::{Semaphore, SemaphorePermit};

/// A process, as it can be told from another that got its number later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct Identity {
    /// Its number.
    pub pid: u32,
    /// When it was started, in the kernel's ticks since the machine was.
    pub started: u64,
}

impl Identity {
    /// The process of this number, if there is one.
    #[must_use]
    pub fn of(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name, in parentheses, may hold anything; field 22 is the 20th after it.
        let started = stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(19)?.parse().ok()?;
        Some(Self { pid, started })
    }

    /// Whether anything is left of this very process. Its first thread may be a corpse while others still end, and they
    /// hold its files, sockets and locks.
    #[must_use]
    pub fn is_there(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    /// Whether this very process is still there, and is more than a corpse.
    #[must_use]
    pub fn lives(self) -> bool {
        Self::of(self.pid) == Some(self) && !is_dead(self.pid)
    }
}

/// Not before its last thread is: the first one may be a corpse while others still end.
fn is_dead(pid: u32) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    threads.map(|thread| fs::read_to_string(thread.path().join("stat")).unwrap_or_default()).all(|stat| {
        // One that has gone meanwhile says nothing.
        stat.rsplit_once(')').is_none_or(|(_, rest)| rest.trim_start().starts_with(['Z', 'X']))
    })
}

/// Who holds a port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Holder {
    /// Its process; absent when it belongs to somebody whose files cannot be read.
    pub pid: Option<u32>,
    /// Its name, as `ps` shows it.
    pub name: String,
    /// Its command line, shortened.
    pub command: String,
}

/// For a message.
impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.pid {
            Some(pid) => write!(f, "process {pid} ({})", self.name),
            None => f.write_str(&self.name),
        }
    }
}

/// Only one look at `/proc` at a time: one reads the files of every process of this machine.
static LOOKS: Semaphore = Semaphore::const_new(1);
/// Of those who ask from outside one at a time gets in line, so that Guardian waits for one of them at most.
static CALLERS: Semaphore = Semaphore::const_new(1);

/// Look at something in `/proc`, away from the threads that serve requests. What cannot be looked at is as if it were not there.
pub(crate) async fn look<T: Default + Send + 'static>(what: impl FnOnce() -> T + Send + 'static) -> T {
    let alone = LOOKS.acquire().await;
    let looked = tokio::task::spawn_blocking(move || {
        // Held to the end of the look, also if nobody waits for it any more.
        let _alone = alone;
        what()
    });
    looked.await.unwrap_or_default()
}

/// The turn of somebody who asks from outside.
pub(crate) async fn turn() -> Option<SemaphorePermit<'static>> {
    CALLERS.acquire().await.ok()
}

/// The same look for somebody who asks from outside: however many ask, Guardian's own looks wait for one of theirs at most.
pub async fn look_asked<T: Default + Send + 'static>(what: impl FnOnce() -> T + Send + 'static) -> T {
    let _turn = turn().await;
    look(what).await
}

/// Characters of a command line that are told.
const COMMAND_CHARS_MAX: usize = 200;

/// Who listens on this port; empty when nobody does.
#[must_use]
pub fn of_port(port: u16) -> Vec<Holder> {
    let sockets = listening(port);
    if sockets.is_empty() {
        return Vec::new();
    }
    let holders: Vec<Holder> = processes().filter(|pid| holds(*pid, &sockets)).map(described).collect();
    if holders.is_empty() {
        let uids: Vec<&str> = sockets.values().map(String::as_str).collect();
        let name = format!("a process of user {} whose files cannot be read", uids.join(" and "));
        return vec![Holder { pid: None, name, command: String::new() }];
    }
    holders
}

/// The sockets that listen on a port, by the numbers of their inodes, with the users (their numbers) that they are of.
fn listening(port: u16) -> BTreeMap<String, String> {
    /// `TCP_LISTEN`.
    const LISTEN: &str = "0A";
    let suffix = format!(":{port:04X}");
    let mut found = BTreeMap::new();
    // Below `self`, where they also are for a service that sees processes only (`ProcSubset=pid`).
    for table in ["/proc/self/net/tcp", "/proc/self/net/tcp6"] {
        for line in fs::read_to_string(table).unwrap_or_default().lines().skip(1) {
            let fields: Vec<&str> = line.split_ascii_whitespace().collect();
            if let [_, local, _, state, _, _, _, uid, _, inode, ..] = fields[..]
                && state == LISTEN
                && local.ends_with(&suffix)
            {
                found.insert(format!("socket:[{inode}]"), uid.to_owned());
            }
        }
    }
    found
}

fn processes() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn holds(pid: u32, sockets: &BTreeMap<String, String>) -> bool {
    let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    files
        .filter_map(|file| fs::read_link(file.path()).ok())
        .any(|target| target.to_str().is_some_and(|target| sockets.contains_key(target)))
}

fn described(pid: u32) -> Holder {
    let read = |file: &str| fs::read_to_string(Path::new("/proc").join(pid.to_string()).join(file)).unwrap_or_default();
    let command: String = read("cmdline").replace('\0', " ").trim().chars().take(COMMAND_CHARS_MAX).collect();
    Holder { pid: Some(pid), name: read("comm").trim().to_owned(), command }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn the_holder_of_a_port_is_found() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let holders = of_port(port);
        assert_eq!(holders.iter().map(|holder| holder.pid).collect::<Vec<_>>(), [Some(std::process::id())]);
        drop(listener);
        assert!(of_port(port).iter().all(|holder| holder.pid != Some(std::process::id())));
    }

    #[test]
    fn a_process_is_told_from_its_successor() {
        let me = Identity::of(std::process::id()).unwrap();
        assert!(me.lives() && me.is_there());
        assert!(!Identity { started: me.started + 1, ..me }.lives());
    }
}
