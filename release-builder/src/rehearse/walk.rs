//! The stages of a rehearsal, in their order.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Instant;

use relmgr_model::Version;
use relmgr_model::plan::Step;
use relmgr_model::recording::{MEMORY, Recording};
use relmgr_model::settings::Repository as RepositorySettings;
use relmgr_store::repository::{Options, Publisher, Repository};

use super::load::{self, Load, VERSION_PATH};
use super::memory::{self, Compared};
use super::node::{Failed, Node};
use super::report::{Failure, Memory, Outcome, Report, Stage, StageTime};
use super::{IN_MEMORY, Rehearsal, tables};
use crate::ui;

/// A rehearsal under way.
pub(super) struct Walk<'a> {
    pub(super) plan: &'a Rehearsal,
    pub(super) node: Node,
    pub(super) report: Report,
    shipped: Version,
    pub(super) stage: Stage,
    since: Instant,
    pub(super) load: Option<Load>,
    moving: BTreeSet<String>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(plan: &'a Rehearsal, node: Node, report: Report, shipped: Version) -> Self {
        let (stage, since, moving) = (Stage::Fetch, Instant::now(), plan.moving.clone());
        Self { plan, node, report, shipped, stage, since, load: None, moving }
    }

    /// Goes through the stages; what there is to say. `None`: `interrupted` came first.
    pub(super) async fn carry_out(mut self, interrupted: impl Future<Output = ()>) -> Option<Report> {
        let walked = tokio::select! {
            walked = self.go() => Some(walked),
            () = interrupted => None,
        };
        match walked {
            Some(walked) => Some(self.end(walked).await),
            None => {
                self.leave().await;
                None
            }
        }
    }

    async fn go(&mut self) -> Result<(), Failed> {
        self.fetch().await?;
        self.begin(Stage::Shipped);
        let before = self.serve_shipped().await?;
        self.begin(Stage::Change);
        self.try_change(&before).await?;
        let again = self.node.record("again").await?;
        self.find_moving(&before, &again)?;
        self.begin(Stage::Candidate);
        self.go_up(&before.1).await?;
        self.begin(Stage::Back);
        self.go_down().await?;
        let after = self.node.record("after").await?;
        self.compare(&before, &after)?;
        if let Some(feed) = &self.plan.feed_candidate {
            self.begin(Stage::New);
            self.keep_what_is_new(feed, &after.1).await?;
        }
        self.check_requests().await
    }

    /// Ends the node; what there is to say.
    async fn end(mut self, walked: Result<(), Failed>) -> Report {
        self.note_time();
        if let Some(load) = self.load.take() {
            self.report.requests = load.seen();
            load.stop().await;
        }
        if let Err(Failed { what, hint }) = walked {
            let log = self.node.log();
            if !log.is_empty() {
                ui::status("Log", format!("the node's last lines:\n{log}"));
            }
            let release = match self.stage {
                Stage::Change | Stage::Candidate | Stage::New => self.candidate().to_string(),
                Stage::Fetch | Stage::Shipped => self.shipped.to_string(),
                Stage::Back => format!("{} after {}", self.shipped, self.candidate()),
            };
            self.report.outcome = Outcome::Failed;
            self.report.failure = Some(Failure { stage: self.stage, release, what, hint });
        }
        self.report.kept = self.leave().await;
        self.report
    }

    /// Ends the node; where its directory is kept.
    async fn leave(&mut self) -> Option<PathBuf> {
        if let Some(load) = self.load.take() {
            load.stop().await;
        }
        self.node.stop().await;
        let kept = self.plan.keep.then(|| self.node.directory().to_owned())?;
        self.node.keep();
        ui::status("Kept", kept.display());
        Some(kept)
    }

    fn begin(&mut self, stage: Stage) {
        self.note_time();
        (self.stage, self.since) = (stage, Instant::now());
    }

    fn note_time(&mut self) {
        let ms = (self.since.elapsed().as_secs_f64() * 1e6).round() / 1e3;
        self.report.stages.push(StageTime { stage: self.stage, ms });
    }

    pub(super) fn candidate(&self) -> &Version {
        &self.plan.candidate.manifest.version
    }

    /// 1. The node fetches, verifies, unpacks, configures and tries what the channel names, by its own rules. Nothing
    ///    of it runs yet.
    async fn fetch(&mut self) -> Result<(), Failed> {
        let url = &self.plan.repository.url;
        ui::status("Fetching", format!("{} {} from {url}", self.report.app, self.shipped));
        self.node.configure(&self.report.app, self.plan.repository.clone())?;
        if let Some(conf) = &self.plan.conf {
            self.node.use_conf(conf).map_err(|error| Failed::new(format!("{}: {error}", conf.display())))?;
        }
        self.node.start().await?;
        let checked = self.node.operate(&["check"]).await?;
        if let Some(version) = checked.to {
            // The channel may have moved on since it was asked.
            self.report.shipped = Some(version.clone());
            self.shipped = version;
        }
        self.node.stop().await;
        // 2. The candidate is in no repository yet but one for this node.
        let repository = Repository::open(&self.node.candidate_url(), Options::default())?;
        let publisher = Publisher { to: None, delta: false, ..Publisher::default() };
        repository.publish(&self.plan.candidate, &publisher).await?;
        let (url, allow_unsigned) = (self.node.candidate_url(), true);
        let settings = RepositorySettings {
            url,
            allow_unsigned,
            channel: String::new(),
            trusted_keys: vec![],
            channel_keys: vec![],
            ..self.plan.repository.clone()
        };
        if let Some(recording) = &self.plan.state {
            let path = recording.join(relmgr_model::recording::TABLES);
            if path.exists() {
                self.node
                    .use_tables(recording)
                    .map_err(|error| Failed::new(format!("{}: {error}", path.display())))?;
            }
        }
        Ok(self.node.configure(&self.report.app, settings)?)
    }

    /// 3. The shipped release serves, with state.
    async fn serve_shipped(&mut self) -> Result<(PathBuf, Recording), Failed> {
        let version = self.shipped.to_string();
        self.node.start().await?;
        self.node.operate(&["upgrade", &version, "--no-probation"]).await?;
        if let Some(recording) = &self.plan.state {
            self.load_recorded(recording).await?;
        }
        let address = self.node.address().await?;
        if let Some(feed) = &self.plan.feed {
            self.command("--feed", feed, address, &version).await?;
        }
        self.verify(&self.shipped).await?;
        for path in &self.plan.probes {
            match load::get(address, path).await {
                Ok((status, _)) if status < 400 => {}
                Ok((status, _)) => return Err(Failed::new(format!("--probe {path} answers {status}"))),
                Err(words) => return Err(Failed::new(format!("--probe {path}: {words}"))),
            }
        }
        let paths: Vec<_> = [VERSION_PATH.to_owned()].iter().chain(&self.plan.probes).cloned().collect();
        self.load = Some(Load::start(address, &paths));
        self.swept().await?;
        let before = self.node.record("before").await?;
        self.report.memory = before.1.memory.as_ref().map(|memory| Memory {
            schema: memory.schema,
            bytes: memory.bytes,
            change_tried: false,
            moving: self.moving.contains(IN_MEMORY),
        });
        Ok(before)
    }

    async fn load_recorded(&self, recording: &Path) -> Result<(), Failed> {
        let path = recording.join(relmgr_model::recording::DESCRIPTION);
        let text = std::fs::read(&path).map_err(|error| {
            Failed::new(format!("{}: {error}", path.display()))
                .hint("`relmgr state save DIR` makes a recording")
        })?;
        let recorded: Recording = serde_json::from_slice(&text)?;
        if recorded.memory.is_some() {
            let path = std::path::absolute(recording)?;
            let _: serde_json::Value = self.node.ask(&["state", "load", &path.to_string_lossy()]).await?;
        }
        Ok(())
    }

    /// 4. The candidate is tried as on any node, and its code change up and down on a copy: what that loses is lost
    ///    whatever else the application does.
    async fn try_change(&mut self, before: &(PathBuf, Recording)) -> Result<(), Failed> {
        let candidate = self.candidate().clone();
        self.node.operate(&["check", &candidate.to_string()]).await?;
        let Some(memory) = &before.1.memory else { return Ok(()) };
        let library = self.node.release(&candidate).join(&self.plan.candidate.manifest.library);
        let (from, back) = (before.0.join(MEMORY), self.node.directory().join("changed"));
        if self.plan.candidate.manifest.state.is_none() {
            // What becomes of the state is for the swap to say.
            return Ok(());
        }
        if !self.node.change_and_back(&library, (&from, memory.schema), &back).await? {
            ui::warning(
                "the candidate was built with a relmgr-app whose code change cannot be tried on a copy",
            );
            return Ok(());
        }
        if let Some(memory) = &mut self.report.memory {
            memory.change_tried = true;
        }
        judge(memory::compare(&from, &back)?, self.is_named(IN_MEMORY)).map_err(|words| {
            Failed::new(format!("its code change loses state, on the way up or on the way down: {words}"))
                .hint("correct `code_change`: what goes up has to come down the same")
        })
    }

    /// What is different although nothing was done to it cannot be judged by what it is later.
    fn find_moving(
        &mut self,
        before: &(PathBuf, Recording),
        again: &(PathBuf, Recording),
    ) -> Result<(), Failed> {
        if before.1.memory.is_some() {
            let compared = memory::compare(&before.0.join(MEMORY), &again.0.join(MEMORY))?;
            if matches!(compared, Compared::Different(_)) {
                self.moving.insert(IN_MEMORY.into());
            }
            if let (Some(memory), true) = (&mut self.report.memory, self.moving.contains(IN_MEMORY)) {
                memory.moving = true;
                ui::warning("the state in memory changes by itself: its code change alone is compared");
            }
        }
        for table in tables::compare((&before.0, &before.1), &again.0)? {
            if !table.is_same() && self.moving.insert(table.name.clone()) {
                ui::warning(format!(
                    "table `{}` changes by itself: what cannot be read is looked for",
                    table.name
                ));
            }
        }
        Ok(())
    }

    /// Whether it was said with `--moving`, and not only found, that this changes by itself.
    fn is_named(&self, name: &str) -> bool {
        self.plan.moving.contains(name)
    }

    /// 5. Up, until every record is the candidate's.
    async fn go_up(&mut self, before: &Recording) -> Result<(), Failed> {
        let candidate = self.candidate().to_string();
        self.node.operate(&["upgrade", &candidate, "--no-probation"]).await?;
        self.verify(self.candidate()).await?;
        self.swept().await?;
        self.unmapped().await?;
        for table in self.tables().await?.into_iter().flat_map(|tables| tables.tables) {
            let known = before.tables.iter().flatten().find(|known| known.name == table.name);
            let aside = table.kept_aside.saturating_sub(known.map_or(0, |known| known.kept_aside));
            // What it has found it may not have moved yet.
            let unreadable = aside.max(table.sweep.as_ref().map_or(0, |sweep| sweep.unreadable));
            if unreadable > 0 && table.opened.is_some() {
                return Err(Failed::new(format!(
                    "of {} records of table `{}` it cannot read {unreadable}",
                    known.map_or(table.records, |known| known.records),
                    table.name
                ))
                .hint("correct `Record::up` of its type"));
            }
        }
        Ok(())
    }

    /// 6. Down, by way of the candidate's down-migrations.
    async fn go_down(&mut self) -> Result<(), Failed> {
        let operation = self.node.operate(&["downgrade", &self.shipped.to_string()]).await?;
        let changed = operation.steps.iter().any(|step| step.step == Step::CodeChange);
        if self.report.memory.is_some() && !changed {
            return Err(Failed::new("the state in memory was not handed back"));
        }
        self.verify(&self.shipped).await
    }

    /// 7. What is kept is what was kept.
    fn compare(&mut self, before: &(PathBuf, Recording), after: &(PathBuf, Recording)) -> Result<(), Failed> {
        let tried = self.report.memory.as_ref().is_none_or(|memory| memory.change_tried);
        if self.moving.contains(IN_MEMORY) && !tried && !self.is_named(IN_MEMORY) {
            return Err(Failed::new(
                "the state in memory changes by itself, and its code change could not be tried on a copy: nothing of \
                 it was compared",
            )
            .hint(moves_hint(IN_MEMORY)));
        }
        if before.1.memory.is_some() && !self.moving.contains(IN_MEMORY) {
            let compared = memory::compare(&before.0.join(MEMORY), &after.0.join(MEMORY))?;
            judge(compared, false).map_err(|words| {
                Failed::new(format!("the state in memory is not what it was: {words}"))
                    .hint(moves_hint(IN_MEMORY))
            })?;
        }
        let mut compared = tables::compare((&before.0, &before.1), &after.0)?;
        for table in &mut compared {
            table.moving = self.moving.contains(&table.name);
            table.named = self.is_named(&table.name);
        }
        let lost = compared.iter().find_map(|table| Some((table.loss()?, table.name.clone())));
        self.report.tables = compared;
        match lost {
            None => Ok(()),
            Some((words, name)) => Err(Failed::new(words)
                .hint(format!("correct `Record::up` and `Record::down` of its type; {}", moves_hint(&name)))),
        }
    }

    /// 8. What the candidate makes is for the shipped release to read, too.
    async fn keep_what_is_new(&mut self, feed: &str, before: &Recording) -> Result<(), Failed> {
        self.go_up(before).await?;
        let address = self.node.address().await?;
        self.command("--feed-candidate", feed, address, &self.candidate().to_string()).await?;
        let made = self.node.record("made").await?;
        self.go_down().await?;
        let after = self.node.record("made-after").await?;
        let mut read = tables::unreadable(&made.0, (&after.0, before))?;
        for table in &mut read {
            table.moving = self.moving.contains(&table.name);
            table.named = self.is_named(&table.name);
        }
        match read.iter().find_map(tables::Compared::loss) {
            None => Ok(()),
            Some(words) => Err(Failed::new(format!("of what the candidate wrote: {words}")).hint(
                "give `Record::down` of its type a form for these, or let the candidate not write them yet",
            )),
        }
    }
}

fn moves_hint(name: &str) -> String {
    format!("if the application changes it by itself, say so with `--moving {name}`")
}

/// `moves`: the application changes it by itself.
fn judge(compared: Compared, moves: bool) -> Result<(), String> {
    match compared {
        Compared::Same => Ok(()),
        Compared::Reordered if moves => Ok(()),
        Compared::Reordered => {
            Err("a list, or the fields of a struct, are in another order (a HashSet has another one \
                                    each time: keep a BTreeSet, or name it with `--moving memory`)"
                .into())
        }
        Compared::Different(words) => Err(words),
    }
}
