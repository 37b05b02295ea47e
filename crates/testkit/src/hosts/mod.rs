//! Hosts for tests: each has its own network, processes, file system and systemd, and a real sshd in it.
//!
//! A host is made of namespaces: its root is this machine's with an overlay in memory, so what is installed here is
//! there, and what it writes is gone with it. A bridge connects the hosts with the test. All of it ends with the test,
//! however that ends.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::kit::{Done, wait_for};

/// What a host's first process runs.
const BOOT: &str = include_str!("boot.sh");

/// Who may log in: `deploy`, who is nobody special, and root.
const SSHD: &str = "Port 22\nHostKey /etc/ssh/relmgr_test_key\nPermitRootLogin prohibit-password\n\
                    PasswordAuthentication no\nKbdInteractiveAuthentication no\nUsePAM no\nAuthorizedKeysFile /etc/ssh/authorized_keys\n\
                    Subsystem sftp internal-sftp\n";

/// Bridges are named by it and the test's pid; with the number of a host, at most 15 letters.
const BRIDGE: &str = "rmt";

/// A network of hosts.
pub struct Network {
    bridge: String,
    prefix: [u8; 3],
    root: tempfile::TempDir,
    /// The hosts, by their place: `www1`, `www2`, …
    pub hosts: Vec<Host>,
}

/// One host.
pub struct Host {
    /// What `ssh -F` with [`Network::ssh_config`] knows it by.
    pub name: String,
    /// Its address, which the test reaches.
    pub address: Ipv4Addr,
    /// Its systemd, as this machine counts processes.
    init: i32,
    process: Child,
}

/// Runs a program that has to succeed, for what only root may do.
#[track_caller]
fn must(program: &str, args: &[&str]) {
    let done = Command::new(program).args(args).output();
    let done = done.unwrap_or_else(|error| panic!("{program} is missing ({error}): `cargo xtask setup`"));
    let words = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{program} {args:?}: {words} (hosts are made by root, with namespaces)");
}

impl Network {
    /// A network with no host yet, and keys to log in with.
    pub fn new() -> Self {
        for program in ["ip", "unshare", "setpriv", "nsenter", "sshd", "ssh", "ssh-keygen"] {
            let found = Command::new("which").arg(program).output().unwrap().status.success();
            assert!(found, "{program} is missing: `cargo xtask setup` installs what the hosts of tests need");
        }
        remove_abandoned();
        let pid = std::process::id();
        let [.., high, low] = pid.to_be_bytes();
        let bridge = format!("{BRIDGE}{pid}");
        // Two of the few tests that do this at the same time differ in their pid's last 14 bits.
        let prefix = [10, 64 + high % 64, low];
        let network = Self { bridge, prefix, root: tempfile::tempdir().unwrap(), hosts: vec![] };
        must("ip", &["link", "add", &network.bridge, "type", "bridge"]);
        let address = format!("{}/24", network.gateway());
        must("ip", &["address", "add", &address, "dev", &network.bridge]);
        must("ip", &["link", "set", &network.bridge, "up"]);
        network.keygen("id");
        std::fs::write(network.root.path().join("known_hosts"), "").unwrap();
        network
    }

    /// This machine, as the hosts see it.
    pub fn gateway(&self) -> Ipv4Addr {
        self.address(1)
    }

    /// An address that nobody has.
    pub fn nobody(&self) -> Ipv4Addr {
        self.address(250)
    }

    fn address(&self, last: u8) -> Ipv4Addr {
        let [a, b, c] = self.prefix;
        Ipv4Addr::new(a, b, c, last)
    }

    /// A directory for the test's files.
    pub fn directory(&self) -> &Path {
        self.root.path()
    }

    /// Makes a key pair; the path of the secret key.
    pub fn keygen(&self, name: &str) -> PathBuf {
        let path = self.root.path().join(name);
        must("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-C", name, "-f", path.to_str().unwrap()]);
        path
    }

    /// What `ssh -F` reads: every host by its name, with its key known.
    pub fn ssh_config(&self) -> PathBuf {
        self.root.path().join("ssh_config")
    }

    /// The hosts' public keys.
    pub fn known_hosts(&self) -> PathBuf {
        self.root.path().join("known_hosts")
    }

    /// Boots `count` more hosts and waits until one can log in.
    pub fn boot(&mut self, count: usize) {
        let before = self.hosts.len();
        for at in before..before + count {
            let host = self.spawn(at);
            self.hosts.push(host);
        }
        self.write_ssh_config();
        for at in before..before + count {
            if let Err(words) = self.wait_up(at) {
                // systemd ends now and then before it has said a word, when others begin beside it.
                eprintln!("once more: {words}");
                self.hosts[at] = self.spawn(at);
                self.wait_up(at).unwrap();
            }
        }
    }

    fn wait_up(&mut self, at: usize) -> Result<(), String> {
        let root = self.root.path();
        let host = &mut self.hosts[at];
        let address = SocketAddr::from((host.address, 22));
        wait_for(&format!("{} lets one log in", host.name), || {
            if let Some(status) = host.process.try_wait().unwrap() {
                let log = std::fs::read_to_string(root.join(format!("{}.log", host.name))).unwrap();
                return Some(Err(format!("{} does not boot ({status}): {log}", host.name)));
            }
            TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok().map(|_| Ok(()))
        })
    }

    // Each on the test's own thread, whose end is the hosts'.
    fn spawn(&self, at: usize) -> Host {
        let number = u8::try_from(at + 1).unwrap();
        let (name, address) = (format!("www{number}"), self.address(number + 1));
        let base = self.root.path().join(&name);
        std::fs::create_dir_all(&base).unwrap();
        let script = self.root.path().join("boot.sh");
        std::fs::write(&script, BOOT).unwrap();
        let log = std::fs::File::create(self.root.path().join(format!("{name}.log"))).unwrap();
        let mut process = Command::new("setpriv")
            .args([
                "--pdeathsig",
                "KILL",
                "unshare",
                "--mount",
                "--net",
                "--pid",
                "--uts",
                "--ipc",
                "--cgroup",
            ])
            .args(["--fork", "--kill-child", "bash"])
            .args([&script, &base])
            .args([&name, &address.to_string(), &self.gateway().to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let init = line.trim().parse().unwrap_or_else(|_| {
            let log = std::fs::read_to_string(self.root.path().join(format!("{name}.log"))).unwrap();
            panic!("no host can be made here (namespaces, overlayfs and tmpfs as root are needed): {log}")
        });
        let host = Host { name, address, init, process };
        self.connect(host, number)
    }

    fn connect(&self, mut host: Host, number: u8) -> Host {
        let outer = format!("{}v{number}", self.bridge);
        let init = host.init.to_string();
        // That of a host which did not boot may be there still.
        let _ = Command::new("ip").args(["link", "delete", &outer]).stderr(Stdio::null()).status();
        must("ip", &["link", "add", &outer, "type", "veth", "peer", "name", "eth0", "netns", &init]);
        must("ip", &["link", "set", &outer, "master", &self.bridge, "up"]);
        let key = self.root.path().join(format!("{}_key", host.name));
        if !key.exists() {
            self.keygen(&format!("{}_key", host.name));
        }
        // Before systemd starts sshd: the overlay is there, the rest waits for the line.
        let root = self.root.path().join(&host.name).join("root");
        let root = PathBuf::from(format!("/proc/{init}/root{}", root.display()));
        let write = |path: &str, bytes: &[u8], mode| {
            use std::os::unix::fs::PermissionsExt;
            let path = root.join(path);
            std::fs::write(&path, bytes).unwrap();
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        write("etc/ssh/sshd_config", SSHD.as_bytes(), 0o644);
        write("etc/ssh/relmgr_test_key", &std::fs::read(&key).unwrap(), 0o600);
        let user = std::fs::read(self.root.path().join("id.pub")).unwrap();
        write("etc/ssh/authorized_keys", &user, 0o644);
        let public = std::fs::read_to_string(key.with_extension("pub")).unwrap();
        let mut known = std::fs::File::options().append(true).open(self.known_hosts()).unwrap();
        writeln!(known, "{},{} {}", host.name, host.address, public.trim()).unwrap();
        host.process.stdin.take().unwrap().write_all(b"go\n").unwrap();
        host
    }

    fn write_ssh_config(&self) {
        let (known, key) = (self.known_hosts(), self.root.path().join("id"));
        let mut text = String::new();
        for Host { name, address, .. } in &self.hosts {
            text += &format!("Host {name}\n  HostName {address}\n  HostKeyAlias {name}\n");
        }
        text += &format!(
            "Host *\n  User deploy\n  IdentityFile {}\n  IdentitiesOnly yes\n  UserKnownHostsFile {}\n  \
             GlobalKnownHostsFile /dev/null\n  StrictHostKeyChecking yes\n",
            key.display(),
            known.display()
        );
        std::fs::write(self.ssh_config(), text).unwrap();
    }
}

impl Default for Network {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for host in &self.hosts {
                let log = host.command("journalctl", &["--no-pager", "--lines=60", "--output=cat"]).output();
                let log = log.map(|log| String::from_utf8_lossy(&log.stdout).into_owned());
                let boot = self.root.path().join(format!("{}.log", host.name));
                let boot = std::fs::read_to_string(boot).unwrap_or_default();
                eprintln!("---- the journal of {}\n{boot}{}", host.name, log.unwrap_or_default());
                let processes = host.command("ps", &["-eo", "pid,etimes,stat,args"]).output();
                let processes = processes.map(|found| String::from_utf8_lossy(&found.stdout).into_owned());
                eprintln!("---- its processes\n{}", processes.unwrap_or_default());
            }
        }
        self.hosts.clear();
        let _ = Command::new("ip").args(["link", "delete", &self.bridge]).output();
    }
}

/// Bridges of tests that were killed; their hosts ended with them.
fn remove_abandoned() {
    for entry in std::fs::read_dir("/sys/class/net").unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap_or_default();
        let pid = name.strip_prefix(BRIDGE).filter(|pid| pid.bytes().all(|byte| byte.is_ascii_digit()));
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            let _ = Command::new("ip").args(["link", "delete", &name]).output();
        }
    }
}

impl Host {
    /// `program args…` in the host, as root.
    pub fn command(&self, program: &str, args: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.init.to_string(), "--mount", "--net", "--pid", "--uts", "--ipc"]);
        command.args(["--cgroup", "--root", "--wdns=/", program]).args(args);
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("HOME", "/root");
        command
    }

    /// Runs a shell's words in the host, as root.
    pub fn sh(&self, words: &str) -> Done {
        self.command("bash", &["-euo", "pipefail", "-c", words]).output().unwrap().into()
    }

    /// A file of the host, as this machine sees it.
    pub fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.init))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Its systemd is killed with it, and with that all that runs there.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
