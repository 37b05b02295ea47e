//! `relmgr completion`

use clap::CommandFactory;
use clap_complete::Shell;

use super::error::CommandError;
use super::{Relmgr, output};

/// Print a completion script for a shell
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The shell
    #[arg(value_parser = clap::builder::PossibleValuesParser::new(["bash", "zsh", "fish"]))]
    shell: String,
}

pub(super) fn main(args: Args) -> Result<(), CommandError> {
    let shell = match args.shell.as_str() {
        "zsh" => Shell::Zsh,
        "fish" => Shell::Fish,
        _ => Shell::Bash,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Relmgr::command(), "relmgr", &mut script);
    output::print(&String::from_utf8_lossy(&script))
}
