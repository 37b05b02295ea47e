//! `cargo relmgr new`

use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::ui;

/// Write an application to start from: it compiles, runs and upgrades as it stands
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  cargo relmgr new hello
  cargo relmgr new hello --path services/hello --relmgr ~/src/relmgr")]
pub(super) struct Args {
    /// The package's name, and the application's
    name: String,
    /// Where to write it (default: a directory of that name)
    #[arg(long, value_name = "DIR")]
    path: Option<PathBuf>,
    /// The checkout of relmgr whose relmgr-app it links (default: the one that this command was built from)
    #[arg(long, value_name = "DIR")]
    relmgr: Option<PathBuf>,
}

/// Each file's path in the application, and its text.
const FILES: [(&str, &str); 6] = [
    ("Cargo.toml", include_str!("../../template/Cargo.toml.in")),
    ("README.md", include_str!("../../template/README.md.in")),
    (".gitignore", include_str!("../../template/gitignore.in")),
    ("node/relmgr.toml", include_str!("../../template/node/relmgr.toml.in")),
    ("packages/.gitignore", include_str!("../../template/packages/gitignore.in")),
    ("src/lib.rs", include_str!("../../template/src/lib.rs.in")),
];

/// Words that cannot name a crate, and crates that the application links under their own names.
const TAKEN: &str = "abstract alloc as async await axum become box break const continue core crate do dyn else enum \
                     extern false final fn for gen if impl in let loop macro match mod move mut override priv \
                     proc_macro pub ref relmgr_app return self serde static std struct super test tokio trait true \
                     try type typeof unsafe unsized use virtual where while yield";

/// Runs the command.
pub(super) fn run(args: &Args) -> Result<(), Error> {
    check_name(&args.name)?;
    let given = args.path.clone().unwrap_or_else(|| PathBuf::from(&args.name));
    let directory =
        std::path::absolute(&given).map_err(|source| Error::Read { path: given.clone(), source })?;
    // An empty directory is as good as none.
    let taken = std::fs::read_dir(&directory).map(|mut entries| entries.next().is_some());
    if taken.unwrap_or_else(|error| error.kind() != std::io::ErrorKind::NotFound) {
        return Err(Error::Exists { path: given });
    }
    let values = [
        ("{{name}}", args.name.clone()),
        ("{{relmgr_app}}", dependency(args.relmgr.as_deref())?),
        ("{{workspace}}", workspace(&directory).into()),
        ("{{repository}}", toml::Value::from(format!("file://{}/packages", directory.display())).to_string()),
    ];
    for (name, text) in FILES {
        let path = directory.join(name);
        let text = values.iter().fold(text.to_owned(), |text, (key, value)| text.replace(key, value));
        write(&path, text.trim_end()).map_err(|source| Error::Write { path, source })?;
    }
    ui::status("Created", format!("application `{}` in {}", args.name, given.display()));
    ui::status("Next", format!("cd {}, and follow its README.md", given.display()));
    Ok(())
}

fn check_name(name: &str) -> Result<(), Error> {
    let fault = |reason| Err(Error::NewName { name: name.into(), reason });
    if !name.starts_with(|first: char| first.is_ascii_alphabetic()) {
        return fault("it does not begin with a letter");
    }
    if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_') {
        return fault("it has other characters than letters, digits, `-` and `_`");
    }
    if name.len() > 64 {
        return fault("it is longer than 64 characters");
    }
    if TAKEN.split_whitespace().any(|word| word == name.replace('-', "_")) {
        return fault("it has another meaning in Rust, or is a crate that the application links");
    }
    Ok(())
}

/// What Cargo.toml says of relmgr-app: a path into a checkout, or where there is none, the version.
fn dependency(checkout: Option<&Path>) -> Result<String, Error> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let app = checkout.unwrap_or(&own).join("crates/app");
    match app.canonicalize().ok().filter(|app| app.join("Cargo.toml").is_file()) {
        Some(app) => Ok(format!("{{ path = {} }}", toml::Value::from(app.display().to_string()))),
        None => match checkout {
            Some(path) => Err(Error::NoCheckout { path: path.into() }),
            None => Ok(toml::Value::from(env!("CARGO_PKG_VERSION")).to_string()),
        },
    }
}

/// Below another Cargo.toml the application says that it is a workspace of its own: cargo would take it for a
/// member that is not listed.
fn workspace(directory: &Path) -> &'static str {
    match directory.ancestors().skip(1).any(|parent| parent.join("Cargo.toml").is_file()) {
        true => "\n# Not a member of the workspace around it.\n[workspace]",
        false => "",
    }
}

fn write(path: &Path, text: &str) -> std::io::Result<()> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    std::fs::write(path, format!("{text}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_cargo_would_refuse_are_refused_first() {
        for name in ["hello", "live-poll", "a1_b"] {
            check_name(name).unwrap();
        }
        let long = "a".repeat(65);
        for name in ["", "1a", "-a", "a b", "a/b", "ä", "fn", "relmgr-app", "test", &long] {
            let error = check_name(name).unwrap_err().to_string();
            assert!(error.contains("cannot be a package's name"), "{name}: {error}");
        }
    }
}
