//! The development's node: a real one, run and asked by the `relmgr` command.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use relmgr_model::Version;
use relmgr_model::control::{NodeStatus, Phase, exit};
use relmgr_model::home::Home;
use tokio::process::{Child, Command};

use crate::error::Error;

/// Tells the application, through the node's processes, that it is being developed.
const DEVELOPMENT: &str = "RELMGR_DEV";

/// What is logged, unless the developer says so: what the application says, and what went wrong. What went well is told
/// for each save.
const LOG: (&str, &str) = ("RELMGR_LOG", "warn,app=info");

/// A node answers within a second; one that boots what was built last waits for its start.
const UP: Duration = Duration::from_secs(60);

/// How often a node is asked that is not there yet.
const AGAIN: Duration = Duration::from_millis(10);

/// An operation of the node's own (a changed app.conf) is over after so long.
const BUSY: Duration = Duration::from_secs(15);

/// What a node takes to end: its drain, and the application's `stop`.
const DOWN: Duration = Duration::from_secs(30);

/// The `relmgr` command for one home.
#[derive(Debug, Clone)]
pub(super) struct Relmgr {
    program: PathBuf,
    home: Home,
}

impl Relmgr {
    /// `program`, or the one beside this executable, or the one in PATH.
    pub(super) fn new(program: Option<&Path>, home: Home) -> Self {
        let beside = || std::env::current_exe().ok()?.parent().map(|here| here.join("relmgr"));
        let given = program.map(Path::to_owned);
        let program = given.or_else(|| beside().filter(|path| path.is_file()));
        Self { program: program.unwrap_or_else(|| "relmgr".into()), home }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(args).arg("--home").arg(self.home.path()).stdin(Stdio::null());
        command
    }

    async fn ask(&self, args: &[&str]) -> Result<std::process::Output, Error> {
        self.command(args).output().await.map_err(|source| self.not_run(source))
    }

    fn not_run(&self, source: std::io::Error) -> Error {
        Error::NoRelmgr { program: self.program.clone(), source }
    }

    /// Starts the node. What it logs, the application's own words among it, goes to stderr.
    ///
    /// # Errors
    /// There is no `relmgr`.
    pub(super) async fn start(&self) -> Result<Node, Error> {
        // One that was killed leaves its node behind; nobody but us starts one here.
        if self.ask(&["ping"]).await?.status.success() {
            self.ask(&["stop"]).await?;
        }
        let mut command = self.command(&["run"]);
        command.env(DEVELOPMENT, "1");
        if std::env::var_os(LOG.0).is_none() {
            command.env(LOG.0, LOG.1);
        }
        // stdout is for events; the application may print.
        let stderr = std::io::stderr().as_fd().try_clone_to_owned().map_err(|source| self.not_run(source))?;
        command.stdout(stderr);
        // Ctrl-C is for us, who then stop the node.
        command.process_group(0).kill_on_drop(true);
        let child = command.spawn().map_err(|source| self.not_run(source))?;
        Ok(Node { child, relmgr: self.clone() })
    }

    /// Waits until the node answers.
    ///
    /// # Errors
    /// It does not in time.
    pub(super) async fn up(&self) -> Result<NodeStatus, Error> {
        let deadline = Instant::now() + UP;
        loop {
            let asked = self.ask(&["status", "--json"]).await?;
            let status = serde_json::from_slice::<NodeStatus>(&asked.stdout).ok();
            if let Some(status) = status.filter(|status| status.phase != Phase::Booting) {
                return Ok(status);
            }
            if Instant::now() > deadline {
                return Err(Error::NodeSilent { home: self.home.path().into() });
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Has the node go to `version`.
    ///
    /// # Errors
    /// The node's own.
    pub(super) async fn upgrade(&self, version: &Version, lose_state: bool) -> Result<(), Error> {
        let version_text = version.to_string();
        let mut args = vec!["upgrade", &version_text, "--no-probation", "--json"];
        args.extend(lose_state.then_some("--lose-state"));
        let deadline = Instant::now() + BUSY;
        loop {
            let asked = self.ask(&args).await?;
            let busy = asked.status.code() == Some(exit::BUSY.into());
            if asked.status.success() {
                return Ok(());
            }
            if !busy || Instant::now() > deadline {
                return Err(refused(version, &String::from_utf8_lossy(&asked.stderr)));
            }
            tokio::time::sleep(AGAIN).await;
        }
    }
}

/// What `relmgr` said, less the steps that went well.
fn refused(version: &Version, stderr: &str) -> Error {
    let begin = stderr.find("error: ").map_or(0, |place| place + "error: ".len());
    let (reason, hint) = match stderr[begin..].split_once("\nhint: ") {
        Some((reason, hint)) => (reason, Some(hint.trim_end().to_owned())),
        None => (&stderr[begin..], None),
    };
    Error::NotServed { version: version.clone(), reason: reason.trim_end().into(), hint }
}

/// The node's process.
#[derive(Debug)]
pub(super) struct Node {
    child: Child,
    relmgr: Relmgr,
}

impl Node {
    /// Waits until the node ends by itself.
    pub(super) async fn ended(&mut self) -> Error {
        let home = self.relmgr.home.path().to_owned();
        match self.child.wait().await {
            Ok(status) => Error::NodeEnded { status, home },
            Err(source) => self.relmgr.not_run(source),
        }
    }

    /// Stops the node and waits for its end.
    ///
    /// # Errors
    /// It has to be killed.
    pub(super) async fn stop(mut self) -> Result<(), Error> {
        // Whether it hears of it or not: one that does not end is killed.
        let _ = tokio::time::timeout(DOWN, self.relmgr.ask(&["stop"])).await;
        match tokio::time::timeout(DOWN, self.child.wait()).await {
            Ok(Ok(_)) => Ok(()),
            _ => {
                let killed = |source| self.relmgr.not_run(source);
                self.child.start_kill().map_err(killed)?;
                let status: ExitStatus = self.child.wait().await.map_err(killed)?;
                Err(Error::NodeEnded { status, home: self.relmgr.home.path().into() })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_went_well_before_is_left_out() {
        let stderr = "upgrade 1.0.0 -> 1.0.1\n  fetch  1 ms\n  start  failed\n\
                      error: 1.0.1 did not start: no database\n  because: refused\nhint: start one\n";
        let error = refused(&"1.0.1".parse().unwrap(), stderr);
        assert_eq!(error.hint().unwrap(), "start one");
        let words = error.to_string();
        assert!(words.ends_with("1.0.1 did not start: no database\n  because: refused"), "{words}");
    }
}
