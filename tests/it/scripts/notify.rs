//! What the supervisor tells who started it: sd_notify's words on a socket of the test.

use std::os::unix::net::UnixDatagram;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};

use super::{release, wait_for};
use relmgr_testkit::kit::Node;

/// A socket, and the messages that have come so far.
struct Socket {
    directory: tempfile::TempDir,
    heard: Arc<Mutex<Vec<String>>>,
}

impl Socket {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(directory.path().join("notify")).unwrap();
        let heard = Arc::new(Mutex::new(vec![]));
        let written = heard.clone();
        // Ends with the test's process.
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(read) = socket.recv(&mut buffer) {
                written.lock().unwrap().push(String::from_utf8_lossy(&buffer[..read]).into_owned());
            }
        });
        Self { directory, heard }
    }

    fn heard(&self) -> Vec<String> {
        self.heard.lock().unwrap().clone()
    }

    fn count(&self, word: &str) -> usize {
        self.heard().iter().filter(|message| message.lines().any(|line| line == word)).count()
    }

    fn wait(&self, word: &str, more_than: usize) {
        wait_for(word, || (self.count(word) > more_than).then_some(()));
    }
}

#[test]
fn the_supervisors_own_loop_answers_the_watchdog_and_says_ready_reloading_and_stopping() {
    let socket = Socket::new();
    let path = socket.directory.path().join("notify").display().to_string();
    let mut node = Node::new("relmgr-faulty", "");
    node.publish(&release("faulty", "", "1.0.0"));
    node.start_with(&[("NOTIFY_SOCKET", &path), ("WATCHDOG_USEC", "300000")]);
    socket.wait("READY=1", 0);
    socket.wait("STATUS=relmgr-faulty: no release serves", 0);
    node.relmgr(&["upgrade"]).ok();
    socket.wait("STATUS=relmgr-faulty 1.0.0 serves", 0);
    socket.wait("WATCHDOG=1", 2);
    // What it starts is not what systemd watches.
    let environment = std::fs::read(format!("/proc/{}/environ", node.host_pid())).unwrap();
    let environment = String::from_utf8_lossy(&environment).into_owned();
    assert!(!environment.contains("NOTIFY_SOCKET") && !environment.contains("WATCHDOG"), "{environment}");

    // Stuck, whoever else lives: the host serves on, and nothing is answered.
    kill(node.supervisor_pid(), Signal::SIGSTOP).unwrap();
    let stat = format!("/proc/{}/stat", node.supervisor_pid());
    wait_for("it stands still", || std::fs::read_to_string(&stat).unwrap().contains(") T ").then_some(()));
    // What it had sent before has been read once three turns have brought no more.
    let settled = std::time::Instant::now();
    let (mut seen, mut since) = (socket.count("WATCHDOG=1"), settled);
    wait_for("no word comes for a second", || {
        if socket.count("WATCHDOG=1") != seen {
            (seen, since) = (socket.count("WATCHDOG=1"), std::time::Instant::now());
        }
        (since.elapsed() > Duration::from_secs(1)).then_some(())
    });
    kill(node.supervisor_pid(), Signal::SIGCONT).unwrap();
    socket.wait("WATCHDOG=1", seen);

    let ready = socket.count("READY=1");
    kill(node.supervisor_pid(), Signal::SIGHUP).unwrap();
    socket.wait("RELOADING=1", 0);
    socket.wait("READY=1", ready);
    let reloading = socket.heard().into_iter().find(|message| message.contains("RELOADING=1")).unwrap();
    assert!(reloading.contains("MONOTONIC_USEC="), "{reloading}");
    kill(node.supervisor_pid(), Signal::SIGTERM).unwrap();
    assert_eq!(node.wait_supervisor(), Some(0));
    assert_eq!(socket.count("STOPPING=1"), 1);
}

#[test]
fn the_wrapper_in_the_home_starts_upgrades_and_stops_the_node() {
    let node = Node::new("relmgr-faulty", "");
    node.publish(&release("faulty", "", "1.0.0"));
    // It is written by the first start.
    let mut first = Node::new("relmgr-faulty", "");
    first.start();
    std::fs::create_dir(node.home().join("bin")).unwrap();
    let path = node.home().join("bin/relmgr-faulty");
    std::fs::copy(first.home().join("bin/relmgr-faulty"), &path).unwrap();
    let wrapper = |args: &[&str]| -> super::Done {
        std::process::Command::new(&path).args(args).output().unwrap().into()
    };
    wrapper(&[]).failed(2, &["upgrade [VERSION]"]);
    wrapper(&["ping"]).failed(4, &["no node is running"]);
    let started = wrapper(&["start"]).ok();
    assert!(started.stdout.contains("relmgr-faulty answers"), "{started:?}");
    wrapper(&["start"]).ok();
    wrapper(&["upgrade", "1.0.0"]).ok();
    assert!(wrapper(&["remote", "status"]).ok().stdout.contains("1.0.0"));
    wrapper(&["downgrade"]).failed(1, &[]);
    wrapper(&["stop"]).ok();
    wrapper(&["ping"]).failed(4, &[]);
    // One that cannot start says why.
    std::fs::write(node.home().join("relmgr.toml"), "nonsense = 1\n").unwrap();
    wrapper(&["start"]).failed(1, &["nonsense", "the node did not start; its log is"]);
}
