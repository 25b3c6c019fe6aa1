//! Being a service of systemd: it is told when we are ready, reload, stop, and that we still live.
//!
//! Without `NOTIFY_SOCKET` all of this does nothing. A sign of life is sent at half of the time that
//! `WATCHDOG_USEC` grants, and only if the server answers, through the whole of its routes, and every
//! ledger that has something to write has written since the last look. A server that is merely busy, or
//! whose ledger takes no more records, is alive: to kill it would mend nothing that an alert does not.

use crate::host::Host;
use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::header;
use sd_notify::NotifyState;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tower_service::Service;

/// How long a process may take to begin anew, while nobody gives signs of life: a long ledger that was
/// not closed takes its time to open.
const ANEW: Duration = Duration::from_mins(10);

/// Requests are served from now on, again after a reload.
pub(crate) fn ready() {
    let mut state = vec![NotifyState::Ready, NotifyState::Status("serving")];
    state.extend(sd_notify::watchdog_enabled().map(watchdog_limit));
    tell(&state);
}

/// The configuration is being read again.
pub(crate) fn reloading() {
    tell_reloading(&[NotifyState::Status("reading the configuration")]);
}

/// The process is about to begin anew.
pub(crate) fn beginning_anew() {
    let patience = sd_notify::watchdog_enabled().map(|_| watchdog_limit(ANEW));
    tell_reloading(&[Some(NotifyState::Status("restarting")), patience].into_iter().flatten().collect::<Vec<_>>());
}

fn tell_reloading(also: &[NotifyState<'_>]) {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[&[NotifyState::Reloading, now], also].concat()),
        Err(why) => tracing::warn!(%why, "systemd is not told of the reload: there is no monotonic clock"),
    }
}

fn watchdog_limit(limit: Duration) -> NotifyState<'static> {
    NotifyState::WatchdogUsec(u32::try_from(limit.as_micros()).unwrap_or(u32::MAX))
}

/// No more requests are taken.
pub(crate) fn stopping() {
    tell(&[NotifyState::Stopping, NotifyState::Status("finishing what is in flight")]);
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(why) = sd_notify::notify(state) {
        tracing::warn!(%why, "systemd could not be told of our state");
    }
}

/// Send signs of life for as long as there is life, until the task is aborted.
pub(crate) async fn watchdog(host: Arc<Host>, mut router: Router) {
    let Some(limit) = sd_notify::watchdog_enabled() else { return std::future::pending().await };
    let pause = limit / 2;
    let mut written = Written::default();
    loop {
        tokio::time::sleep(pause).await;
        if !answers(&mut router, pause).await {
            tracing::error!(limit_ms = limit.as_millis(), "the server does not answer itself: no sign of life");
        } else if let Some(kernel) = written.stuck(&host) {
            tracing::error!(kernel, "the ledger has something to write and does not: no sign of life");
        } else {
            tell(&[NotifyState::Watchdog]);
        }
    }
}

/// Signs of life of a loop: sent at half of the time that the watchdog grants, and only while it turns.
#[derive(Debug)]
pub(crate) struct Beat {
    pause: Option<Duration>,
    last: Option<Instant>,
}

impl Beat {
    pub(crate) fn new() -> Self {
        Self { pause: sd_notify::watchdog_enabled().map(|limit| limit / 2), last: None }
    }

    /// How often the loop must turn, so that no sign comes too late; `None` if nobody waits for any.
    pub(crate) fn every(&self) -> Option<Duration> {
        self.pause.map(|pause| pause / 2)
    }

    /// The loop has turned.
    pub(crate) fn beat(&mut self) {
        let Some(pause) = self.pause else { return };
        if self.last.is_none_or(|last| last.elapsed() >= pause) {
            self.last = Some(Instant::now());
            tell(&[NotifyState::Watchdog]);
        }
    }
}

/// Whether the server answers anything in time, be it that it is busy.
async fn answers(router: &mut Router, limit: Duration) -> bool {
    let Ok(request) = Request::get("/livez").header(header::HOST, "localhost").body(Body::empty()) else {
        return false;
    };
    tokio::time::timeout(limit, router.call(request)).await.is_ok()
}

/// How many batches each ledger had written at the last look, and whether more waited then.
#[derive(Debug, Default)]
struct Written(Vec<Progress>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Progress {
    batches: u64,
    waiting: bool,
}

impl Written {
    /// The kernel whose ledger had something to write at the last look and has written nothing since.
    fn stuck(&mut self, host: &Host) -> Option<String> {
        let kernels = host.kernels();
        let progress = kernels.iter().map(|kernel| {
            let stats = kernel.ledger().stats();
            Progress { batches: stats.batches, waiting: stats.queue_depth > 0 && kernel.poisoned().is_none() }
        });
        let before = std::mem::replace(&mut self.0, progress.collect());
        let at = before.iter().zip(&self.0).position(|(before, now)| stands_still(*before, *now));
        at.and_then(|at| Some(kernels.get(at)?.id().to_owned()))
    }
}

fn stands_still(before: Progress, now: Progress) -> bool {
    before.waiting && now.waiting && before.batches == now.batches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_ledger_that_should_write_and_does_not_stands_still() {
        let at = |batches, waiting| Progress { batches, waiting };
        assert!(stands_still(at(5, true), at(5, true)));
        assert!(!stands_still(at(5, true), at(6, true)), "busy");
        assert!(!stands_still(at(5, false), at(5, true)), "it has just begun");
        assert!(!stands_still(at(5, false), at(5, false)), "nothing to do");
    }
}
