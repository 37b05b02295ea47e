//! The binary that is to take over: opened once, asked, and that very file is what runs afterwards.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use relmgr_model::home::Home;
use relmgr_model::settings::Settings;
use relmgr_model::takeover::{Accepted, Offer, VARIABLE};
use relmgr_store::journal;
use relmgr_store::tree::ReleaseTree;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

use super::super::handler::OperationError;
use super::super::host_process::describe;
use super::super::peer::TrialFamily;
use super::super::preflight::{PreflightError, try_release};
use super::super::{systemd, tls};
use crate::conf;

/// A word of agreement takes a few bytes, an error a page.
const WORDS_BYTES: u64 = 16 * 1024;

/// Beside the trial of the release, which has its own deadline, the check reads three files.
const SLACK: Duration = Duration::from_secs(20);

/// A relmgr that cannot take over.
#[derive(Debug, thiserror::Error)]
pub enum CandidateError {
    /// There is no such file.
    #[error("{} cannot be opened", path.display())]
    Open {
        /// The binary.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It cannot be started.
    #[error("{} cannot be run: is it an executable for this machine, and complete?", path.display())]
    Start {
        /// The binary.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It says why not.
    #[error("{} cannot take over: {words}", path.display())]
    Refused {
        /// The binary.
        path: PathBuf,
        /// Its words.
        words: String,
    },
    /// It did not live to say anything.
    #[error("{} crashed when it was asked whether it can take over ({how})", path.display())]
    Crashed {
        /// The binary.
        path: PathBuf,
        /// Signal or code.
        how: String,
    },
    /// It says something else.
    #[error("{} is no relmgr that can take over", path.display())]
    NoRelmgr {
        /// The binary.
        path: PathBuf,
    },
    /// It says nothing.
    #[error("{} did not answer within {} whether it can take over", path.display(), humantime::format_duration(*deadline))]
    Deadline {
        /// The binary.
        path: PathBuf,
        /// So long it was waited for.
        deadline: Duration,
    },
    /// relmgr.toml is another one than that which was checked.
    #[error("{} was changed while it was checked: try again", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
}

/// A binary that can take over.
#[derive(Debug)]
pub struct Candidate {
    file: File,
    /// The version of relmgr that it is.
    pub relmgr: String,
}

impl AsFd for Candidate {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Candidate {
    /// Opens the binary at `path` and asks it whether it can take over what is offered. `trial` is the deadline of the
    /// release's trial.
    ///
    /// # Errors
    /// [`CandidateError`]; nothing has changed, and nothing of it runs any more.
    pub async fn examine(
        home: &Home,
        path: &Path,
        offer: &Offer,
        trial: Duration,
    ) -> Result<Self, CandidateError> {
        let path = path.to_owned();
        let file = File::open(&path).map_err(|source| CandidateError::Open { path: path.clone(), source })?;
        let mut command = Command::new(format!("/proc/self/fd/{}", file.as_raw_fd()));
        // It is not the service that systemd waits for.
        systemd::VARIABLES.iter().for_each(|variable| {
            command.env_remove(variable);
        });
        let mut child = command
            .arg0("relmgr")
            .arg("takeover-check")
            .arg("--home")
            .arg(home.path())
            .env_remove(VARIABLE)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // A group of its own, so that whatever it starts ends with it.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|source| CandidateError::Start { path: path.clone(), source })?;
        // The trial that it starts is one of this node's too.
        let _family = TrialFamily::of(&child);
        let group = child.id().and_then(|pid| i32::try_from(pid).ok()).map(Pid::from_raw);
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        // Every offer has a JSON form.
        let offer = serde_json::to_vec(offer).unwrap_or_default();
        let ask = async {
            if let Some(mut stdin) = stdin {
                // One that does not read it says something else instead.
                let _ = stdin.write_all(&offer).await;
            }
        };
        let (mut answer, mut words) = (vec![], vec![]);
        let listen = async {
            if let Some(stdout) = stdout {
                let _ = stdout.take(WORDS_BYTES).read_to_end(&mut answer).await;
            }
        };
        let overhear = async {
            if let Some(stderr) = stderr {
                let _ = stderr.take(WORDS_BYTES).read_to_end(&mut words).await;
            }
        };
        let deadline = trial + SLACK;
        let asked =
            tokio::time::timeout(deadline, async { tokio::join!(ask, listen, overhear, child.wait()).3 });
        let ended = asked.await;
        if let Some(group) = group {
            // An error means that there is nobody left.
            let _ = killpg(group, Signal::SIGKILL);
        }
        let Ok(status) = ended else {
            // Killed: this is over at once.
            let _ = child.wait().await;
            return Err(CandidateError::Deadline { path, deadline });
        };
        let status = status.map_err(|source| CandidateError::Start { path: path.clone(), source })?;
        let words = String::from_utf8_lossy(&words).trim().to_owned();
        match status.code() {
            Some(0) => match serde_json::from_slice(&answer) {
                Ok(Accepted { relmgr }) => Ok(Self { file, relmgr }),
                Err(_) => Err(CandidateError::NoRelmgr { path }),
            },
            Some(1) if !words.is_empty() => Err(CandidateError::Refused { path, words }),
            Some(_) => Err(CandidateError::NoRelmgr { path }),
            None => Err(CandidateError::Crashed { path, how: describe(status) }),
        }
    }
}

/// `relmgr takeover-check`: can this relmgr take over the node at `home`? The offer comes on stdin.
///
/// # Errors
/// What is in the way, for people.
pub async fn answer(home: &Home) -> anyhow::Result<Accepted> {
    use anyhow::Context;

    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).context("stdin cannot be read")?;
    let offer: Offer = serde_json::from_str(&text).context("the supervisor's offer does not parse")?;
    // 1. The settings.
    let path = home.settings();
    let settings = Settings::parse(&offer.settings).with_context(|| path.display().to_string())?;
    offer.acceptable(&settings.listen)?;
    let certificates = tls::Account::load(home, &settings.tls, chrono::Utc::now());
    if let Some(error) = certificates.errors().into_iter().next() {
        anyhow::bail!("{error}");
    }
    // 2. The record.
    let record = journal::load(home, &settings.app)?;
    // 3. The release that would serve, and its configuration.
    if let Some(version) = &record.permanent {
        let describe = |error: OperationError| anyhow::anyhow!("{}", error.describe());
        let sources = conf::sources(home, version).map_err(|error| describe(error.into()))?;
        let effective = relmgr_conf::effective(&sources)
            .map_err(|faults| describe(OperationError::Configuration { version: version.clone(), faults }))?;
        // 4. Its trial, by this relmgr.
        let tree = ReleaseTree::new(home.clone());
        let library = home.release(version).join(tree.manifest(version)?.library);
        let library = std::path::absolute(&library).with_context(|| library.display().to_string())?;
        let deadline = settings.upgrade.start + SLACK / 4;
        let tried = try_release(&library, &effective.to_json(), None, &settings.preflight, deadline).await;
        let tried = tried.map_err(|error: PreflightError| error.redacted(&effective));
        tried.map_err(|error| describe(OperationError::Preflight { version: version.clone(), error }))?;
    }
    Ok(Accepted { relmgr: crate::VERSION.into() })
}
