//! A machine that boots from nothing with cloud-init's example as its user data.

use super::fleet::Fleet;
use super::{Done, Host};
use relmgr_store::digest;
use relmgr_testkit::deb;
use serde_json::{Value, json};

/// Its source of data, and the steps that belong to it; what else Debian has it do (disks, users, keys) is the machine's
/// own matter and none of the example's.
const CLOUD: &str = "datasource_list: [NoCloud]
network: {config: disabled}
system_info: {distro: debian, paths: {cloud_dir: /var/lib/cloud/, templates_dir: /etc/cloud/templates/}}
cloud_init_modules: [write-files]
cloud_config_modules: [runcmd]
cloud_final_modules: [scripts-user]
";

/// `cloud-init/user-data.yml` with what is the reader's to put in: the repository and its key, the region, where the
/// package lies and its digest. The fixture has no setting.
fn user_data(fleet: &Fleet, package: &str, sha256: &str) -> String {
    let mut text = std::fs::read_to_string(super::script("cloud-init/user-data.yml")).unwrap();
    let indented = |lines: String| lines.trim_end().replace('\n', "\n      ");
    for (example, here) in [
        ("\"live-poll\"", "\"relmgr-faulty\"".to_owned()),
        (
            "url = \"s3://example-app-packages/live-poll\"\n      trusted_keys = [\"RWQ…\"]",
            indented(fleet.repository()),
        ),
        ("logger.level = info", "# Nothing is set.".into()),
        ("AWS_REGION=eu-central-1", indented(fleet.node_environment())),
        ("https://packages.example.com/relmgr.deb", format!("file://{package}")),
        (&"0".repeat(64), sha256.into()),
    ] {
        assert_eq!(text.matches(example).count(), 1, "{example}");
        text = text.replace(example, &here);
    }
    text
}

/// Boots one more host of `fleet` and has the real cloud-init do its part: when it is done, the host serves. Before that,
/// a package whose digest is another one is not installed.
pub fn boot(fleet: &mut Fleet) {
    fleet.network.boot(1);
    let host = fleet.network.hosts.last().unwrap();
    assert!(!host.path("/usr/bin/relmgr").exists() && !host.path("/var/lib/relmgr").exists());
    let package = std::fs::read(deb::build("dev")).unwrap();
    std::fs::write(host.path("/srv/relmgr.deb"), &package).unwrap();
    let (stages, status) = cloud_init(host, &user_data(fleet, "/srv/relmgr.deb", &"1".repeat(64)));
    assert!(host.path("/var/cache/relmgr.deb").exists(), "it was downloaded: {stages:?}");
    assert!(
        !host.path("/usr/bin/relmgr").exists(),
        "another package than the one that was pinned is installed"
    );
    host.sh("dpkg --status relmgr").failed(1, &["relmgr"]);
    assert_ne!(status["v1"]["modules-final"]["errors"], json!([]), "it is told: {status}");

    let right = digest::of_bytes(&package).sha256;
    let (stages, status) = cloud_init(host, &user_data(fleet, "/srv/relmgr.deb", &right));
    for (stage, done) in &stages {
        assert_eq!(done.code, 0, "cloud-init {stage}: {}", done.stdout);
    }
    for stage in ["init-local", "init", "modules-config", "modules-final"] {
        assert_eq!(status["v1"][stage]["errors"], json!([]), "{stage}: {status}");
    }
}

/// A first boot with `data`: what each stage of cloud-init said, and what it says of all of them.
fn cloud_init(host: &Host, data: &str) -> (Vec<(&'static str, Done)>, Value) {
    host.sh("rm -rf /etc/cloud/cloud-init.disabled /var/lib/cloud && mkdir -p /var/lib/cloud/seed/nocloud")
        .ok();
    for (path, text) in [
        ("/etc/cloud/cloud.cfg", CLOUD),
        ("/var/lib/cloud/seed/nocloud/meta-data", "instance-id: i-0123456789abcdef0\n"),
        ("/var/lib/cloud/seed/nocloud/user-data", data),
    ] {
        std::fs::write(host.path(path), text)
            .unwrap_or_else(|error| panic!("{path}: {error}: cloud-init is missing: `cargo xtask setup`"));
    }
    // What its units run, one after another.
    let stages = ["init --local", "init", "modules --mode=config", "modules --mode=final"];
    let run = |stage: &'static str| (stage, host.sh(&format!("cloud-init {stage} 2>&1")));
    let stages = stages.into_iter().map(run).collect();
    let status = std::fs::read_to_string(host.path("/var/lib/cloud/data/status.json")).unwrap();
    (stages, serde_json::from_str(&status).unwrap())
}
