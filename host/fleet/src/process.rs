//! One process of the fleet: started on a socket that is already listening, signalled only as itself, its output gathered.
//!
//! The fleet binds the port and hands the listening socket over as the process's standard input. So a port is never free
//! between two lives of a component: what connects in between waits, and is answered by the next. A signal goes to the
//! process itself (by its descriptor), never to a number that another process may have by now.

use crate::holder::Identity;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::collections::BTreeMap;
use std::io;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;

/// How the program of a component is called. Its standard input will be its listening socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// The file.
    pub path: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
    /// Variables of its environment, beside those of the fleet.
    pub env: BTreeMap<String, String>,
}

/// Takes lines of output: the component's name, and the line.
pub type Lines = Arc<dyn Fn(&str, &str) + Send + Sync>;

/// A process that was started, and may have ended.
#[derive(Debug)]
pub(crate) struct Process {
    identity: Identity,
    handle: OwnedFd,
    ended: watch::Receiver<Option<ExitStatus>>,
}

/// The longest line of output that is kept whole, in bytes; a longer one comes in pieces.
const LINE_BYTES_MAX: u64 = 16 << 10;

impl Process {
    /// Start a component's program on this socket, in a group of its own: what a terminal sends to the fleet (Ctrl-C) is the
    /// fleet's to pass on, in its order.
    ///
    /// # Errors
    /// If it cannot be started. Nothing of it is left then.
    pub(crate) async fn start(
        name: &str,
        program: &Program,
        listener: &TcpListener,
        lines: &Lines,
    ) -> io::Result<Self> {
        let socket: OwnedFd = listener.try_clone()?.into();
        let mut child = Command::new(&program.path)
            .args(&program.args)
            .envs(&program.env)
            .stdin(Stdio::from(socket))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(false)
            .process_group(0)
            .spawn()?;
        let (handle, identity) = match known(name, &child) {
            Ok(known) => known,
            Err(why) => {
                // Nobody would ever end it, and it would hold the port.
                let killed = tokio::time::timeout(KILL_TIMEOUT, child.kill()).await;
                if !matches!(killed, Ok(Ok(()))) {
                    tracing::error!(kernel = name, pid = child.id(), "a process that cannot be watched does not end");
                }
                return Err(why);
            }
        };
        gather(name, child.stdout.take(), lines);
        gather(name, child.stderr.take(), lines);
        let (tell, ended) = watch::channel(None);
        tokio::spawn(wait(child, tell));
        Ok(Self { identity, handle, ended })
    }

    /// Which process it is.
    #[must_use]
    pub(crate) fn identity(&self) -> Identity {
        self.identity
    }

    /// Completes when it has ended.
    pub(crate) fn wait(&self) -> impl Future<Output = Option<ExitStatus>> + Send + 'static {
        let mut ended = self.ended.clone();
        async move { ended.wait_for(Option::is_some).await.ok().and_then(|status| *status) }
    }

    /// Ask it to end, and end it if it has not within its grace. Says whether it had to be killed.
    ///
    /// # Errors
    /// If it cannot be signalled, or does not end even when it is killed.
    pub(crate) async fn stop(&self, grace: Duration) -> io::Result<bool> {
        self.signal(Signal::TERM)?;
        if tokio::time::timeout(grace, self.wait()).await.is_ok() {
            return Ok(false);
        }
        self.signal(Signal::KILL)?;
        match tokio::time::timeout(KILL_TIMEOUT, self.wait()).await {
            Ok(_) => Ok(true),
            Err(_) => Err(io::Error::other(format!("process {} does not end, even killed", self.identity.pid))),
        }
    }

    fn signal(&self, signal: Signal) -> io::Result<()> {
        match pidfd_send_signal(&self.handle, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(why) => Err(why.into()),
        }
    }
}

/// How long a killed process has to be gone.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

/// What a process that was just started is known by from now on.
fn known(name: &str, child: &Child) -> io::Result<(OwnedFd, Identity)> {
    let gone = || io::Error::other(format!("`{name}` ended as soon as it was started"));
    let pid = child.id().ok_or_else(gone)?;
    // It is ours and not yet waited for, so its number is still its own.
    let number = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or_else(gone)?;
    let handle = pidfd_open(number, PidfdFlags::empty())?;
    Ok((handle, Identity::of(pid).ok_or_else(gone)?))
}

async fn wait(mut child: Child, tell: watch::Sender<Option<ExitStatus>>) {
    match child.wait().await {
        Ok(status) => drop(tell.send(Some(status))),
        Err(why) => tracing::error!("a process of the fleet cannot be waited for: {why}"),
    }
}

fn gather(name: &str, output: Option<impl AsyncRead + Send + Unpin + 'static>, lines: &Lines) {
    let Some(output) = output else { return };
    let (name, lines) = (name.to_owned(), Arc::clone(lines));
    tokio::spawn(async move {
        let mut output = BufReader::new(output);
        let mut line = Vec::new();
        while let Ok(1..) = (&mut output).take(LINE_BYTES_MAX).read_until(b'\n', &mut line).await {
            lines(&name, String::from_utf8_lossy(&line).trim_end());
            line.clear();
        }
    });
}

/// End a process of ours that no longer has its fleet: TERM, then KILL after its grace.
///
/// # Errors
/// If it is not the process that it was, cannot be signalled, or does not end.
pub(crate) async fn end_stale(identity: Identity, grace: Duration) -> io::Result<()> {
    let number = i32::try_from(identity.pid).ok().and_then(Pid::from_raw);
    let number = number.ok_or_else(|| io::Error::other(format!("{} is no process", identity.pid)))?;
    let handle = match pidfd_open(number, PidfdFlags::empty()) {
        Err(rustix::io::Errno::SRCH) => return Ok(()),
        opened => opened?,
    };
    // The descriptor is of whoever has the number now; from here on it stays that one.
    if !identity.is_there() {
        return Ok(());
    }
    let end = move || {
        for (signal, patience) in [(Signal::TERM, grace), (Signal::KILL, KILL_TIMEOUT)] {
            match pidfd_send_signal(&handle, signal) {
                Err(rustix::io::Errno::SRCH) => {}
                sent => sent?,
            }
            if has_ended(&handle, patience)? {
                return Ok(());
            }
        }
        Err(io::Error::other(format!("process {} does not end, even killed", identity.pid)))
    };
    tokio::task::spawn_blocking(end).await.map_err(io::Error::other)?
}

/// Wait until the last thread of a process has ended, and with it everything that the process held: then its descriptor can
/// be read.
fn has_ended(handle: &OwnedFd, patience: Duration) -> io::Result<bool> {
    let until = Instant::now() + patience;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let limit = Timespec::try_from(left).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(handle, PollFlags::IN)], Some(&limit)) {
            Ok(ready) => return Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(why) => return Err(why.into()),
        }
    }
}
