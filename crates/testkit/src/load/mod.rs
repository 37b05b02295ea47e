//! Load over keep-alive connections, as clients make it.
//!
//! * **Saturating** ([`Load::start`]): each connection asks again as soon as it has its answer. It answers how much
//!   a server can do, and whether it fails under that.
//! * **Paced** ([`Load::paced`]): requests fall due at a fixed rate. A closed loop stops asking while the server
//!   pauses and sees the pause once per connection; this sees it as clients that come by themselves do.
//!
//! All connections of a load live on one thread with one epoll, so that it takes little of the processor time that
//! it is to measure others by. What a client sees is what counts: an answer is one only when it is complete and
//! nothing follows it, and every connection that the server ends is counted.
//!
//! | module | what |
//! | --- | --- |
//! | [`clients`] | the thread: when which connection asks |
//! | [`connection`] | one connection: sends, reads, is opened again |
//! | [`response`] | when a response is complete |
//! | [`report`] | what was seen |

mod clients;
mod connection;
mod report;
mod response;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub use report::{Closed, Failure, Report};

use clients::Clients;
use report::Tally;

/// An answer that takes longer is a failure, unless a load has its own limit.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What to ask for.
#[derive(Debug, Clone)]
pub struct Request {
    bytes: Vec<u8>,
    /// Whether the answer tells a version.
    version: bool,
}

impl Request {
    /// `GET path`.
    pub fn get(path: &str) -> Self {
        Self { bytes: format!("GET {path} HTTP/1.1\r\nhost: load\r\n\r\n").into(), version: false }
    }

    /// `GET path`, whose answer tells the version that answered: as plain text, or as JSON's `version`.
    pub fn version(path: &str) -> Self {
        Self { version: true, ..Self::get(path) }
    }

    /// `POST path` with `len` bytes.
    pub fn upload(path: &str, len: usize) -> Self {
        let mut bytes =
            format!("POST {path} HTTP/1.1\r\nhost: load\r\ncontent-length: {len}\r\n\r\n").into_bytes();
        bytes.resize(bytes.len() + len, b'x');
        Self { bytes, version: false }
    }
}

/// What a load does.
#[derive(Debug, Clone)]
struct Spec {
    address: SocketAddr,
    requests: Vec<Request>,
    connections: usize,
    /// Paced load: the time between two requests on all connections together.
    every: Option<Duration>,
    timeout: Duration,
}

/// Load that runs until it is stopped or dropped.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// What the load's thread and its owner share.
#[derive(Debug)]
struct Shared {
    stop: AtomicBool,
    tally: Mutex<Tally>,
}

impl Shared {
    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap()
    }
}

impl Load {
    /// `connections` clients that ask without a pause; each goes through `requests` in turn, from a place of its
    /// own.
    pub fn start(address: SocketAddr, requests: &[Request], connections: usize) -> Self {
        Self::run(Spec { address, requests: requests.to_vec(), connections, every: None, timeout: TIMEOUT })
    }

    /// A request every `every`, on `connections` in turn. One that falls due while its connection still waits for
    /// an answer is skipped, never sent late in a burst.
    pub fn paced(address: SocketAddr, requests: &[Request], connections: usize, every: Duration) -> Self {
        let every = Some(every.max(Duration::from_micros(1)));
        Self::run(Spec { address, requests: requests.to_vec(), connections, every, timeout: TIMEOUT })
    }

    fn run(spec: Spec) -> Self {
        assert!(!spec.requests.is_empty() && spec.connections > 0, "a load has requests and connections");
        let tally = Mutex::new(Tally::new(Instant::now()));
        let shared = Arc::new(Shared { stop: AtomicBool::new(false), tally });
        let clients = Clients::new(spec, shared.clone()).expect("an epoll and a timer are to be had");
        let thread = std::thread::Builder::new().name("load".into()).spawn(move || clients.run());
        Self { shared, thread: Some(thread.unwrap()) }
    }

    /// Answers so far.
    pub fn answered(&self) -> u64 {
        self.shared.tally().answers()
    }

    /// What was seen so far.
    pub fn snapshot(&self) -> Report {
        self.shared.tally().report(Instant::now())
    }

    /// What was seen since the start or the last lap; a new one begins.
    pub fn lap(&self) -> Report {
        self.shared.tally().lap(Instant::now())
    }

    /// Ends the load: no request is sent any more, those that were sent get their answers.
    pub fn stop(mut self) -> Report {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.thread.take().map(JoinHandle::join).transpose().unwrap();
        self.shared.tally().report(Instant::now())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
