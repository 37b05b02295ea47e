//! The Debian package and the units in it, on a host with a systemd of its own.

use super::{Host, Network, answered, install, publish_on, release, releases, settle, wait_for};

fn property(host: &Host, unit: &str, name: &str) -> String {
    host.sh(&format!("systemctl show --value --property={name} {unit}")).ok().stdout.trim().to_owned()
}

#[test]
fn the_package_installs_a_service_that_systemd_keeps_and_takes_itself_away_again() {
    let mut network = Network::new();
    network.boot(1);
    let host = &network.hosts[0];
    install(host);
    for file in [
        "/usr/share/man/man1/relmgr.1.gz",
        "/usr/share/man/man1/relmgr-upgrade.1.gz",
        "/usr/share/bash-completion/completions/relmgr",
        "/usr/share/doc/relmgr/examples/relmgr.toml",
    ] {
        assert!(host.path(file).exists(), "{file}");
    }
    // Who signs for https servers.
    let recommended = host.sh("dpkg-query --show --showformat='${Recommends}' relmgr").ok().stdout;
    assert_eq!(recommended, "ca-certificates");
    let verified = host.sh("systemd-analyze verify --man=no /lib/systemd/system/relmgr.service /lib/systemd/system/relmgr@.service 2>&1").ok();
    assert!(!verified.stdout.contains("relmgr"), "{verified:?}");
    for unit in ["relmgr.service", "relmgr@two.service"] {
        host.sh(&format!("systemd-analyze security --offline=true --threshold=20 {unit}")).ok();
    }
    completions(host);

    // Without settings there is no node yet, and that is no fault.
    host.sh("systemctl start relmgr").ok();
    assert_eq!(property(host, "relmgr", "ActiveState"), "inactive");
    let (one, two) = releases();
    let repository = publish_on(host, &[&one, &two]);
    settle(host, "/var/lib/relmgr", "127.0.0.1:8080", repository);
    host.sh("systemctl enable --now relmgr").ok();
    assert_eq!(property(host, "relmgr", "StatusText"), "relmgr-faulty: no release serves");

    // Who is in the group needs no more rights, and scripts find the wrapper.
    let wrapper = "runuser -u deploy -- /var/lib/relmgr/bin/relmgr-faulty";
    host.sh(&format!("{wrapper} ping && {wrapper} upgrade 1.0.0")).ok();
    assert_eq!(answered(host, 8080), "1.0.0");
    let status = host.sh(&format!("{wrapper} remote status")).ok().stdout;
    assert!(status.contains("1.0.0"), "{status}");
    host.sh("runuser -u nobody -- env RELMGR_HOME=/var/lib/relmgr relmgr ping")
        .failed(1, &["is not open to this user"]);
    wait_for("systemd is told what serves", || {
        (property(host, "relmgr", "StatusText") == "relmgr-faulty 1.0.0 serves").then_some(())
    });
    host.sh(&format!(
        "{wrapper} upgrade 1.0.1 && {wrapper} downgrade && {wrapper} upgrade 1.0.1 && \
                      {wrapper} downgrade 1.0.0"
    ))
    .ok();
    assert_eq!(answered(host, 8080), "1.0.0");

    reload(host);
    confined(host);
    itself(host);
    watchdog(host);
    several_nodes(host, repository);
    journal(host);

    // Stopped on purpose is not started again.
    host.sh(&format!("{wrapper} stop")).ok();
    wait_for("the service is over", || (property(host, "relmgr", "ActiveState") == "inactive").then_some(()));
    host.sh("systemctl start relmgr").ok();
    host.sh("dpkg --remove relmgr").ok();
    assert!(
        !host.path("/usr/bin/relmgr").exists() && !host.path("/lib/systemd/system/relmgr.service").exists()
    );
    host.sh("! pgrep -x relmgr").ok();
    assert!(host.path("/var/lib/relmgr/state.json").exists(), "what is the operator's stays");
    let purged = host.sh("dpkg --purge relmgr").ok().stdout;
    assert!(purged.contains("are left for you to remove"), "{purged}");
    assert!(host.path("/var/lib/relmgr/state.json").exists(), "{purged}");
}

/// Each shell finds its completions where the package has them.
fn completions(host: &Host) {
    let offered = host.sh("fish --command 'complete --do-complete \"relmgr self-\"'").ok().stdout;
    assert!(offered.starts_with("self-upgrade"), "{offered}");
    host.sh(
        "zsh -fc 'autoload -U compinit && compinit -u -d /tmp/zcompdump && [ $_comps[relmgr] = _relmgr ]'",
    )
    .ok();
    host.sh("source /usr/share/bash-completion/completions/relmgr && complete -p relmgr").ok();
}

/// What the unit forbids cannot be done in it, not by root either; the home is the service's own.
fn confined(host: &Host) {
    let within = format!("nsenter --target {} --mount --", property(host, "relmgr", "MainPID"));
    for path in ["/etc", "/usr/bin", "/var/log"] {
        host.sh(&format!("{within} touch {path}/was-here")).failed(1, &["Read-only file system"]);
    }
    host.sh(&format!("{within} touch /home/was-here")).failed(1, &[]);
    host.sh(&format!("{within} touch /var/lib/relmgr/was-here /tmp/was-here")).ok();
    assert!(!host.path("/tmp/was-here").exists(), "its /tmp is its own");
    std::fs::remove_file(host.path("/var/lib/relmgr/was-here")).unwrap();
}

/// A new package leaves the node alone, and `relmgr self-upgrade` takes it into use within the unit: systemd sees the
/// same process, and nothing else of it.
fn itself(host: &Host) {
    let pid = property(host, "relmgr", "MainPID");
    let executable = || host.sh(&format!("readlink /proc/{pid}/exe")).ok().stdout.trim().to_owned();
    host.sh("dpkg --install /tmp/relmgr.deb").ok();
    assert_eq!(executable(), "/usr/bin/relmgr (deleted)", "it goes on with what it holds open");
    host.sh("RELMGR_HOME=/var/lib/relmgr relmgr self-upgrade").ok();
    assert_eq!(executable(), "/usr/bin/relmgr");
    let seen = ["MainPID", "NRestarts", "ActiveState"].map(|name| property(host, "relmgr", name));
    assert_eq!(seen, [pid.as_str(), "0", "active"]);
    assert_eq!(answered(host, 8080), "1.0.0");
    host.sh("systemctl reload relmgr").ok();
}

/// `systemctl reload` is `relmgr reload`, and fails as that does; systemd's own word (SIGHUP) is answered.
fn reload(host: &Host) {
    host.sh("systemctl reload relmgr").ok();
    std::fs::write(host.path("/var/lib/relmgr/app.conf"), "no.such.key = 1\n").unwrap();
    let refused = host.sh("systemctl reload relmgr");
    assert_ne!(refused.code, 0, "{refused:?}");
    let log = host.sh("journalctl --unit=relmgr --output=cat").ok().stdout;
    assert!(log.contains("no.such.key"), "{log}");
    std::fs::remove_file(host.path("/var/lib/relmgr/app.conf")).unwrap();
    host.sh("systemctl reload relmgr && systemctl kill --kill-whom=main --signal=HUP relmgr").ok();
    wait_for("the reload is over", || (property(host, "relmgr", "ActiveState") == "active").then_some(()));
    assert_eq!(answered(host, 8080), "1.0.0");
}

/// With `log.format = "journald"` the journal can be asked by what an entry is about.
fn journal(host: &Host) {
    let settings = host.path("/var/lib/relmgr/relmgr.toml");
    let text = std::fs::read_to_string(&settings).unwrap();
    std::fs::write(&settings, format!("{text}[log]\nformat = \"journald\"\n")).unwrap();
    host.sh("systemctl restart relmgr && RELMGR_HOME=/var/lib/relmgr relmgr upgrade 1.0.1").ok();
    let about = "SYSLOG_IDENTIFIER=relmgr RELMGR_KIND=upgrade RELMGR_TO=1.0.1";
    wait_for("the journal has the upgrade", || {
        let found = host.sh(&format!("journalctl --output=cat {about}")).stdout;
        found.contains("operation done").then_some(())
    });
}

/// Has systemd notice within seconds that a supervisor is stuck, and starts it anew. A busy machine may keep one that is
/// not from its word for a second.
fn watch_closely(host: &Host) {
    let directory = host.path("/etc/systemd/system/relmgr.service.d");
    std::fs::create_dir_all(&directory).unwrap();
    std::fs::write(directory.join("test.conf"), "[Service]\nWatchdogSec=5\nTimeoutAbortSec=1\n").unwrap();
    host.sh("systemctl daemon-reload && systemctl restart relmgr").ok();
}

/// A supervisor that is stuck is killed and started again; so is one that was killed.
fn watchdog(host: &Host) {
    watch_closely(host);
    let hit = |signal: &str| {
        let count = property(host, "relmgr", "NRestarts");
        host.sh(&format!("systemctl kill --kill-whom=main --signal={signal} relmgr")).ok();
        wait_for("another supervisor serves", || {
            let again = property(host, "relmgr", "NRestarts") != count;
            (again && answered(host, 8080) == "1.0.0").then_some(())
        });
    };
    hit("STOP");
    let log = host.sh("journalctl --unit=relmgr --output=cat").ok().stdout;
    assert!(log.contains("Watchdog timeout"), "{log}");
    hit("KILL");
}

/// Another node on the same machine has its own home and port.
fn several_nodes(host: &Host, repository: &str) {
    host.sh("install --directory --owner=relmgr --group=relmgr --mode=2750 /var/lib/relmgr-two").ok();
    settle(host, "/var/lib/relmgr-two", "127.0.0.1:8081", repository);
    host.sh("systemctl start relmgr@two && RELMGR_HOME=/var/lib/relmgr-two relmgr upgrade 1.0.1").ok();
    assert_eq!((answered(host, 8080), answered(host, 8081)), ("1.0.0".into(), "1.0.1".into()));
}

/// State tables in shared memory, where nodes have them by default, go with the machine and not with the unit.
#[test]
fn state_tables_outlive_the_unit() {
    let mut network = Network::new();
    network.boot(1);
    let host = &network.hosts[0];
    install(host);
    let repository = publish_on(host, &[&release("tabled", "", "1.0.0")]);
    settle(host, "/var/lib/relmgr", "127.0.0.1:8080", repository);
    let settings = host.path("/var/lib/relmgr/relmgr.toml");
    let text = std::fs::read_to_string(&settings).unwrap();
    std::fs::write(&settings, text.replace("relmgr-faulty", "relmgr-tabled")).unwrap();
    host.sh("systemctl enable --now relmgr").ok();
    host.sh("RELMGR_HOME=/var/lib/relmgr relmgr upgrade 1.0.0").ok();
    let ask = |path: &str| host.sh(&format!("curl --fail --silent http://127.0.0.1:8080{path}"));
    ask("/put/1/10").ok();
    let kept = host.sh("ls -d /dev/shm/relmgr-*").ok().stdout;
    let is_there = |what: &str| {
        wait_for(&format!("what was put is there after {what}"), || {
            (ask("/item/1").stdout == "{\"number\":10}").then_some(())
        });
        assert_eq!(host.sh("ls -d /dev/shm/relmgr-*").ok().stdout, kept, "{what}");
    };
    host.sh("systemctl restart relmgr").ok();
    is_there("a restart");
    host.sh("systemctl stop relmgr").ok();
    host.sh("systemctl start relmgr").ok();
    is_there("a stop and a start");
    for signal in ["KILL", "STOP"] {
        // One that is stopped is killed by the watchdog.
        watch_closely(host);
        let count = property(host, "relmgr", "NRestarts");
        host.sh(&format!("systemctl kill --kill-whom=main --signal={signal} relmgr")).ok();
        wait_for("another supervisor is started", || {
            (property(host, "relmgr", "NRestarts") != count).then_some(())
        });
        is_there(signal);
    }
}
