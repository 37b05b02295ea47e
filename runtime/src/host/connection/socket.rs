//! The socket under hyper: what it reads and writes tells the connection what its client does.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::Connection;

/// A response of at most so many bytes is put together before it is written: to copy them costs less than what the
/// kernel does more for `writev` than for `send`.
const TOGETHER: usize = 1024;

/// All bytes of `bufs` in `space`; `None`: they do not fit.
fn gather<'a>(bufs: &[io::IoSlice<'_>], space: &'a mut [u8]) -> Option<&'a [u8]> {
    let mut len = 0;
    for buf in bufs {
        space.get_mut(len..len + buf.len())?.copy_from_slice(buf);
        len += buf.len();
    }
    space.get(..len)
}

/// A connection's socket, which notes when a request begins to arrive.
pub struct Socket<S> {
    stream: TokioIo<S>,
    connection: Arc<Connection>,
}

impl<S> Socket<S> {
    /// `stream` belongs to `connection`.
    pub fn new(stream: S, connection: Arc<Connection>) -> Self {
        Self { stream: TokioIo::new(stream), connection }
    }
}

impl<S: AsyncRead + Unpin> Read for Socket<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        if polled.is_ready() {
            let connection = &self.connection;
            if connection.busy.load(Ordering::Relaxed) == 0 && !connection.reading.load(Ordering::Relaxed) {
                connection.reading.store(true, Ordering::Relaxed);
                connection.touch();
            }
        }
        polled
    }
}

impl<S> Socket<S> {
    fn written(&self, polled: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if polled.is_pending() {
            self.connection.unwritten.begin();
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> Socket<S> {
    fn poll_write_together(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut together = [0; TOGETHER];
        match gather(bufs, &mut together) {
            Some(bytes) => Pin::new(&mut self.stream).poll_write(cx, bytes),
            None => Pin::new(&mut self.stream).poll_write_vectored(cx, bufs),
        }
    }
}

impl<S: AsyncWrite + Unpin> Write for Socket<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.written(polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Nobody flushes who has something left to write.
        self.connection.unwritten.end();
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // What is large is seen before there is space made for it.
        let polled = match bufs.iter().any(|buf| buf.len() > TOGETHER) {
            true => Pin::new(&mut self.stream).poll_write_vectored(cx, bufs),
            false => self.poll_write_together(cx, bufs),
        };
        self.written(polled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_pieces_are_put_together_and_large_ones_are_not() {
        let mut space = [0; 8];
        let pieces = [io::IoSlice::new(b"abc"), io::IoSlice::new(b""), io::IoSlice::new(b"defgh")];
        assert_eq!(gather(&pieces, &mut space), Some(&b"abcdefgh"[..]));
        assert_eq!(gather(&[pieces[0], io::IoSlice::new(b"defghi")], &mut space), None);
        assert_eq!(gather(&[], &mut space), Some(&b""[..]));
    }
}
