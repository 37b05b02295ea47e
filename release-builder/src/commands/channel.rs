//! `cargo relmgr channel`

use chrono::Utc;
use clap::Subcommand;
use relmgr_model::channel::DEFAULT;
use relmgr_store::repository::{ChannelChange, ChannelHead};
use serde_json::json;

use super::{ChannelArgs, RepositoryArgs, RolloutArgs, block_on};
use crate::error::Error;
use crate::key::KeyArgs;
use crate::ui;

/// Show channels, or renew a channel's signed document
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show the channels' documents: release, serial, expiry
    ///
    /// With --trusted-key their signatures are checked.
    Show(ShowArgs),
    /// Sign a channel's document anew, before it expires
    ///
    /// It names the same release, with a higher serial and a later expiry.
    #[command(after_help = "\
Examples:
  cargo relmgr channel renew
  cargo relmgr channel renew staging --expires 30d
  cargo relmgr channel renew --min-version 2026.1101.0     no node goes below it from now on")]
    Renew(RenewArgs),
}

#[derive(Debug, clap::Args)]
struct ShowArgs {
    /// The channel (default: all)
    name: Option<String>,
    #[command(flatten)]
    repository: RepositoryArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct RenewArgs {
    /// The channel
    #[arg(default_value = DEFAULT)]
    name: String,
    #[command(flatten)]
    document: ChannelArgs,
    #[command(flatten)]
    rollout: RolloutArgs,
    #[command(flatten)]
    repository: RepositoryArgs,
    #[command(flatten)]
    keys: KeyArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(super) fn run(args: &Args) -> Result<(), Error> {
    match &args.command {
        Command::Show(args) => show(args),
        Command::Renew(args) => renew(args),
    }
}

fn show(args: &ShowArgs) -> Result<(), Error> {
    let repository = args.repository.open()?;
    let heads = block_on(async {
        let mut heads = repository.heads().await?;
        if let Some(name) = &args.name {
            heads.retain(|head| head.document.channel == *name);
            if heads.is_empty() {
                return Err(Error::NoChannel { name: name.clone(), url: repository.url().into() });
            }
        }
        if !repository.trust().is_empty() {
            // What is shown is what was checked.
            for head in &mut heads {
                *head = repository.document(&head.document.channel, &repository.trust().channel).await?;
            }
        }
        Ok(heads)
    })?;
    if args.json {
        let channels = heads.iter().map(|head| {
            json!({
                "document": head.document,
                "sha256": head.sha256,
                "signed": head.signed,
                "verified_by": head.key,
            })
        });
        let channels: Vec<_> = channels.collect();
        return ui::print_json(&json!({"repository": repository.url(), "channels": channels}));
    }
    if heads.is_empty() {
        ui::status("Empty", format!("{} has no channel documents", repository.url()));
        return Ok(());
    }
    let now = Utc::now();
    let rows: Vec<_> = heads.iter().map(|head| row(head, now)).collect();
    ui::print(ui::table(&["CHANNEL", "VERSION", "SERIAL", "EXPIRES", "SIGNED", "WITHDRAWN"], &rows))
}

fn row(head: &ChannelHead, now: chrono::DateTime<Utc>) -> Vec<String> {
    let document = &head.document;
    let left = document.expires - now;
    let expires = match left.num_seconds() {
        ..=0 => "expired".to_owned(),
        _ => format!("in {}", ui::age(left)),
    };
    let signed = match (head.signed, &head.key) {
        (true, Some(_)) => "verified",
        (true, None) => "yes",
        (false, _) => "no",
    };
    let yanked: Vec<_> = document.yanked.keys().map(ToString::to_string).collect();
    let yanked = if yanked.is_empty() { "-".into() } else { yanked.join(" ") };
    vec![
        document.channel.clone(),
        document.version.to_string(),
        document.serial.to_string(),
        expires,
        signed.into(),
        yanked,
    ]
}

fn renew(args: &RenewArgs) -> Result<(), Error> {
    let repository = args.repository.open()?;
    let keys = args.keys.read()?;
    let signer = keys.channel().ok_or(Error::NoKey)?;
    let change = ChannelChange {
        lifetime: args.document.lifetime()?,
        min_version: args.document.min_version.clone(),
        rollout: args.rollout.read(),
        ..ChannelChange::default()
    };
    // The document that is there says of which application it is.
    let document = block_on(async {
        Ok(repository.change_channel("", &args.name, &change, signer, Utc::now()).await?)
    })?;
    ui::status(
        "Renewed",
        format!("{}: {} until {}, serial {}", args.name, document.version, document.expires, document.serial),
    );
    match args.json {
        true => ui::print_json(&json!({"repository": repository.url(), "document": document})),
        false => Ok(()),
    }
}
