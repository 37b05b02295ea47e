//! Closed-loop load over keep-alive connections: each asks again as soon as it has its answer.
//!
//! It runs on one thread of its own, and reads responses itself: what a client sees is what counts, so an answer is
//! one only when it is complete, and every connection that the server closes is counted.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// An answer that takes longer is a failure.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What to ask for.
#[derive(Debug, Clone)]
pub struct Request {
    bytes: Vec<u8>,
    /// Whether the answer is a version.
    version: bool,
}

impl Request {
    /// `GET path`.
    pub fn get(path: &str) -> Self {
        Self { bytes: format!("GET {path} HTTP/1.1\r\nhost: load\r\n\r\n").into(), version: false }
    }

    /// `GET path`, whose answer is the version that answered.
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

/// Load that runs until it is stopped.
pub struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    thread: JoinHandle<Report>,
}

/// What the clients have seen.
#[derive(Debug, Clone)]
pub struct Report {
    /// Complete answers with a status of 2xx.
    pub answers: u64,
    /// Requests without one, by kind.
    pub failed: BTreeMap<String, u64>,
    /// Connections that the server ended.
    pub closed_connections: u64,
    /// The longest time without an answer on any connection.
    pub longest_gap: Duration,
    /// Time from request to answer, in nanoseconds.
    pub latency: Histogram<u64>,
    /// How often each version answered.
    pub versions: BTreeMap<String, u64>,
    /// How long the load ran.
    pub elapsed: Duration,
}

impl Report {
    /// Requests without a complete answer.
    pub fn failures(&self) -> u64 {
        self.failed.values().sum()
    }

    /// Answers a second.
    pub fn rate(&self) -> f64 {
        self.answers as f64 / self.elapsed.as_secs_f64()
    }

    /// The latency below which a share `quantile` of the answers came.
    pub fn quantile(&self, quantile: f64) -> Duration {
        Duration::from_nanos(self.latency.value_at_quantile(quantile))
    }
}

impl Load {
    /// `connections` clients; each goes through `requests` in turn, from a place of its own.
    pub fn start(address: SocketAddr, requests: &[Request], connections: usize) -> Self {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let clients =
            Clients { address, requests: requests.to_vec(), stop: stop.clone(), answered: answered.clone() };
        let thread = std::thread::Builder::new().name("load".into()).spawn(move || clients.run(connections));
        Self { stop, answered, thread: thread.unwrap() }
    }

    /// Answers so far.
    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Ends the load.
    pub fn stop(self) -> Report {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

struct Clients {
    address: SocketAddr,
    requests: Vec<Request>,
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
}

impl Clients {
    fn run(self, connections: usize) -> Report {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let begun = Instant::now();
        let seen = Rc::new(RefCell::new(Seen::new(begun)));
        let tasks = tokio::task::LocalSet::new();
        let clients = Rc::new(self);
        for number in 0..connections {
            tasks.spawn_local(client(clients.clone(), seen.clone(), number));
        }
        runtime.block_on(tasks);
        let seen = Rc::try_unwrap(seen).map_err(|_| "a client is left").unwrap().into_inner();
        Report { elapsed: begun.elapsed(), ..seen.report }
    }
}

struct Seen {
    report: Report,
    last_answer: Instant,
}

impl Seen {
    fn new(begun: Instant) -> Self {
        let report = Report {
            answers: 0,
            failed: BTreeMap::new(),
            closed_connections: 0,
            longest_gap: Duration::ZERO,
            // From a microsecond to the timeout, to three digits.
            latency: Histogram::new_with_bounds(1_000, TIMEOUT.as_nanos() as u64, 3).unwrap(),
            versions: BTreeMap::new(),
            elapsed: Duration::ZERO,
        };
        Self { report, last_answer: begun }
    }

    fn answer(&mut self, latency: Duration) {
        let now = Instant::now();
        self.report.answers += 1;
        self.report.longest_gap = self.report.longest_gap.max(now - self.last_answer);
        self.last_answer = now;
        self.report.latency.saturating_record(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
    }

    fn fail(&mut self, kind: &str) {
        *self.report.failed.entry(kind.to_owned()).or_default() += 1;
    }
}

async fn client(clients: Rc<Clients>, seen: Rc<RefCell<Seen>>, number: usize) {
    let mut connection: Option<Connection> = None;
    for at in number.. {
        if clients.stop.load(Ordering::Relaxed) {
            return;
        }
        let open = match &mut connection {
            Some(open) => open,
            None => match tokio::time::timeout(TIMEOUT, Connection::open(clients.address)).await {
                Ok(Ok(open)) => connection.insert(open),
                Ok(Err(error)) => {
                    seen.borrow_mut().fail(kind(&error));
                    // Refused at once would be refused again at once.
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    continue;
                }
                Err(_) => {
                    seen.borrow_mut().fail("connect_timeout");
                    continue;
                }
            },
        };
        let request = &clients.requests[at % clients.requests.len()];
        let begun = Instant::now();
        let answer = tokio::time::timeout(TIMEOUT, open.ask(request)).await;
        let mut seen = seen.borrow_mut();
        match answer {
            Ok(Ok(answer)) => {
                if (200..300).contains(&answer.status) {
                    seen.answer(begun.elapsed());
                    clients.answered.fetch_add(1, Ordering::Relaxed);
                } else {
                    seen.fail(&format!("status_{}", answer.status));
                }
                if let Some(version) = answer.version {
                    *seen.report.versions.entry(version).or_default() += 1;
                }
                if answer.close {
                    seen.report.closed_connections += 1;
                    connection = None;
                }
            }
            Ok(Err(error)) => {
                seen.fail(kind(&error));
                seen.report.closed_connections += 1;
                connection = None;
            }
            Err(_) => {
                seen.fail("timeout");
                connection = None;
            }
        }
    }
}

fn kind(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "refused",
        std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::BrokenPipe => "reset",
        std::io::ErrorKind::UnexpectedEof => "eof",
        std::io::ErrorKind::InvalidData => "bad_response",
        _ => "other",
    }
}

/// A keep-alive connection.
struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

struct Answer {
    status: u16,
    version: Option<String>,
    close: bool,
}

/// What a response's head says of its body.
#[derive(Debug, PartialEq)]
struct Head {
    status: u16,
    length: Option<usize>,
    chunked: bool,
    close: bool,
}

impl Connection {
    async fn open(address: SocketAddr) -> std::io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::with_capacity(128 * 1024) })
    }

    async fn ask(&mut self, request: &Request) -> std::io::Result<Answer> {
        self.stream.write_all(&request.bytes).await?;
        self.buffer.clear();
        let (head, start) = loop {
            if let Some(at) = find(&self.buffer, b"\r\n\r\n") {
                break (read_head(&self.buffer[..at + 2]).ok_or_else(bad)?, at + 4);
            }
            self.read_some().await?;
        };
        let end = match head.length {
            Some(length) => {
                while self.buffer.len() < start + length {
                    self.read_some().await?;
                }
                start + length
            }
            None if head.chunked => {
                while !self.buffer.ends_with(b"0\r\n\r\n") {
                    self.read_some().await?;
                }
                self.buffer.len()
            }
            None => return Err(bad()),
        };
        let version = request.version.then(|| String::from_utf8_lossy(&self.buffer[start..end]).into_owned());
        Ok(Answer { status: head.status, version, close: head.close })
    }

    async fn read_some(&mut self) -> std::io::Result<()> {
        match self.stream.read_buf(&mut self.buffer).await? {
            0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}

fn bad() -> std::io::Error {
    std::io::ErrorKind::InvalidData.into()
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

fn read_head(bytes: &[u8]) -> Option<Head> {
    let text = std::str::from_utf8(bytes).ok()?;
    let mut lines = text.split("\r\n");
    let status = lines.next()?.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    let mut head = Head { status, length: None, chunked: false, close: false };
    for line in lines.filter(|line| !line.is_empty()) {
        let (name, value) = line.split_once(':')?;
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            "content-length" => head.length = Some(value.parse().ok()?),
            "transfer-encoding" => head.chunked = value.eq_ignore_ascii_case("chunked"),
            "connection" => head.close = value.eq_ignore_ascii_case("close"),
            _ => {}
        }
    }
    Some(head)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpListener;

    /// Answers each connection's requests with `answers` in turn, then closes it.
    fn server(answers: &'static [&'static str]) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                for answer in answers {
                    let mut buffer = [0; 1024];
                    if stream.read(&mut buffer).unwrap_or(0) == 0
                        || stream.write_all(answer.as_bytes()).is_err()
                    {
                        break;
                    }
                }
            }
        });
        address
    }

    fn run(answers: &'static [&'static str], enough: impl Fn(&Load) -> bool) -> Report {
        let load = Load::start(server(answers), &[Request::version("/v")], 1);
        let deadline = Instant::now() + Duration::from_secs(20);
        while !enough(&load) && Instant::now() < deadline {
            std::thread::yield_now();
        }
        load.stop()
    }

    #[test]
    fn complete_answers_are_counted_with_their_versions() {
        let report = run(
            &[
                "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n1.0.0",
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\n1.0\r\n0\r\n\r\n",
                "HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\n1.0.1",
            ],
            |load| load.answered() >= 9,
        );
        assert_eq!(report.failures(), 0, "{:?}", report.failed);
        assert!(report.answers >= 9 && report.closed_connections >= 2);
        assert!(report.versions["1.0.0"] >= 3 && report.versions["1.0.1"] >= 2);
    }

    #[test]
    fn an_answer_that_is_cut_or_no_success_is_a_failure() {
        let answers = &[
            "HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\ncut",
        ];
        let begun = Instant::now();
        let report = run(answers, |_| begun.elapsed() > Duration::from_millis(200));
        assert_eq!(report.answers, 0);
        assert!(report.failed["status_503"] > 0 && report.failed["eof"] > 0, "{:?}", report.failed);
    }

    #[test]
    fn a_refused_connection_is_a_failure() {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let load = Load::start(address, &[Request::get("/")], 1);
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(50) {
            std::thread::yield_now();
        }
        assert!(load.stop().failed["refused"] > 0);
    }
}
