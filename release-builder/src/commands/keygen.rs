//! `cargo relmgr keygen`

use std::io::IsTerminal;
use std::path::PathBuf;

use serde_json::json;

use crate::error::Error;
use crate::{key, ui};

/// Make a key pair that signs releases or channels
///
/// The secret key (minisign's format) stays with who publishes: in a file, or as a secret of the CI. The public key,
/// which is printed, goes into relmgr.toml of every node: repository.trusted_keys for releases,
/// repository.channel_keys for channels where that is another key.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  cargo relmgr keygen                                    asks for a password
  RELMGR_KEY_PASSWORD=… cargo relmgr keygen --out ci.key
  cargo relmgr keygen --out ci.key --no-password         for a secret store that protects it
  RELMGR_KEY=$(cat ci.key) cargo relmgr publish          in CI, from a secret variable

Check a signature by hand:
  minisign -Vm 2026.1120.192733.toml -P RWQ…")]
pub(super) struct Args {
    /// The secret key's file; the public one gets the same name with .pub
    #[arg(long, value_name = "FILE", default_value = "relmgr.key")]
    out: PathBuf,
    /// No password: who has the file can sign
    #[arg(long)]
    no_password: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(super) fn run(args: &Args) -> Result<(), Error> {
    let password = if args.no_password { None } else { Some(password()?) };
    let (public, public_file) = key::generate(&args.out, password)?;
    ui::status("Wrote", format!("the secret key to {}: keep it secret, and keep it", args.out.display()));
    ui::status("Wrote", format!("the public key to {}", public_file.display()));
    ui::status("Next", "repository.trusted_keys in each node's relmgr.toml takes the line below");
    match args.json {
        true => ui::print_json(&json!({
            "public_key": public.text(),
            "id": public.id(),
            "secret_key_file": args.out,
            "public_key_file": public_file,
        })),
        false => ui::print(public.text()),
    }
}

fn password() -> Result<String, Error> {
    if let Some(password) = std::env::var("RELMGR_KEY_PASSWORD").ok().filter(|password| !password.is_empty())
    {
        return Ok(password);
    }
    if !std::io::stdin().is_terminal() {
        return Err(Error::NoPassword);
    }
    let ask = |prompt| rpassword::prompt_password(prompt).map_err(|source| Error::Stdout { source });
    let password = ask("Password for the new key: ")?;
    if password.is_empty() || password != ask("The same again: ")? {
        return Err(Error::PasswordsDiffer);
    }
    Ok(password)
}
