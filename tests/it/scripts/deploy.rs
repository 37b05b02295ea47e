//! `deploy.sh` over a real ssh, and everything that goes wrong on the way.

use super::fleet::Fleet;
use super::{release, script};

#[test]
fn a_host_that_cannot_take_the_release_ends_the_deployment_with_its_words_and_code() {
    let fleet = Fleet::serving(2);
    assert_eq!(fleet.versions(), ["1.0.0", "1.0.0"]);
    let config = std::fs::read_to_string(fleet.network.ssh_config()).unwrap();
    let known = std::fs::read_to_string(fleet.network.known_hosts()).unwrap();
    fleet.deploy(&[]).failed(2, &["Usage: deploy.sh"]);
    fleet.deploy(&["-v", "1.0.1", "-c", "staging", "www1"]).failed(2, &["Usage: deploy.sh"]);

    // Whoever cannot be reached is found before anybody is touched.
    let nobody = format!("Host www9\n  HostName {}\n{config}", fleet.network.nobody());
    std::fs::write(fleet.network.ssh_config(), nobody).unwrap();
    let refused = fleet.deploy(&["-v", "1.0.1", "www1", "www9"]);
    refused.failed(255, &["www9: cannot be asked; no node was touched"]);
    let other = fleet.network.keygen("other").display().to_string();
    let key = fleet.network.directory().join("id").display().to_string();
    std::fs::write(fleet.network.ssh_config(), config.replace(&key, &other)).unwrap();
    fleet.deploy(&["www1"]).failed(255, &["Permission denied (publickey)", "www1: cannot be asked"]);
    std::fs::write(fleet.network.ssh_config(), &config).unwrap();
    // Another machine answers at the address: the keys of the two are exchanged.
    let exchanged = known.replace("www1,", "www0,").replace("www2,", "www1,");
    std::fs::write(fleet.network.known_hosts(), exchanged).unwrap();
    let refused = fleet.deploy(&["www1"]);
    refused.failed(255, &["REMOTE HOST IDENTIFICATION HAS CHANGED", "www1: cannot be asked"]);
    std::fs::write(fleet.network.known_hosts(), &known).unwrap();

    // Another relmgr than the one that was asked for, or none; a node that does not run.
    fleet.deploy(&["-r", "9.9.9", "www1", "www2"]).failed(1, &["www1: has relmgr 0.1.0, not 9.9.9"]);
    let second = &fleet.network.hosts[1];
    second.sh("mv /usr/bin/relmgr /usr/bin/relmgr.away").ok();
    fleet.deploy(&["www1", "www2"]).failed(127, &["relmgr: command not found", "www2: cannot be asked"]);
    second.sh("mv /usr/bin/relmgr.away /usr/bin/relmgr && systemctl stop relmgr").ok();
    fleet.deploy(&["www1", "www2"]).failed(4, &["no node is running", "www2: its node does not answer"]);
    second.sh("systemctl start relmgr").ok();
    assert_eq!(fleet.versions(), ["1.0.0", "1.0.0"], "none of it touched a node");

    // A node that does something else, one that rolls back.
    fleet.publish(&release("faulty", "start-hangs", "1.0.2"));
    let first = &fleet.network.hosts[0];
    fleet.occupy(first, "1.0.2");
    let refused = fleet.deploy(&["-v", "1.0.1", "www1", "www2"]);
    refused.failed(5, &["another operation is running: upgrade 1.0.2", "www1: did not take it"]);
    fleet.free(first);
    probation(&fleet);

    // What is right goes through, from the channel's word on, and once more without a change.
    fleet.run(super::bin("cargo-relmgr"), &["relmgr", "promote", "1.0.1", "--going-back"]).ok();
    let url = "http://%h:8080/api/public/version";
    let hosts = fleet.network.hosts.iter().map(|host| host.address.to_string());
    let hosts: Vec<String> = hosts.collect();
    let arguments = ["-u", url, "-r", "0.1.0", &hosts[0], &hosts[1]];
    let done = fleet.deploy(&arguments).ok();
    assert!(done.stderr.contains("2 of 2 serve 1.0.1"), "{done:?}");
    assert_eq!(fleet.versions(), ["1.0.1", "1.0.1"]);
    let again = fleet.deploy(&arguments).ok();
    assert!(again.stdout.contains("1.0.1 serves already"), "{again:?}");
    another_home(&fleet);
    on_the_node(&fleet);
}

/// Another node of a host, named by its home; the one beside it is not asked.
fn another_home(fleet: &Fleet) {
    let host = &fleet.network.hosts[0];
    host.sh("install --directory --owner=relmgr --group=relmgr --mode=2750 /var/lib/relmgr-two").ok();
    super::settle(host, "/var/lib/relmgr-two", "0.0.0.0:8081", &fleet.repository());
    host.sh("cp /etc/default/relmgr /etc/default/relmgr-two && systemctl start relmgr@two").ok();
    let url = "http://%h:8081/api/public/version";
    let address = host.address.to_string();
    let done = fleet.deploy(&["-v", "1.0.0", "-u", url, &format!("{address}:/var/lib/relmgr-two")]).ok();
    assert!(done.stderr.contains("1 of 1 serve 1.0.0"), "{done:?}");
    assert_eq!((super::answered(host, 8080), super::answered(host, 8081)), ("1.0.1".into(), "1.0.0".into()));
    fleet.deploy(&["www1:/var/lib/nobody"]).failed(4, &["www1:/var/lib/nobody: its node does not answer"]);
}

/// A release that misbehaves under traffic: the node goes back by itself, and the deployment fails with 3.
fn probation(fleet: &Fleet) {
    fleet.publish(&release("faulty", "panics-every-10th", "1.0.3"));
    let deploy = || fleet.deploy(&["-v", "1.0.3", "www1", "www2"]);
    let refused = fleet.on_probation(&fleet.network.hosts[0], deploy);
    // Its panics, or the share of 5xx, whichever is over its threshold first.
    refused.failed(
        3,
        &["1.0.3 was rolled back: ", "www1: did not take it; done before it: 0 of 2 (exit code 3)"],
    );
    assert_eq!(fleet.versions(), ["1.0.0", "1.0.0"]);
    // Who asks for a downgrade then, has it already.
    let left = over_ssh(fleet, "downgrade.sh", &[]).ok();
    assert!(left.stderr.contains("1.0.0 serves: the last change was taken back already"), "{left:?}");
    assert_eq!(fleet.versions(), ["1.0.0", "1.0.0"]);
}

/// A script for one node, on the first host.
fn over_ssh(fleet: &Fleet, name: &str, args: &[&str]) -> super::Done {
    let config = fleet.network.ssh_config().display().to_string();
    let file = std::fs::File::open(script(name)).unwrap();
    let mut command = fleet.ci("ssh", &["-F", &config, "www1", "bash", "-s", "--"]);
    command.args(args).stdin(file).output().unwrap().into()
}

/// The scripts for one node, which need nothing on it but relmgr and a shell.
fn on_the_node(fleet: &Fleet) {
    let over_ssh = |name: &str, args: &[&str]| over_ssh(fleet, name, args);
    over_ssh("downgrade.sh", &["1.0.0"]).ok();
    let again = over_ssh("downgrade.sh", &["1.0.0"]).ok();
    assert!(again.stdout.contains("1.0.0 serves already"), "{again:?}");
    over_ssh("upgrade.sh", &[]).ok();
    assert_eq!(fleet.versions(), ["1.0.1", "1.0.1"]);
    // Once more, as after a connection that was lost: the release that was left stays so.
    for words in ["to 1.0.0, which served before", "1.0.0 serves: the last change was taken back already"] {
        let done = over_ssh("downgrade.sh", &[]).ok();
        assert!(done.stderr.contains(words), "{done:?}");
        assert_eq!(fleet.versions(), ["1.0.0", "1.0.1"]);
    }
    // A start is none of it: the release before is the newer one now, and relmgr does not go back to that.
    fleet.network.hosts[0].sh("relmgr restart").ok();
    over_ssh("downgrade.sh", &[]).failed(1, &["1.0.1 is newer than the current release 1.0.0"]);
    assert_eq!(fleet.versions(), ["1.0.0", "1.0.1"]);
    over_ssh("upgrade.sh", &["1.0.1"]).ok();
    over_ssh("upgrade.sh", &["1.0.1", "1.0.2"]).failed(2, &["Usage: upgrade.sh"]);
    over_ssh("upgrade.sh", &["7.7.7"]).failed(1, &["7.7.7"]);
    assert_eq!(fleet.versions(), ["1.0.1", "1.0.1"]);
}
