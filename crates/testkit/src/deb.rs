//! The Debian package of relmgr, as `cargo xtask deb` makes it.

use std::path::{Path, PathBuf};
use std::process::Command;

use nix::fcntl::{Flock, FlockArg};

use crate::kit::{Done, bin, target_dir, workspace};

/// Packs the binary that lies in the target directory of `profile` (`dev`, `dist`) with what belongs to it; the path
/// of the package.
pub fn build(profile: &str) -> PathBuf {
    // Several tests want it at once, and it is written in one place.
    let lock = std::fs::File::create(target_dir().join("deb.lock")).unwrap();
    let _lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, error)| error).unwrap();
    let (binary, assets) = (bin("relmgr"), target_dir().join("deb"));
    let out = target_dir().join("debian");
    let package = out.join(format!("relmgr-{profile}.deb"));
    let stamp = out.join(format!("relmgr-{profile}.built-from"));
    let sources = sources(&binary);
    if package.exists() && std::fs::read_to_string(&stamp).is_ok_and(|text| text == sources) {
        return package;
    }
    let _ = std::fs::remove_dir_all(&assets);
    run(Command::new(&binary).arg("man").arg(assets.join("man")));
    for shell in ["bash", "zsh", "fish"] {
        let script = run(Command::new(&binary).args(["completion", shell])).stdout;
        std::fs::write(assets.join(format!("relmgr.{shell}")), script).unwrap();
    }
    std::fs::create_dir_all(&out).unwrap();
    let mut command = Command::new("cargo");
    command.args(["deb", "--no-build", "--package", "relmgr", "--profile", profile, "--strip", "--output"]);
    command.arg(&package).current_dir(workspace());
    if profile == "dev" {
        command.arg("--fast");
    }
    run(&mut command);
    std::fs::write(stamp, sources).unwrap();
    package
}

/// What the package is made of, by when it was changed.
fn sources(binary: &Path) -> String {
    let systemd = workspace().join("upgrade-scripts/systemd");
    let mut paths = vec![binary.to_owned(), workspace().join("runtime/Cargo.toml")];
    for directory in [systemd.clone(), systemd.join("debian")] {
        paths.extend(std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()));
    }
    paths.sort();
    let changed = |path: &PathBuf| std::fs::metadata(path).unwrap().modified().unwrap();
    paths.iter().map(|path| format!("{} {:?}\n", path.display(), changed(path))).collect()
}

#[track_caller]
fn run(command: &mut Command) -> Done {
    let done = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let words = "cargo-deb makes the package: `cargo xtask setup` installs it";
    assert!(done.status.success(), "{command:?}: {} ({words})", String::from_utf8_lossy(&done.stderr));
    done.into()
}
