//! HTTP as clients speak it: one request, a keep-alive connection, a load of them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use relmgr_testkit::kit::PATIENCE;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

/// A keep-alive connection of HTTP/1.1.
pub struct Connection {
    sender: SendRequest<Full<Bytes>>,
    _task: JoinHandle<()>,
}

impl Connection {
    pub async fn open(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect(address).await.unwrap()).await
    }

    /// `None`: nobody listens.
    pub async fn try_open(address: SocketAddr) -> Option<Self> {
        Some(Self::over(TcpStream::connect(address).await.ok()?).await)
    }

    async fn over(stream: TcpStream) -> Self {
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        let task = tokio::spawn(async move { drop(connection.await) });
        Self { sender, _task: task }
    }

    pub async fn send(&mut self, request: Request<Full<Bytes>>) -> hyper::Result<Response<Incoming>> {
        self.sender.ready().await?;
        self.sender.send_request(request).await
    }

    /// Status and body of `GET path`.
    pub async fn get(&mut self, path: &str) -> Result<(u16, String), String> {
        self.get_from(path, "test").await
    }

    /// The same of a server that looks at the host's name.
    pub async fn get_from(&mut self, path: &str, host: &str) -> Result<(u16, String), String> {
        let request = Request::get(path).header("host", host).body(Full::default()).unwrap();
        let response = self.send(request).await.map_err(|error| error.to_string())?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.map_err(|error| format!("in the body: {error}"))?;
        Ok((status, String::from_utf8_lossy(&body.to_bytes()).into_owned()))
    }
}

/// Asks again until there is an answer.
pub async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} for: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// `GET path` on a connection of its own.
pub async fn get(address: SocketAddr, path: &str) -> (u16, String) {
    Connection::open(address).await.get(path).await.unwrap_or_else(|error| panic!("GET {path}: {error}"))
}

/// Status and body of `GET path` over HTTP/2 with prior knowledge, and the response's trailers.
pub async fn get_h2(address: SocketAddr, path: &str) -> (u16, String, Option<http::HeaderMap>) {
    let stream = TcpStream::connect(address).await.unwrap();
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.unwrap();
    tokio::spawn(async move { drop(connection.await) });
    let uri = format!("http://{address}{path}");
    let request = Request::get(uri).body(Full::<Bytes>::default()).unwrap();
    let response = sender.send_request(request).await.unwrap();
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap();
    let trailers = body.trailers().cloned();
    (status, String::from_utf8_lossy(&body.to_bytes()).into_owned(), trailers)
}

/// Clients that ask one path again and again over keep-alive connections until they are told to stop.
pub struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Seen>>,
}

/// What the clients of a load have seen.
#[derive(Debug, Default)]
pub struct Seen {
    /// Answers by their body.
    pub answers: BTreeMap<String, u64>,
    /// Everything that was no 200 with a whole body.
    pub failures: Vec<String>,
}

impl Load {
    /// `connections` clients asking for `path`.
    pub fn start(address: SocketAddr, path: &'static str, connections: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let client = |_| {
            let stop = stop.clone();
            tokio::spawn(async move {
                let mut seen = Seen::default();
                let mut connection = Connection::open(address).await;
                while !stop.load(Ordering::Relaxed) {
                    match connection.get(path).await {
                        Ok((200, body)) => *seen.answers.entry(body).or_default() += 1,
                        Ok((status, body)) => seen.failures.push(format!("{status}: {body}")),
                        Err(error) => {
                            // One failure a connection: what comes after it would only repeat it.
                            seen.failures.push(error);
                            break;
                        }
                    }
                }
                seen
            })
        };
        let clients = (0..connections).map(client).collect();
        Self { stop, clients }
    }

    /// Ends the load; what all clients together have seen.
    pub async fn stop(self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Seen::default();
        for client in self.clients {
            let seen = client.await.unwrap();
            all.failures.extend(seen.failures);
            for (body, count) in seen.answers {
                *all.answers.entry(body).or_default() += count;
            }
        }
        all
    }
}
