//! `cargo relmgr completion`

use clap::CommandFactory;
use clap_complete::Shell;

use super::Cli;
use crate::error::Error;
use crate::ui;

/// Print a shell's completion script for `cargo-relmgr`
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  cargo relmgr completion bash > ~/.local/share/bash-completion/completions/cargo-relmgr
  cargo relmgr completion zsh > ~/.zfunc/_cargo-relmgr
  cargo relmgr completion fish > ~/.config/fish/completions/cargo-relmgr.fish")]
pub(super) struct Args {
    /// The shell
    shell: Shell,
}

/// Runs the command.
pub(super) fn run(args: &Args) -> Result<(), Error> {
    let mut script = Vec::new();
    // By the binary's own name: `cargo relmgr` is completed by cargo's script, which nobody can add to.
    let mut command = Cli::command().bin_name("cargo-relmgr");
    clap_complete::generate(args.shell, &mut command, "cargo-relmgr", &mut script);
    ui::print(String::from_utf8_lossy(&script).trim_end())
}
