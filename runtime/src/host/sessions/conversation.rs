//! A session from its beginning to its end, whatever it speaks: one task that reads and writes.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use relmgr_abi::session::Kind;

use super::super::connection::Connection;
use super::super::front::Front;
use super::deliver;
use super::end::End;
use super::hearing::Clock;
use super::hub::{Entered, HUB};
use super::session::{Out, Session};

/// The last words may take so long; then the connection is closed without.
const FAREWELL: Duration = Duration::from_secs(2);

/// What was read.
pub enum Read {
    /// A message of this kind.
    Message(u8, Bytes),
    /// Something that is no message, such as a pong. That the client was heard is known already.
    Heard,
    /// Nothing comes any more.
    End(End),
}

/// The reading half of a session's connection.
pub trait Reader: Send {
    /// The other half.
    type Writer: Writer;
    /// Waits for what comes next. May be given up and asked again.
    fn read(&mut self) -> impl Future<Output = Read> + Send;
    /// Reads, and throws away, what the client still sends: a connection that is closed with something unread is
    /// reset, and the last words may be lost with it.
    fn linger(self, writer: Self::Writer) -> impl Future<Output = ()> + Send;
}

/// The writing half of a session's connection.
pub trait Writer: Send {
    /// Writes, perhaps into a buffer.
    fn write(&mut self, out: Out) -> impl Future<Output = io::Result<()>> + Send;
    /// Writes what stands in the buffer.
    fn flush(&mut self) -> impl Future<Output = io::Result<()>> + Send;
    /// Says the last words and closes the connection.
    fn close(&mut self, end: &End) -> impl Future<Output = io::Result<()>> + Send;
}

/// Carries on the session until it ends; then its application is told, and the session is gone. `clock` is told of what
/// is read from its connection.
pub async fn carry_on<R: Reader>(
    front: &Front,
    connection: &Connection,
    entered: Entered,
    clock: &Clock,
    (mut reader, mut writer): (R, R::Writer),
) {
    let session = &*entered.session;
    {
        let mut reading = pin!(read(front, session, clock, &mut reader));
        let mut writing = pin!(write(session, &mut writer));
        let mut watching = pin!(watch(session, clock));
        let (mut read, mut written) = (false, false);
        poll_fn(|cx| {
            if connection.poll_aborted(cx).is_ready() {
                session.cut(End::Restart);
            }
            // In this order: an end that is found while reading is told to the one who writes in the same turn.
            read = read || reading.as_mut().poll(cx).is_ready();
            let _ = watching.as_mut().poll(cx);
            written = written || writing.as_mut().poll(cx).is_ready();
            if read && written { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
    let end = session.ending().unwrap_or(End::Lost);
    deliver::close(front, session, &end).await;
    // For others it is over already.
    drop(entered);
    if !matches!(end, End::Lost | End::Slow | End::Idle) {
        let _ = tokio::time::timeout(FAREWELL, reader.linger(writer)).await;
    }
}

/// Hands over one message after the other, until the session ends. A message that is being handled then is handled to
/// its end.
async fn read<R: Reader>(front: &Front, session: &Session, clock: &Clock, reader: &mut R) {
    loop {
        let heard = {
            let mut reading = pin!(reader.read());
            poll_fn(|cx| match session.poll_ending(cx) {
                Poll::Ready(()) => Poll::Ready(None),
                Poll::Pending => reading.as_mut().poll(cx).map(Some),
            })
            .await
        };
        match heard {
            None => return,
            Some(Read::Heard) => {}
            Some(Read::Message(kind, bytes)) => {
                HUB.received();
                clock.begin_handling();
                let handled = deliver::message(front, session, kind, bytes).await;
                clock.end_handling();
                if let Err(end) = handled {
                    session.end(end);
                }
            }
            Some(Read::End(end)) => {
                match end {
                    // Nobody is there to read what waits.
                    End::Lost => session.cut(end),
                    end => drop(session.end(end)),
                }
                return;
            }
        }
    }
}

/// Sends what waits, as it comes, until the session ends.
async fn write<W: Writer>(session: &Session, writer: &mut W) {
    let sent = async {
        while let Some(out) = poll_fn(|cx| session.poll_take(cx)).await {
            let mut next = Some(out);
            // As much as there is in one go.
            while let Some(out) = next.take() {
                let counts = matches!(out, Out::Message(..));
                if let Err(end) = within_stall(writer.write(out)).await {
                    return session.cut(end);
                }
                if counts {
                    HUB.sent();
                }
                next = poll_fn(|cx| match session.poll_take(cx) {
                    Poll::Ready(out) => Poll::Ready(out),
                    Poll::Pending => Poll::Ready(None),
                })
                .await;
            }
            if let Err(end) = within_stall(writer.flush()).await {
                return session.cut(end);
            }
        }
    };
    {
        let mut sent = pin!(sent);
        poll_fn(|cx| match sent.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(()),
            // A client that does not read would keep what waits, and the last words, for ever.
            Poll::Pending => session.poll_cut(cx),
        })
        .await;
    }
    let end = session.ending().unwrap_or(End::Lost);
    if end != End::Lost {
        let _ = tokio::time::timeout(FAREWELL, writer.close(&end)).await;
    }
}

/// Waits for a client to take something.
async fn within_stall(written: impl Future<Output = io::Result<()>>) -> Result<(), End> {
    match tokio::time::timeout(HUB.limits().stall, written).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(End::Lost),
        Err(_) => Err(End::Slow),
    }
}

/// Ends a session whose client has sent not a byte for too long, unless a message of its is being handled. Never over
/// by itself.
async fn watch(session: &Session, clock: &Clock) {
    let limits = HUB.limits();
    let (ask, most) = match session.kind {
        Kind::Websocket => (limits.ping, limits.ping * 2),
        Kind::Tcp => (Duration::ZERO, limits.tcp_idle),
    };
    if most.is_zero() {
        return std::future::pending().await;
    }
    let pause = if ask.is_zero() { most } else { ask };
    loop {
        let (silence, handling) = (clock.silence(), clock.is_handling());
        if silence >= most && !handling {
            session.cut(End::Idle);
            return std::future::pending().await;
        }
        let asked = !ask.is_zero() && silence >= ask;
        if asked {
            let _ = session.push(Out::Ping, limits.queue_bytes);
        }
        let next = if asked && !handling { most } else { pause };
        let left = next.saturating_sub(silence);
        // A handler may take several pauses. Who waits for it is asked in each, so that no proxy closes a quiet
        // connection.
        let left = if left.is_zero() { pause } else { left };
        // A little more, so that the silence is over what it is compared with.
        tokio::time::sleep(left + Duration::from_millis(1)).await;
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use relmgr_abi::head::ConnectionFacts;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::super::hearing::Listening;
    use super::*;

    fn session() -> Session {
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
        let facts = ConnectionFacts { peer: address.into(), local: address.into(), tls: false };
        Session::new(1, Kind::Websocket, "/".into(), facts)
    }

    #[tokio::test(start_paused = true)]
    async fn who_sends_a_message_slowly_is_heard_and_who_stops_in_it_is_given_up() {
        let (session, ping, clock) = (session(), HUB.limits().ping, Clock::start());
        let (mut client, server) = tokio::io::duplex(16);
        let mut server = Listening::new(server, clock.clone());
        let slowly = async {
            for _ in 0..10 {
                tokio::time::sleep(ping + ping / 2).await;
                client.write_all(b"x").await.unwrap();
                server.read_exact(&mut [0]).await.unwrap();
            }
        };
        tokio::select! {
            () = watch(&session, &clock) => unreachable!("it is never over"),
            () = slowly => {}
        }
        assert_eq!(session.ending(), None);
        let watched = tokio::time::timeout(ping * 3, watch(&session, &clock)).await;
        assert!(watched.is_err());
        assert_eq!(session.ending(), Some(End::Idle));
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_a_handler_is_asked_in_each_pause_and_given_up_only_after_it() {
        let (session, ping, clock) = (session(), HUB.limits().ping, Clock::start());
        let watched = async |time| tokio::time::timeout(time, watch(&session, &clock)).await;
        clock.begin_handling();
        assert!(watched(ping * 10).await.is_err());
        assert_eq!(session.ending(), None);
        let mut asked = 0;
        while let Poll::Ready(Some(Out::Ping)) = session.poll_take(&Context::from_waker(Waker::noop())) {
            asked += 1;
        }
        assert_eq!(asked, 9);
        // The whole time counts from the handler's end.
        clock.end_handling();
        assert!(watched(ping + ping / 2).await.is_err());
        assert_eq!(session.ending(), None);
        assert!(watched(ping).await.is_err());
        assert_eq!(session.ending(), Some(End::Idle));
    }
}
