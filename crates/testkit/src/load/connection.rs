//! One connection of a load.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use socket2::{Domain, Protocol, Socket, Type};

use super::Request;
use super::report::{Closed, Failure, Tally};
use super::response::Reader;

/// Who is refused at once would be refused again at once: a pause, short beside what a client would notice.
const PAUSE: Duration = Duration::from_millis(1);

/// A keep-alive connection, opened again whenever it has ended.
#[derive(Debug)]
pub(super) struct Connection {
    stream: Option<TcpStream>,
    phase: Phase,
    reader: Reader,
    /// How much of the request has been written.
    written: usize,
    /// When the request began.
    sent: Instant,
    /// Which request comes next.
    turn: usize,
    /// What the epoll waits for on the socket; nothing for one that it does not know yet.
    registered: EpollFlags,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Phase {
    /// Not connected; may try again from then on.
    Down {
        until: Instant,
    },
    Connecting,
    Writing,
    Reading,
    /// Connected, and nothing is asked.
    Idle,
}

impl Connection {
    /// One that is not open yet and begins with the request `turn`.
    pub(super) fn new(turn: usize, now: Instant) -> Self {
        Self {
            stream: None,
            phase: Phase::Down { until: now },
            reader: Reader::default(),
            written: 0,
            sent: now,
            turn,
            registered: EpollFlags::empty(),
        }
    }

    pub(super) fn phase(&self) -> Phase {
        self.phase
    }

    /// Has `epoll` wait, under `number`, for what this connection waits for.
    pub(super) fn register(&mut self, epoll: &Epoll, number: u64) {
        let wanted = match self.phase {
            Phase::Connecting => EpollFlags::EPOLLOUT,
            Phase::Writing => EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT,
            Phase::Down { .. } | Phase::Reading | Phase::Idle => EpollFlags::EPOLLIN,
        };
        let Some(socket) = self.stream.as_ref().filter(|_| self.registered != wanted) else { return };
        let mut event = EpollEvent::new(wanted, number);
        if self.registered.is_empty() {
            epoll.add(socket, event).unwrap();
        } else {
            epoll.modify(socket, &mut event).unwrap();
        }
        self.registered = wanted;
    }

    /// Begins a request, on a new connection where there is none.
    pub(super) fn ask(&mut self, to: SocketAddr, requests: &[Request], tally: &mut Tally, now: Instant) {
        let request = &requests[self.turn % requests.len()];
        self.sent = now;
        self.written = 0;
        self.reader.begin(request.version);
        if self.stream.is_some() {
            self.write(request, tally, now);
            return;
        }
        match connect(to) {
            Ok(stream) => (self.stream, self.phase) = (Some(stream), Phase::Connecting),
            Err(error) => self.fail(error.into(), tally, now),
        }
    }

    /// `events` have happened on the socket.
    pub(super) fn ready(
        &mut self,
        events: EpollFlags,
        requests: &[Request],
        buffer: &mut [u8],
        tally: &mut Tally,
    ) {
        let now = Instant::now();
        let request = &requests[self.turn % requests.len()];
        match self.phase {
            Phase::Down { .. } => {}
            Phase::Connecting => match self.stream.as_ref().map(TcpStream::take_error) {
                Some(Ok(None)) => {
                    tally.opened();
                    self.write(request, tally, now);
                }
                Some(Ok(Some(error)) | Err(error)) => self.fail(error.into(), tally, now),
                None => {}
            },
            Phase::Reading | Phase::Idle => self.read(request, buffer, tally, now),
            Phase::Writing => {
                // An answer that comes before the request has been sent is read first: it says why.
                if events != EpollFlags::EPOLLOUT {
                    self.read(request, buffer, tally, now);
                }
                if self.phase == Phase::Writing {
                    self.write(request, tally, now);
                }
            }
        }
    }

    /// Gives up a request that has taken longer than `limit`.
    pub(super) fn check_time(&mut self, limit: Duration, tally: &mut Tally, now: Instant) {
        if now.saturating_duration_since(self.sent) < limit {
            return;
        }
        match self.phase {
            Phase::Connecting => self.fail(Failure::ConnectTimeout, tally, now),
            Phase::Writing | Phase::Reading => self.fail(Failure::Timeout, tally, now),
            Phase::Down { .. } | Phase::Idle => {}
        }
    }

    /// Hangs up, unless an answer is to come.
    pub(super) fn leave(&mut self, now: Instant) {
        if matches!(self.phase, Phase::Idle | Phase::Connecting) {
            self.down(now);
        }
    }

    fn write(&mut self, request: &Request, tally: &mut Tally, now: Instant) {
        let Some(stream) = &mut self.stream else { return };
        self.phase = Phase::Writing;
        while self.written < request.bytes.len() {
            match stream.write(&request.bytes[self.written..]) {
                Ok(count) => self.written += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => return self.fail(error.into(), tally, now),
            }
        }
        self.phase = Phase::Reading;
    }

    fn read(&mut self, request: &Request, buffer: &mut [u8], tally: &mut Tally, now: Instant) {
        loop {
            let Some(stream) = &mut self.stream else { return };
            let fed = match stream.read(buffer) {
                Ok(0) => return self.end(request, tally, now),
                Ok(_) if self.phase == Phase::Idle => Err(Failure::ExtraBytes),
                Ok(count) => self.reader.feed(&buffer[..count]).map(|complete| (complete, count)),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) if self.phase == Phase::Idle => return self.end(request, tally, now),
                Err(error) => Err(error.into()),
            };
            match fed {
                Ok((true, _)) => return self.complete(request, tally, Instant::now()),
                // The socket is empty: no need to be told so.
                Ok((false, count)) if count < buffer.len() => return,
                Ok((false, _)) => {}
                Err(failure) => return self.fail(failure, tally, now),
            }
        }
    }

    /// A response is complete.
    fn complete(&mut self, request: &Request, tally: &mut Tally, now: Instant) {
        let status = self.reader.status();
        if (200..300).contains(&status) {
            tally.answer(self.sent, now);
            if request.version {
                tally.version(self.reader.kept());
            }
        } else {
            tally.failed(Failure::Status(status));
        }
        self.turn += 1;
        // What was answered before it was sent whole cannot be followed by another request.
        let cut = self.written < request.bytes.len();
        if self.reader.close() || cut {
            tally.closed(Closed::Announced);
            self.down(now);
        } else {
            self.phase = Phase::Idle;
        }
    }

    /// The server has ended the connection.
    fn end(&mut self, request: &Request, tally: &mut Tally, now: Instant) {
        if self.phase == Phase::Idle {
            tally.closed(Closed::Idle);
            return self.down(now);
        }
        match self.reader.end() {
            Ok(()) => self.complete(request, tally, now),
            Err(failure) => self.fail(failure, tally, now),
        }
    }

    fn fail(&mut self, failure: Failure, tally: &mut Tally, now: Instant) {
        let connected = matches!(self.phase, Phase::Writing | Phase::Reading);
        // Whoever waited in vain has closed it himself.
        if connected && failure != Failure::Timeout {
            tally.closed(Closed::InRequest);
        }
        tally.failed(failure);
        self.turn += 1;
        self.down(if connected { now } else { now + PAUSE });
    }

    fn down(&mut self, until: Instant) {
        // The kernel takes a closed socket out of the epoll by itself.
        self.stream = None;
        self.registered = EpollFlags::empty();
        self.phase = Phase::Down { until };
    }
}

/// A connection under way.
fn connect(to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    match socket.connect(&to.into()) {
        Err(error) if error.raw_os_error() != Some(Errno::EINPROGRESS as i32) => Err(error),
        _ => Ok(socket.into()),
    }
}
