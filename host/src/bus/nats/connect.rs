//! To the server, and to the stream on it.

use super::NatsError;
use super::counts::Counters;
use super::settings::NatsFile;
use async_nats::jetstream::context::GetStreamErrorKind;
use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy, StorageType, Stream};
use async_nats::jetstream::{Context, ContextBuilder, ErrorCode};
use async_nats::{ConnectOptions, Event, ServerAddr};
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// A client that connects, now or when the server is there, and again whenever the connection is lost.
pub(super) struct Server {
    pub(super) context: Context,
    /// Whether there is a connection.
    pub(super) connected: watch::Receiver<bool>,
}

/// Begin to connect. Nothing is waited for.
pub(super) async fn connect(file: &NatsFile, counters: &Arc<Counters>) -> Result<Server, NatsError> {
    // There is one already where something else in this process made one first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let (tell, connected) = watch::channel(false);
    let (limits, counters) = (file.limits.clone(), Arc::clone(counters));
    let tell = Arc::new(tell);
    let options = signed_in(file)?
        .name(format!("gavel {}", file.host))
        .retry_on_initial_connect()
        .connection_timeout(Duration::from_millis(limits.connect_timeout_ms))
        .request_timeout(Some(limits.answer_timeout()))
        .subscription_capacity(file.limits.receive_window.max(1_024) * 2)
        .reconnect_delay_callback(move |attempts| limits.reconnect_pause(u32::try_from(attempts).unwrap_or(u32::MAX)))
        .event_callback(move |event| {
            heard(&event, &tell, &counters);
            std::future::ready(())
        });
    let servers: Result<Vec<_>, _> = file.url.split(',').map(|url| ServerAddr::from_str(url.trim())).collect();
    let servers = servers.map_err(|why| NatsError::Server(format!("bus.nats.url: {why}")))?;
    let client = options.connect(servers).await.map_err(|why| NatsError::Server(why.to_string()))?;
    let context = ContextBuilder::new()
        .timeout(file.limits.answer_timeout())
        .ack_timeout(file.limits.answer_timeout())
        .max_ack_inflight(file.limits.publish_window)
        .build(client);
    Ok(Server { context, connected })
}

fn heard(event: &Event, connected: &watch::Sender<bool>, counters: &Counters) {
    match event {
        Event::Connected => {
            counters.connected.set(1);
            counters.connections.add(1);
            connected.send_replace(true);
            tracing::info!("connected to the NATS server");
        }
        Event::Disconnected | Event::Closed => {
            counters.connected.set(0);
            if connected.send_replace(false) {
                tracing::warn!("no connection to the NATS server: events wait in the outbox");
            }
        }
        other => tracing::warn!("the NATS server's connection: {other}"),
    }
}

/// Who this is to the server. Secrets are read here, from files that nobody else may read.
fn signed_in(file: &NatsFile) -> Result<ConnectOptions, NatsError> {
    let mut options = ConnectOptions::new();
    if let Some(path) = &file.credentials_file {
        let text = secret(path)?;
        options = options.credentials(&text).map_err(|why| NatsError::secret(path, &why))?;
    }
    if let (Some(user), Some(path)) = (&file.user, &file.password_file) {
        options = options.user_and_password(user.clone(), secret(path)?.trim_end().to_owned());
    }
    if let Some(path) = &file.token_file {
        options = options.token(secret(path)?.trim_end().to_owned());
    }
    if let Some(path) = &file.tls_ca {
        options = options.add_root_certificates(path.clone()).require_tls(true);
    }
    Ok(options)
}

fn secret(path: &Path) -> Result<String, NatsError> {
    use std::os::unix::fs::MetadataExt;
    let mode = std::fs::metadata(path).map_err(|why| NatsError::secret(path, &why))?.mode() & 0o777;
    if mode & 0o077 != 0 {
        let told = format!("others may read this secret (mode {mode:03o}): make it yours alone with `chmod 600`");
        return Err(NatsError::secret(path, &told));
    }
    std::fs::read_to_string(path).map_err(|why| NatsError::secret(path, &why))
}

/// The stream; made if there is none. One that is there stays as it is, so that hosts do not quarrel about it.
pub(super) async fn stream(file: &NatsFile, context: &Context) -> Result<Stream, NatsError> {
    let found = match context.get_stream(&file.stream).await {
        Ok(stream) => stream,
        Err(why) => match why.kind() {
            GetStreamErrorKind::JetStream(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND => {
                let made = context.get_or_create_stream(config(file)).await;
                made.map_err(|why| NatsError::Server(format!("stream '{}' cannot be made: {why}", file.stream)))?
            }
            _ => return Err(NatsError::Server(format!("stream '{}': {why}", file.stream))),
        },
    };
    let has = &found.cached_info().config;
    let all = file.all_subjects();
    if !has.subjects.contains(&all) {
        return Err(NatsError::Server(format!(
            "stream '{}' has the subjects {:?}, not '{all}': add it, or give another bus.nats.stream",
            file.stream, has.subjects
        )));
    }
    if has.retention != RetentionPolicy::Limits {
        return Err(NatsError::Server(format!(
            "stream '{}' does not keep its messages for all hosts ({:?}): make it with retention `limits`",
            file.stream, has.retention
        )));
    }
    Ok(found)
}

fn config(file: &NatsFile) -> Config {
    Config {
        name: file.stream.clone(),
        description: Some("Events between Gavel's hosts".to_owned()),
        subjects: vec![file.all_subjects()],
        max_age: Duration::from_secs(file.limits.stream_max_age_s),
        max_bytes: i64::try_from(file.limits.stream_max_bytes).unwrap_or(i64::MAX),
        max_messages: -1,
        max_messages_per_subject: -1,
        duplicate_window: Duration::from_secs(file.limits.duplicate_window_s),
        discard: DiscardPolicy::Old,
        retention: RetentionPolicy::Limits,
        storage: StorageType::File,
        num_replicas: 1,
        ..Config::default()
    }
}
