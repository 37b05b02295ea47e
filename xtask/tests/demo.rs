//! The README's first command, with binaries that are there already.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use relmgr_testkit::kit::{self, wait_for};
use serde_json::Value;

/// The place of all that a demo leaves behind: what runs there ends with it.
struct Place {
    path: PathBuf,
    _directory: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self { path: directory.path().canonicalize().unwrap(), _directory: directory }
    }

    /// The processes that work below it.
    fn processes(&self) -> Vec<Pid> {
        let entries = std::fs::read_dir("/proc").unwrap().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        // One that has ended works nowhere.
        let works = |pid: &i32| std::fs::read_link(format!("/proc/{pid}/cwd"));
        let here = pids.filter(|pid| works(pid).is_ok_and(|directory| directory.starts_with(&self.path)));
        here.map(Pid::from_raw).collect()
    }

    fn wait_until_nothing_runs(&self) {
        wait_for("nothing is left running", || self.processes().is_empty().then_some(()));
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for pid in self.processes() {
            let _ = kill(pid, Signal::SIGKILL);
        }
        self.wait_until_nothing_runs();
    }
}

/// What people get who enter `lines`.
fn enter(lines: [&str; 2]) -> String {
    let output = Command::new("sh").args(["-ec", &lines.join("\n")]).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{lines:?}: {said}{}", String::from_utf8_lossy(&output.stderr));
    said
}

/// One run for both, since it builds two releases.
#[test]
fn the_demo_prints_one_line_for_machines_and_keeps_a_node_that_people_can_try_and_stop() {
    let relmgr = kit::bin("relmgr");
    let place = Place::new();
    let mut demo = Command::new(env!("CARGO_BIN_EXE_xtask"));
    demo.args(["demo", "--json", "--keep", "--binaries"]).arg(relmgr.parent().unwrap());
    let output = demo.env("TMPDIR", &place.path).output().unwrap();
    let (stdout, stderr) =
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8_lossy(&output.stderr).into_owned());
    assert!(output.status.success(), "{stderr}");
    let served = of_the_line(&stdout);
    try_and_stop(&place, &stderr, &served);
}

/// Looks at what the demo prints for machines; the versions that served.
fn of_the_line(stdout: &str) -> BTreeSet<String> {
    let [line] = stdout.lines().collect::<Vec<_>>()[..] else { panic!("one line, not: {stdout}") };
    let line: Value = serde_json::from_str(line).unwrap();
    let fields: BTreeSet<_> = line.as_object().unwrap().keys().map(String::as_str).collect();
    let expected = ["closed_connections", "failed", "longest_gap_ms", "requests", "versions"];
    assert_eq!(fields, BTreeSet::from(expected));
    assert_eq!((&line["failed"], &line["closed_connections"]), (&0.into(), &0.into()), "{line}");
    assert!(
        line["requests"].as_u64().unwrap() > 1000 && line["longest_gap_ms"].as_f64().unwrap() > 0.0,
        "{line}"
    );
    let served: BTreeSet<String> = serde_json::from_value(line["versions"].clone()).unwrap();
    assert_eq!(served.len(), 2, "both served: {line}");
    served
}

/// Does what the demo tells people to try, in its order.
fn try_and_stop(place: &Place, told: &str, served: &BTreeSet<String>) {
    let (_, told) = told.split_once("The node goes on running.").expect("what to try is told");
    let lines: Vec<&str> = told.lines().filter_map(|line| line.strip_prefix("  ")).collect();
    let [export, commands @ .., stop] = &lines[..] else { panic!("what to try: {told}") };
    assert!(export.starts_with("export RELMGR_HOME=") && stop.ends_with("/relmgr stop"), "{told}");
    let said: Vec<(&str, String)> =
        commands.iter().map(|command| (*command, enter([export, command]))).collect();
    let of = |words: &str| {
        let found = said.iter().find(|(command, _)| command.contains(words));
        found.map(|(_, said)| said.as_str()).unwrap_or_else(|| panic!("no `{words}` in: {told}"))
    };

    let version = of("/api/public/version");
    assert!(served.contains(version), "{version} is none of {served:?}");
    let before = served.iter().find(|other| *other != version).unwrap();
    let current = of("/relmgr status").lines().find(|line| line.trim_start().starts_with("current "));
    assert!(current.is_some_and(|line| line.contains(version)), "{}", of("/relmgr status"));
    assert!(of("/relmgr downgrade").contains(before.as_str()), "{}", of("/relmgr downgrade"));
    assert_eq!(of("readlink"), format!("{version}\n{before}\n"));

    let running = place.processes().len();
    assert!(running >= 2, "a supervisor and a host, not {running}");
    enter([export, stop]);
    place.wait_until_nothing_runs();
}
