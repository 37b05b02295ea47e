//! Clients that ask the node without a pause worth the name, each over a connection that is kept open: nothing that
//! they ask may fail, whichever release answers.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// A request every two milliseconds is enough to meet each moment of a swap, and no load worth the name.
const PAUSE: Duration = Duration::from_millis(2);

/// An answer that takes longer is none.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where every node tells the version that serves.
pub(super) const VERSION_PATH: &str = "/api/public/version";

/// The clients.
pub(super) struct Load {
    stop: watch::Sender<bool>,
    clients: Vec<JoinHandle<()>>,
    seen: Arc<Mutex<Seen>>,
}

/// What they have seen so far.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub(super) struct Seen {
    /// Requests that were answered.
    pub(super) answered: u64,
    /// Requests that were not, or by an error.
    pub(super) failed: u64,
    /// The longest that one waited for its answer, in milliseconds.
    pub(super) longest_ms: f64,
    /// What the first one that failed was told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) first_failure: Option<String>,
}

impl Load {
    /// A client for each of `paths`.
    pub(super) fn start(address: SocketAddr, paths: &[String]) -> Self {
        let (stop, stopped) = watch::channel(false);
        let seen = Arc::new(Mutex::new(Seen::default()));
        let client = |path: &String| {
            let (path, seen, stopped) = (path.clone(), seen.clone(), stopped.clone());
            tokio::spawn(async move { ask_on(address, &path, &seen, stopped).await })
        };
        Self { clients: paths.iter().map(client).collect(), stop, seen }
    }

    /// What they have seen so far.
    pub(super) fn seen(&self) -> Seen {
        lock(&self.seen).clone()
    }

    /// Ends them, each after its answer.
    pub(super) async fn stop(self) -> Seen {
        self.stop.send_replace(true);
        for client in self.clients {
            let _ = client.await;
        }
        lock(&self.seen).clone()
    }
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn ask_on(address: SocketAddr, path: &str, seen: &Mutex<Seen>, stop: watch::Receiver<bool>) {
    let mut connection = None;
    while !*stop.borrow() {
        let begun = Instant::now();
        let answer = ask(&mut connection, address, path).await;
        let ms = begun.elapsed().as_secs_f64() * 1e3;
        {
            let mut seen = lock(seen);
            seen.longest_ms = seen.longest_ms.max(ms);
            match answer {
                Ok((status, _)) if status < 400 => seen.answered += 1,
                Ok((status, body)) => {
                    let words = body.lines().next().unwrap_or_default().to_owned();
                    seen.fail(format!("GET {path}: {status} {words}"));
                }
                Err(words) => {
                    connection = None;
                    seen.fail(format!("GET {path}: {words}"));
                }
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

impl Seen {
    fn fail(&mut self, words: String) {
        self.failed += 1;
        self.first_failure.get_or_insert(words);
    }
}

type Sender = SendRequest<Full<Bytes>>;

async fn ask(
    connection: &mut Option<Sender>,
    address: SocketAddr,
    path: &str,
) -> Result<(u16, String), String> {
    let answer = async {
        let sender = match connection {
            Some(sender) => sender,
            None => connection.insert(connect(address).await?),
        };
        sender.ready().await.map_err(|error| words(&error))?;
        let request = Request::get(path).header("host", address.to_string()).body(Full::default());
        let request = request.map_err(|error| words(&error))?;
        let response = sender.send_request(request).await.map_err(|error| words(&error))?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.map_err(|error| words(&error))?;
        Ok((status, String::from_utf8_lossy(&body.to_bytes()).into_owned()))
    };
    let late = |_| Err(format!("no answer within {}", humantime::format_duration(PATIENCE)));
    tokio::time::timeout(PATIENCE, answer).await.unwrap_or_else(late)
}

async fn connect(address: SocketAddr) -> Result<Sender, String> {
    let stream = TcpStream::connect(address).await.map_err(|error| words(&error))?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|error| words(&error))?;
    tokio::spawn(connection);
    Ok(sender)
}

fn words(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

/// Status and body of `GET path` on a connection of its own.
pub(super) async fn get(address: SocketAddr, path: &str) -> Result<(u16, String), String> {
    ask(&mut None, address, path).await
}
