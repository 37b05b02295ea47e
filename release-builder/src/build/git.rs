//! The commit of a checkout, through the `git` command.

use std::path::Path;
use std::process::{Command, Output};

use relmgr_model::manifest::Git;

/// The commit of the checkout that holds `directory`, and whether tracked or new files differ from it. What lies
/// under `outputs` does not count: builds write there.
///
/// `None` without git, outside of a checkout, and before the first commit.
pub(crate) fn read(directory: &Path, outputs: &[&Path]) -> Option<Git> {
    let commit = git(directory, &["rev-parse", "--verify", "HEAD"])?;
    let commit = String::from_utf8(commit.stdout).ok()?.trim().to_owned();

    let top = git(directory, &["rev-parse", "--show-toplevel"])?;
    let top = String::from_utf8(top.stdout).ok()?;
    let top = Path::new(top.trim_end_matches('\n'));
    let mut args =
        vec!["status".into(), "--porcelain".into(), "--untracked-files=normal".into(), "--".into()];
    args.push(":(top)".into());
    for output in outputs {
        // The checkout's directory itself cannot be left out of it.
        if let Some(output) = output.strip_prefix(top).ok().filter(|path| !path.as_os_str().is_empty()) {
            args.push(format!(":(top,exclude,literal){}", output.display()));
        }
    }
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let status = git(directory, &args)?;
    Some(Git { commit, dirty: !status.stdout.is_empty() })
}

fn git(directory: &Path, args: &[&str]) -> Option<Output> {
    // Without optional locks: looking must not get in the way of the developer's own git.
    let output =
        Command::new("git").args(["--no-optional-locks", "-C"]).arg(directory).args(args).output().ok()?;
    output.status.success().then_some(output)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(directory: &Path, args: &[&str]) {
        let identity = ["-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "commit.gpgsign=false"];
        let status = Command::new("git").arg("-C").arg(directory).args(identity).args(args).status().unwrap();
        assert!(status.success(), "git {args:?}");
    }

    #[test]
    fn a_checkout_tells_its_commit_and_whether_it_is_dirty() {
        let home = tempfile::tempdir().unwrap();
        let root = home.path().canonicalize().unwrap();
        let package = root.join("service");
        let target = package.join("target");
        std::fs::create_dir_all(&target).unwrap();
        assert_eq!(read(&package, &[]), None, "no checkout");
        run(&root, &["init", "--quiet"]);
        assert_eq!(read(&package, &[]), None, "no commit");
        std::fs::write(root.join("a.rs"), "1").unwrap();
        run(&root, &["add", "a.rs"]);
        run(&root, &["commit", "--quiet", "-m", "one"]);
        let clean = read(&package, &[&target]).unwrap();
        assert_eq!((clean.commit.len(), clean.dirty), (40, false));

        std::fs::write(target.join("built"), "x").unwrap();
        assert!(!read(&package, &[&target]).unwrap().dirty, "what was built does not count");
        std::fs::write(root.join("a.rs"), "2").unwrap();
        assert!(read(&package, &[&target]).unwrap().dirty);
        run(&root, &["commit", "--quiet", "-am", "two"]);
        assert_ne!(read(&package, &[&target]).unwrap().commit, clean.commit);
        std::fs::write(package.join("new.rs"), "x").unwrap();
        assert!(read(&package, &[&target]).unwrap().dirty, "a new file counts");
    }
}
