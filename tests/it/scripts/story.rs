//! The whole story: what CI's recipe runs, three hosts over ssh under load, a bad release, a fourth host that boots
//! from nothing.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::fleet::Fleet;
use super::{Done, Host, answered, bin, cloud, iam, script, wait_for, workspace};
use relmgr_testkit::kit::target_dir;
use relmgr_testkit::load::{Load, Request};

/// `build-release.sh` of the fixture with `features`, as the recipes call it; the version.
fn build(fleet: &Fleet, features: &str, version: &str) -> String {
    let manifest = workspace().join("tests/fixtures/faulty/Cargo.toml");
    let manifest = manifest.to_str().unwrap();
    // The clock's version is not enough of one for two builds in a second, and a build that is cached has none.
    let mut args = vec!["--channel", "staging", "--manifest-path", manifest, "--profile", "dev"];
    args.extend(["--no-describe", "--version", version, "--features", features]);
    let out = fleet.network.directory().join("out");
    let mut command = fleet.ci(script("build-release.sh"), &args);
    command.env("RELMGR_OUT", out).env("CARGO_TARGET_DIR", target_dir()).current_dir(workspace());
    Done::from(command.output().unwrap()).ok().stdout.trim().to_owned()
}

#[test]
fn from_a_build_to_three_hosts_under_load_a_bad_release_and_a_fourth_host() {
    let mut fleet = Fleet::new();
    // Nothing is published yet, and that is no fault of CI.
    let previous = fleet.run(script("get-prev-rel.sh"), &[]).ok();
    assert_eq!(previous.stdout, "", "{previous:?}");
    let mut elsewhere = fleet.ci(script("get-prev-rel.sh"), &[]);
    let elsewhere = elsewhere.env("RELMGR_REPOSITORY", "s3://no-such-bucket/x").output().unwrap();
    Done::from(elsewhere).failed(1, &["no-such-bucket"]);
    let one = build(&fleet, "", "1.0.0");
    assert_eq!(one, "1.0.0");
    // Published for staging, and promoted by nobody yet: the next push finds this.
    let previous = fleet.run(script("get-prev-rel.sh"), &[]).ok();
    assert_eq!(previous.stdout, "", "{previous:?}");
    promote(&fleet, &one);
    fleet.boot(3);
    for host in &fleet.network.hosts {
        fleet.start(host);
    }
    let hosts = ["www1", "www2", "www3"];
    fleet.deploy(&hosts).ok();
    check_version(&fleet, &one).ok();

    // The next release: built beside the one before, tried on staging, promoted, rolled out while clients ask.
    let out = fleet.network.directory().join("previous").display().to_string();
    let previous = fleet.run(script("get-prev-rel.sh"), &["--out", &out]).ok();
    assert!(previous.stdout.trim().ends_with("1.0.0"), "{previous:?}");
    let two = build(&fleet, "second", "1.0.1");
    let every = Duration::from_millis(2);
    let request = [Request::version("/")];
    let load = |host: &Host| Load::paced((host.address, 8080).into(), &request, 4, every);
    let loads: Vec<Load> = fleet.network.hosts.iter().map(load).collect();
    fleet.deploy(&["-c", "staging", hosts[0]]).ok();
    check_version(&fleet, &two).failed(1, &["1.0.0, not 1.0.1"]);
    promote(&fleet, &two);
    let done = fleet.deploy(&["-v", &two, "-u", "http://%h:8080/api/public/version", hosts[0]]);
    // ssh's alias is no name of the network's.
    done.failed(1, &["www1: does not answer at http://www1:8080"]);
    // All three go, one after the other.
    fleet.network.hosts[0].sh("relmgr downgrade").ok();
    check_version(&fleet, &one).ok();
    fleet.deploy(&["-v", &two, hosts[0], hosts[1], hosts[2]]).ok();
    check_version(&fleet, &two).ok();
    let times: Vec<_> = fleet.network.hosts.iter().map(last_upgrade).collect();
    for pair in times.windows(2) {
        assert!(pair[0].1 <= pair[1].0, "the next one begins when the one before is done: {times:?}");
    }

    // One that does not start is refused by the first host, and the others are not asked.
    let bad = build(&fleet, "start-fails", "1.0.2");
    let refused = fleet.deploy(&["-v", &bad, hosts[0], hosts[1], hosts[2]]);
    refused.failed(1, &["www1: did not take it; done before it: 0 of 3"]);
    check_version(&fleet, &two).ok();
    // Nobody has noticed any of it.
    for load in loads {
        let before = load.answered();
        wait_for("the clients are answered on", || (load.answered() > before + 20).then_some(()));
        let report = load.stop();
        assert_eq!(report.failures(), 0, "{}", report.failures_by_kind());
        assert!(report.versions.keys().eq(["1.0.0", "1.0.1"]), "{report:?}");
    }
    for host in &fleet.network.hosts[1..] {
        let releases = host.sh("ls /var/lib/relmgr/releases").ok().stdout;
        assert!(!releases.contains(&bad), "{releases}");
    }

    // A machine of an autoscaling group: what cloud-init does, and nobody at the keyboard.
    let mark = fleet.server.requests().len();
    cloud::boot(&mut fleet);
    let fourth = &fleet.network.hosts[3];
    assert_eq!(answered(fourth, 8080), two);
    check_version(&fleet, &two).ok();
    let history = fourth.sh("RELMGR_HOME=/var/lib/relmgr relmgr history --json").ok().json();
    let history = history.as_array().unwrap();
    assert_eq!((history.len(), &history[0]["to"]), (1, &two.as_str().into()), "{history:?}");
    assert_eq!((&history[0]["by"], &history[0]["uid"]), (&"pull".into(), &serde_json::Value::Null));
    // All that was asked of the bucket is allowed by the policies, and nothing that nobody asks.
    fourth.sh("relmgr upgrade 7.7.7").failed(1, &["7.7.7"]);
    iam::allows(&fleet.server, "ci-publish.json", ..mark);
    iam::allows(&fleet.server, "node-read.json", mark..);
}

/// What the recipes' last step runs.
fn promote(fleet: &Fleet, version: &str) {
    fleet.run(bin("cargo-relmgr"), &["relmgr", "promote", version]).ok();
}

fn check_version(fleet: &Fleet, version: &str) -> Done {
    let urls = fleet.urls();
    let args: Vec<&str> = std::iter::once(version).chain(urls.iter().map(String::as_str)).collect();
    fleet.run(script("check-version.sh"), &args)
}

/// When the last upgrade of a host's node began, and when it ended.
fn last_upgrade(host: &Host) -> (DateTime<Utc>, DateTime<Utc>) {
    let history = host.sh("relmgr history --json").ok().json();
    let last = history.as_array().unwrap().iter().rfind(|entry| entry["kind"] == "upgrade").unwrap().clone();
    let ended: DateTime<Utc> = last["at"].as_str().unwrap().parse().unwrap();
    let took = Duration::from_secs_f64(last["ms"].as_f64().unwrap() / 1e3);
    (ended - took, ended)
}
