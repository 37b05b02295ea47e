//! A real S3 server for tests: the crate s3s-fs over HTTP on a loopback port, with signature checking on.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::access::S3Access;
use s3s::auth::SimpleAuth;
use s3s::dto::{CompleteMultipartUploadInput, PutObjectInput};
use s3s::service::S3ServiceBuilder;
use s3s::{S3Request, S3Result};

/// The bucket that every server has.
pub const BUCKET: &str = "packages";

/// The test's key pair. Nothing that relmgr prints or writes may have it in it.
pub const ACCESS_KEY: &str = "AKIATESTTESTTESTTEST";
/// See [`ACCESS_KEY`].
pub const SECRET_KEY: &str = "test-secret-that-nobody-may-print";

/// What a request is answered with instead of by the server.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Part of the request's line (`PUT /packages/VERSION`).
    pub when: String,
    /// So many times; afterwards the server answers again.
    pub times: usize,
    /// The status.
    pub status: u16,
    /// S3's error code.
    pub code: &'static str,
    /// What the answer's `Content-Length` claims, to a question for nothing else.
    pub size: Option<u64>,
}

/// No status: the request is not answered.
const HELD: u16 = 0;

/// A server and its directory.
pub struct S3Server {
    address: SocketAddr,
    root: tempfile::TempDir,
    answers: Arc<Mutex<Vec<Answer>>>,
    log: Arc<Mutex<Vec<String>>>,
    ignore_conditions: Arc<AtomicBool>,
    // Dropped with the server, which ends its thread.
    _stop: tokio::sync::oneshot::Sender<()>,
}

impl S3Server {
    /// A server with the empty bucket [`BUCKET`].
    pub fn start() -> Self {
        Self::start_on(Ipv4Addr::LOCALHOST)
    }

    /// As [`S3Server::start`], where other hosts reach it.
    pub fn start_on(address: Ipv4Addr) -> Self {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join(BUCKET)).unwrap();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let mut builder = S3ServiceBuilder::new(s3s_fs::FileSystem::new(root.path()).unwrap());
        builder.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
        let ignore_conditions = Arc::new(AtomicBool::new(false));
        builder.set_access(Access { ignore_conditions: ignore_conditions.clone() });
        let service = builder.build();
        let (answers, log) = (Arc::new(Mutex::new(Vec::<Answer>::new())), Arc::new(Mutex::new(Vec::new())));
        let listener = std::net::TcpListener::bind((address, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let (scripted, written) = (answers.clone(), log.clone());
        let serve = async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            loop {
                let Ok((socket, _)) = listener.accept().await else { return };
                let (service, scripted, written) = (service.clone(), scripted.clone(), written.clone());
                let answer =
                    hyper::service::service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
                        let line = format!("{} {}", request.method(), request.uri());
                        written.lock().unwrap().push(line.clone());
                        let instead = take(&scripted, &line);
                        let service = service.clone();
                        async move {
                            let response = match instead {
                                Some(Answer { status: HELD, .. }) => std::future::pending().await,
                                Some(answer) => Ok(error(&answer)),
                                None => service.call(request.map(s3s::Body::from)).await,
                            };
                            Ok::<_, Infallible>(response.unwrap_or_else(|fault| {
                                let body = s3s::Body::from(format!("{fault:?}").into_bytes());
                                hyper::Response::builder().status(500).body(body).unwrap()
                            }))
                        }
                    });
                tokio::spawn(async move {
                    let http = Builder::new(TokioExecutor::new());
                    // A client that went away is the test's own doing.
                    let _ = http.serve_connection(TokioIo::new(socket), answer).await;
                });
            }
        };
        // Of its own, since tests have a runtime that may not start another one.
        std::thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = serve => {}
                    _ = stopped => {}
                }
            });
        });
        Self { address, root, answers, log, ignore_conditions, _stop: stop }
    }

    /// The repository in the bucket, under a prefix.
    pub fn url(&self) -> String {
        format!("s3://{BUCKET}/releases")
    }

    /// The server.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The server's address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where the repository's objects lie as files.
    pub fn directory(&self) -> PathBuf {
        self.root.path().join(BUCKET).join("releases")
    }

    /// Where the buckets lie.
    pub fn root(&self) -> &Path {
        self.root.path()
    }

    /// Answers some requests in its place.
    pub fn answer(&self, when: &str, times: usize, status: u16, code: &'static str) {
        self.answers.lock().unwrap().push(Answer { when: when.into(), times, status, code, size: None });
    }

    /// Leaves requests unanswered for as long as their client waits; none of it happens.
    pub fn hold(&self, when: &str) {
        self.answer(when, usize::MAX, HELD, "");
    }

    /// Answers everything by the server again.
    pub fn settle(&self) {
        self.answers.lock().unwrap().clear();
    }

    /// Says of an object that it has `size` bytes.
    pub fn claim(&self, when: &str, size: u64) {
        let answer = Answer { when: when.into(), times: usize::MAX, status: 200, code: "", size: Some(size) };
        self.answers.lock().unwrap().push(answer);
    }

    /// Does as servers do that accept conditions (`If-Match`, `If-None-Match`) and ignore them.
    pub fn ignore_conditions(&self) {
        self.ignore_conditions.store(true, Ordering::SeqCst);
    }

    /// The lines of the requests so far.
    pub fn requests(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    /// What a program needs to reach it: credentials, region, and nothing of this machine's own.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        vec![
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY.into()),
            ("AWS_SECRET_ACCESS_KEY", SECRET_KEY.into()),
            ("AWS_REGION", "us-east-1".into()),
            ("AWS_ENDPOINT_URL", self.endpoint()),
            ("AWS_EC2_METADATA_DISABLED", "true".into()),
            ("AWS_CONFIG_FILE", "/dev/null".into()),
            ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null".into()),
        ]
    }
}

/// Amazon's own command line, installed below the target directory when it is not there yet.
pub fn aws_cli() -> std::process::Command {
    let directory = aws_directory();
    let mut command = std::process::Command::new("python3");
    command.args(["-m", "awscli"]).env("PYTHONPATH", directory);
    command
}

/// What scripts need that call `aws`: the directory that PYTHONPATH names, whose `bin` is on PATH.
pub fn aws_directory() -> PathBuf {
    let directory = crate::kit::target_dir().join("awscli");
    let lock = std::fs::File::create(crate::kit::target_dir().join("awscli.lock")).unwrap();
    let lock = nix::fcntl::Flock::lock(lock, nix::fcntl::FlockArg::LockExclusive);
    let _lock = lock.map_err(|(_, error)| error).unwrap();
    if !directory.join("bin/aws").exists() {
        let mut pip = std::process::Command::new("python3");
        pip.args(["-m", "pip", "install", "--quiet", "--target"]).arg(&directory).arg("awscli");
        let done = pip.output().unwrap();
        assert!(done.status.success(), "pip: {}", String::from_utf8_lossy(&done.stderr));
    }
    directory
}

fn take(answers: &Mutex<Vec<Answer>>, line: &str) -> Option<Answer> {
    let mut answers = answers.lock().unwrap();
    let place = answers.iter().position(|answer| answer.times > 0 && line.contains(&answer.when))?;
    answers[place].times -= 1;
    Some(answers[place].clone())
}

fn error(answer: &Answer) -> hyper::Response<s3s::Body> {
    if let Some(size) = answer.size {
        let response =
            hyper::Response::builder().header("content-length", size).header("etag", "\"claimed\"");
        return response.body(s3s::Body::empty()).unwrap();
    }
    let code = answer.code;
    let text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>as the test wants it</Message></Error>"
    );
    let response = hyper::Response::builder().status(answer.status).header("content-type", "application/xml");
    response.body(s3s::Body::from(text.into_bytes())).unwrap()
}

/// Looks at requests after their signature was checked.
struct Access {
    ignore_conditions: Arc<AtomicBool>,
}

#[async_trait::async_trait]
impl S3Access for Access {
    async fn put_object(&self, request: &mut S3Request<PutObjectInput>) -> S3Result<()> {
        if self.ignore_conditions.load(Ordering::SeqCst) {
            request.input.if_match = None;
            request.input.if_none_match = None;
        }
        Ok(())
    }

    async fn complete_multipart_upload(
        &self,
        request: &mut S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<()> {
        if self.ignore_conditions.load(Ordering::SeqCst) {
            request.input.if_match = None;
            request.input.if_none_match = None;
        }
        Ok(())
    }
}
