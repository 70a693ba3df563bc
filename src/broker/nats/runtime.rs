//! The thread that the client lives on.

use super::api::{self, ApiFault, Context, ErrorCode};
use super::denied::Denied;
use super::link::Link;
use super::{options, probe};
use crate::config::{BusUrl, NatsConfig};
use crate::error::ConnectError;
use crate::sync::{Mutex, thread};
use async_nats::jetstream::context::ContextBuilder;
use async_nats::{Client, ConnectErrorKind, ConnectOptions, ServerAddr};
use std::sync::mpsc;
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Handle};
use tokio::sync::{oneshot, watch};

/// Before a server that does not answer is tried again.
const RETRY: Duration = Duration::from_millis(50);
/// How long a lookup of a name that is under way may keep the thread.
const ENDING: Duration = Duration::from_secs(1);
/// How long an answer may take before it is asked for again: a server that has just started swallows requests.
const ANSWER: Duration = Duration::from_secs(1);
/// The oldest that is supported by those who make it.
const OLDEST_SERVER: (i64, i64, i64) = (2, 11, 0);

/// Where tasks run. Its thread ends by [`end`](Self::end), and soon after this was dropped.
pub(super) struct Runtime {
    handle: Handle,
    end: Mutex<Option<oneshot::Sender<()>>>,
    thread: Mutex<Option<thread::JoinHandle<()>>>,
}

impl Runtime {
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.handle.spawn(task);
    }

    /// Where a part of the bus starts tasks by itself.
    pub(super) fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Ends all tasks where they are, and the thread.
    pub(super) fn end(&self) {
        drop(self.end.lock().take());
        let thread = self.thread.lock().take();
        if let Some(thread) = thread
            && thread.thread().id() != thread::current().id()
        {
            let _ = thread.join();
        }
    }
}

/// What a connection consists of.
pub(super) struct Connected {
    pub(super) client: Client,
    pub(super) jetstream: Context,
    /// The same with a short limit, for those that ask again.
    pub(super) quick: Context,
    pub(super) link: watch::Receiver<Link>,
}

/// Starts the thread and connects on it.
pub(super) fn start(url: &BusUrl, config: &NatsConfig) -> Result<(Runtime, Connected), ConnectError> {
    let options = options::options(url, config)?;
    let servers = options::servers(url, config.tls)?;
    let (end, ended) = oneshot::channel::<()>();
    let (answer, answered) = mpsc::channel();
    let (url, limit, is_tls) = (url.clone(), config.connect_timeout, config.tls);
    let body = move || {
        let built = Builder::new_current_thread()
            .enable_all()
            .thread_name("keylane-nats-dns")
            .thread_keep_alive(Duration::from_millis(100))
            .build();
        let runtime = match built {
            Ok(runtime) => runtime,
            Err(error) => {
                let _ = answer.send(Err(ConnectError::Thread(error)));
                return;
            }
        };
        let handle = runtime.handle().clone();
        runtime.block_on(async {
            let connected = connect(&url, options, (servers, is_tls), limit).await;
            let is_connected = connected.is_ok();
            let _ = answer.send(connected.map(|connected| (handle, connected)));
            if is_connected {
                let _ = ended.await;
            }
        });
        runtime.shutdown_timeout(ENDING);
    };
    let thread =
        thread::Builder::new().name("keylane-nats".to_owned()).spawn(body).map_err(ConnectError::Thread)?;
    match answered.recv().unwrap_or(Err(ConnectError::Abandoned)) {
        Ok((handle, connected)) => {
            Ok((Runtime { handle, end: Mutex::new(Some(end)), thread: Mutex::new(Some(thread)) }, connected))
        }
        Err(error) => {
            let _ = thread.join();
            Err(error)
        }
    }
}

async fn connect(
    url: &BusUrl,
    options: ConnectOptions,
    (servers, is_tls): (Vec<ServerAddr>, bool),
    limit: Duration,
) -> Result<Connected, ConnectError> {
    let link = Link::first();
    let addresses = options::addresses(url);
    let until = Instant::now() + limit;
    let denied = Denied::new();
    let heard = {
        let (link, denied, addresses) = (link.clone(), denied.clone(), addresses.clone());
        move |event| {
            Link::heard(&link, &denied, &addresses, &event);
            std::future::ready(())
        }
    };
    let unreachable = |reason: String| ConnectError::Unreachable {
        system: "nats",
        addresses: addresses.clone(),
        within: limit,
        reason,
    };
    let options = options.event_callback(heard);
    let mut is_asked = false;
    let client = loop {
        let left = until.saturating_duration_since(Instant::now());
        let reason = match tokio::time::timeout(left, options.clone().connect(&servers[..])).await {
            Ok(Ok(client)) => break client,
            Ok(Err(error)) => match error.kind() {
                ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication => {
                    return Err(options::refused(
                        url,
                        format!(
                            "{error}; check the user and the password or token of the URL, or `nats.credentials`"
                        ),
                    ));
                }
                ConnectErrorKind::Tls => return Err(options::refused(url, with_causes(&error))),
                _ => {
                    let reason = with_causes(&error);
                    // The client's library takes it for trouble of the network.
                    if reason.contains("certificate") {
                        let advice = if is_tls {
                            "check `nats.tls_ca`"
                        } else {
                            "the server wants TLS: set `nats.tls`, and `nats.tls_ca` where its authority is not one \
                             of the system's"
                        };
                        return Err(options::refused(url, format!("{reason}; {advice}")));
                    }
                    if !std::mem::replace(&mut is_asked, true)
                        && let Some(reason) = refusal(url, is_tls).await
                    {
                        return Err(options::refused(url, reason));
                    }
                    reason
                }
            },
            Err(_) => format!("no answer{}", hint(url).await),
        };
        if Instant::now() + RETRY >= until {
            return Err(unreachable(reason));
        }
        tokio::time::sleep(RETRY).await;
    };
    let (major, minor, patch) = OLDEST_SERVER;
    if !client.is_server_compatible(major, minor, patch) {
        let version = client.server_info().version;
        return Err(options::refused(
            url,
            format!("the server has version {version}; {major}.{minor} or newer is needed"),
        ));
    }
    let jetstream = jetstream(&client, limit, &denied);
    loop {
        match api::account(&jetstream).await {
            Ok(()) => break,
            Err(fault) if is_disabled(&fault) => {
                return Err(options::refused(url, "JetStream is not enabled for this account"));
            }
            Err(fault @ ApiFault::Denied(_)) => return Err(options::refused(url, fault.to_string())),
            // A server that has just started has its JetStream a little later.
            Err(_) if Instant::now() + RETRY < until => tokio::time::sleep(RETRY).await,
            Err(fault @ ApiFault::NoJetStream) => {
                return Err(options::refused(
                    url,
                    format!("{fault}; start the server with JetStream (`-js`), or enable it for the account"),
                ));
            }
            Err(fault) => return Err(unreachable(fault.to_string())),
        }
    }
    let quick = self::jetstream(&client, ANSWER.min(limit), &denied);
    Ok(Connected { client, jetstream, quick, link: link.subscribe() })
}

/// Why no try will ever succeed at any of the addresses.
async fn refusal(url: &BusUrl, is_tls: bool) -> Option<String> {
    let mut first = None;
    for host in url.hosts() {
        let address = host.to_string();
        let reason = probe::ask(&address).await.refusal(&address, is_tls)?;
        first.get_or_insert(reason);
    }
    first
}

/// What may be wrong with the first address, where nothing says so.
async fn hint(url: &BusUrl) -> &'static str {
    match url.hosts().first() {
        Some(host) => probe::ask(&host.to_string()).await.hint(),
        None => "",
    }
}

/// A way to ask JetStream, with this limit for each answer.
fn jetstream(client: &Client, limit: Duration, denied: &Denied) -> Context {
    Context::new(ContextBuilder::new().timeout(limit).build(client.clone()), denied.clone())
}

fn is_disabled(fault: &ApiFault) -> bool {
    let disabled = [ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT, ErrorCode::JETSTREAM_NOT_ENABLED];
    fault.code().is_some_and(|code| disabled.contains(&code))
}

/// An error with what it comes from: the first alone is often only "IO error".
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}
