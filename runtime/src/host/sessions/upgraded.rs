//! Connections that an application's router took over (axum's `WebSocketUpgrade`): their bytes cross the border as
//! they are. Such a connection holds its generation; at the end of that one's drain it is ended, a WebSocket with a
//! close frame of code 1012.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use relmgr_abi::body::{BodySource, FfiBody, Frame, SizeHint};
use relmgr_abi::buffer::FfiBytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::super::body::poll_purge;
use super::super::connection::{Connection, Turn};
use super::super::generation::{HeldWaker, Mapping, RequestGuard};
use super::frames::{Frames, close_frame};
use super::hub::Taken;

/// Pieces that wait for the library.
const WAITING: usize = 4;

/// What is read from a socket at once.
const READ_BYTES: usize = 8 * 1024;

/// The ends of a generation's connections are spread over so much time, within the patience of a retirement …
const SPREAD: Duration = Duration::from_millis(1000);

/// … in so many places.
const PLACES: u64 = 64;

/// A frame that is under way may take so long to be whole.
const FRAME: Duration = Duration::from_millis(300);

/// The client may take so long to close its side.
const FAREWELL: Duration = Duration::from_millis(300);

/// What a client sends once its connection is taken over, for the library to read.
pub struct Source {
    pieces: mpsc::Receiver<Bytes>,
    mapping: Arc<Mapping>,
}

/// The other end of a [`Source`].
pub type Feed = mpsc::Sender<Bytes>;

/// A source for the library of `mapping`, with nothing in it yet.
pub fn source(mapping: &Arc<Mapping>) -> (Feed, Source) {
    let (feed, pieces) = mpsc::channel(WAITING);
    (feed, Source { pieces, mapping: mapping.clone() })
}

impl BodySource for Source {
    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Frame {
        // The channel may keep the waker beyond this body's life, so it has to hold the mapping.
        let waker = HeldWaker::wrap(cx.waker(), &self.mapping);
        match self.pieces.poll_recv(&mut Context::from_waker(&waker)) {
            Poll::Pending => Frame::Pending,
            Poll::Ready(Some(bytes)) => Frame::Data(bytes.into()),
            Poll::Ready(None) => Frame::End,
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint { lower: 0, upper: u64::MAX }
    }
}

/// A connection that is about to be taken over.
pub struct Taking {
    /// What becomes its own.
    pub on_upgrade: OnUpgrade,
    /// Where what the client sends goes.
    pub feed: Feed,
    /// What is sent to the client. Goes before `guard`.
    pub body: FfiBody,
    /// Its generation.
    pub guard: RequestGuard,
    /// Number of its request.
    pub id: u64,
    /// Whether it is a WebSocket.
    pub websocket: bool,
    /// Keeps its connection from being idle.
    pub held: Turn,
}

/// Carries bytes both ways until one side ends, or the generation does.
pub async fn run(taking: Taking, connection: Arc<Connection>) {
    let Taking { on_upgrade, feed, body, guard, id, websocket, held } = taking;
    let counted = Taken::count();
    let Ok(upgraded) = on_upgrade.await else { return };
    let (mut reader, mut writer) = tokio::io::split(TokioIo::new(upgraded));
    let ended = {
        let mut inward = pin!(inward(&mut reader, feed));
        let mut outward = pin!(outward(&mut writer, body, &guard, id, websocket, &connection));
        let mut late = pin!(async {
            purged(&guard, id, &connection).await;
            tokio::time::sleep(SPREAD + FRAME * 2).await;
        });
        poll_fn(|cx| {
            // A client that is gone ends its side; what the library still has to say goes nowhere then.
            let _ = inward.as_mut().poll(cx);
            match outward.as_mut().poll(cx) {
                // A client that does not read keeps nothing.
                Poll::Pending => late.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into())),
                over => over,
            }
        })
        .await
    };
    // Nothing of the library is left: the generation may go while the client closes.
    drop((guard, counted));
    if ended.is_ok() {
        let _ = tokio::time::timeout(FAREWELL, discard(&mut reader)).await;
    }
    drop(held);
}

async fn discard(reader: &mut ReadHalf<TokioIo<Upgraded>>) {
    let mut nobody = [0; 1024];
    while reader.read(&mut nobody).await.is_ok_and(|read| read > 0) {}
}

/// What the client sends, to the library; over when either is gone, and never over after that.
async fn inward(reader: &mut ReadHalf<TokioIo<Upgraded>>, feed: Feed) {
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(READ_BYTES);
        match reader.read_buf(&mut buffer).await {
            Ok(read) if read > 0 => {}
            _ => break,
        }
        if feed.send(buffer.split().freeze()).await.is_err() {
            break;
        }
    }
    drop(feed);
    std::future::pending::<()>().await;
}

/// What the library sends, to the client.
async fn outward(
    writer: &mut WriteHalf<TokioIo<Upgraded>>,
    mut body: FfiBody,
    guard: &RequestGuard,
    id: u64,
    websocket: bool,
    connection: &Connection,
) -> io::Result<()> {
    let mut frames = Frames::default();
    let mut purged = pin!(purged(guard, id, connection));
    // When its turn to end has come; until then it goes on.
    let mut turn: Option<Instant> = None;
    loop {
        if let Some(at) = turn.filter(|at| *at <= Instant::now()) {
            let whole = !websocket || frames.is_between();
            if whole || Instant::now() >= at + FRAME {
                break;
            }
        }
        let next = poll_fn(|cx| match body.poll_frame(cx.waker()) {
            Frame::Pending if turn.is_none() => purged.as_mut().poll(cx).map(|()| Next::Purge),
            Frame::Pending => Poll::Pending,
            Frame::Data(bytes) => Poll::Ready(Next::Bytes(bytes)),
            Frame::Trailers(_) | Frame::End | Frame::Failed(_) => Poll::Ready(Next::Over),
        });
        let next = match turn {
            None => next.await,
            Some(at) => {
                let until = if at <= Instant::now() { at + FRAME } else { at };
                match tokio::time::timeout_at(until, next).await {
                    Ok(next) => next,
                    Err(_) => continue,
                }
            }
        };
        match next {
            Next::Bytes(bytes) => {
                if websocket {
                    frames.follow(bytes.as_ref());
                }
                writer.write_all(bytes.as_ref()).await?;
                writer.flush().await?;
            }
            Next::Purge => {
                let place = u32::try_from(id % PLACES).unwrap_or(0);
                turn = Some(Instant::now() + SPREAD * place / PLACES as u32);
            }
            Next::Over if turn.is_none() => return writer.shutdown().await,
            Next::Over => break,
        }
    }
    if websocket && frames.is_between() && !frames.is_closed() {
        writer.write_all(&close_frame(1012, "service restart")).await?;
    }
    writer.shutdown().await
}

/// Waits until its generation's requests, or all of the host's, are broken off.
async fn purged(guard: &RequestGuard, id: u64, connection: &Connection) {
    let mut purge = None;
    poll_fn(|cx| {
        let purged = poll_purge(&mut purge, guard.generation(), id, cx);
        if purged { Poll::Ready(()) } else { connection.poll_aborted(cx) }
    })
    .await;
}

enum Next {
    Bytes(FfiBytes),
    Purge,
    Over,
}
