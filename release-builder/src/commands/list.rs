//! `cargo relmgr list`

use chrono::{DateTime, Utc};
use relmgr_store::repository::PublishedRelease;
use serde_json::json;

use super::{RepositoryArgs, block_on};
use crate::error::Error;
use crate::ui;

/// List the releases in a repository, newest first
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  cargo relmgr list --repository file:///srv/packages
  cargo relmgr list --json | jq -r '.releases[] | select(.dirty) | .version'")]
pub(super) struct Args {
    #[command(flatten)]
    repository: RepositoryArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Hexadecimal digits of a commit that are shown: as many as git shows in large repositories.
const COMMIT_DIGITS: usize = 12;

/// Runs the command.
pub(super) fn run(args: &Args) -> Result<(), Error> {
    let repository = args.repository.open()?;
    let releases = block_on(async { Ok(repository.list().await?) })?;
    if args.json {
        let releases: Vec<_> = releases.iter().map(to_json).collect();
        return ui::print_json(&json!({ "repository": repository.url(), "releases": releases }));
    }
    if releases.is_empty() {
        ui::status("Empty", format!("{} holds no releases", repository.url()));
        return Ok(());
    }
    let now = Utc::now();
    let rows: Vec<_> = releases.iter().map(|release| to_row(release, now)).collect();
    ui::print(ui::table(&["VERSION", "SIZE", "AGE", "COMMIT", "CHANNEL"], &rows))
}

fn built_at(release: &PublishedRelease) -> Option<DateTime<Utc>> {
    release.manifest.as_ref().map(|manifest| manifest.built_at).or_else(|| release.version.built_at())
}

/// What names it, and what is to be known of it.
fn marks(release: &PublishedRelease) -> String {
    let mut marks = release.channels.clone();
    if release.signed {
        marks.push("signed".into());
    }
    if release.yanked.is_some() {
        marks.push("withdrawn".into());
    }
    marks.join(" ")
}

fn to_row(release: &PublishedRelease, now: DateTime<Utc>) -> Vec<String> {
    let age = built_at(release).map_or("-".into(), |time| ui::age(now - time));
    let commit = match &release.manifest {
        None => "no manifest".into(),
        Some(manifest) => manifest.git.as_ref().map_or("-".into(), |git| {
            let digits = &git.commit[..git.commit.len().min(COMMIT_DIGITS)];
            if git.dirty { format!("{digits}-dirty") } else { digits.into() }
        }),
    };
    vec![release.version.to_string(), ui::size(release.size), age, commit, marks(release)]
}

fn to_json(release: &PublishedRelease) -> serde_json::Value {
    let git = release.manifest.as_ref().and_then(|manifest| manifest.git.as_ref());
    json!({
        "version": release.version,
        "size": release.size,
        "built_at": built_at(release),
        "commit": git.map(|git| &git.commit),
        "dirty": git.map(|git| git.dirty),
        "manifest": release.manifest.is_some(),
        "channels": release.channels,
        "signed": release.signed,
        "yanked": release.yanked,
    })
}
