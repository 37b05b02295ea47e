//! When a client was last heard: by any byte of its own, since a large message may be on its way for long.
//!
//! One that sends a byte now and then is not silent, and need not be: it takes up what one that answers pings does, a
//! place among `http.limits.connections`, and no more than `sessions.message_bytes` of a message that is not whole.
//!
//! While a message of its is being handled nothing is read from it, and it is the application that keeps it waiting:
//! such a client is not idle, and has all of its time again when the handler is over.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// When a client was last heard, and whether a message of its is being handled.
pub struct Clock {
    begun: Instant,
    /// In milliseconds since then.
    heard: AtomicU64,
    handling: AtomicBool,
}

impl Clock {
    /// Of a client that is heard now.
    pub fn start() -> Arc<Self> {
        Arc::new(Self { begun: Instant::now(), heard: AtomicU64::new(0), handling: AtomicBool::new(false) })
    }

    /// It is heard now.
    fn hear(&self) {
        let since = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.heard.store(since, Ordering::Relaxed);
    }

    /// For how long it has not been heard.
    pub fn silence(&self) -> Duration {
        self.begun.elapsed().saturating_sub(Duration::from_millis(self.heard.load(Ordering::Relaxed)))
    }

    /// A message of its is being handled from now on.
    pub fn begin_handling(&self) {
        self.handling.store(true, Ordering::Relaxed);
    }

    /// It has been handled. What the client said while nobody listened is no silence.
    pub fn end_handling(&self) {
        self.hear();
        self.handling.store(false, Ordering::Relaxed);
    }

    /// Whether a message of its is being handled.
    pub fn is_handling(&self) -> bool {
        self.handling.load(Ordering::Relaxed)
    }
}

/// A client's connection that tells a clock of what is read from it: once for a read, whatever it brings.
pub struct Listening<S> {
    stream: S,
    clock: Arc<Clock>,
}

impl<S> Listening<S> {
    /// Tells `clock` of what is read from `stream`.
    pub fn new(stream: S, clock: Arc<Clock>) -> Self {
        Self { stream, clock }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Listening<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { stream, clock } = self.get_mut();
        let before = into.filled().len();
        let polled = Pin::new(stream).poll_read(cx, into);
        if into.filled().len() > before {
            clock.hear();
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Listening<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
