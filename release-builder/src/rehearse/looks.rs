//! What a rehearsal looks at, and waits for, in every stage.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::{Duration, Instant};

use relmgr_model::Version;
use relmgr_model::tables::TablesStatus;

use super::load::{self, Seen, VERSION_PATH};
use super::node::{Failed, GLANCE};
use super::report::Stage;
use super::walk::Walk;
use crate::{group, ui};

/// The sweep rests four fifths of its time, and the machine may have other work: ten million records take so long.
const SWEEP_PATIENCE: Duration = Duration::from_secs(15 * 60);

/// A node tries again every second to unmap what it could not.
const UNMAP_PATIENCE: Duration = Duration::from_secs(30);

/// A command of the author's. Dropped before its end, it is killed with all that it has started.
struct Running(tokio::process::Child);

impl Drop for Running {
    fn drop(&mut self) {
        // `None`: it has ended.
        if let Some(leader) = self.0.id() {
            group::kill(leader);
        }
    }
}

impl Walk<'_> {
    /// What serves is what should, and says so.
    async fn check_serving(&self, expected: &Version) -> Result<SocketAddr, Failed> {
        let address = self.node.address().await?;
        let told = load::get(address, VERSION_PATH).await;
        if told == Ok((200, expected.to_string())) {
            return Ok(address);
        }
        let told = match told {
            Ok((status, body)) => format!("{status} {body}"),
            Err(words) => words,
        };
        Err(Failed::new(format!("{VERSION_PATH} does not answer {expected}: {told}")))
    }

    /// As [`Walk::check_serving`], and the author's own look at it, but where the candidate has been fed: what is to
    /// be seen then, nobody has said.
    pub(super) async fn verify(&self, serving: &Version) -> Result<(), Failed> {
        let address = self.check_serving(serving).await?;
        match self.plan.verify.as_ref().filter(|_| self.stage != Stage::New) {
            Some(verify) => self.command("--verify", verify, address, &serving.to_string()).await,
            None => Ok(()),
        }
    }

    /// Runs a command of the author's; what it prints is for people.
    pub(super) async fn command(
        &self,
        option: &str,
        command: &str,
        address: SocketAddr,
        version: &str,
    ) -> Result<(), Failed> {
        ui::status("Running", format!("{command} ({option}, {})", self.stage));
        let spawned = tokio::process::Command::new("sh")
            .args(["-c", command])
            .env("RELMGR_URL", format!("http://{address}"))
            .env("RELMGR_REHEARSAL", self.stage.name())
            .env("RELMGR_VERSION", version)
            .stdin(Stdio::null())
            .stdout(std::io::stderr())
            // Ctrl-C is for this process, which ends all of it.
            .process_group(0)
            .kill_on_drop(true)
            .spawn();
        let run = async { Running(spawned?).0.wait().await };
        let Ok(ended) = tokio::time::timeout(self.plan.timeout, run).await else {
            let limit = humantime::format_duration(self.plan.timeout);
            return Err(Failed::new(format!("{option} `{command}` took longer than {limit} and was killed"))
                .hint("give it more time with --timeout"));
        };
        match ended {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(Failed::new(format!("{option} `{command}` failed ({status})"))
                .hint("its own words are above; it has RELMGR_URL, RELMGR_REHEARSAL and RELMGR_VERSION")),
            Err(error) => Err(Failed::new(format!("{option} `{command}` cannot be run: {error}"))),
        }
    }

    pub(super) async fn tables(&self) -> Result<Option<TablesStatus>, Failed> {
        Ok(self.node.status().await?.tables)
    }

    /// Waits until the release that serves has been through all its records.
    pub(super) async fn swept(&self) -> Result<(), Failed> {
        let deadline = Instant::now() + SWEEP_PATIENCE;
        loop {
            let Some(tables) = self.tables().await? else { return Ok(()) };
            let open = tables.tables.iter().filter_map(|table| Some((table, table.opened?)));
            let left: Vec<_> = open
                .filter(|(table, opened)| {
                    table.sweep.as_ref().is_none_or(|sweep| {
                        let older = sweep.schemas.iter().filter(|count| count.schema < *opened);
                        let older: u64 = older.map(|count| count.records).sum();
                        sweep.sweeping.is_some() || older > sweep.unreadable
                    })
                })
                .map(|(table, _)| table.name.clone())
                .collect();
            if left.is_empty() {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(Failed::new(format!(
                    "the records of {} are not all migrated after {}",
                    left.join(", "),
                    humantime::format_duration(SWEEP_PATIENCE)
                )));
            }
            tokio::time::sleep(GLANCE).await;
        }
    }

    /// Waits until the release before is gone from memory: while it is not, there is no way back to it. What never goes
    /// is for the way back to say.
    pub(super) async fn unmapped(&self) -> Result<(), Failed> {
        let deadline = Instant::now() + UNMAP_PATIENCE;
        while self.node.status().await?.generations.len() > 1 && Instant::now() < deadline {
            tokio::time::sleep(GLANCE).await;
        }
        Ok(())
    }

    /// No request failed, whoever served.
    pub(super) async fn check_requests(&mut self) -> Result<(), Failed> {
        if let Some(load) = self.load.take() {
            self.report.requests = load.stop().await;
        }
        let Seen { failed, answered, first_failure, .. } = &self.report.requests;
        match first_failure {
            None => Ok(()),
            Some(first) => Err(Failed::new(format!(
                "{failed} of {} requests failed, the first one: {first}",
                failed + answered
            ))),
        }
    }
}
