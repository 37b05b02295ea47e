//! One session: what waits for its client, what it remembers, whether it ends.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use relmgr_abi::head::ConnectionFacts;
use relmgr_abi::session::Kind;

use super::super::lock;
use super::end::End;

/// What a message takes beside its bytes, about: empty ones fill the queue too.
const MESSAGE_BYTES: usize = 64;

/// One session.
pub struct Session {
    /// Its number.
    pub id: u64,
    /// What it speaks.
    pub kind: Kind,
    /// Its path, or its listener's name.
    pub path: String,
    /// The facts of its connection.
    pub facts: ConnectionFacts,
    outbox: Mutex<Outbox>,
    /// Its conversation's one task, whether it reads or writes.
    waker: AtomicWaker,
    state: Mutex<State>,
    /// Topics that it is subscribed to.
    pub(super) topics: Mutex<Vec<String>>,
}

/// What a session remembers.
#[derive(Debug, Clone, Default)]
pub struct State {
    /// In which form.
    pub schema: u32,
    /// In this host's memory.
    pub bytes: Bytes,
}

#[derive(Default)]
struct Outbox {
    waiting: VecDeque<Out>,
    bytes: usize,
    end: Option<End>,
    /// What waits is not sent any more.
    cut: bool,
}

/// What is sent to a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Out {
    /// A message of this kind.
    Message(u8, Bytes),
    /// A ping.
    Ping,
}

/// Why nothing was queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotQueued {
    /// It ends.
    Gone,
    /// Too much waits already; it ends.
    Full,
}

impl Session {
    /// A session that begins.
    pub fn new(id: u64, kind: Kind, path: String, facts: ConnectionFacts) -> Self {
        let (outbox, state, topics) = (Mutex::default(), Mutex::default(), Mutex::default());
        Self { id, kind, path, facts, outbox, waker: AtomicWaker::new(), state, topics }
    }

    /// Queues a message; a client that has not read `limit` bytes is given up.
    ///
    /// # Errors
    /// [`NotQueued`].
    pub fn push(&self, out: Out, limit: usize) -> Result<(), NotQueued> {
        let mut outbox = lock(&self.outbox);
        if outbox.end.is_some() {
            return Err(NotQueued::Gone);
        }
        let bytes = size(&out);
        let queued = if outbox.bytes > 0 && outbox.bytes + bytes > limit {
            outbox.end = Some(End::Slow);
            outbox.cut();
            Err(NotQueued::Full)
        } else {
            outbox.bytes += bytes;
            outbox.waiting.push_back(out);
            Ok(())
        };
        drop(outbox);
        self.waker.wake();
        queued
    }

    /// Has it end, after what waits; whether it did not end yet.
    pub fn end(&self, end: End) -> bool {
        let mut outbox = lock(&self.outbox);
        let first = outbox.end.is_none();
        if first {
            outbox.end = Some(end);
        }
        drop(outbox);
        self.waker.wake();
        first
    }

    /// Has it end without what waits.
    pub fn cut(&self, end: End) {
        let mut outbox = lock(&self.outbox);
        outbox.end.get_or_insert(end);
        outbox.cut();
        drop(outbox);
        self.waker.wake();
    }

    /// How it ends.
    pub fn ending(&self) -> Option<End> {
        lock(&self.outbox).end.clone()
    }

    /// Whether it ends, and what waits is not sent any more.
    pub fn is_cut(&self) -> bool {
        lock(&self.outbox).cut
    }

    /// What is to be sent next; `Ready(None)`: nothing any more.
    pub fn poll_take(&self, cx: &Context<'_>) -> Poll<Option<Out>> {
        self.waker.register(cx.waker());
        let mut outbox = lock(&self.outbox);
        match outbox.waiting.pop_front() {
            Some(out) => {
                outbox.bytes -= size(&out);
                Poll::Ready(Some(out))
            }
            None if outbox.end.is_some() => Poll::Ready(None),
            None => {
                // A burst must not stay in memory for the life of a quiet session.
                outbox.waiting.shrink_to(8);
                Poll::Pending
            }
        }
    }

    /// Ready when it ends.
    pub fn poll_ending(&self, cx: &Context<'_>) -> Poll<()> {
        self.waker.register(cx.waker());
        if lock(&self.outbox).end.is_some() { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Ready when it ends and what waits is not sent any more.
    pub fn poll_cut(&self, cx: &Context<'_>) -> Poll<()> {
        self.waker.register(cx.waker());
        if self.is_cut() { Poll::Ready(()) } else { Poll::Pending }
    }

    /// What it remembers.
    pub fn state(&self) -> State {
        lock(&self.state).clone()
    }

    /// Has it remember something else.
    pub fn set_state(&self, state: State) {
        *lock(&self.state) = state;
    }
}

impl Outbox {
    fn cut(&mut self) {
        self.waiting = VecDeque::new();
        self.bytes = 0;
        self.cut = true;
    }
}

fn size(out: &Out) -> usize {
    match out {
        Out::Message(_, bytes) => bytes.len() + MESSAGE_BYTES,
        Out::Ping => MESSAGE_BYTES,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session() -> Session {
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
        let facts = ConnectionFacts { peer: address.into(), local: address.into(), tls: false };
        Session::new(1, Kind::Tcp, "line".into(), facts)
    }

    fn take(session: &Session) -> Poll<Option<Out>> {
        session.poll_take(&Context::from_waker(std::task::Waker::noop()))
    }

    #[test]
    fn what_was_sent_before_the_end_goes_out_and_nothing_after_it() {
        let (session, out) = (session(), Out::Message(1, Bytes::from_static(b"a")));
        assert_eq!(take(&session), Poll::Pending);
        session.push(out.clone(), 1000).unwrap();
        assert!(session.end(End::Restart));
        assert!(!session.end(End::Lost), "the first end counts");
        assert_eq!(session.push(out.clone(), 1000), Err(NotQueued::Gone));
        assert_eq!(take(&session), Poll::Ready(Some(out)));
        assert_eq!(take(&session), Poll::Ready(None));
        assert_eq!(session.ending(), Some(End::Restart));
    }

    #[test]
    fn a_client_that_does_not_read_is_given_up() {
        let (session, out) = (session(), Out::Message(2, Bytes::from_static(&[0; 400])));
        // A single message passes whatever its size: the client may read it.
        session.push(out.clone(), 100).unwrap();
        assert_eq!(session.push(out.clone(), 900), Err(NotQueued::Full));
        assert!(session.is_cut());
        assert_eq!((take(&session), session.ending()), (Poll::Ready(None), Some(End::Slow)));
    }
}
