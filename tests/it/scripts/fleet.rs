//! Hosts with a node each, that fetch signed releases from one S3 server.

use std::process::{Command, Stdio};

use super::{Done, Host, Network, Release, bin, install, releases, settle, wait_for};
use relmgr_testkit::load::{Load, Request};
use relmgr_testkit::s3::S3Server;

/// Some hosts, and what CI has.
pub struct Fleet {
    pub network: Network,
    pub server: S3Server,
    public_key: String,
}

impl Fleet {
    /// A server with nothing in it, and no hosts yet.
    pub fn new() -> Self {
        let network = Network::new();
        let server = S3Server::start_on(network.gateway());
        let key = network.directory().join("ci.key").display().to_string();
        let made = Command::new(bin("cargo-relmgr"))
            .args(["relmgr", "keygen", "--no-password", "--out", &key])
            .output()
            .unwrap();
        Self { network, server, public_key: Done::from(made).ok().stdout.trim().to_owned() }
    }

    /// As many hosts as named, each of which serves the first good release; both are published.
    pub fn serving(hosts: usize) -> Self {
        let mut fleet = Self::new();
        let (one, two) = releases();
        fleet.publish(&one);
        fleet.boot(hosts);
        for host in &fleet.network.hosts {
            fleet.start(host);
            host.sh("relmgr upgrade").ok();
        }
        fleet.publish(&two);
        fleet
    }

    /// Boots `count` more hosts, with relmgr installed and the node's settings written; nothing runs yet.
    pub fn boot(&mut self, count: usize) {
        let before = self.network.hosts.len();
        self.network.boot(count);
        for host in &self.network.hosts[before..] {
            install(host);
            settle(host, "/var/lib/relmgr", "0.0.0.0:8080", &self.repository());
            std::fs::write(host.path("/etc/default/relmgr"), self.node_environment()).unwrap();
        }
    }

    /// Starts the node of a host.
    pub fn start(&self, host: &Host) {
        host.sh("systemctl enable --now relmgr").ok();
    }

    /// The table `[repository]` of a node.
    pub fn repository(&self) -> String {
        format!(
            "url = \"{}\"\nendpoint_url = \"{}\"\ntrusted_keys = [\"{}\"]",
            self.server.url(),
            self.server.endpoint(),
            self.public_key
        )
    }

    /// The public key of who signs.
    pub fn public_key(&self) -> &str {
        &self.public_key
    }

    /// The lines of a node's environment.
    pub fn node_environment(&self) -> String {
        self.server.environment().iter().map(|(name, value)| format!("{name}={value}\n")).collect()
    }

    /// `program args…` as CI runs it: with the scripts' commands on its PATH, the bucket and the key that signs.
    pub fn ci(&self, program: impl AsRef<std::ffi::OsStr>, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        let binaries = bin("relmgr").parent().unwrap().display().to_string();
        let path = format!("{binaries}:{}", std::env::var("PATH").unwrap_or_default());
        command.args(args).env("PATH", path).envs(self.server.environment());
        command.env("RELMGR_REPOSITORY", self.server.url());
        command.env("RELMGR_KEY_FILE", self.network.directory().join("ci.key"));
        command.env("RELMGR_TRUSTED_KEYS", &self.public_key).stdin(Stdio::null());
        command
    }

    /// Runs it to its end.
    pub fn run(&self, program: impl AsRef<std::ffi::OsStr>, args: &[&str]) -> Done {
        self.ci(program, args).output().unwrap().into()
    }

    /// `deploy.sh -F … args…`
    pub fn deploy(&self, args: &[&str]) -> Done {
        let config = self.network.ssh_config().display().to_string();
        let args: Vec<&str> = ["-F", &config].iter().chain(args).copied().collect();
        self.run(super::script("deploy.sh"), &args)
    }

    /// Publishes a release, and has the default channel name it.
    pub fn publish(&self, release: &Release) {
        self.run(bin("cargo-relmgr"), &["relmgr", "publish", release.out.to_str().unwrap()]).ok();
    }

    /// Where each host's node answers which version serves.
    pub fn urls(&self) -> Vec<String> {
        let url = |host: &Host| format!("http://{}:8080/api/public/version", host.address);
        self.network.hosts.iter().map(url).collect()
    }

    /// What each host serves.
    pub fn versions(&self) -> Vec<String> {
        self.network.hosts.iter().map(|host| super::answered(host, 8080)).collect()
    }

    /// Whatever `act` does, while a release on this host serves on probation first and clients ask for `/`.
    pub fn on_probation<T>(&self, host: &Host, act: impl FnOnce() -> T) -> T {
        let path = host.path("/var/lib/relmgr/relmgr.toml");
        let settings = std::fs::read_to_string(&path).unwrap();
        let watched = settings.replace("probation = \"0s\"", "probation = \"50s\"");
        assert_ne!(watched, settings);
        std::fs::write(&path, watched).unwrap();
        host.sh("systemctl restart relmgr").ok();
        let load = Self::load(host);
        let done = act();
        drop(load.stop());
        std::fs::write(&path, settings).unwrap();
        host.sh("systemctl restart relmgr").ok();
        done
    }

    /// Clients of a host's node.
    pub fn load(host: &Host) -> Load {
        Load::start((host.address, 8080).into(), &[Request::get("/")], 4)
    }

    /// Starts an operation on a host that does not end by itself for a minute, and waits until it is under way.
    pub fn occupy(&self, host: &Host, version: &str) {
        host.sh(&format!("relmgr upgrade --detach {version}")).ok();
        wait_for("the operation is under way", || {
            host.sh("relmgr status --json | grep -q '\"upgrading\"'").code.eq(&0).then_some(())
        });
    }

    /// Ends that operation by a death of the node, which serves what it served before.
    pub fn free(&self, host: &Host) {
        host.sh("systemctl kill --kill-whom=main --signal=KILL relmgr").ok();
        wait_for("the node serves again", || (!super::answered(host, 8080).is_empty()).then_some(()));
    }
}
