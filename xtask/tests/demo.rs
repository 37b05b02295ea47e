//! The README's first command, with binaries that are there already.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeSet;
use std::process::Command;

use relmgr_testkit::kit;
use serde_json::Value;

#[test]
fn the_demo_prints_one_line_for_machines_and_nothing_failed() {
    let relmgr = kit::bin("relmgr");
    let mut demo = Command::new(env!("CARGO_BIN_EXE_xtask"));
    demo.args(["demo", "--json", "--binaries"]).arg(relmgr.parent().unwrap());
    let output = demo.output().unwrap();
    let (stdout, stderr) =
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8_lossy(&output.stderr).into_owned());
    assert!(output.status.success(), "{stderr}");
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
    let served = line["versions"].as_array().map(Vec::len);
    assert_eq!(served, Some(2), "both served: {line}");
}
