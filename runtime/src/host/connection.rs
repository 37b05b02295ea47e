//! One client's connection: what it is doing, how long already, and how it is told to end.
//!
//! The times that a client may take are kept by one sweep over all connections, not by a timer for each request:
//! a request then costs two stores.

mod socket;

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use relmgr_model::settings::Limits;
use slab::Slab;
use smallvec::SmallVec;

pub use socket::Socket;

/// What a connection is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Order {
    /// Go on.
    Serve = 0,
    /// Answer what comes and say with the answer that it is the last one: another host serves, and a client that
    /// is about to send must not find its connection closed.
    Last = 1,
    /// Finish what has begun, take nothing new.
    Finish = 2,
    /// End now.
    Abort = 3,
}

impl Order {
    fn from_u8(number: u8) -> Self {
        match number {
            0 => Self::Serve,
            1 => Self::Last,
            2 => Self::Finish,
            _ => Self::Abort,
        }
    }
}

/// What a connection becomes when its HTTP is over.
pub type Afterwards = Pin<Box<dyn Future<Output = ()> + Send>>;

/// One client's connection.
pub struct Connection {
    clock: Arc<Clock>,
    /// Requests being answered; several with HTTP/2.
    busy: AtomicU32,
    /// Whether part of a request's head has come (HTTP/1.1).
    reading: AtomicBool,
    multiplexed: AtomicBool,
    /// When the last of these changed, in ticks.
    since: AtomicU32,
    order: AtomicU8,
    waker: AtomicWaker,
    afterwards: Mutex<Option<Afterwards>>,
    unwritten: Unwritten,
    // Shared by nobody but the streams of one connection of HTTP/2, and those who end it: the sweep, and a drain.
    staked: Mutex<Staked>,
}

/// How many answers of each generation a connection has to write that are streams, or large. Mostly of one.
type Staked = SmallVec<[(u64, usize); 2]>;

/// Whose bytes a connection may still have to write: of HTTP/1.1, whose answers go out one after the other. A client
/// that sends many requests and reads no answer has hyper keep what is its library's own, for as long as it likes.
struct Unwritten {
    /// The generation that answered last; 0: none did.
    generation: AtomicU64,
    /// Whether the client took less than there was to write, and not all of it since.
    waits: AtomicBool,
    /// Whether others have answered, too, since it began to wait.
    others: AtomicBool,
    /// Connections of the host that wait.
    count: Arc<AtomicUsize>,
}

impl Unwritten {
    /// Nothing waits yet; `count` has those that do.
    fn of(count: &Arc<AtomicUsize>) -> Self {
        let (waits, others) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { generation: AtomicU64::new(0), waits, others, count: count.clone() }
    }

    fn begin(&self) {
        if !self.waits.swap(true, Ordering::AcqRel) {
            self.count.fetch_add(1, Ordering::AcqRel);
        }
    }

    fn end(&self) {
        // The flag is seldom set, and a look at it costs less than a change.
        if self.waits.load(Ordering::Relaxed) && self.waits.swap(false, Ordering::AcqRel) {
            self.others.store(false, Ordering::Release);
            self.count.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

impl Drop for Unwritten {
    fn drop(&mut self) {
        self.end();
    }
}

/// Time in ticks of a millisecond, brought forward by the sweep.
#[derive(Debug, Default)]
pub struct Clock(AtomicU32);

impl Connection {
    fn touch(&self) {
        self.since.store(self.clock.0.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// Says that this connection speaks HTTP/2.
    pub fn set_multiplexed(&self) {
        self.multiplexed.store(true, Ordering::Relaxed);
    }

    /// What the connection is told; its task is woken when that changes.
    pub fn order(&self) -> Order {
        Order::from_u8(self.order.load(Ordering::Acquire))
    }

    /// Whether the answer to a request must announce the connection's end. HTTP/2 has a frame for that.
    pub fn is_last_answer(&self) -> bool {
        self.order() != Order::Serve && !self.multiplexed.load(Ordering::Relaxed)
    }

    /// Whether it speaks HTTP/2.
    pub fn is_multiplexed(&self) -> bool {
        self.multiplexed.load(Ordering::Relaxed)
    }

    /// Has `cx`'s task woken by a new order.
    pub fn register(&self, cx: &Context<'_>) {
        self.waker.register(cx.waker());
    }

    /// Waits for the order to take nothing new.
    pub async fn told(&self) {
        std::future::poll_fn(|cx| {
            self.register(cx);
            if self.order() < Order::Finish { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
    }

    /// Ready when it is told to end now.
    pub fn poll_aborted(&self, cx: &Context<'_>) -> Poll<()> {
        self.register(cx);
        if self.order() == Order::Abort { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Says what it becomes when its HTTP is over: it was taken over.
    pub fn set_afterwards(&self, afterwards: Afterwards) {
        // What it writes from then on has its own times.
        self.unwritten.generation.store(0, Ordering::Release);
        self.unwritten.others.store(false, Ordering::Release);
        *super::lock(&self.afterwards) = Some(afterwards);
    }

    /// What it becomes; `None`: nothing, it ends.
    pub fn take_afterwards(&self) -> Option<Afterwards> {
        super::lock(&self.afterwards).take()
    }

    /// Says that the generation with this number answers its next request.
    pub fn is_answered_by(&self, generation: u64) {
        let unwritten = &self.unwritten;
        if unwritten.generation.load(Ordering::Relaxed) == generation {
            return;
        }
        let before = unwritten.generation.swap(generation, Ordering::AcqRel);
        if before != 0 && unwritten.waits.load(Ordering::Acquire) {
            unwritten.others.store(true, Ordering::Release);
        }
    }

    /// Whether it may have bytes of this generation that its client does not take.
    fn keeps_bytes_of(&self, generation: u64) -> bool {
        let unwritten = &self.unwritten;
        let answers = || {
            unwritten.generation.load(Ordering::Acquire) == generation
                || unwritten.others.load(Ordering::Acquire)
        };
        unwritten.waits.load(Ordering::Acquire) && answers()
    }

    /// Says that an answer of this generation is to be written on it that is a stream, or large.
    pub fn stake(&self, generation: u64) {
        let mut staked = super::lock(&self.staked);
        match staked.iter_mut().find(|(of, _)| *of == generation) {
            Some((_, answers)) => *answers += 1,
            None => staked.push((generation, 1)),
        }
    }

    /// Says that one of those has been written, or given up.
    pub fn unstake(&self, generation: u64) {
        let mut staked = super::lock(&self.staked);
        if let Some(at) = staked.iter().position(|(of, _)| *of == generation) {
            staked[at].1 -= 1;
            if staked[at].1 == 0 {
                staked.swap_remove(at);
            }
        }
    }

    fn has_stake_of(&self, generation: u64) -> bool {
        super::lock(&self.staked).iter().any(|(of, _)| *of == generation)
    }

    /// Whether its client has not taken all of what it asked for.
    fn owes(&self) -> bool {
        self.unwritten.waits.load(Ordering::Acquire) || !super::lock(&self.staked).is_empty()
    }

    /// Tells it `order`, unless it was told more already.
    pub fn give(&self, order: Order) {
        if order == Order::Finish && self.order() < order {
            // Its client has the idle time once more, to confirm that.
            self.touch();
        }
        // The waker is given up with the first wake, and whoever was woken registers again for another order only.
        if self.order.fetch_max(order as u8, Ordering::AcqRel) < order as u8 {
            self.waker.wake();
        }
    }

    /// What the limits say about it now.
    fn judge(&self, limits: &Limits) -> Order {
        if self.busy.load(Ordering::Relaxed) > 0 {
            return Order::Serve;
        }
        // Looked at before the time, which begins anew when it is told.
        let told = self.order() >= Order::Finish;
        let now = self.clock.0.load(Ordering::Relaxed);
        let elapsed = Duration::from_millis(now.wrapping_sub(self.since.load(Ordering::Relaxed)).into());
        let reading = self.reading.load(Ordering::Relaxed);
        match reading && !self.multiplexed.load(Ordering::Relaxed) {
            true if elapsed > limits.header_time => Order::Abort,
            // HTTP/2 ends when its client has confirmed the goodbye, and some never do.
            false if elapsed > limits.idle_time && told && !self.owes() => Order::Abort,
            false if elapsed > limits.idle_time => Order::Finish,
            _ => Order::Serve,
        }
    }
}

/// A request being answered on a connection, from its head to the end of its response.
pub struct Turn(Arc<Connection>);

impl Turn {
    /// Begins one.
    pub fn begin(connection: &Arc<Connection>) -> Self {
        connection.busy.fetch_add(1, Ordering::Relaxed);
        connection.reading.store(false, Ordering::Relaxed);
        Self(connection.clone())
    }

    /// Its connection.
    pub fn connection(&self) -> &Arc<Connection> {
        &self.0
    }

    /// Whether the answer must announce the connection's end.
    pub fn is_last(&self) -> bool {
        self.0.is_last_answer()
    }

    /// Whether the connection may remember the answer's fields for as long as it lives: HTTP/2's table of them does.
    pub fn remembers_fields(&self) -> bool {
        self.0.is_multiplexed()
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::Relaxed);
        self.0.touch();
    }
}

/// All connections of the host.
#[derive(Default)]
pub struct Connections {
    clock: Arc<Clock>,
    /// What every connection was told last, for those that were accepted meanwhile.
    told: AtomicU8,
    /// Those whose clients do not take what there is to write.
    waiting: Arc<AtomicUsize>,
    // Locked when a connection opens or closes, by the sweep and by a drain, never for a request.
    open: Mutex<Slab<Arc<Connection>>>,
}

impl Connections {
    /// A connection that has just been accepted, and its place.
    pub fn open(&self) -> (Arc<Connection>, usize) {
        let mut open = super::lock(&self.open);
        let connection = Arc::new(Connection {
            clock: self.clock.clone(),
            busy: AtomicU32::new(0),
            // Until it has sent a request, a client is held to the time for one.
            reading: AtomicBool::new(true),
            multiplexed: AtomicBool::new(false),
            since: AtomicU32::new(self.clock.0.load(Ordering::Relaxed)),
            order: AtomicU8::new(self.told.load(Ordering::Relaxed)),
            waker: AtomicWaker::new(),
            afterwards: Mutex::default(),
            unwritten: Unwritten::of(&self.waiting),
            staked: Mutex::default(),
        });
        let place = open.insert(connection.clone());
        (connection, place)
    }

    /// The end of the connection at `place`.
    pub fn closed(&self, place: usize) {
        super::lock(&self.open).remove(place);
    }

    /// How many are open.
    pub fn count(&self) -> usize {
        super::lock(&self.open).len()
    }

    /// Tells every connection `order`.
    pub fn give_all(&self, order: Order) {
        let open = super::lock(&self.open);
        self.told.fetch_max(order as u8, Ordering::Relaxed);
        for (_, connection) in open.iter() {
            connection.give(order);
        }
    }

    /// Whether a connection may have bytes of this generation that its client does not take.
    pub fn keep_bytes_of(&self, generation: u64) -> bool {
        // Mostly nobody waits, and nothing is locked.
        self.waiting.load(Ordering::Acquire) > 0
            && super::lock(&self.open).iter().any(|(_, connection)| connection.keeps_bytes_of(generation))
    }

    /// Whether a connection has bytes of this generation to write, or a stream of it.
    pub fn owe_bytes_of(&self, generation: u64) -> bool {
        let owes = |connection: &Connection| {
            connection.has_stake_of(generation) || connection.keeps_bytes_of(generation)
        };
        super::lock(&self.open).iter().any(|(_, connection)| owes(connection))
    }

    /// Ends those that may have bytes of this generation that their clients do not take; how many they were.
    pub fn abort_keepers_of(&self, generation: u64) -> usize {
        let open = super::lock(&self.open);
        let keepers = open.iter().filter(|(_, connection)| connection.keeps_bytes_of(generation));
        keepers.map(|(_, connection)| connection.give(Order::Abort)).count()
    }

    /// Has those come to their end that have a stream of this generation, or a large answer: HTTP/1.1 at once, since
    /// nothing but this answer is on it; HTTP/2 is to finish what else it carries.
    pub fn end_staked(&self, generation: u64) {
        self.each_staked(generation, |connection| {
            connection.give(if connection.is_multiplexed() { Order::Finish } else { Order::Abort });
        });
    }

    /// Has those end now.
    pub fn abort_staked(&self, generation: u64) {
        self.each_staked(generation, |connection| connection.give(Order::Abort));
    }

    fn each_staked(&self, generation: u64, tell: impl Fn(&Connection)) {
        let open = super::lock(&self.open);
        let staked = open.iter().filter(|(_, connection)| connection.has_stake_of(generation));
        staked.for_each(|(_, connection)| tell(connection));
    }

    /// Has the connections finish one after the other, spread over `time`: those who come back do not all come at
    /// once.
    pub async fn finish_spread(&self, time: Duration) {
        let open: Vec<_> = super::lock(&self.open).iter().map(|(_, connection)| connection.clone()).collect();
        let ticks = u32::try_from(time.as_millis() / SPREAD_TICK.as_millis()).unwrap_or(u32::MAX).max(1);
        let batch = open.len().div_ceil(ticks as usize).max(1);
        let pause = time / u32::try_from(open.len().div_ceil(batch)).unwrap_or(u32::MAX).max(1);
        for batch in open.chunks(batch) {
            batch.iter().for_each(|connection| connection.give(Order::Finish));
            if self.count() == 0 {
                break;
            }
            tokio::time::sleep(pause).await;
        }
        self.give_all(Order::Finish);
    }

    /// Holds the connections to their limits, for ever.
    pub async fn sweep(&self, limits: &Limits) {
        let shortest = limits.header_time.min(limits.idle_time);
        let pause = (shortest / 4).clamp(Duration::from_millis(10), Duration::from_secs(1));
        let start = tokio::time::Instant::now();
        loop {
            tokio::time::sleep(pause).await;
            // Wraps after 49 days, which only differences are taken of.
            self.clock.0.store(start.elapsed().as_millis() as u32, Ordering::Relaxed);
            self.judge(limits);
        }
    }

    /// Tells each connection what the limits say about it now.
    fn judge(&self, limits: &Limits) {
        for (_, connection) in super::lock(&self.open).iter() {
            match connection.judge(limits) {
                Order::Serve => {}
                order => connection.give(order),
            }
        }
    }
}

/// Connections are closed in batches at most so often.
const SPREAD_TICK: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whose_bytes_a_client_has_yet_to_take_is_known() {
        let connections = Connections::default();
        let keep = |kept: [bool; 3]| assert_eq!([1, 2, 3].map(|id| connections.keep_bytes_of(id)), kept);
        let (connection, place) = connections.open();
        connection.is_answered_by(1);
        keep([false; 3]);
        connection.unwritten.begin();
        connection.unwritten.begin();
        keep([true, false, false]);
        // What the first one said may still be there.
        connection.is_answered_by(2);
        keep([true; 3]);
        connection.unwritten.end();
        keep([false; 3]);
        connection.unwritten.begin();
        keep([false, true, false]);
        connection.set_afterwards(Box::pin(std::future::ready(())));
        keep([false; 3]);
        connections.closed(place);
        drop(connection);
        assert_eq!(connections.waiting.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn those_with_streams_of_a_generation_come_to_their_end_and_no_others() {
        let connections = Connections::default();
        let [(one, _), (both, _), (other, _), (none, _)] = [(); 4].map(|()| connections.open());
        for (connection, generation) in
            [(&one, 1), (&one, 1), (&both, 1), (&both, 2), (&other, 2), (&none, 1)]
        {
            connection.stake(generation);
        }
        none.unstake(1);
        one.unstake(1);
        assert_eq!([1, 2, 3].map(|id| connections.owe_bytes_of(id)), [true, true, false]);
        both.set_multiplexed();
        connections.end_staked(1);
        let told = || [&one, &both, &other, &none].map(|connection| connection.order());
        assert_eq!(told(), [Order::Abort, Order::Finish, Order::Serve, Order::Serve]);
        both.unstake(1);
        connections.abort_staked(1);
        assert_eq!(told(), [Order::Abort, Order::Finish, Order::Serve, Order::Serve]);
        connections.abort_staked(2);
        assert_eq!(told(), [Order::Abort, Order::Abort, Order::Abort, Order::Serve]);
    }

    #[test]
    fn a_client_that_does_not_confirm_the_goodbye_is_ended_when_it_has_nothing_left_to_take() {
        let (connections, limits) = (Connections::default(), Limits::default());
        let (connection, _) = connections.open();
        connection.set_multiplexed();
        let idle_time = limits.idle_time.as_millis() as u32;
        let after = |ticks: u32| {
            connections.clock.0.fetch_add(ticks, Ordering::Relaxed);
            connections.judge(&limits);
            connection.order()
        };
        assert_eq!(after(idle_time), Order::Serve);
        assert_eq!(after(1), Order::Finish);
        assert_eq!(after(idle_time), Order::Finish, "it may take its time");
        connection.stake(1);
        assert_eq!(after(1), Order::Finish, "it reads a large answer");
        connection.unstake(1);
        connection.unwritten.begin();
        assert_eq!(after(1), Order::Finish, "it has to take small ones");
        connection.unwritten.end();
        let turn = Turn::begin(&connection);
        assert_eq!(after(1), Order::Finish, "its request crossed the goodbye");
        drop(turn);
        assert_eq!(after(idle_time), Order::Finish);
        assert_eq!(after(1), Order::Abort);
    }

    #[test]
    fn an_order_that_is_given_again_leaves_the_waker_to_a_later_one() {
        let connections = Connections::default();
        let (connection, _) = connections.open();
        let (waker, woken) = futures_test::task::new_count_waker();
        let cx = Context::from_waker(&waker);
        for (order, times) in
            [(Order::Finish, 1), (Order::Finish, 1), (Order::Last, 1), (Order::Abort, 2), (Order::Abort, 2)]
        {
            // As the connection's task does: for each order that it has not seen.
            if connection.order() < order {
                connection.register(&cx);
            }
            connection.give(order);
            assert_eq!(woken, times, "{order:?}");
        }
    }
}
