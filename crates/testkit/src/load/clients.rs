//! The thread on which the connections of a load live: one epoll, level-triggered, and for paced load a timer.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use super::connection::{Connection, Phase};
use super::report::Tally;
use super::{Shared, Spec};

/// The timer's number among the events; the connections' are their places in the list.
const TIMER: u64 = u64::MAX;

/// How often connections are looked at that nothing happens on: for timeouts, for those to open again, for the end.
const SWEEP: Duration = Duration::from_millis(2);

/// Holds a 64 KiB answer with its head, so that it is read in as few calls as the socket allows.
const BUFFER: usize = 80 * 1024;

pub(super) struct Clients {
    spec: Spec,
    shared: Arc<Shared>,
    epoll: Epoll,
    pace: Option<Pace>,
    connections: Vec<Connection>,
    buffer: Vec<u8>,
}

/// When paced requests fall due.
struct Pace {
    timer: TimerFd,
    every: Duration,
    due: Instant,
    /// Which connection's turn it is.
    turn: usize,
}

impl Clients {
    pub(super) fn new(spec: Spec, shared: Arc<Shared>) -> nix::Result<Self> {
        let now = Instant::now();
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let pace = match spec.every {
            Some(every) => {
                let timer = TimerFd::new(
                    ClockId::CLOCK_MONOTONIC,
                    TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC,
                )?;
                epoll.add(timer.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, TIMER))?;
                Some(Pace { timer, every, due: now, turn: 0 })
            }
            None => None,
        };
        let connections: Vec<_> = (0..spec.connections).map(|turn| Connection::new(turn, now)).collect();
        Ok(Self { spec, shared, epoll, pace, connections, buffer: vec![0; BUFFER] })
    }

    pub(super) fn run(mut self) {
        let shared = self.shared.clone();
        let mut events = vec![EpollEvent::empty(); self.connections.len() + 1];
        let mut swept = Instant::now();
        self.begin(&mut shared.tally());
        loop {
            let timeout = u16::try_from(SWEEP.as_millis()).unwrap_or(u16::MAX);
            let count = match self.epoll.wait(&mut events, timeout) {
                Err(Errno::EINTR) => 0,
                count => count.unwrap(),
            };
            let stopping = shared.stop.load(Ordering::Relaxed);
            // Held for one round: whoever wants to see the tally waits for microseconds.
            let mut tally = shared.tally();
            let now = Instant::now();
            for event in &events[..count] {
                if event.data() == TIMER {
                    self.tick(&mut tally, stopping);
                } else if let Ok(number) = usize::try_from(event.data()) {
                    self.advance(number, event.events(), &mut tally, stopping);
                }
            }
            if now - swept >= SWEEP {
                swept = now;
                self.sweep(&mut tally, now, stopping);
                if stopping && !self.connections.iter().any(waits_for_an_answer) {
                    return;
                }
            }
        }
    }

    fn begin(&mut self, tally: &mut Tally) {
        match &self.pace {
            Some(_) => self.tick(tally, false),
            None => self.sweep(tally, Instant::now(), false),
        }
    }

    /// Goes on with the connection `number`, on which something happened.
    fn advance(&mut self, number: usize, events: EpollFlags, tally: &mut Tally, stopping: bool) {
        self.connections[number].ready(events, &self.spec.requests, &mut self.buffer, tally);
        self.go_on(number, tally, stopping);
    }

    fn go_on(&mut self, number: usize, tally: &mut Tally, stopping: bool) {
        let now = Instant::now();
        let connection = &mut self.connections[number];
        if stopping {
            connection.leave(now);
        } else if self.pace.is_none() && may_ask(connection, now) {
            connection.ask(self.spec.address, &self.spec.requests, tally, now);
        }
        connection.register(&self.epoll, number as u64);
    }

    /// Looks at every connection, whether something happened on it or not.
    fn sweep(&mut self, tally: &mut Tally, now: Instant, stopping: bool) {
        for number in 0..self.connections.len() {
            self.connections[number].check_time(self.spec.timeout, tally, now);
            self.go_on(number, tally, stopping);
        }
    }

    /// Sends what has fallen due, and sets the timer for what is next.
    fn tick(&mut self, tally: &mut Tally, stopping: bool) {
        let Some(mut pace) = self.pace.take() else { return };
        let round = pace.every * u32::try_from(self.connections.len()).unwrap_or(u32::MAX);
        let mut now = Instant::now();
        while pace.due <= now && !stopping {
            let number = pace.turn % self.connections.len();
            let connection = &mut self.connections[number];
            // A connection whose next turn has come as well asks once, not twice.
            if may_ask(connection, now) && pace.due + round > now {
                tally.woke(now - pace.due);
                connection.ask(self.spec.address, &self.spec.requests, tally, now);
                connection.register(&self.epoll, number as u64);
            } else {
                tally.skipped();
            }
            pace.turn += 1;
            pace.due += pace.every;
            now = Instant::now();
        }
        // The longest of pauses to whoever is done: nothing falls due any more.
        let pause =
            if stopping { Duration::from_secs(3600) } else { pace.due.saturating_duration_since(now) };
        // A timer set to nothing would be off.
        let pause = TimeSpec::from_duration(pause.max(Duration::from_nanos(1)));
        pace.timer.set(Expiration::OneShot(pause), TimerSetTimeFlags::empty()).unwrap();
        self.pace = Some(pace);
    }
}

fn may_ask(connection: &Connection, now: Instant) -> bool {
    match connection.phase() {
        Phase::Idle => true,
        Phase::Down { until } => until <= now,
        Phase::Connecting | Phase::Writing | Phase::Reading => false,
    }
}

fn waits_for_an_answer(connection: &Connection) -> bool {
    matches!(connection.phase(), Phase::Writing | Phase::Reading)
}
