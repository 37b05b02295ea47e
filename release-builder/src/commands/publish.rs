//! `cargo relmgr publish`

use std::path::PathBuf;

use relmgr_store::repository::{BuiltRelease, Publisher};
use serde_json::json;

use super::{ChannelArgs, RepositoryArgs, RolloutArgs, block_on, previous};
use crate::build::state;
use crate::error::Error;
use crate::key::KeyArgs;
use crate::ui;

/// Publish the release that was built last
///
/// The package, its manifest and its signature go to the repository first, the channel and its shadow VERSION last, so
/// that no node ever follows them to something missing. A published version is never overwritten. To publish the same
/// again is fine: what a broken publish left out is completed.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  cargo relmgr publish --repository file:///srv/packages
  RELMGR_REPOSITORY=s3://example-app-packages/hello cargo relmgr publish --key relmgr.key
  cargo relmgr publish --channel staging
  cargo relmgr publish --no-channel        nodes get it by name only: relmgr upgrade 2026.1120.192733")]
pub(super) struct Args {
    /// What `cargo relmgr release` wrote
    #[arg(value_name = "DIR", default_value = "target/relmgr")]
    directory: PathBuf,
    #[command(flatten)]
    repository: RepositoryArgs,
    #[command(flatten)]
    keys: KeyArgs,
    /// The channel that names the release afterwards (default: the default one, whose shadow is the file VERSION)
    #[arg(
        long,
        value_name = "NAME",
        default_value = "",
        hide_default_value = true,
        conflicts_with = "no_channel"
    )]
    channel: String,
    /// Leave every channel, VERSION and latest.tar.gz as they are
    #[arg(long)]
    no_channel: bool,
    /// Make no delta from the release that the channel names now
    #[arg(long)]
    no_delta: bool,
    #[command(flatten)]
    document: ChannelArgs,
    #[command(flatten)]
    rollout: RolloutArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(super) fn run(args: &Args) -> Result<(), Error> {
    let repository = args.repository.open()?;
    let release = BuiltRelease::read(&args.directory)?;
    repository.check_signature(&release)?;
    let keys = args.keys.read()?;
    if !args.no_channel
        && let Some(shipped) = block_on(previous::shipped(&repository, &args.channel))?
        && let Some(warning) = state::compare(&shipped, release.manifest.state.as_ref())?
    {
        ui::warning(warning);
    }
    let (name, size) =
        (&release.manifest.name, release.manifest.package.as_ref().map_or(0, |digest| digest.size));
    let bar = ui::Bar::new("Uploading", size);
    let publisher = Publisher {
        release: keys.release(),
        channel: keys.channel(),
        to: (!args.no_channel).then_some(&args.channel),
        lifetime: args.document.lifetime()?,
        delta: !args.no_delta,
        min_version: args.document.min_version.clone(),
        rollout: args.rollout.read(),
        progress: bar.progress(),
        ..Publisher::default()
    };
    let published = block_on(async { Ok(repository.publish(&release, &publisher).await?) });
    bar.finish();
    let published = published?;

    let (version, url) = (&published.version, repository.url());
    match published.package_written {
        true => ui::status("Published", format!("{name} {version} ({}) to {url}", ui::size(size))),
        false => {
            ui::status("Unchanged", format!("{name} {version} is in {url} already, with the same content"))
        }
    }
    if let Some(fault) = &published.delta_fault {
        ui::warning(format!("no delta was made, nodes fetch the package: {fault}"));
    }
    for (from, delta) in &published.deltas {
        let part = *delta as f64 / size.max(1) as f64 * 100.0;
        ui::status("Delta", format!("from {from}: {}, {part:.1} % of the package", ui::size(*delta)));
    }
    if published.signed {
        ui::status("Signed", "its manifest");
    }
    let channel = if args.channel.is_empty() { "VERSION" } else { &args.channel };
    match (published.channel_set, &published.document) {
        (true, Some(document)) => ui::status(
            "Pointed",
            format!("{channel} to {version}, signed, serial {}, until {}", document.serial, document.expires),
        ),
        (true, None) => ui::status("Pointed", format!("{channel} to {version}")),
        (false, _) => ui::status("Left", "VERSION as it was"),
    }
    match args.json {
        true => ui::print_json(&json!({
            "version": version,
            "repository": url,
            "package_written": published.package_written,
            "deltas": published.deltas,
            "signed": published.signed,
            "channel": args.channel,
            "channel_set": published.channel_set,
            "document": published.document,
        })),
        false => Ok(()),
    }
}
