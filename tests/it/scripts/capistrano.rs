//! The Capistrano recipe, with the real Capistrano.

use std::process::Command;

use super::ec2::Ec2;
use super::fleet::Fleet;
use super::{Done, release, script};

#[test]
fn capistrano_upgrades_host_after_host_and_ends_with_the_code_of_the_first_that_fails() {
    let fleet = Fleet::serving(2);
    // The recipe as it is copied beside an application, the hosts found by their tags.
    let place = fleet.network.directory().join("application");
    let copied = Command::new("cp").arg("-r").arg(script("capistrano")).arg(&place).status().unwrap();
    assert!(copied.success());
    let tags = vec![("Role", "web"), ("Environment", "production")];
    let mut instances: Vec<_> =
        fleet.network.hosts.iter().map(|host| (host.address.to_string(), "running", tags.clone())).collect();
    // Machines of another kind, and one that is stopped, are not asked: at these addresses is nobody.
    let nobody = fleet.network.nobody().to_string();
    instances.push((nobody.clone(), "stopped", tags.clone()));
    instances.push((nobody, "running", vec![("Role", "web"), ("Environment", "staging")]));
    let ec2 = Ec2::start(instances);
    // Where it looks for ssh's configuration.
    let ssh = fleet.network.directory().join(".ssh");
    std::fs::create_dir(&ssh).unwrap();
    std::fs::copy(fleet.network.ssh_config(), ssh.join("config")).unwrap();
    let cap = |args: &[&str]| -> Done {
        let mut command = fleet.ci("cap", args);
        command.current_dir(&place).env("HOME", fleet.network.directory());
        ec2.aware(&mut command);
        let done = command.output();
        done.unwrap_or_else(|error| panic!("capistrano is missing ({error}): `cargo xtask setup`")).into()
    };

    let listed = cap(&["-T", "relmgr"]).ok().stdout;
    for task in ["upgrade", "downgrade", "status", "check_version"] {
        assert!(listed.contains(&format!("cap relmgr:{task} ")), "{listed}");
    }
    cap(&["production", "relmgr:check_version", "VERSION=1.0.1"]).failed(1, &["serves 1.0.0, not 1.0.1"]);
    // The same hosts by name.
    let servers = "%w[www1 www2].each { |name| server name, user: 'deploy', roles: %w[app] }\n\
                   server 'www9', user: 'deploy', roles: %w[db]\n";
    std::fs::write(place.join("config/deploy/named.rb"), servers).unwrap();
    let done =
        cap(&["named", "relmgr:upgrade", "relmgr:check_version", "relmgr:status", "VERSION=1.0.1"]).ok();
    assert_eq!(fleet.versions(), ["1.0.1", "1.0.1"]);
    assert!(done.stdout.contains("www1: 1.0.1\nwww2: 1.0.1\n== www1"), "{done:?}");
    let again = cap(&["named", "relmgr:upgrade"]).ok();
    assert!(again.stdout.contains("1.0.1 serves already"), "{again:?}");
    cap(&["named", "relmgr:downgrade", "VERSION=1.0.0"]).ok();
    assert_eq!(fleet.versions(), ["1.0.0", "1.0.0"]);

    // By their tags, and one role of two.
    cap(&["production", "relmgr:upgrade", "relmgr:check_version", "VERSION=1.0.1"]).ok();
    assert_eq!(fleet.versions(), ["1.0.1", "1.0.1"]);
    let roles = "set :relmgr_roles, :web\nserver 'www1', user: 'deploy', roles: %w[web]\n\
                 server 'www2', user: 'deploy', roles: %w[app]\n";
    std::fs::write(place.join("config/deploy/roles.rb"), roles).unwrap();
    cap(&["roles", "relmgr:downgrade", "VERSION=1.0.0"]).ok();
    assert_eq!(fleet.versions(), ["1.0.0", "1.0.1"]);
    cap(&["named", "relmgr:downgrade", "VERSION=1.0.0"]).ok();
    strangers(&fleet, &ssh, &cap);
    another_relmgr(&place, &cap);
    assert_eq!(fleet.versions(), ["1.0.0", "1.0.0"], "none of it touched a node");

    // A release that does not start, a node that is busy, a host that is not to be reached.
    fleet.publish(&release("faulty", "start-fails", "1.0.2"));
    fleet.publish(&release("faulty", "start-hangs", "1.0.3"));
    cap(&["named", "relmgr:upgrade", "VERSION=1.0.2"]).failed(1, &["1.0.2", "start failed"]);
    let second = &fleet.network.hosts[1];
    assert!(!second.path("/var/lib/relmgr/releases/1.0.2").exists(), "the second host was not asked");
    fleet.occupy(&fleet.network.hosts[0], "1.0.3");
    cap(&["named", "relmgr:upgrade", "VERSION=1.0.1"]).failed(5, &["another operation is running"]);
    fleet.free(&fleet.network.hosts[0]);
    rolled_back(&fleet, &cap);
    fleet.network.hosts[0].sh("systemctl stop ssh").ok();
    cap(&["named", "relmgr:upgrade", "VERSION=1.0.1"]).failed(255, &["Connection refused"]);
    assert_eq!(fleet.versions(), ["1.0.0", "1.0.0"]);
    let ec2 = Ec2::start(vec![]);
    let mut nobody = fleet.ci("cap", &["production", "relmgr:status"]);
    ec2.aware(nobody.current_dir(&place));
    Done::from(nobody.output().unwrap()).failed(1, &["no running instance has Role=web"]);
}

/// A host whose key is not known, or is another one, a key that is not accepted, and one without relmgr.
fn strangers(fleet: &Fleet, ssh: &std::path::Path, cap: &dyn Fn(&[&str]) -> Done) {
    let upgrade = || cap(&["named", "relmgr:upgrade", "VERSION=1.0.1"]);
    let known = std::fs::read_to_string(fleet.network.known_hosts()).unwrap();
    std::fs::write(fleet.network.known_hosts(), "").unwrap();
    upgrade().failed(255, &["is unknown for"]);
    let told = std::fs::read_to_string(fleet.network.known_hosts()).unwrap();
    assert_eq!(told, "", "it is not taken for known from then on");
    let (first, second) = (&fleet.network.hosts[0], &fleet.network.hosts[1]);
    let key = |host: &super::Host| {
        let line = known.lines().find(|line| line.starts_with(&format!("{},", host.name))).unwrap();
        line.split_once(' ').unwrap().1.to_owned()
    };
    let (one, two) = (key(first), key(second));
    let exchanged = known.replace(&one, "<one>").replace(&two, &one).replace("<one>", &two);
    std::fs::write(fleet.network.known_hosts(), exchanged).unwrap();
    upgrade().failed(255, &["does not match for"]);
    std::fs::write(fleet.network.known_hosts(), &known).unwrap();
    let config = std::fs::read_to_string(fleet.network.ssh_config()).unwrap();
    let other = fleet.network.keygen("other").display().to_string();
    let id = fleet.network.directory().join("id").display().to_string();
    std::fs::write(ssh.join("config"), config.replace(&id, &other)).unwrap();
    upgrade().failed(255, &["Authentication failed"]);
    std::fs::write(ssh.join("config"), &config).unwrap();
    first.sh("mv /usr/bin/relmgr /usr/bin/relmgr.away").ok();
    upgrade().failed(127, &["relmgr"]);
    first.sh("mv /usr/bin/relmgr.away /usr/bin/relmgr").ok();
    assert_eq!(fleet.versions(), ["1.0.0", "1.0.0"], "none of it touched a node");
}

/// Every host is asked which relmgr it has, where one is required, before a node is touched.
fn another_relmgr(place: &std::path::Path, cap: &dyn Fn(&[&str]) -> Done) {
    let servers = std::fs::read_to_string(place.join("config/deploy/named.rb")).unwrap();
    let require = |stage: &str, version: &str| {
        let text = format!("{servers}set :relmgr_required, '{version}'\n");
        std::fs::write(place.join(format!("config/deploy/{stage}.rb")), text).unwrap();
    };
    require("other", "9.9.9");
    for task in ["relmgr:upgrade", "relmgr:downgrade"] {
        let words = ["www1: has relmgr 0.1.0, not 9.9.9; no node was touched"];
        cap(&["other", task, "VERSION=1.0.1"]).failed(1, &words);
    }
    require("same", env!("CARGO_PKG_VERSION"));
    let done = cap(&["same", "relmgr:downgrade", "VERSION=1.0.0"]).ok();
    assert!(done.stdout.contains("1.0.0 serves already"), "{done:?}");
}

/// A release that misbehaves under traffic: the node goes back by itself, and cap ends with 3 and relmgr's words.
fn rolled_back(fleet: &Fleet, cap: &dyn Fn(&[&str]) -> Done) {
    fleet.publish(&release("faulty", "panics-every-10th", "1.0.4"));
    let upgrade = || cap(&["named", "relmgr:upgrade", "VERSION=1.0.4"]);
    let refused = fleet.on_probation(&fleet.network.hosts[0], upgrade);
    refused.failed(3, &["1.0.4 was rolled back: ", "www1"]);
    let second = &fleet.network.hosts[1];
    assert!(!second.path("/var/lib/relmgr/releases/1.0.4").exists(), "the second host was not asked");
    assert_eq!(fleet.versions(), ["1.0.0", "1.0.0"]);
}
