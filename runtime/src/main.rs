//! The `relmgr` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let args: Vec<String> = std::env::args().collect();
    match args.get(1).map(String::as_str) {
        Some("host") => relmgr::host::run(),
        Some("preflight") => relmgr::host::preflight::run(args[2].clone().into()),
        _ => ExitCode::from(2),
    }
}
