//! One component at work: its socket, its process, its place in the registry, and where its requests go.
//!
//! Whoever starts, stops or moves it holds [`Unit::busy`]: one at a time.

use crate::holder::{self, Holder};
use crate::passage::OnTheirWay;
use crate::plan::{Component, Place};
use crate::process::Process;
use crate::registry::{Entry, Status};
use jiff::Timestamp;
use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Where requests to a component go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Route {
    /// There.
    To(Target),
    /// Nowhere yet: it is being started, moved or healed. Requests wait.
    Hold,
    /// Nowhere: it is down, and why.
    Down(String),
}

/// Where a component is, in one of its lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    /// `http://HOST:PORT`.
    pub(crate) base: String,
    /// Another for each process: a connection to one is never used for the next, though it has the same address.
    pub(crate) life: u64,
}

/// A component at work.
#[derive(Debug)]
pub(crate) struct Unit {
    pub(crate) component: Component,
    /// Held by whoever starts, stops, heals or moves it.
    pub(crate) busy: tokio::sync::Mutex<()>,
    /// Requests that were sent to it and are not being answered yet.
    pub(crate) on_their_way: Arc<OnTheirWay>,
    /// The same, and those that wait until they can be sent.
    pub(crate) at_the_door: Arc<OnTheirWay>,
    state: Mutex<State>,
    route: watch::Sender<Route>,
    status: watch::Sender<Status>,
    /// Whether it had its turn when the fleet was started.
    launched: watch::Sender<bool>,
}

#[derive(Debug)]
struct State {
    entry: Entry,
    listener: Option<Arc<TcpListener>>,
    process: Option<Arc<Process>>,
    /// Whether it is to run: what ends by itself is started again.
    wanted: bool,
    /// When it was started again, as far as that counts.
    restarts: VecDeque<Instant>,
    /// Which of its lives it is in.
    life: u64,
    /// Whether Guardian is at it already.
    tended: bool,
    /// What it must have before a restart can help.
    lack: Option<String>,
}

/// Why a port cannot be had.
#[derive(Debug)]
pub(crate) enum BindError {
    /// Somebody else has it.
    Taken(u16, Vec<Holder>),
    /// Something else.
    Failed(u16, io::Error),
}

impl std::fmt::Display for BindError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Failed(port, why) => write!(f, "port {port} cannot be listened on: {why}"),
            Self::Taken(port, holders) if holders.is_empty() => write!(f, "port {port} is taken"),
            Self::Taken(port, holders) => {
                let holders: Vec<String> = holders.iter().map(Holder::to_string).collect();
                write!(f, "port {port} is held by {}", holders.join(" and "))
            }
        }
    }
}

impl Unit {
    pub(crate) fn new(component: Component) -> Self {
        let (status, route, base) = match &component.place {
            Place::NotStarted => (Status::NotStarted, Route::Down("it is not started".to_owned()), None),
            Place::Process => (Status::Stopped, Route::Hold, None),
            Place::Elsewhere(url) => {
                (Status::Starting, Route::To(Target { base: url.clone(), life: 0 }), Some(url.clone()))
            }
        };
        let entry = Entry {
            name: component.name.clone(),
            port: component.port,
            tier: component.tier,
            pid: None,
            status,
            required: component.required,
            health_url: String::new(),
            metrics_url: String::new(),
            last_check: None,
            failures: 0,
            restarts: 0,
            since: Timestamp::now(),
            detail: String::new(),
        };
        let (listener, process, restarts) = (None, None, VecDeque::new());
        let state = State { entry, listener, process, wanted: false, restarts, life: 0, tended: false, lack: None };
        let unit = Self {
            busy: tokio::sync::Mutex::new(()),
            on_their_way: Arc::default(),
            at_the_door: Arc::default(),
            state: Mutex::new(state),
            route: watch::Sender::new(route),
            status: watch::Sender::new(status),
            launched: watch::Sender::new(false),
            component,
        };
        unit.at(&base.unwrap_or_else(|| local(unit.component.port)), unit.component.port);
        unit
    }

    /// Its line of the registry.
    pub(crate) fn entry(&self) -> Entry {
        self.state().entry.clone()
    }

    pub(crate) fn status(&self) -> Status {
        self.state().entry.status
    }

    /// Completes when it has a status that will do.
    pub(crate) async fn until(&self, will_do: impl FnMut(&Status) -> bool) -> Status {
        let mut status = self.status.subscribe();
        let reached = status.wait_for(will_do).await.map(|status| *status);
        reached.unwrap_or(Status::Failed)
    }

    /// It has its turn, or there is none for it: those after it need not wait.
    pub(crate) fn launch(&self) {
        self.launched.send_replace(true);
    }

    /// Completes when it had its turn.
    pub(crate) async fn is_launched(&self) {
        // The sender is this unit's own, so it is there.
        drop(self.launched.subscribe().wait_for(|launched| *launched).await);
    }

    /// Where its requests go, and where they will.
    pub(crate) fn route(&self) -> watch::Receiver<Route> {
        self.route.subscribe()
    }

    pub(crate) fn lead(&self, route: Route) {
        self.route.send_replace(route);
    }

    /// Lead requests to where it is.
    pub(crate) fn lead_home(&self) {
        let state = self.state();
        let url = &state.entry.health_url;
        let base = url.strip_suffix(&self.component.health_path).unwrap_or(url).to_owned();
        self.lead(Route::To(Target { base, life: state.life }));
    }

    /// Have the socket of this port; the one that it has, if it is that.
    pub(crate) async fn bind(&self, port: u16) -> Result<Arc<TcpListener>, BindError> {
        if let Some(listener) = self.listener()
            && (port == 0 || listener.local_addr().is_ok_and(|address| address.port() == port))
        {
            return Ok(listener);
        }
        Self::bind_anew(port).await
    }

    /// Have a socket of this port; 0 takes any free one, which is another than it has.
    pub(crate) async fn bind_anew(port: u16) -> Result<Arc<TcpListener>, BindError> {
        let bound = match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            Ok(bound) => bound,
            Err(why) if why.kind() == io::ErrorKind::AddrInUse => {
                return Err(BindError::Taken(port, holder::look(move || holder::of_port(port)).await));
            }
            Err(why) => return Err(BindError::Failed(port, why)),
        };
        bound.set_nonblocking(true).map_err(|why| BindError::Failed(port, why))?;
        Ok(Arc::new(bound))
    }

    /// Be on this socket from now on; gives the one before.
    pub(crate) fn settle(&self, listener: &Arc<TcpListener>) -> Option<Arc<TcpListener>> {
        let port = listener.local_addr().map_or(0, |address| address.port());
        self.at(&local(port), port);
        self.state().listener.replace(Arc::clone(listener))
    }

    /// Be at this base; nowhere, if it is empty.
    fn at(&self, base: &str, port: u16) {
        let url = |path: &str| if base.is_empty() { String::new() } else { format!("{base}{path}") };
        let mut state = self.state();
        state.entry.port = port;
        state.entry.metrics_url = url("/metrics");
        state.entry.health_url = url(&self.component.health_path);
    }

    pub(crate) fn listener(&self) -> Option<Arc<TcpListener>> {
        self.state().listener.clone()
    }

    /// Give its port back.
    pub(crate) fn unbind(&self) {
        self.state().listener = None;
    }

    pub(crate) fn process(&self) -> Option<Arc<Process>> {
        self.state().process.clone()
    }

    pub(crate) fn set_process(&self, process: &Arc<Process>) {
        let mut state = self.state();
        state.entry.pid = Some(process.identity().pid);
        state.life += 1;
        state.process = Some(Arc::clone(process));
    }

    /// Hold requests back, if this very process, which has ended, is the component's.
    pub(crate) fn hold_for(&self, process: &Arc<Process>) -> bool {
        let state = self.state();
        let ours = state.wanted && state.process.as_ref().is_some_and(|own| Arc::ptr_eq(own, process));
        if ours {
            self.lead(Route::Hold);
        }
        ours
    }

    /// Whether this very process is the component's.
    pub(crate) fn runs_as(&self, process: &Arc<Process>) -> bool {
        self.state().process.as_ref().is_some_and(|own| Arc::ptr_eq(own, process))
    }

    pub(crate) fn wanted(&self) -> bool {
        self.state().wanted
    }

    pub(crate) fn want(&self, wanted: bool) {
        self.state().wanted = wanted;
    }

    /// Take a new status; says whether it is another than before.
    pub(crate) fn set_status(&self, status: Status, detail: impl Into<String>) -> bool {
        let changed = self.state().take_status(status, detail.into());
        self.status.send_replace(status);
        changed
    }

    /// Have no process any more, and this status for it: nobody sees the one without the other.
    pub(crate) fn part(&self, status: Status, detail: impl Into<String>) -> bool {
        let mut state = self.state();
        state.entry.pid = None;
        state.process = None;
        state.life += 1;
        let changed = state.take_status(status, detail.into());
        drop(state);
        self.status.send_replace(status);
        changed
    }

    /// Note a check; gives how many failed in a row.
    pub(crate) fn checked(&self, well: bool) -> u32 {
        let mut state = self.state();
        state.entry.last_check = Some(Timestamp::now());
        state.entry.failures = if well { 0 } else { state.entry.failures.saturating_add(1) };
        state.entry.failures
    }

    /// Note a restart, unless as many were made within the window as may be; gives how many there were before.
    pub(crate) fn spend_restart(&self, most: u32, window: Duration) -> Result<u32, u32> {
        let mut state = self.state();
        state.restarts.retain(|at| at.elapsed() < window);
        let made = u32::try_from(state.restarts.len()).unwrap_or(u32::MAX);
        if made >= most {
            return Err(made);
        }
        state.restarts.push_back(Instant::now());
        Ok(made)
    }

    /// It was started again.
    pub(crate) fn count_restart(&self) {
        let mut state = self.state();
        state.entry.restarts = state.entry.restarts.saturating_add(1);
    }

    /// Whether Guardian has something to do here.
    pub(crate) fn is_to_be_healed(&self) -> bool {
        self.state().is_to_be_healed()
    }

    /// Be the one who heals it until [`Self::let_go`] says that it is done; false if somebody is.
    pub(crate) fn tend(&self) -> bool {
        !std::mem::replace(&mut self.state().tended, true)
    }

    /// Leave it, unless something is still to be done. In one step, so that no news falls between two who heal.
    pub(crate) fn let_go(&self) -> bool {
        let mut state = self.state();
        state.tended = state.is_to_be_healed();
        !state.tended
    }

    /// Lack this, without which no restart helps; nothing any more. Who waits for its status looks again.
    pub(crate) fn lacks(&self, lack: Option<String>) {
        self.state().lack = lack;
        self.status.send_modify(|_| {});
    }

    /// Whether it will be no better until somebody makes room.
    pub(crate) fn is_in_want(&self) -> bool {
        self.state().lack.is_some()
    }

    /// What is wrong with it, and before that what it lacks.
    pub(crate) fn with_lack(&self, detail: String) -> String {
        match &self.state().lack {
            Some(lack) => format!("{lack}: it is restarted when there is room; {detail}"),
            None => detail,
        }
    }

    /// Forget failures and restarts. Says whether it had failed for good.
    pub(crate) fn reset(&self) -> bool {
        let mut state = self.state();
        state.restarts.clear();
        state.entry.failures = 0;
        state.entry.status == Status::Failed
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn take_status(&mut self, status: Status, detail: String) -> bool {
        let changed = self.entry.status != status;
        if changed {
            self.entry.since = Timestamp::now();
        }
        if status == Status::Healthy {
            self.entry.failures = 0;
        }
        self.entry.status = status;
        self.entry.detail = detail;
        changed
    }

    fn is_to_be_healed(&self) -> bool {
        self.wanted && self.entry.status != Status::Healthy
    }
}

/// Where a port of this machine is; nowhere without one.
fn local(port: u16) -> String {
    if port == 0 { String::new() } else { format!("http://127.0.0.1:{port}") }
}
