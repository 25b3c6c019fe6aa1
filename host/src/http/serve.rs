//! Listening: sockets, connections, and stopping without losing what is in flight.

use super::{App, router, tls};
use crate::config::{Limits, TlsFile};
use anyhow::{Context, Result};
use axum::Router;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tower_service::Service;

/// The address of the other end, put into every request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub(crate) IpAddr);

/// A server that is bound and not yet serving.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    /// Where it listens, the port as it really is.
    pub address: SocketAddr,
    acceptor: Option<Acceptor>,
}

struct Acceptor(TlsAcceptor);

impl std::fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TlsAcceptor")
    }
}

impl Server {
    /// Bind `listen`.
    ///
    /// # Errors
    /// When the address is taken or not loopback while no keys are configured, or when the
    /// certificate cannot be used.
    pub async fn bind(listen: SocketAddr, tls: Option<&TlsFile>, has_keys: bool) -> Result<Self> {
        anyhow::ensure!(
            listen.ip().is_loopback() || has_keys,
            "{listen} is not loopback: configure keys first (`gavel key --help`), because without keys every caller has every role"
        );
        let acceptor = tls.map(tls::acceptor).transpose()?.map(Acceptor);
        let listener = TcpListener::bind(listen).await.with_context(|| format!("cannot listen on {listen}"))?;
        Ok(Self { address: listener.local_addr()?, listener, acceptor })
    }

    /// A server on a socket that listens already, without TLS.
    ///
    /// # Errors
    /// When the socket cannot be used.
    pub fn on(listener: std::net::TcpListener) -> Result<Self> {
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        Ok(Self { address: listener.local_addr()?, listener, acceptor: None })
    }

    /// `http` or `https`.
    #[must_use]
    pub fn scheme(&self) -> &'static str {
        if self.acceptor.is_some() { "https" } else { "http" }
    }
}

/// Serve until `stop` completes; then finish what is in flight, for as long as the limits grant.
pub async fn serve(server: Server, app: App, stop: impl Future<Output = ()>) {
    let limits = app.inner.limits.clone();
    let told = async {
        stop.await;
        app.stop();
    };
    serve_router(server, router(app.clone()), &limits, told).await;
    app.idle().await;
}

/// Serve these routes until `stop` completes; then finish what is in flight, for as long as the limits grant.
pub(crate) async fn serve_router(server: Server, router: Router, limits: &Limits, stop: impl Future<Output = ()>) {
    let graceful = GracefulShutdown::new();
    let slots = Arc::new(Semaphore::new(limits.max_connections));
    let connections = Arc::new(Connections {
        router,
        tls: server.acceptor.map(|acceptor| acceptor.0),
        header_timeout: Duration::from_millis(limits.header_timeout_ms),
    });
    tokio::pin!(stop);
    loop {
        let accepted = tokio::select! {
            accepted = accept(&server.listener, &slots) => accepted,
            () = &mut stop => break,
        };
        let Some((stream, peer, slot)) = accepted else { continue };
        let (connections, watcher) = (Arc::clone(&connections), graceful.watcher());
        tokio::spawn(async move {
            connections.handle(stream, peer, watcher).await;
            drop(slot);
        });
    }
    drop(server.listener);
    finish(graceful, Duration::from_millis(limits.shutdown_grace_ms)).await;
}

type Slot = tokio::sync::OwnedSemaphorePermit;

/// The next connection, once there is a slot for one.
async fn accept(listener: &TcpListener, slots: &Arc<Semaphore>) -> Option<(TcpStream, SocketAddr, Slot)> {
    let slot = Arc::clone(slots).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, peer)) => {
            // Answers are written whole: waiting to fill a packet would only delay them.
            let _ = stream.set_nodelay(true);
            Some((stream, peer, slot))
        }
        Err(why) => {
            tracing::warn!(%why, "a connection could not be accepted");
            // Out of file descriptors: trying again at once would spin.
            tokio::time::sleep(Duration::from_millis(50)).await;
            None
        }
    }
}

async fn finish(graceful: GracefulShutdown, grace: Duration) {
    if tokio::time::timeout(grace, graceful.shutdown()).await.is_err() {
        tracing::warn!(
            grace_ms = grace.as_millis(),
            "connections were still open when the grace ended (limits.shutdown_grace_ms)"
        );
    }
}

struct Connections {
    router: Router,
    tls: Option<TlsAcceptor>,
    header_timeout: Duration,
}

impl Connections {
    async fn handle(&self, stream: TcpStream, peer: SocketAddr, watcher: Watcher) {
        let Some(tls) = &self.tls else { return self.speak(stream, peer, watcher).await };
        match tokio::time::timeout(self.header_timeout, tls.accept(stream)).await {
            Ok(Ok(stream)) => self.speak(stream, peer, watcher).await,
            Ok(Err(why)) => tracing::debug!(%peer, %why, "TLS handshake failed"),
            Err(_) => tracing::debug!(%peer, "TLS handshake took too long"),
        }
    }

    async fn speak(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        peer: SocketAddr,
        watcher: Watcher,
    ) {
        let router = self.router.clone();
        let asked = Arc::new(AtomicBool::new(false));
        let service = hyper::service::service_fn({
            let asked = Arc::clone(&asked);
            move |mut request: hyper::Request<Incoming>| {
                asked.store(true, Ordering::Relaxed);
                request.extensions_mut().insert(Peer(peer.ip()));
                router.clone().call(request)
            }
        });
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder.http1().timer(TokioTimer::new()).header_read_timeout(self.header_timeout);
        // An HTTP/2 connection may idle for as long as it likes, if its other end still answers pings.
        let (interval, patience) = (Some(self.header_timeout), self.header_timeout);
        let http2 = &mut builder.http2();
        http2.timer(TokioTimer::new()).max_concurrent_streams(256);
        http2.keep_alive_interval(interval).keep_alive_timeout(patience);
        let connection = builder.serve_connection(TokioIo::new(stream), service).into_owned();
        // Until it knows which HTTP is spoken, hyper would wait for ever.
        let silent = async {
            tokio::time::sleep(self.header_timeout).await;
            if asked.load(Ordering::Relaxed) {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            ended = watcher.watch(connection) => {
                if let Err(why) = ended {
                    tracing::debug!(%peer, %why, "connection ended in an error");
                }
            }
            () = silent => tracing::debug!(%peer, "nothing was asked in time"),
        }
    }
}
