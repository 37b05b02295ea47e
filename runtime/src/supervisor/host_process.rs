//! The host process as the supervisor sees it: started, commanded, watched.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::os::unix::process::ExitStatusExt;
use std::pin::pin;
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use command_fds::{CommandFdExt, FdMapping};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use relmgr_model::counts::ReleaseCounts;
use relmgr_model::host::{
    Answer, CHANNEL_FD, Command, Envelope, FIRST_LISTENER_FD, HostError, HostStart, Reply,
};
use relmgr_model::sessions::SessionCounts;
use relmgr_model::settings::LogFormat;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot, watch};

use super::core_dump;
use super::last_words::LastWords;
use super::lock;
use super::oom::{self, OomKills};
use super::systemd;

/// The executable that runs, whatever lies at its path today.
pub const SELF: &str = "/proc/self/exe";

/// A host that was told to stop gets this much longer than the drain deadline: its application's own stop.
const STOP_SLACK: Duration = Duration::from_secs(20);

/// A call to the host that gave nothing.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CallError {
    /// The host says why.
    #[error(transparent)]
    Refused(#[from] HostError),
    /// There is no host to say anything.
    #[error("the host died ({0})")]
    Died(String),
}

impl CallError {
    /// The same without the secrets of `effective`, which an application may repeat in its words.
    #[must_use]
    pub fn redacted(self, effective: &relmgr_conf::Effective) -> Self {
        match self {
            Self::Refused(HostError { message }) => {
                Self::Refused(HostError { message: effective.redact(&message) })
            }
            died => died,
        }
    }
}

/// A host process that could not be started.
#[derive(Debug, thiserror::Error)]
#[error("the host process cannot be started")]
pub struct SpawnError(#[from] pub std::io::Error);

/// Bytes that a dead process left in its pipe are read in microseconds.
const WORDS_PATIENCE: Duration = Duration::from_millis(200);

/// How often it is looked whether the last answer has come.
const FREEZE_GLANCE: Duration = Duration::from_micros(500);

type Pending = Arc<Mutex<HashMap<u64, oneshot::Sender<Result<Answer, HostError>>>>>;

/// A running, or just ended, host.
#[derive(Debug)]
pub struct HostProcess {
    /// Its process.
    pub pid: u32,
    next: AtomicU64,
    outbox: mpsc::UnboundedSender<Envelope>,
    pending: Pending,
    ended: watch::Receiver<Option<String>>,
    stopping: AtomicBool,
    on_probation: AtomicBool,
    blame: Blame,
    words: LastWords,
    farewell: Farewell,
    /// While it is set no command is sent.
    frozen: watch::Sender<bool>,
    /// What the next image of the supervisor needs to go on.
    ends: Ends,
}

/// The supervisor's ends of what leads to a host, beside those that are read and written.
#[derive(Debug)]
pub struct Ends {
    /// The channel.
    pub channel: OwnedFd,
    /// The pipe that its log comes through.
    pub stderr: Option<OwnedFd>,
}

/// A host that another image of this process has started.
#[derive(Debug)]
pub struct Left {
    /// Its process.
    pub pid: u32,
    /// What leads to it.
    pub ends: Ends,
    /// The number of the next command.
    pub next_id: u64,
    /// The last lines that it wrote.
    pub last_words: Vec<String>,
}

/// What a host that stopped had answered in its life.
type Farewell = Arc<OnceLock<(Vec<ReleaseCounts>, SessionCounts)>>;

/// Why the supervisor killed it.
type Blame = Arc<OnceLock<String>>;

impl HostProcess {
    /// Starts a host with copies of the listening sockets; it does not accept yet. What it logs is passed on as
    /// `log` says.
    ///
    /// # Errors
    /// [`SpawnError`].
    pub fn spawn(listeners: Vec<OwnedFd>, log: LogFormat) -> Result<Arc<Self>, SpawnError> {
        let (ours, theirs) = StdUnixStream::pair()?;
        let mut command = std::process::Command::new(SELF);
        std::os::unix::process::CommandExt::arg0(&mut command, "relmgr");
        command.arg("host");
        // It is not the service that systemd waits for, whatever an application's crates tell it.
        systemd::VARIABLES.iter().for_each(|variable| {
            command.env_remove(variable);
        });
        if log != LogFormat::Text {
            command.arg("--json-log");
        }
        let sockets = std::iter::once(OwnedFd::from(theirs)).chain(listeners);
        let numbers = std::iter::once(CHANNEL_FD).chain(FIRST_LISTENER_FD..);
        let mappings = sockets.zip(numbers).map(|(parent_fd, child_fd)| FdMapping { parent_fd, child_fd });
        command.fd_mappings(mappings.collect()).map_err(std::io::Error::other)?;
        let kills = OomKills::begin();
        let mut child =
            tokio::process::Command::from(command).stderr(Stdio::piped()).kill_on_drop(false).spawn()?;
        let stderr = child.stderr.take().map(|stderr| stderr.into_owned_fd()).transpose()?;
        // Gone once it was waited for.
        let pid = child.id().unwrap_or(0);
        let left = Left { pid, ends: Ends { channel: ours.into(), stderr }, next_id: 1, last_words: vec![] };
        Self::command(left, log, kills, async move { child.wait().await })
    }

    /// Goes on with a host that another image of this process has started: it is its child all the same.
    ///
    /// # Errors
    /// [`SpawnError`]: its descriptors cannot be used, or there is no thread to wait for its end.
    pub fn adopt(left: Left, log: LogFormat) -> Result<Arc<Self>, SpawnError> {
        let (told, status) = oneshot::channel();
        let pid = left.pid;
        std::thread::Builder::new().name("adopted-host".into()).spawn(move || {
            let _ = told.send(wait_for(pid));
        })?;
        let gone = |_| std::io::Error::other("nobody waits for it");
        Self::command(left, log, OomKills::begin(), async move { status.await.map_err(gone).flatten() })
    }

    fn command(
        left: Left,
        log: LogFormat,
        kills: OomKills,
        waited: impl Future<Output = std::io::Result<ExitStatus>> + Send + 'static,
    ) -> Result<Arc<Self>, SpawnError> {
        let Left { pid, ends, next_id, last_words } = left;
        let (words, heard) = match &ends.stderr {
            Some(stderr) => LastWords::listen(stderr.try_clone()?, log, last_words)?,
            None => LastWords::none(),
        };
        let channel = StdUnixStream::from(ends.channel.try_clone()?);
        channel.set_nonblocking(true)?;
        let (reader, writer) = UnixStream::from_std(channel)?.into_split();
        let (outbox, commands) = mpsc::unbounded_channel();
        let (died, ended) = watch::channel(None);
        let (pending, farewell) = (Pending::default(), Farewell::default());
        let process = Arc::new(Self {
            pid,
            next: AtomicU64::new(next_id),
            outbox,
            pending: pending.clone(),
            ended,
            stopping: AtomicBool::new(false),
            on_probation: AtomicBool::new(false),
            blame: Blame::default(),
            words,
            farewell: farewell.clone(),
            frozen: watch::Sender::new(false),
            ends,
        });
        tokio::spawn(write_commands(writer, commands));
        let reading = tokio::spawn(read_replies(reader, pending.clone(), farewell));
        let heard = async move { tokio::join!(heard, reading) };
        tokio::spawn(watch_child(pid, kills, waited, heard, process.blame.clone(), pending, died));
        Ok(process)
    }

    /// Tells the host what it needs before it serves.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn init(&self, start: HostStart) -> Result<(), CallError> {
        self.call(Command::Init(start)).await.map(drop)
    }

    /// Sends a command and waits for its answer, for as long as the host lives.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn call(&self, command: Command) -> Result<Answer, CallError> {
        self.thawed().await;
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let died = |how: String, doing| CallError::Died(format!("{how}{doing}"));
        let doing = doing(&command);
        let (sender, answer) = oneshot::channel();
        lock(&self.pending).insert(id, sender);
        // Looked at after the place in the queue is taken: a death in between is seen by one of the two.
        if let Some(how) = self.ended() {
            return Err(died(how, doing));
        }
        let _ = self.outbox.send(Envelope { id, command });
        match answer.await {
            Ok(result) => Ok(result?),
            Err(_) => Err(died(self.wait().await, doing)),
        }
    }

    /// Sends no command any more until [`HostProcess::thaw`]; whether every one that was sent has been answered
    /// within `patience`. Then nothing is on its way in either direction.
    pub async fn freeze(&self, patience: Duration) -> bool {
        self.frozen.send_replace(true);
        let answered = async {
            while !lock(&self.pending).is_empty() {
                tokio::time::sleep(FREEZE_GLANCE).await;
            }
        };
        tokio::time::timeout(patience, answered).await.is_ok()
    }

    /// Sends commands again.
    pub fn thaw(&self) {
        self.frozen.send_replace(false);
    }

    /// Waits until commands are sent.
    pub async fn thawed(&self) {
        // The sender lives as long as this.
        let _ = self.frozen.subscribe().wait_for(|frozen| !frozen).await;
    }

    /// What the next image of the supervisor needs to go on with it.
    pub fn ends(&self) -> &Ends {
        &self.ends
    }

    /// The number of the next command.
    pub fn next_id(&self) -> u64 {
        self.next.load(Ordering::Relaxed)
    }

    /// Passes on none of its lines as long as the guard lives; none is lost meanwhile.
    pub fn hold_words(&self) -> std::sync::MutexGuard<'_, ()> {
        self.words.hold()
    }

    /// Waits for the end of the process; how it ended.
    pub async fn wait(&self) -> String {
        let mut ended = self.ended.clone();
        let how = ended.wait_for(Option::is_some).await;
        how.ok().and_then(|how| how.clone()).unwrap_or_else(|| "nobody knows how".into())
    }

    /// How the process ended; `None`: it lives.
    pub fn ended(&self) -> Option<String> {
        self.ended.borrow().clone()
    }

    /// Whether it was told to stop: then its end is no death.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Stops the host gracefully, by force when it takes too long.
    pub async fn stop(&self, drain: Duration) {
        self.end(drain, false).await;
    }

    /// The same where another host serves already: clients are not to notice.
    pub async fn make_way(&self, drain: Duration) {
        self.end(drain, true).await;
    }

    async fn end(&self, drain: Duration, linger: bool) {
        self.stopping.store(true, Ordering::Release);
        let drain_ms = u64::try_from(drain.as_millis()).unwrap_or(u64::MAX);
        let gracefully = async {
            // When it is dead already, `wait` returns at once.
            let _ = self.call(Command::Stop { drain_ms, linger }).await;
            self.wait().await
        };
        if tokio::time::timeout(drain + STOP_SLACK, gracefully).await.is_err() {
            tracing::warn!(pid = self.pid, "the host does not stop and is killed");
            self.kill();
            self.wait().await;
        }
    }

    /// What it had answered in its life; `None`: it has not stopped, or died without a word.
    pub fn farewell(&self) -> Option<(Vec<ReleaseCounts>, SessionCounts)> {
        self.farewell.get().cloned()
    }

    /// The last lines that it wrote to stderr.
    pub fn last_words(&self) -> Vec<String> {
        self.words.lines()
    }

    /// Says whether a release on probation serves in it, which is then to blame for its death.
    pub fn set_on_probation(&self, on_probation: bool) {
        self.on_probation.store(on_probation, Ordering::Release);
    }

    /// Whether a release on probation served in it last.
    pub fn is_on_probation(&self) -> bool {
        self.on_probation.load(Ordering::Acquire)
    }

    /// Kills the process, which is told as the cause of its death.
    pub fn kill_for(&self, why: String) {
        // The first cause counts.
        let _ = self.blame.set(why);
        self.kill();
    }

    /// Kills the process.
    pub fn kill(&self) {
        if let Ok(pid) = i32::try_from(self.pid)
            && self.ended().is_none()
        {
            // An error means that it is gone.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

impl Drop for HostProcess {
    /// A host that nobody commands any more (its boot was broken off) is not to live on.
    fn drop(&mut self) {
        self.kill();
    }
}

async fn write_commands(mut writer: OwnedWriteHalf, mut commands: mpsc::UnboundedReceiver<Envelope>) {
    while let Some(envelope) = commands.recv().await {
        // Every command has a JSON form.
        let Ok(mut line) = serde_json::to_vec(&envelope) else { continue };
        line.push(b'\n');
        if writer.write_all(&line).await.is_err() {
            // The host is gone; whoever waits is told by `watch_child`.
            return;
        }
    }
}

async fn read_replies(reader: OwnedReadHalf, pending: Pending, farewell: Farewell) {
    let mut lines = BufReader::new(reader).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        match serde_json::from_str::<Reply>(&line) {
            Ok(reply) => {
                if let Ok(Answer::Stopped { releases, sessions }) = &reply.result {
                    let _ = farewell.set((releases.clone(), sessions.clone()));
                }
                if let Some(waiting) = lock(&pending).remove(&reply.id) {
                    let _ = waiting.send(reply.result);
                }
            }
            Err(error) => tracing::error!(%error, "the host's reply does not parse"),
        }
    }
}

/// Waits for the end of a child that no handle is left of.
pub fn wait_for(pid: u32) -> std::io::Result<ExitStatus> {
    use nix::sys::wait::{WaitStatus, waitpid};

    let pid = i32::try_from(pid).map_err(std::io::Error::other)?;
    loop {
        match waitpid(Pid::from_raw(pid), None) {
            Ok(WaitStatus::Exited(_, code)) => return Ok(ExitStatus::from_raw((code & 0xff) << 8)),
            Ok(WaitStatus::Signaled(_, signal, core)) => {
                return Ok(ExitStatus::from_raw(signal as i32 | if core { 0x80 } else { 0 }));
            }
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

async fn watch_child(
    pid: u32,
    mut kills: OomKills,
    waited: impl Future<Output = std::io::Result<ExitStatus>>,
    heard: impl Future,
    blame: Blame,
    pending: Pending,
    died: watch::Sender<Option<String>>,
) {
    let mut waited = pin!(waited);
    let ended = loop {
        tokio::select! {
            ended = &mut waited => break ended,
            () = tokio::time::sleep(oom::EVERY) => kills.look(pid),
        }
    };
    let (how, by_the_kernel) = match ended {
        Ok(status) => (format!("{}{}", describe(status), core_dump::told(status, pid)), kills.blame(status)),
        Err(error) => (error.to_string(), None),
    };
    // What it wrote and said is complete when both pipes are closed; a process that it started may keep them open.
    let _ = tokio::time::timeout(WORDS_PATIENCE, heard).await;
    let how = with_blame(how, blame.get().or(by_the_kernel.as_ref()).map(String::as_str));
    died.send_replace(Some(how));
    // Drops the senders: everyone who waits for an answer looks at how it ended.
    lock(&pending).clear();
}

/// How a process ended, and why where that is known.
pub fn with_blame(how: String, why: Option<&str>) -> String {
    match why {
        Some(why) => format!("{how}, since {why}"),
        None => how,
    }
}

/// Whether a process was ended by `signal`.
pub fn was_killed_by(status: ExitStatus, signal: Signal) -> bool {
    status.signal() == Some(signal as i32)
}

/// How a process ended, in words.
pub fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(number)) => match Signal::try_from(number) {
            Ok(signal) => format!("signal {number} {signal}"),
            Err(_) => format!("signal {number}"),
        },
        (None, None) => "neither exit code nor signal".into(),
    }
}

/// What the host was doing when it died of it, for people.
fn doing(command: &Command) -> &'static str {
    match command {
        Command::Load(_) => ", while starting it",
        Command::Health { .. } => ", while its health was asked",
        Command::Swap { code_change: Some(_), .. } => ", in the code change",
        Command::Swap { .. } | Command::SwapBack { .. } => ", in the swap",
        Command::LendState { .. } | Command::TakeState { .. } => ", while its state was handed over",
        Command::Retire { .. } => ", while retiring it",
        _ => "",
    }
}
