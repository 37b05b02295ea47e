//! What upgrade-scripts/ holds, against real programs: hosts with their own systemd and sshd, Capistrano, Ansible, S3.

mod ansible;
mod capistrano;
mod cloud;
mod deploy;
mod ec2;
mod fleet;
mod iam;
mod killed;
mod notify;
mod pipeline;
mod recipes;
mod story;
mod systemd;

use std::process::Command;

use relmgr_testkit::deb;
use relmgr_testkit::hosts::{Host, Network};
use relmgr_testkit::kit::{Done, Release, bin, release, wait_for, workspace};

/// A script of upgrade-scripts/.
fn script(name: &str) -> std::path::PathBuf {
    workspace().join("upgrade-scripts").join(name)
}

/// Good ones, of the application relmgr-faulty.
fn releases() -> (Release, Release) {
    (release("faulty", "", "1.0.0"), release("faulty", "second", "1.0.1"))
}

/// Installs the Debian package of relmgr, as a person does it.
fn install(host: &Host) {
    std::fs::copy(deb::build("dev"), host.path("/tmp/relmgr.deb")).unwrap();
    host.sh("dpkg --install /tmp/relmgr.deb && usermod --append --groups relmgr deploy").ok();
}

/// Writes the node's settings; `repository` is the table of that name.
fn settle(host: &Host, home: &str, listen: &str, repository: &str) {
    let settings = format!(
        "app = \"relmgr-faulty\"\n[listen]\nhttp = [\"{listen}\"]\n[upgrade]\nprobation = \"0s\"\nstart = \"60s\"\ndrain = \"2s\"\n\
         [repository]\n{repository}\n"
    );
    std::fs::write(host.path(&format!("{home}/relmgr.toml")), settings).unwrap();
}

/// Publishes `releases` in a directory of the host; the table `[repository]` of who fetches from it.
fn publish_on(host: &Host, releases: &[&Release]) -> &'static str {
    std::fs::create_dir_all(host.path("/srv/packages")).unwrap();
    for release in releases {
        let url = format!("file://{}", host.path("/srv/packages").display());
        let mut command = Command::new(bin("cargo-relmgr"));
        command.args(["relmgr", "publish", "--no-delta", "--repository", &url]).arg(&release.out);
        Done::from(command.output().unwrap()).ok();
    }
    "url = \"file:///srv/packages\"\nallow_unsigned = true"
}

/// What the host itself is answered when it asks its node which version serves.
fn answered(host: &Host, port: u16) -> String {
    host.sh(&format!("curl --fail --silent http://127.0.0.1:{port}/api/public/version")).stdout
}
