//! The HTTP front: accepts, tells HTTP/1.1 from HTTP/2, and serves each connection until it ends.

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use hyper_util::rt::TokioExecutor;
use relmgr_abi::head::ConnectionFacts;
use relmgr_model::sessions::TcpStart;
use relmgr_model::settings::Limits;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore, watch};

use super::connection::{Connection, Connections, Order, Socket};
use super::gate::{Gate, NoRoom};
use super::generation::{Current, RequestGuard};
use super::service::{Origin, Service};
use super::sessions::tcp;
use super::tls::Tls;
use crate::endpoint;

/// How a client that knows that the server speaks HTTP/2 begins (RFC 9113, 3.4); no HTTP/1 method is `PRI`.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Streams of one HTTP/2 connection at once: what nginx and Apache allow is 100 to 128.
const STREAMS: u32 = 128;

/// After an accept that failed for want of descriptors or memory: long enough not to spin, short beside what a
/// client waits.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// The HTTP front.
pub struct Front {
    /// What answers requests.
    pub current: Current,
    /// The path that the host answers itself.
    pub version_path: String,
    /// What a client may take up.
    pub limits: Limits,
    /// What holds requests back during a code change.
    pub gate: Arc<Gate>,
    /// The connections.
    pub connections: Arc<Connections>,
    /// How encrypted connections begin, where there are any.
    pub tls: Option<Tls>,
    permits: Arc<Semaphore>,
    /// Listeners that accept nobody, for want of a permit.
    full: AtomicUsize,
    accepted: AtomicU64,
    door: watch::Sender<Door>,
}

/// A listener that waits for a permit.
struct Full<'a>(&'a AtomicUsize);

impl<'a> Full<'a> {
    fn note(listeners: &'a AtomicUsize) -> Self {
        listeners.fetch_add(1, Ordering::Relaxed);
        Self(listeners)
    }
}

impl Drop for Full<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connection's place among those that there may be. No error: nobody closes the semaphore.
type Permit = Result<OwnedSemaphorePermit, AcquireError>;

/// Whether new connections are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Door {
    Open,
    /// Who connects waits in the backlog.
    Shut,
    /// For good.
    Closed,
}

/// What is spoken on a listener.
#[derive(Debug, Clone)]
pub enum Speaks {
    /// HTTP.
    Http,
    /// HTTP over TLS.
    Https,
    /// Raw TCP, for sessions.
    Tcp(Arc<TcpStart>),
}

/// How a request finds the generations.
pub enum Entered {
    /// This one answers it.
    Serving(RequestGuard),
    /// The gate is shut.
    Shut,
    /// No generation serves.
    Nobody,
}

/// Why no generation answers a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// None serves.
    Nobody,
    /// A code change is under way, and too many wait for it already.
    NoRoom,
}

impl From<NoRoom> for Refused {
    fn from(_: NoRoom) -> Self {
        Self::NoRoom
    }
}

impl Front {
    /// A front without a generation: it answers 503.
    pub fn new(version_path: String, limits: Limits, tls: Option<Tls>) -> Arc<Self> {
        Arc::new(Self {
            current: Current::empty(),
            version_path,
            permits: Arc::new(Semaphore::new(limits.connections.min(Semaphore::MAX_PERMITS))),
            gate: Arc::new(Gate::new(limits.held)),
            limits,
            connections: Arc::default(),
            tls,
            full: AtomicUsize::new(0),
            accepted: AtomicU64::new(0),
            door: watch::Sender::new(Door::Open),
        })
    }

    /// Gives a request, or a message of a session, the generation that answers it; during a code change it waits for
    /// the one that comes of it. The only way to a generation for what clients send.
    ///
    /// # Errors
    /// [`Refused`].
    pub async fn enter(&self) -> Result<RequestGuard, Refused> {
        let mut place = None;
        loop {
            match self.try_enter() {
                Entered::Serving(guard) => return Ok(guard),
                Entered::Nobody => return Err(Refused::Nobody),
                Entered::Shut => {}
            }
            let waiting = match &place {
                Some(waiting) => waiting,
                None => place.insert(self.gate.place()?),
            };
            waiting.opened().await;
        }
    }

    /// The same without waiting: one look at the gate.
    pub fn try_enter(&self) -> Entered {
        let Some(guard) = RequestGuard::new(self.current.load()) else { return Entered::Nobody };
        // Counted in first: who shuts the gate then waits for this one, or this one sees the gate shut.
        if self.gate.is_shut() {
            guard.withdraw();
            return Entered::Shut;
        }
        Entered::Serving(guard)
    }

    /// Accepts from `listener` until [`Front::stop_accepting`].
    pub async fn accept(self: Arc<Self>, listener: TcpListener, speaks: Speaks) {
        let mut door = self.door.subscribe();
        loop {
            // The front is there for as long as it is asked.
            let _ = door.wait_for(|door| *door != Door::Shut).await;
            let next = async {
                // A permit first: beyond the limit, clients wait in the backlog.
                let permit = self.permit().await;
                (permit, listener.accept().await)
            };
            let moved =
                async { door.wait_for(|door| *door != Door::Open).await.map_or(Door::Closed, |door| *door) };
            let (permit, accepted) = tokio::select! {
                biased;
                door = moved => match door {
                    Door::Closed => return,
                    Door::Open | Door::Shut => continue,
                },
                next = next => next,
            };
            match accepted {
                Ok((stream, peer)) => {
                    let facts = facts(&stream, peer, matches!(speaks, Speaks::Https));
                    let front = self.clone();
                    match &speaks {
                        Speaks::Http | Speaks::Https => tokio::spawn(front.serve(stream, facts, permit)),
                        Speaks::Tcp(start) => {
                            tokio::spawn(front.serve_tcp(start.clone(), stream, facts, permit))
                        }
                    };
                }
                // The client was gone before it was accepted.
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn permit(&self) -> Permit {
        if let Ok(permit) = self.permits.clone().try_acquire_owned() {
            return Ok(permit);
        }
        let _full = Full::note(&self.full);
        self.permits.clone().acquire_owned().await
    }

    /// Whether there are as many connections as there may be, so that a listener accepts nobody.
    pub fn is_full(&self) -> bool {
        self.full.load(Ordering::Relaxed) > 0
    }

    /// What the version endpoint answers: a connection like a client's, but in memory, so that it needs no permit.
    ///
    /// # Errors
    /// It answers no version.
    pub async fn hear_version(self: Arc<Self>) -> Result<String, endpoint::AskError> {
        let (client, served) = tokio::io::duplex(endpoint::QUESTION);
        let here = SocketAddr::from(([127, 0, 0, 1], 0)).into();
        let origin = Origin { facts: ConnectionFacts { peer: here, local: here, tls: false }, tls: None };
        let (connection, place) = self.connections.open();
        let service = Service::new(self.clone(), connection.clone(), origin, 0);
        let answering = exchange(served, service, &connection, false);
        let path = self.version_path.clone();
        let (heard, _) = tokio::join!(endpoint::ask_version(client, &path), answering);
        self.connections.closed(place);
        heard
    }

    /// Ends [`Front::accept`]; who connects from now on waits in the backlog.
    pub fn stop_accepting(&self) {
        self.door.send_replace(Door::Closed);
    }

    /// Has those who connect wait in the backlog, until [`Front::accept_again`] or for another host.
    pub fn pause_accepting(&self) {
        self.go_on(Door::Open, Door::Shut);
    }

    /// Takes connections again.
    pub fn accept_again(&self) {
        self.go_on(Door::Shut, Door::Open);
    }

    fn go_on(&self, from: Door, to: Door) {
        self.door.send_if_modified(|door| {
            let goes = *door == from;
            if goes {
                *door = to;
            }
            goes
        });
    }

    // What a connection keeps while nobody asks is this future: what is seldom, or large of itself, is boxed in it.
    async fn serve(self: Arc<Self>, stream: TcpStream, facts: ConnectionFacts, _permit: Permit) {
        let number = self.accepted.fetch_add(1, Ordering::Relaxed) + 1;
        let (connection, place) = self.connections.open();
        let served = self.clone().speak(stream, facts, &connection, number);
        if let Err(error) = served.await {
            // Mostly clients that went away.
            tracing::debug!(%error, "a connection ended early");
        }
        self.connections.closed(place);
    }

    async fn serve_tcp(
        self: Arc<Self>,
        start: Arc<TcpStart>,
        stream: TcpStream,
        facts: ConnectionFacts,
        _permit: Permit,
    ) {
        let (connection, place) = self.connections.open();
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a connection without nodelay");
        }
        tcp::serve(self.clone(), &start, stream, facts, &connection).await;
        self.connections.closed(place);
    }

    async fn speak(
        self: Arc<Self>,
        stream: TcpStream,
        facts: ConnectionFacts,
        connection: &Arc<Connection>,
        number: u64,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        stream.set_nodelay(true)?;
        if let Some(tls) = self.tls.as_ref().filter(|_| facts.tls) {
            return Box::pin(self.speak_tls(tls, stream, facts, connection, number)).await;
        }
        let http2 = tokio::select! {
            http2 = speaks_http2(&stream) => http2?,
            () = connection.told() => return Ok(()),
        };
        let service = Service::new(self, connection.clone(), Origin { facts, tls: None }, number);
        exchange(stream, service, connection, http2).await
    }

    async fn speak_tls(
        self: &Arc<Self>,
        tls: &Tls,
        stream: TcpStream,
        facts: ConnectionFacts,
        connection: &Arc<Connection>,
        number: u64,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        // The time for a request's head is the handshake's, too.
        let (stream, agreed) = tokio::select! {
            accepted = tls.accept(stream) => accepted?,
            () = connection.told() => return Ok(()),
        };
        let http2 = agreed.is_http2();
        let origin = Origin { facts, tls: Some(Arc::new(agreed)) };
        let service = Service::new(self.clone(), connection.clone(), origin, number);
        exchange(stream, service, connection, http2).await
    }
}

/// Serves the requests of a connection until it ends.
async fn exchange<S>(
    stream: S,
    service: Service,
    connection: &Arc<Connection>,
    http2: bool,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let header_bytes = service.limits().header_bytes;
    let socket = Socket::new(stream, connection.clone());
    if http2 {
        connection.set_multiplexed();
        let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        builder
            .max_concurrent_streams(STREAMS)
            .max_header_list_size(u32::try_from(header_bytes).unwrap_or(u32::MAX));
        let serving = builder.serve_connection(socket, service);
        Box::pin(serve_until_told(connection, serving, |served| served.graceful_shutdown())).await?;
    } else {
        let mut builder = hyper::server::conn::http1::Builder::new();
        builder.max_buf_size(header_bytes);
        let serving = builder.serve_connection(socket, service).with_upgrades();
        let served = serve_until_told(connection, serving, |served| served.graceful_shutdown()).await;
        // What took the connection over goes on in its place, under its permit.
        if let Some(afterwards) = connection.take_afterwards() {
            afterwards.await;
        }
        served?;
    }
    Ok(())
}

fn facts(stream: &TcpStream, peer: SocketAddr, tls: bool) -> ConnectionFacts {
    let local = stream.local_addr().unwrap_or(peer);
    ConnectionFacts { peer: peer.into(), local: local.into(), tls }
}

/// Looks at the first bytes without taking them.
async fn speaks_http2(stream: &TcpStream) -> std::io::Result<bool> {
    let mut start = [0; HTTP2_PREFACE.len()];
    loop {
        let len = stream.peek(&mut start).await?;
        if len == 0 || start[..len] != HTTP2_PREFACE[..len] {
            return Ok(false);
        }
        if len == start.len() {
            return Ok(true);
        }
        // The start of a preface. `peek` would find the same bytes again at once.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Runs hyper's connection; `finish` makes it finish what has begun.
async fn serve_until_told<C>(
    connection: &Connection,
    served: C,
    mut finish: impl FnMut(Pin<&mut C>),
) -> Result<(), hyper::Error>
where
    C: Future<Output = Result<(), hyper::Error>>,
{
    let mut served = pin!(served);
    let (mut seen, mut finishing) = (None, false);
    let run = poll_fn(|cx| {
        let mut order = connection.order();
        if seen != Some(order) {
            // Whoever gave it has taken the waker along. One that comes in between is seen here, or wakes.
            connection.register(cx);
            order = connection.order();
            seen = Some(order);
        }
        if order == Order::Abort {
            return Poll::Ready(Ok(()));
        }
        // With HTTP/2 the end is announced between requests, with HTTP/1.1 by an answer.
        let told = order == Order::Finish || (order == Order::Last && connection.is_multiplexed());
        if told && !finishing {
            finishing = true;
            // What has come already is answered; a connection on which nothing has is closed.
            if let Poll::Ready(ended) = served.as_mut().poll(cx) {
                return Poll::Ready(ended);
            }
            finish(served.as_mut());
        }
        served.as_mut().poll(cx)
    });
    run.await
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nodes hold many connections on which nobody asks.
    #[test]
    fn what_a_connection_keeps_is_small() {
        fn size<A, B, C, D, F>(_: fn(A, B, C, D) -> F) -> usize {
            size_of::<F>()
        }
        let bytes = size(Front::serve);
        assert!(bytes < 2560, "{bytes} bytes");
    }
}
