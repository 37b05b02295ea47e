//! The Ansible role, with the real Ansible.

use std::collections::BTreeMap;

use super::fleet::Fleet;
use super::{Done, release, releases, script};
use relmgr_testkit::deb;

/// `ok=…`, `changed=…`, `failed=…` of each host, from the recap.
fn recap(done: &Done) -> BTreeMap<String, BTreeMap<String, u32>> {
    let lines = done.stdout.lines().skip_while(|line| !line.starts_with("PLAY RECAP")).skip(1);
    let host = |line: &str| {
        let (name, counts) = line.split_once(':')?;
        let count =
            |word: &str| word.split_once('=').map(|(name, count)| (name.into(), count.parse().unwrap()));
        Some((name.trim().to_owned(), counts.split_whitespace().filter_map(count).collect()))
    };
    lines.filter_map(host).collect()
}

#[track_caller]
fn changed(done: &Done) -> Vec<u32> {
    recap(done).values().map(|counts| counts["changed"]).collect()
}

#[test]
fn ansible_makes_nodes_of_bare_hosts_changes_nothing_twice_and_stops_at_the_first_that_fails() {
    let mut fleet = Fleet::new();
    let (one, two) = releases();
    fleet.publish(&one);
    fleet.network.boot(2);
    let play = |fleet: &Fleet, args: &[&str]| -> Done {
        let hosts = fleet.network.hosts.iter();
        let hosts: serde_json::Map<_, _> =
            hosts.map(|host| (host.name.clone(), serde_json::json!({"ansible_user": "root"}))).collect();
        let trusted = fleet.repository();
        let trusted = trusted.rsplit('"').nth(1).unwrap();
        let inventory = serde_json::json!({"relmgr": {"hosts": hosts, "vars": {
            "relmgr_become": false,
            "relmgr_deb": deb::build("dev"),
            "relmgr_app": "relmgr-faulty",
            "relmgr_repository": fleet.server.url(),
            "relmgr_repository_options": {"endpoint_url": fleet.server.endpoint()},
            "relmgr_trusted_keys": [trusted],
            "relmgr_environment": fleet.server.environment().into_iter().collect::<BTreeMap<_, _>>(),
            "relmgr_settings": "[upgrade]\nprobation = \"0s\"\nstart = \"60s\"",
            "relmgr_operators": ["deploy"],
        }}});
        // JSON is YAML.
        let path = fleet.network.directory().join("inventory.yml");
        std::fs::write(&path, inventory.to_string()).unwrap();
        let mut command = fleet.ci("ansible-playbook", &["-i", path.to_str().unwrap(), "site.yml"]);
        command.args(args).current_dir(script("ansible")).env("HOME", fleet.network.directory());
        command.env("ANSIBLE_SSH_ARGS", format!("-F {}", fleet.network.ssh_config().display()));
        command.env("LC_ALL", "C.UTF-8");
        let done = command.output();
        done.unwrap_or_else(|error| panic!("ansible is missing ({error}): `cargo xtask setup`")).into()
    };

    // What would be done is told, and not done.
    let would = play(&fleet, &["--check", "--limit", "www1"]).ok();
    assert!(changed(&would).iter().all(|count| *count > 0), "{would:?}");
    let bare = fleet.network.hosts.iter().all(|host| !host.path("/usr/bin/relmgr").exists());
    assert!(bare, "nothing is installed");
    let done = play(&fleet, &["-e", "relmgr_version=1.0.0"]).ok();
    assert_eq!(fleet.versions(), ["1.0.0", "1.0.0"], "{done:?}");
    fleet.network.hosts[0].sh("id --name --groups deploy | grep -qw relmgr").ok();
    let again = play(&fleet, &["-e", "relmgr_version=1.0.0"]).ok();
    assert_eq!(changed(&again), [0, 0], "{again:?}");

    fleet.publish(&two);
    let would = play(&fleet, &["--check", "--limit", "www1"]).ok();
    assert_eq!((changed(&would), fleet.versions()), (vec![1], vec!["1.0.0".into(); 2]), "{would:?}");
    play(&fleet, &[]).ok();
    assert_eq!(fleet.versions(), ["1.0.1", "1.0.1"]);

    // Settings that do not fit, a release that does not start: the first host fails, the second is as it was.
    // Once more is no better: the file that was refused is there already.
    for _ in 0..2 {
        let refused =
            play(&fleet, &["-e", r#"{"relmgr_app_conf": {"no.such.key": [1, "two"], "other": true}}"#]);
        assert_ne!(refused.code, 0, "{refused:?}");
        assert!(refused.stdout.contains("no.such.key"), "{refused:?}");
    }
    let app_conf =
        |host: &super::Host| std::fs::read_to_string(host.path("/var/lib/relmgr/app.conf")).unwrap();
    let written = fleet.network.hosts.iter().map(app_conf).collect::<Vec<_>>();
    assert!(written[0].contains("no.such.key = 1, \"two\"\nother = true\n"), "{written:?}");
    assert!(!written[1].contains("no.such.key"), "{written:?}");
    fleet.publish(&release("faulty", "start-fails", "1.0.2"));
    let refused = play(&fleet, &["-e", "relmgr_version=1.0.2"]);
    assert_ne!(refused.code, 0, "{refused:?}");
    assert!(refused.stdout.contains("start failed"), "{refused:?}");
    assert!(!recap(&refused).contains_key("www2"), "{refused:?}");
    assert_eq!(fleet.versions(), ["1.0.1", "1.0.1"]);
    rolled_back(&fleet, &play);
    read_all_the_same(&fleet, &play);
    another_relmgr(&fleet, &play);
    one_of_a_batch(&mut fleet, &play);
}

/// A release that misbehaves under traffic: the node goes back by itself, the play fails with relmgr's words and its
/// exit code, and the second host is not touched.
fn rolled_back(fleet: &Fleet, play: &dyn Fn(&Fleet, &[&str]) -> Done) {
    // Where clients reach it.
    let watched = serde_json::json!({
        "relmgr_settings": "[upgrade]\nprobation = \"50s\"\nstart = \"60s\"",
        "relmgr_listen": ["0.0.0.0:8080"],
        "relmgr_version_url": "http://127.0.0.1:8080/api/public/version",
        "relmgr_version": "1.0.1",
    });
    let watched = watched.to_string();
    play(fleet, &["-e", &watched, "--limit", "www1"]).ok();
    fleet.publish(&release("faulty", "panics-every-10th", "1.0.3"));
    let load = Fleet::load(&fleet.network.hosts[0]);
    let refused = play(fleet, &["-e", &watched, "-e", "relmgr_version=1.0.3"]);
    drop(load.stop());
    assert_eq!(refused.code, 2, "what ansible-playbook ends with: {refused:?}");
    for words in ["\"rc\": 3", "1.0.3 was rolled back: "] {
        assert!(refused.stdout.contains(words), "{words}: {refused:?}");
    }
    assert!(recap(&refused).keys().eq(["www1"]), "{refused:?}");
    assert!(!fleet.network.hosts[1].path("/var/lib/relmgr/releases/1.0.3").exists());
    play(fleet, &["-e", "relmgr_version=1.0.1", "--limit", "www1"]).ok();
    assert_eq!(fleet.versions(), ["1.0.1", "1.0.1"]);
}

/// A run that fails after it has changed what is read at the start only: the node has read it all the same.
fn read_all_the_same(fleet: &Fleet, play: &dyn Fn(&Fleet, &[&str]) -> Done) {
    let mut environment: BTreeMap<_, _> = fleet.server.environment().into_iter().collect();
    environment.insert("MARK", "one".into());
    // The variables can be written, and the settings cannot.
    let broken = serde_json::json!({"relmgr_environment": environment, "relmgr_repository_options": 5});
    let refused = play(fleet, &["-e", &broken.to_string(), "--limit", "www1"]);
    assert_ne!(refused.code, 0, "{refused:?}");
    assert!(refused.stdout.contains("Settings of the node"), "{refused:?}");
    let words = "tr '\\0' '\\n' </proc/$(systemctl show --value --property=MainPID relmgr)/environ";
    let read = fleet.network.hosts[0].sh(words).ok().stdout;
    assert!(read.lines().any(|line| line == "MARK=one"), "{read}");
    play(fleet, &["-e", "relmgr_version=1.0.1", "--limit", "www1"]).ok();
    assert_eq!(fleet.versions(), ["1.0.1", "1.0.1"]);
}

/// Another version of relmgr than the one that is asked for: nothing of the node is changed.
fn another_relmgr(fleet: &Fleet, play: &dyn Fn(&Fleet, &[&str]) -> Done) {
    let refused = play(fleet, &["-e", "relmgr_version=1.0.0", "-e", "relmgr_required=9.9.9"]);
    assert_ne!(refused.code, 0, "{refused:?}");
    let words =
        format!("the host has relmgr {}, not 9.9.9; its node was not touched", env!("CARGO_PKG_VERSION"));
    assert!(refused.stdout.contains(&words), "{refused:?}");
    assert_eq!((changed(&refused), fleet.versions()), (vec![0], vec!["1.0.1".into(); 2]));
    let required = format!("relmgr_required={}", env!("CARGO_PKG_VERSION"));
    let done = play(fleet, &["-e", "relmgr_version=1.0.1", "-e", &required]).ok();
    assert_eq!(changed(&done), [0, 0], "{done:?}");
}

/// One of the two hosts of a batch fails, or is not reached: the next batch is not touched.
fn one_of_a_batch(fleet: &mut Fleet, play: &dyn Fn(&Fleet, &[&str]) -> Done) {
    fleet.network.boot(1);
    let config = std::fs::read_to_string(fleet.network.ssh_config()).unwrap();
    let known = std::fs::read_to_string(fleet.network.known_hosts()).unwrap();
    let batches = ["-e", r#"{"relmgr_batches": [2, 1]}"#, "-e", "relmgr_version=1.0.1"];
    let stops = |fleet: &Fleet, words: &str| {
        let refused = play(fleet, &batches);
        assert_ne!(refused.code, 0, "{refused:?}");
        assert!(refused.stdout.contains(words), "{words}: {refused:?}");
        assert!(recap(&refused).keys().eq(["www1", "www2"]), "{refused:?}");
        assert!(!fleet.network.hosts[2].path("/usr/bin/relmgr").exists());
    };
    // Another operation: a failure like any other.
    fleet.publish(&release("faulty", "start-hangs", "1.0.4"));
    fleet.occupy(&fleet.network.hosts[0], "1.0.4");
    stops(fleet, "another operation is running");
    fleet.free(&fleet.network.hosts[0]);
    // Another machine answers at the address; a key that is not accepted; nobody answers.
    std::fs::write(fleet.network.known_hosts(), known.replace("www1,", "www0,").replace("www3,", "www1,"))
        .unwrap();
    stops(fleet, "REMOTE HOST IDENTIFICATION HAS CHANGED");
    std::fs::write(fleet.network.known_hosts(), &known).unwrap();
    let other = fleet.network.keygen("other").display().to_string();
    let key = fleet.network.directory().join("id").display().to_string();
    let others = format!("Host www2 www3\n  IdentityFile {key}\nHost *");
    let wrong = config.replace(&key, &other).replace("Host *", &others);
    std::fs::write(fleet.network.ssh_config(), wrong).unwrap();
    stops(fleet, "Permission denied (publickey)");
    std::fs::write(fleet.network.ssh_config(), &config).unwrap();
    fleet.network.hosts[0].sh("systemctl stop ssh").ok();
    stops(fleet, "this host is not reached");
    assert_eq!(fleet.versions()[..2], ["1.0.1", "1.0.1"]);
}
