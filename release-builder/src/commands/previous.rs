//! `cargo relmgr previous`

use std::path::{Path, PathBuf};

use relmgr_model::Version;
use relmgr_model::manifest::{Digest, Manifest};
use relmgr_store::repository::{Fetch, Pointer, Repository, RepositoryError};
use relmgr_store::{atomic, digest, package};
use serde_json::json;

use super::{RepositoryArgs, block_on};
use crate::error::Error;
use crate::ui;

/// Fetch and unpack the release that nodes run now
///
/// Prints the directory of the release that the channel names, for what CI compares a new release with. Checked
/// file by file; fetched again only when it is not there or damaged.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  PREVIOUS=$(cargo relmgr previous --repository file:///srv/packages)
  diff -r \"$PREVIOUS/priv\" priv")]
pub(super) struct Args {
    #[command(flatten)]
    repository: RepositoryArgs,
    /// The channel to follow (default: the file VERSION)
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    channel: String,
    /// Where releases are unpacked
    #[arg(long, value_name = "DIR", default_value = "target/relmgr/previous")]
    out: PathBuf,
    /// Succeed and print nothing where the channel names no release yet
    #[arg(long)]
    if_any: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(super) fn run(args: &Args) -> Result<(), Error> {
    let repository = args.repository.open()?;
    let out = &args.out;
    std::fs::create_dir_all(out).map_err(|source| Error::Write { path: out.clone(), source })?;
    let (version, directory) = match block_on(fetch(&repository, &args.channel, out)) {
        Err(Error::Repository(error))
            if args.if_any && matches!(*error, RepositoryError::NoChannel { .. }) =>
        {
            // Not every server says of an object whether its bucket is there.
            block_on(async { Ok(repository.list().await?) })?;
            ui::status("Empty", error);
            return Ok(());
        }
        fetched => fetched?,
    };
    match args.json {
        true => ui::print_json(&json!({ "version": version, "directory": directory })),
        false => ui::print(directory.display()),
    }
}

async fn fetch(repository: &Repository, channel: &str, out: &Path) -> Result<(Version, PathBuf), Error> {
    let (version, pinned) = match repository.channel(channel).await? {
        Pointer::Plain(version) => (version, None),
        Pointer::Signed { document, .. } => (document.version, Some(document.manifest_sha256)),
    };
    let directory = fetch_version(repository, &version, pinned.as_deref(), out).await?;
    Ok((version, directory))
}

/// The manifest of the release that `channel` names; `None`: it names none yet.
///
/// # Errors
/// The repository's.
pub(super) async fn shipped(repository: &Repository, channel: &str) -> Result<Option<Manifest>, Error> {
    let (version, pinned) = match repository.channel(channel).await {
        Ok(Pointer::Plain(version)) => (version, None),
        Ok(Pointer::Signed { document, .. }) => (document.version, Some(document.manifest_sha256)),
        Err(RepositoryError::NoChannel { .. }) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    Ok(repository.manifest(&version, pinned.as_deref()).await?.map(|verified| verified.manifest))
}

/// Fetches and unpacks `version` below `out`; answers its directory. `pinned` is the SHA-256 of its manifest where a
/// channel names it.
///
/// # Errors
/// It is not there, or damaged.
pub(super) async fn fetch_version(
    repository: &Repository,
    version: &Version,
    pinned: Option<&str>,
    out: &Path,
) -> Result<PathBuf, Error> {
    let no_manifest = || Error::NoManifest { version: version.clone(), url: repository.url().into() };
    let manifest = repository.manifest(version, pinned).await?.ok_or_else(no_manifest)?.manifest;
    let digest = manifest.package.as_ref().ok_or_else(no_manifest)?;
    let directory = out.join(version.to_string());
    if is_there(&directory, &manifest) {
        ui::status("Fresh", directory.display());
        return Ok(directory);
    }
    let failed = |source| Error::Write { path: directory.clone(), source };
    // What is left of it is of no use.
    match std::fs::remove_dir_all(&directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let temporary = tempfile::Builder::new().prefix(atomic::TEMPORARY).tempdir_in(out).map_err(failed)?;
    let fetched = temporary.path().join("package.tar.gz");
    let bar = ui::Bar::new("Fetching", digest.size);
    let fetch = Fetch { version, expected: Some(digest), into: &fetched, progress: bar.progress() };
    let result = repository.fetch_package(fetch).await;
    bar.finish();
    result?;
    package::unpack(&fetched, temporary.path(), &directory, &manifest).map_err(|source| Error::Fetched {
        version: version.clone(),
        directory: directory.clone(),
        source: Box::new(source),
    })?;
    ui::status("Fetched", format!("{} {version} from {}", manifest.name, repository.url()));
    Ok(directory)
}

/// Whether the release lies unpacked and whole in `directory`.
fn is_there(directory: &Path, manifest: &Manifest) -> bool {
    let same = |(name, expected): (&String, &Digest)| {
        digest::of_file(&directory.join(name)).is_ok_and(|found| found == *expected)
    };
    directory.join(package::MANIFEST).is_file() && manifest.files.iter().all(same)
}
