//! A node that is thrown away: a home in a temporary directory, the real `relmgr run`, and its commands.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use relmgr_model::control::{NodeStatus, Operation, Phase};
use relmgr_model::recording::{Recording, TABLES};
use relmgr_model::settings::{Listen, Preflight, Repository, Settings, Upgrade};
use relmgr_model::tables::{Durability, Sync, Tables};
use relmgr_store::atomic;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};

/// A supervisor is up in milliseconds; a machine of CI that has other work gets this long.
const PATIENCE: Duration = Duration::from_secs(60);

/// Between two looks at what is waited for.
pub(super) const GLANCE: Duration = Duration::from_millis(10);

/// So many lines of a command's words, and of the node's log, are repeated where it failed.
const LAST_WORDS: usize = 12;

/// What nobody is told apart by in CI: slow machines, large states.
const DEADLINE: Duration = Duration::from_secs(300);

/// The node.
pub(super) struct Node {
    // Dropped first: it is killed before its home goes.
    supervisor: Option<Child>,
    directory: tempfile::TempDir,
    relmgr: PathBuf,
}

/// A command that did not do what it was to do.
pub(super) struct Failed {
    /// Its words.
    pub(super) what: String,
    /// Its advice.
    pub(super) hint: Option<String>,
}

impl<E: std::error::Error> From<E> for Failed {
    fn from(error: E) -> Self {
        let mut what = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            what = format!("{what}: {cause}");
            source = cause.source();
        }
        Self { what, hint: None }
    }
}

impl Failed {
    pub(super) fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), hint: None }
    }

    pub(super) fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}

impl Node {
    /// A home for the application `app`, in which nothing runs yet.
    pub(super) fn new(relmgr: PathBuf) -> std::io::Result<Self> {
        // State is nobody else's to read.
        let only_us = std::fs::Permissions::from_mode(0o700);
        let directory =
            tempfile::Builder::new().prefix("relmgr-rehearsal-").permissions(only_us).tempdir()?;
        std::fs::create_dir(directory.path().join("home"))?;
        std::fs::create_dir(directory.path().join("candidate"))?;
        Ok(Self { directory, relmgr, supervisor: None })
    }

    /// The directory of all that is thrown away.
    pub(super) fn directory(&self) -> &Path {
        self.directory.path()
    }

    fn home(&self) -> PathBuf {
        self.directory().join("home")
    }

    /// Where the candidate is published to, for this node alone.
    pub(super) fn candidate_url(&self) -> String {
        format!("file://{}", self.directory().join("candidate").display())
    }

    /// Where an installed release lies.
    pub(super) fn release(&self, version: &relmgr_model::Version) -> PathBuf {
        relmgr_model::home::Home::new(self.home()).release(version)
    }

    /// Leaves the directory where it is.
    pub(super) fn keep(&mut self) {
        self.directory.disable_cleanup(true);
    }

    /// Writes relmgr.toml. Nothing is on probation, and no deadline is one that a busy machine misses.
    pub(super) fn configure(&self, app: &str, repository: Repository) -> std::io::Result<()> {
        let settings = Settings {
            listen: Listen { http: vec![SocketAddr::from(([127, 0, 0, 1], 0))], ..Listen::default() },
            upgrade: Upgrade {
                start: DEADLINE,
                health: DEADLINE,
                quiesce: DEADLINE,
                state_max: u64::MAX >> 1,
                drain: Duration::from_secs(10),
                probation: Duration::ZERO,
                ..Upgrade::default()
            },
            // A table's file is there to be looked at, and no power is lost here.
            tables: Tables {
                durability: Durability::Disk,
                sync: Sync::Relaxed,
                max_bytes: self.room_for_tables(),
                ..Tables::default()
            },
            preflight: Preflight { cpu: DEADLINE, ..Preflight::default() },
            app: app.to_owned(),
            repository,
            tls: vec![],
            conf: Default::default(),
            supervisor: Default::default(),
            http: Default::default(),
            sessions: Default::default(),
            loader: Default::default(),
            pull: Default::default(),
            hooks: Default::default(),
            webhooks: vec![],
            log: Default::default(),
        };
        let text = toml::to_string(&settings).map_err(std::io::Error::other)?;
        atomic::write(&self.home().join("relmgr.toml"), text.as_bytes(), 0o600)
    }

    /// Twice what there is: migrated records are written beside the old ones.
    fn room_for_tables(&self) -> u64 {
        let there = std::fs::metadata(self.home().join(TABLES).join("data.mdb"));
        Tables::default().max_bytes.max(there.map_or(0, |file| file.len().saturating_mul(2)))
    }

    /// Has the node use the settings of the application in `conf`, with what that includes.
    pub(super) fn use_conf(&self, conf: &Path) -> std::io::Result<()> {
        let path = std::fs::canonicalize(conf)?;
        let plain =
            path.to_str().filter(|path| !path.contains(|c: char| c.is_whitespace() || "*?[#\"$".contains(c)));
        let text = match plain {
            // Its own relative includes hold then.
            Some(path) => format!("include {path}\n"),
            None => std::fs::read_to_string(&path)?,
        };
        atomic::write(&self.home().join("app.conf"), text.as_bytes(), 0o600)
    }

    /// Puts the state tables of a recording in place; nothing may run.
    pub(super) fn use_tables(&self, recording: &Path) -> std::io::Result<()> {
        let (from, to) = (recording.join(TABLES).join("data.mdb"), self.home().join(TABLES));
        std::fs::DirBuilder::new().mode(0o700).create(&to)?;
        let file = to.join("data.mdb");
        std::fs::copy(from, &file)?;
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600))
    }

    /// Starts the supervisor and waits until it answers.
    pub(super) async fn start(&mut self) -> Result<(), Failed> {
        let log = std::fs::File::options().create(true).append(true).open(self.log_path())?;
        let mut command = self.command(&["run"]);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).kill_on_drop(true);
        // Ctrl-C is for this process, which ends the node.
        let supervisor = command.process_group(0).spawn().map_err(|error| self.no_relmgr(&error))?;
        self.supervisor = Some(supervisor);
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.supervisor.as_mut().map(Child::try_wait).transpose()?.flatten() {
                return Err(Failed::new(format!("`relmgr run` ended ({status}):\n{}", self.log())));
            }
            if self.status().await.is_ok_and(|status| status.phase != Phase::Booting) {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(Failed::new(format!("`relmgr run` does not answer:\n{}", self.log())));
            }
            tokio::time::sleep(GLANCE).await;
        }
    }

    fn no_relmgr(&self, error: &std::io::Error) -> Failed {
        Failed::new(format!("{} cannot be run: {error}", self.relmgr.display()))
            .hint("install relmgr beside cargo-relmgr, or name it with --relmgr PATH")
    }

    /// Ends the node.
    pub(super) async fn stop(&mut self) {
        let Some(mut supervisor) = self.supervisor.take() else { return };
        let asked = self.command(&["stop"]).stdout(Stdio::null()).stderr(Stdio::null()).status().await;
        let ended = asked.is_ok_and(|status| status.success())
            && tokio::time::timeout(PATIENCE, supervisor.wait()).await.is_ok();
        if !ended {
            // It is this process's own child; its host ends with it.
            let _ = supervisor.kill().await;
        }
    }

    fn log_path(&self) -> PathBuf {
        self.directory().join("log")
    }

    /// The end of what the node has logged.
    pub(super) fn log(&self) -> String {
        let text = std::fs::read(self.log_path()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LAST_WORDS)..].join("\n")
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.relmgr);
        command.args(args).arg("--home").arg(self.home());
        for of_another_node in ["RELMGR_HOME", "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"] {
            command.env_remove(of_another_node);
        }
        command
    }

    /// Runs `relmgr ARGS`, its words repeated on stderr as they come. Exit status, stdout, and the last words.
    async fn run(&self, args: &[&str]) -> Result<(ExitStatus, String, String), Failed> {
        let mut command = self.command(args);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().map_err(|error| self.no_relmgr(&error))?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let read = async {
            let mut text = String::new();
            if let Some(mut stdout) = stdout {
                stdout.read_to_string(&mut text).await?;
            }
            Ok::<_, std::io::Error>(text)
        };
        let (said, words, status) = tokio::join!(read, repeat(stderr), child.wait());
        Ok((status?, said?, words?))
    }

    /// Runs a command that prints JSON.
    pub(super) async fn ask<T: DeserializeOwned>(&self, args: &[&str]) -> Result<T, Failed> {
        let (status, said, words) = self.run(&[args, &["--json"]].concat()).await?;
        match serde_json::from_str(&said) {
            Ok(value) if status.success() => Ok(value),
            Err(error) if status.success() => Err(Failed::new(format!(
                "`relmgr {}` answers what is not known here: {error}",
                args.join(" ")
            ))),
            _ => Err(Failed::new(without_prefix(&words))),
        }
    }

    /// Runs an operation; the end of it, when it was done.
    pub(super) async fn operate(&self, args: &[&str]) -> Result<Operation, Failed> {
        let (status, said, words) = self.run(&[args, &["--json"]].concat()).await?;
        match serde_json::from_str::<Operation>(&said) {
            Ok(operation) if status.success() => Ok(operation),
            Ok(Operation { error: Some(what), hint, .. }) => Err(Failed { what, hint }),
            _ => Err(Failed::new(without_prefix(&words))),
        }
    }

    /// The node as it is.
    pub(super) async fn status(&self) -> Result<NodeStatus, Failed> {
        let asked = self.command(&["status", "--json"]).stdin(Stdio::null()).output().await;
        let output = asked.map_err(|error| self.no_relmgr(&error))?;
        match output.status.success() {
            true => Ok(serde_json::from_slice(&output.stdout)?),
            false => Err(Failed::new(without_prefix(&String::from_utf8_lossy(&output.stderr)))),
        }
    }

    /// Where it listens.
    pub(super) async fn address(&self) -> Result<SocketAddr, Failed> {
        let status = self.status().await?;
        let address = status.listeners.first().and_then(|address| address.parse().ok());
        address.ok_or_else(|| Failed::new("the node does not listen"))
    }

    /// Records what the release that serves keeps, below the name `name`.
    pub(super) async fn record(&self, name: &str) -> Result<(PathBuf, Recording), Failed> {
        let path = self.directory().join(name);
        let recording = self.ask(&["state", "save", &path.to_string_lossy()]).await?;
        Ok((path, recording))
    }

    /// Has the library at `library` take the state in `memory` of `schema` over and give it back in the same form, in a
    /// process of its own, into `back`. False: the library is of before that could be tried.
    pub(super) async fn change_and_back(
        &self,
        library: &Path,
        (memory, schema): (&Path, u32),
        back: &Path,
    ) -> Result<bool, Failed> {
        std::fs::File::create_new(back)?;
        let (schema, seconds) = (schema.to_string(), DEADLINE.as_secs().to_string());
        let mut command = Command::new(&self.relmgr);
        command.args(["preflight", "--cpu-seconds", &seconds, "--schema", &schema, "--give", &schema]);
        command.arg("--state").arg(memory).arg("--into").arg(back).arg(library);
        let output = command.stdin(Stdio::null()).kill_on_drop(true).output();
        // One that waits for ever uses no processor time.
        let Ok(output) = tokio::time::timeout(DEADLINE, output).await else {
            let limit = humantime::format_duration(DEADLINE);
            return Err(Failed::new(format!("its code change took longer than {limit}")));
        };
        let output = output?;
        let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        match output.status.success() {
            true => Ok(output.stdout.trim_ascii() != b"null"),
            false if words.is_empty() => {
                Err(Failed::new(format!("its process died of the code change ({})", output.status)))
            }
            false => Err(Failed::new(words)),
        }
    }
}

/// Repeats lines on stderr; the last of them.
async fn repeat(from: Option<impl tokio::io::AsyncRead + Unpin>) -> std::io::Result<String> {
    let Some(from) = from else { return Ok(String::new()) };
    let (mut lines, mut last) = (BufReader::new(from).lines(), VecDeque::new());
    while let Some(line) = lines.next_line().await? {
        eprintln!("{line}");
        last.push_back(line);
        if last.len() > LAST_WORDS {
            last.pop_front();
        }
    }
    Ok(Vec::from(last).join("\n"))
}

/// Of what a command said, from its error on.
fn without_prefix(words: &str) -> String {
    let words = words.rsplit_once("error: ").map_or(words, |(_, words)| words);
    words.trim().to_owned()
}
