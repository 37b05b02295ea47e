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
    let instance = |host: &super::Host| (host.address.to_string(), "running", tags.clone());
    let ec2 = Ec2::start(fleet.network.hosts.iter().map(instance).collect());
    // Where it looks for ssh's configuration.
    let ssh = fleet.network.directory().join(".ssh");
    std::fs::create_dir(&ssh).unwrap();
    std::fs::copy(fleet.network.ssh_config(), ssh.join("config")).unwrap();
    let cap = |args: &[&str]| -> Done {
        let mut command = fleet.ci("cap", args);
        command.current_dir(&place).env("HOME", fleet.network.directory());
        ec2.aware(&mut command);
        let done = command.output();
        done.unwrap_or_else(|error| panic!("capistrano is missing ({error}): .ci/run installs it")).into()
    };

    let listed = cap(&["-T", "relmgr"]).ok().stdout;
    for task in ["upgrade", "downgrade", "status", "check_version"] {
        assert!(listed.contains(&format!("cap relmgr:{task} ")), "{listed}");
    }
    cap(&["production", "relmgr:check_version", "VERSION=1.0.1"]).failed(1, &["serves 1.0.0, not 1.0.1"]);
    // The same hosts by name.
    let servers = "%w[www1 www2].each { |name| server name, user: 'deploy', roles: %w[app] }\n";
    std::fs::write(place.join("config/deploy/named.rb"), servers).unwrap();
    let done =
        cap(&["named", "relmgr:upgrade", "relmgr:check_version", "relmgr:status", "VERSION=1.0.1"]).ok();
    assert_eq!(fleet.versions(), ["1.0.1", "1.0.1"]);
    assert!(done.stdout.contains("www1: 1.0.1\nwww2: 1.0.1\n== www1"), "{done:?}");
    let again = cap(&["named", "relmgr:upgrade"]).ok();
    assert!(again.stdout.contains("1.0.1 serves already"), "{again:?}");
    cap(&["named", "relmgr:downgrade", "VERSION=1.0.0"]).ok();
    assert_eq!(fleet.versions(), ["1.0.0", "1.0.0"]);

    // A release that does not start, a node that is busy, a host that is not to be reached.
    fleet.publish(&release("faulty", "start-fails", "1.0.2"));
    fleet.publish(&release("faulty", "start-hangs", "1.0.3"));
    cap(&["named", "relmgr:upgrade", "VERSION=1.0.2"]).failed(1, &["1.0.2", "start failed"]);
    let second = &fleet.network.hosts[1];
    assert!(!second.path("/var/lib/relmgr/releases/1.0.2").exists(), "the second host was not asked");
    fleet.occupy(&fleet.network.hosts[0], "1.0.3");
    cap(&["named", "relmgr:upgrade", "VERSION=1.0.1"]).failed(5, &["another operation is running"]);
    fleet.free(&fleet.network.hosts[0]);
    fleet.network.hosts[0].sh("systemctl stop ssh").ok();
    cap(&["named", "relmgr:upgrade", "VERSION=1.0.1"]).failed(255, &["Connection refused"]);
    assert_eq!(fleet.versions(), ["1.0.0", "1.0.0"]);
    let ec2 = Ec2::start(vec![]);
    let mut nobody = fleet.ci("cap", &["production", "relmgr:status"]);
    ec2.aware(nobody.current_dir(&place));
    Done::from(nobody.output().unwrap()).failed(1, &["no running instance has Role=web"]);
}
