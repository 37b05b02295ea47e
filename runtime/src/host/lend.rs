//! The state of the generation that serves, in memory that another process can open: a host that takes over, or a
//! trial. Requests wait from the moment from which it is written until [`Host::resume`], or until the host stops; new
//! connections wait in the backlog, for this host or the next one.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use nix::sys::memfd::{MFdFlags, memfd_create};
use relmgr_abi::body::FfiBody;
use relmgr_model::host::{Answer, CodeChange, HostError};
use tokio::sync::{mpsc, oneshot};

use super::gate::Hold;
use super::generation::Generation;
use super::state::{self, Piece};
use super::{Host, lock};

/// So much is read at once.
const PIECE: usize = 256 * 1024;

/// A state that was lent.
pub struct Lent {
    generation: Arc<Generation>,
    /// Requests wait.
    hold: Hold,
    /// They may wait so long.
    quiesce: Duration,
}

/// Memory with a path by which processes of the same user can open it while `file` is open.
struct Memory {
    file: File,
    path: PathBuf,
}

impl Memory {
    fn new() -> std::io::Result<Self> {
        let file = File::from(memfd_create(c"relmgr-state", MFdFlags::MFD_CLOEXEC)?);
        let path = PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd()));
        Ok(Self { file, path })
    }
}

/// The state that was written last, until it is forgotten.
#[derive(Default)]
pub struct Lending {
    lent: Option<Lent>,
    memory: Option<Memory>,
}

impl Lending {
    /// Whether it may be in force elsewhere.
    pub fn is_lent(&self) -> bool {
        self.lent.is_some()
    }
}

fn refuse(reason: impl std::fmt::Display) -> HostError {
    HostError { message: reason.to_string() }
}

impl Host {
    /// Writes the state of the generation that serves. Its children have ended then, and requests wait. Those that run
    /// are waited for as long as `quiet`, where that is said: who needs no more than a copy is not worth a longer wait.
    ///
    /// # Errors
    /// Why not; everything goes on as before.
    pub(super) async fn lend_state(
        &self,
        patience: Duration,
        change: &CodeChange,
        quiet: Option<Duration>,
    ) -> Result<Answer, HostError> {
        let current = self.front.current.load_full().ok_or_else(|| refuse("no generation serves"))?;
        let memory = Memory::new().map_err(refuse)?;
        let file = memory.file.try_clone().map_err(refuse)?;
        // Before anything stops: that there is no thread then leaves everything as it is.
        let (pieces, taken) = mpsc::channel::<Piece>(state::AHEAD);
        let writing = beside(move || write(file, taken)).map_err(refuse)?;
        current.suspend(patience).await;
        // Another host may come to serve whoever connects from here on.
        self.front.pause_accepting();
        let hold = self.front.gate.shut();
        let given = async {
            if let Some(limit) = quiet {
                state::quiet_within(&hold, &current, limit).await?;
            }
            state::give(&hold, &current, change, pieces).await
        };
        match given.await {
            Ok(bytes) => {
                let written = writing.await.unwrap_or_else(|gone| Err(std::io::Error::other(gone)));
                let path = memory.path.clone();
                let quiesce = Duration::from_millis(change.quiesce_ms);
                let lent = Some(Lent { generation: current, hold, quiesce });
                *lock(&self.lending) = Lending { lent, memory: Some(memory) };
                match written {
                    Ok(()) => Ok(Answer::Lent { path, bytes }),
                    Err(error) => {
                        self.resume().await;
                        Err(refuse(format!("the state cannot be written down: {error}")))
                    }
                }
            }
            Err(failed) => {
                let failed = state::give_up(&current, failed, change).await;
                drop(hold);
                self.front.accept_again();
                current.resume();
                Err(refuse(failed.reason))
            }
        }
    }

    /// Gives a generation the state that another process has lent.
    ///
    /// # Errors
    /// It does not take it over.
    pub(super) async fn take_state(
        &self,
        id: u64,
        path: &Path,
        change: &CodeChange,
    ) -> Result<Answer, HostError> {
        let generation = self.live(id)?;
        let file = File::open(path).map_err(|error| refuse(format!("the state cannot be read: {error}")))?;
        let (pieces, source) = mpsc::channel::<Piece>(state::AHEAD);
        beside(move || read(file, &pieces)).map_err(refuse)?;
        let deadline = std::time::Instant::now() + Duration::from_millis(change.quiesce_ms);
        let taken = super::gate::until(deadline, state::take(&generation, change.schema, source)).await;
        match taken {
            Some(Ok(())) => Ok(Answer::Done),
            Some(Err(failed)) => Err(refuse(failed.reason)),
            None => Err(refuse("taking over the state took longer than upgrade.quiesce")),
        }
    }

    /// Gives the generation that serves the state in the file at `path`. Its children have ended then, and requests
    /// wait; when it does not take it, it goes on with its own.
    ///
    /// # Errors
    /// Why not.
    pub(super) async fn load_state(
        &self,
        path: &Path,
        own_schema: u32,
        patience: Duration,
        change: &CodeChange,
    ) -> Result<Answer, HostError> {
        let current = self.front.current.load_full().ok_or_else(|| refuse("no generation serves"))?;
        let file = File::open(path)
            .map_err(|error| refuse(format!("{} cannot be read: {error}", path.display())))?;
        current.suspend(patience).await;
        let hold = self.front.gate.shut();
        let loaded = state::load(&hold, &current, own_schema, change, |pieces| {
            // One that does not start ends the channel, and who reads finds the state cut short.
            let _ = beside(move || read(file, &pieces));
        });
        let loaded = loaded.await;
        drop(hold);
        current.resume();
        loaded.map(|()| Answer::Done).map_err(|failed| refuse(failed.reason))
    }

    /// The other process did not take over, or needs no more than a copy: the generation that serves goes on with its
    /// state, requests go on, and the children start.
    pub(super) async fn resume(&self) {
        let lent = lock(&self.lending).lent.take();
        if let Some(Lent { generation, hold, quiesce }) = lent {
            if let Err(words) = state::back(&generation, quiesce).await {
                let version = &generation.facts.version;
                tracing::error!(%version, "it did not go on with its own state: {words}");
            }
            drop(hold);
            self.front.accept_again();
        }
        let current = self.front.current.load_full();
        if let Some(current) = current {
            current.resume();
        }
    }

    /// Nobody reads the copy any more.
    pub(super) fn forget_state(&self) {
        lock(&self.lending).memory = None;
    }

    /// At the host's end: what was lent serves elsewhere now. Who waits here is turned away. The generation.
    pub(super) fn leave_state(&self) -> Option<Arc<Generation>> {
        let lent = lock(&self.lending).lent.take()?;
        let current = self.front.current.swap(None);
        drop(lent);
        current
    }
}

/// Runs `work` on a thread that ends with it. A thread for tokio's blocking work would be waited for by a retirement,
/// idle for seconds, since it begins like a worker and never passes a quiescent state; and what wakes a library's
/// reader leaves something of that on it.
pub(super) fn beside<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> std::io::Result<oneshot::Receiver<T>> {
    let (finished, result) = oneshot::channel();
    let run = move || drop(finished.send(work()));
    std::thread::Builder::new().name("state".into()).spawn(run)?;
    Ok(result)
}

fn write(mut file: File, mut pieces: mpsc::Receiver<Piece>) -> std::io::Result<()> {
    while let Some(Ok(piece)) = pieces.blocking_recv() {
        file.write_all(&piece)?;
    }
    Ok(())
}

fn read(mut file: File, pieces: &mpsc::Sender<Piece>) {
    loop {
        let mut piece = vec![0; PIECE];
        let read = match file.read(&mut piece) {
            Ok(0) => return,
            Ok(len) => {
                piece.truncate(len);
                Ok(Bytes::from(piece))
            }
            Err(error) => Err(format!("the state cannot be read: {error}")),
        };
        // Who reads says why it does not read on.
        if pieces.blocking_send(read).is_err() {
            return;
        }
    }
}

/// The state in the file at `path` as a library reads it, for a trial.
///
/// # Errors
/// It cannot be opened.
pub fn open(path: &Path) -> std::io::Result<FfiBody> {
    let file = File::open(path)?;
    let (pieces, source) = mpsc::channel::<Piece>(state::AHEAD);
    std::thread::Builder::new().name("state".into()).spawn(move || read(file, &pieces))?;
    Ok(state::body(source, None))
}
