//! `build-release.sh`, killed in the middle with all that it has started, and run once more.

use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use relmgr_testkit::kit::{target_dir, wait_for_build};
use relmgr_testkit::s3::S3Server;
use serde_json::Value;

use super::{Done, bin, script, wait_for, workspace};

/// A bucket, and a machine of CI that builds for it.
struct Ci {
    server: S3Server,
    place: tempfile::TempDir,
    public_key: String,
}

impl Ci {
    fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        let mut keygen = Command::new(bin("cargo-relmgr"));
        keygen.args(["relmgr", "keygen", "--no-password", "--out"]).arg(place.path().join("ci.key"));
        let public_key = Done::from(keygen.output().unwrap()).ok().stdout.trim().to_owned();
        Self { server: S3Server::start(), place, public_key }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    fn command(&self, program: PathBuf) -> Command {
        let mut command = Command::new(program);
        let tools = bin("cargo-relmgr").parent().unwrap().display().to_string();
        command.env("PATH", format!("{tools}:{}", std::env::var("PATH").unwrap()));
        command.env("CARGO_TARGET_DIR", target_dir()).envs(self.server.environment());
        command.env("RELMGR_REPOSITORY", self.server.url()).env("RELMGR_OUT", self.path("out"));
        command.env("RELMGR_TRUSTED_KEYS", &self.public_key).env("RELMGR_KEY_FILE", self.path("ci.key"));
        command.current_dir(self.place.path()).stdin(Stdio::null());
        command
    }

    /// `build-release.sh args…` for a crate whose build can be held up.
    fn build(&self, args: &[&str]) -> Command {
        let mut command = self.command(script("build-release.sh"));
        let manifest = workspace().join("tests/fixtures/held/Cargo.toml");
        command.args(["--profile", "dev", "--manifest-path"]).arg(manifest).args(args);
        // Where the toolchain of this project is chosen.
        command.current_dir(workspace());
        command
    }

    /// Runs it in a group of its own, which is killed once `is_there` says so.
    fn kill(&self, mut command: Command, what: &str, is_there: impl Fn() -> bool) {
        let words = std::fs::File::create(self.path("words")).unwrap();
        command.stdout(words.try_clone().unwrap()).stderr(words);
        let mut child = command.process_group(0).spawn().unwrap();
        let read = || std::fs::read_to_string(self.path("words")).unwrap();
        wait_for_build(what, || {
            let ended = child.try_wait().unwrap();
            assert!(ended.is_none(), "it has ended ({ended:?}) before: {what}\n{}", read());
            is_there().then_some(())
        });
        killpg(Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGKILL).unwrap();
        let status = child.wait().unwrap();
        assert_eq!(status.signal(), Some(Signal::SIGKILL as i32), "{what}: {status}\n{}", read());
    }

    fn relmgr(&self, args: &[&str]) -> Done {
        let mut command = self.command(bin("cargo-relmgr"));
        command.arg("relmgr").args(args).output().unwrap().into()
    }

    /// The version that the default channel names; `None`: none yet.
    fn named(&self) -> Option<String> {
        let listed = self.relmgr(&["list", "--json"]).ok().json();
        let named = |release: &&Value| release["channels"].as_array().unwrap().contains(&"default".into());
        let release = listed["releases"].as_array().unwrap().iter().find(named)?;
        Some(release["version"].as_str().unwrap().to_owned())
    }

    /// `version` is what the channel names, and everything in the repository is whole and signed but what belongs to
    /// `abandoned` versions, which nothing names.
    fn serves(&self, version: &str, abandoned: &[String]) {
        assert_eq!(self.named().as_deref(), Some(version));
        let pointer = std::fs::read_to_string(self.server.directory().join("VERSION")).unwrap();
        assert_eq!(pointer.trim_end(), version, "its shadow");
        let verified = self.relmgr(&["verify", "--json"]).json();
        let findings = verified["findings"].as_array().unwrap();
        let of = |one: &&Value, version: &str| one["what"].as_str().unwrap().contains(version);
        let faulty = |one: &&Value| !one["fault"].is_null() && !abandoned.iter().any(|left| of(one, left));
        let faults: Vec<_> = findings.iter().filter(faulty).collect();
        assert!(faults.is_empty(), "{faults:?}");
        assert!(findings.iter().any(|one| of(&one, version) && one["fault"].is_null()), "{findings:?}");
        let bytes = |name: &str| std::fs::read(self.server.directory().join(name)).unwrap();
        assert!(bytes("latest.tar.gz") == bytes(&format!("{version}.tar.gz")), "the same bytes");
        self.relmgr(&["previous"]).ok();
    }
}

#[test]
fn a_build_that_was_killed_is_built_and_published_by_the_next_run() {
    let ci = Ci::new();
    let hold = ci.path("hold");
    // What it depends on is compiled before, however long that takes.
    Done::from(ci.build(&[]).env_remove("RELMGR_REPOSITORY").output().unwrap()).ok();
    let told = || std::fs::read_to_string(&hold).ok().filter(|pid| pid.ends_with('\n'));
    for round in 0..2 {
        let mut first = ci.build(&[]);
        first.env("RELMGR_TEST_HOLD", &hold);
        ci.kill(first, "the build is under way", || told().is_some());
        // A build's process is in the group: nothing goes on that would be in the next one's way.
        let pid = told().unwrap();
        wait_for("the build has ended", || {
            (!PathBuf::from(format!("/proc/{}", pid.trim())).exists()).then_some(())
        });
        std::fs::remove_file(&hold).unwrap();
        let before = ci.named();
        assert_eq!(before.is_some(), round > 0, "nothing was published by it: {before:?}");
        let built = Done::from(ci.build(&[]).output().unwrap()).ok();
        let version = built.stdout.trim();
        assert!(before.is_none_or(|before| before != version), "a new one");
        ci.serves(version, &[]);
    }
}

/// What a publish writes, in its order.
fn objects(before: &str, version: &str) -> [String; 8] {
    [
        format!("{version}.tar.gz"),
        format!("{before}_{version}.delta"),
        format!("{version}.toml?"),
        format!("{version}.toml.minisig"),
        "latest.tar.gz".to_owned(),
        "channels/default.toml?".to_owned(),
        "channels/default.toml.minisig".to_owned(),
        "VERSION".to_owned(),
    ]
}

#[test]
fn a_publish_that_was_killed_at_any_object_is_completed_by_the_next_run() {
    let ci = Ci::new();
    let published = |version: &str, abandoned: &[String]| {
        let built = Done::from(ci.build(&["--version", version]).output().unwrap()).ok();
        assert_eq!(built.stdout, format!("{version}\n"));
        ci.serves(version, abandoned);
    };
    published("1.0.0", &[]);
    let (mut before, mut number, mut abandoned) = ("1.0.0".to_owned(), 0, vec![]);
    for at in 0..objects("", "").len() {
        number += 1;
        let version = format!("1.0.{number}");
        let put = format!("PUT /packages/releases/{}", objects(&before, &version)[at]);
        let puts = || ci.server.requests().iter().filter(|line| line.starts_with(&put)).count();
        let seen = puts();
        ci.server.hold(&put);
        let args = ["--version", &version];
        ci.kill(ci.build(&args), &put, || puts() > seen);
        ci.server.settle();
        // Who reads meanwhile finds the release before, or this one, whole.
        let named = ci.named();
        assert!(named.as_ref() == Some(&before) || named.as_ref() == Some(&version), "{put}: {named:?}");
        ci.relmgr(&["previous"]).ok();
        if at % 2 == 0 {
            // The same once more.
            published(&version, &abandoned);
            before = version;
        } else {
            // A run that is repeated by CI builds a version of its own.
            number += 1;
            before = format!("1.0.{number}");
            abandoned.push(version);
            published(&before, &abandoned);
        }
    }
}
