//! `cargo relmgr dev` as an editor runs it: its events, read line by line.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::kit::{Done, bin, wait_for};

/// A build takes its time on a busy machine.
const PATIENCE: Duration = Duration::from_secs(180);

/// A session.
pub struct Dev {
    child: Child,
    events: Receiver<Value>,
    home: PathBuf,
    words: PathBuf,
    /// Where its node listens.
    pub address: SocketAddr,
    /// What its node served when it was up.
    pub served: Option<String>,
}

impl Dev {
    /// Starts one for the crate at `manifest`, its home below `place`, and waits until its node answers.
    pub fn start(manifest: &Path, place: &Path, args: &[&str]) -> Self {
        let (home, words) = (place.join("home"), place.join("words"));
        let stderr = std::fs::File::options().create(true).append(true).open(&words).unwrap();
        let mut command = Command::new(bin("cargo-relmgr"));
        command.args(["relmgr", "dev", "--json", "--listen", "127.0.0.1:0", "--offline"]);
        command.arg("--manifest-path").arg(manifest).arg("--home").arg(&home).args(args);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(stderr).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (sender, events) = channel();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let event = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
                if sender.send(event).is_err() {
                    return;
                }
            }
        });
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut dev = Self { child, events, home, words, address: nowhere, served: None };
        let started = dev.next("started");
        dev.address = started["listeners"][0].as_str().unwrap().parse().unwrap();
        dev.served = started["version"].as_str().map(str::to_owned);
        dev
    }

    /// Waits for the next event.
    #[track_caller]
    pub fn any(&mut self) -> Value {
        match self.events.recv_timeout(PATIENCE) {
            Ok(event) => event,
            Err(RecvTimeoutError::Timeout) => panic!("no event for {PATIENCE:?}\n{}", self.words()),
            Err(RecvTimeoutError::Disconnected) => panic!("it has ended\n{}", self.words()),
        }
    }

    /// Waits for an event that is `wanted`.
    #[track_caller]
    pub fn until(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        loop {
            let event = self.any();
            if wanted(&event) {
                return event;
            }
        }
    }

    /// Waits for the next event, which has to be this one.
    #[track_caller]
    pub fn next(&mut self, name: &str) -> Value {
        let event = self.any();
        assert_eq!(event["event"], name, "{event}\n{}", self.words());
        event
    }

    /// Waits until what was saved serves: `changed`, `built`, `serving`; the last of them.
    #[track_caller]
    pub fn serving(&mut self) -> Value {
        self.next("changed");
        self.next("built");
        self.next("serving")
    }

    /// What it has told people so far, with cargo's and the node's words.
    pub fn words(&self) -> String {
        std::fs::read_to_string(&self.words).unwrap_or_default()
    }

    /// Runs `relmgr args…` on its node.
    pub fn relmgr(&self, args: &[&str]) -> Done {
        let mut command = Command::new(bin("relmgr"));
        command.args(args).env("RELMGR_HOME", &self.home).output().unwrap().into()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        wait_for("cargo relmgr dev ends", || self.child.try_wait().unwrap())
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let running = self.child.try_wait().is_ok_and(|ended| ended.is_none());
        if running {
            self.signal(Signal::SIGTERM);
            self.wait();
        }
        if std::thread::panicking() {
            eprintln!("---- what it has told\n{}", self.words());
        }
    }
}
