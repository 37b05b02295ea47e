//! The `relmgr` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    relmgr::cli::main()
}
