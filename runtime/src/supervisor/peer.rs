//! Who is at the other end of a connection to the control socket.
//!
//! A release on trial has the node's user, so the socket's mode lets it in; yet what is tried is not to speak with the
//! node that tries it. The kernel says which process has connected; one among whose ancestors there is the keeper of a
//! trial is refused. An orphan stays a descendant of the keeper (`host::keeper`), whatever group, session, user or
//! environment it has, and none outlives the trial.
//!
//! It is no wall: a process that means harm has another one ask, at or sshd or the keeper's debugger, or hides itself
//! where /proc shows only what one may trace. Such a release
//! does harm as soon as it serves, and it is signatures that keep it out. This keeps out what does not know where it
//! runs: a `check` that asks the node for its version, a library that reloads or stops "its" service.

use std::collections::BTreeSet;
use std::sync::Mutex;

use nix::unistd::Pid;
use tokio::net::UnixStream;
use tokio::process::Child;

use super::lock;
use crate::process;

/// The keepers of the trials that run.
static KEEPERS: Mutex<BTreeSet<Pid>> = Mutex::new(BTreeSet::new());

/// A trial that runs, or whatever starts one: its descendants are known as long as this lives.
#[derive(Debug)]
pub struct TrialFamily(Pid);

impl TrialFamily {
    /// That of a `keeper` that was started. `None`: it has ended, and was waited for.
    pub fn of(keeper: &Child) -> Option<Self> {
        let keeper = Pid::from_raw(keeper.id()?.try_into().ok()?);
        lock(&KEEPERS).insert(keeper);
        Some(Self(keeper))
    }
}

impl Drop for TrialFamily {
    fn drop(&mut self) {
        lock(&KEEPERS).remove(&self.0);
    }
}

/// Who has connected.
#[derive(Debug, Clone, Copy)]
pub struct Peer {
    /// Its user.
    pub uid: u32,
    /// Whether it may say anything.
    pub may_speak: bool,
}

impl Peer {
    /// The kernel's word for who is at the other end of `stream`.
    ///
    /// # Errors
    /// What the system says; so too when the process is gone already: it waits for no answer, and nobody can say what
    /// it was.
    pub fn of(stream: &UnixStream) -> std::io::Result<Self> {
        let peer = stream.peer_cred()?;
        // Without a number it lives in another namespace of processes, where no trial does.
        let of_a_trial = match peer.pid().filter(|pid| *pid > 0).map(Pid::from_raw) {
            Some(pid) => descends_from(pid, &lock(&KEEPERS))?,
            None => false,
        };
        Ok(Self { uid: peer.uid(), may_speak: !of_a_trial })
    }
}

/// A process with more of them, or whose ancestors end faster than they are looked at, is not waited for.
const MOST_ANCESTORS: usize = 1024;

/// Whether one of `keepers` is process `pid` or an ancestor of it.
fn descends_from(pid: Pid, keepers: &BTreeSet<Pid>) -> std::io::Result<bool> {
    let mut at = pid;
    for _ in 0..MOST_ANCESTORS {
        if keepers.contains(&at) {
            return Ok(true);
        }
        at = match process::parent(at) {
            // The first of all has none here, and so has one whose parent is in another namespace.
            Some(parent) if parent.as_raw() == 0 => return Ok(false),
            Some(parent) => parent,
            // Hidden (proc(5), hidepid): sshd's, say, or one that has hidden itself.
            None if process::is_there(at) => return Ok(false),
            None if at == pid => return Err(std::io::Error::other("the process is gone")),
            // An ancestor that has ended meanwhile: its children have another parent, one that is nearer to a keeper.
            None => pid,
        };
    }
    Err(std::io::Error::other("its ancestors do not come to an end"))
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[tokio::test]
    async fn who_has_connected_and_lives_may_speak() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let peer = Peer::of(&ours).unwrap();
        assert_eq!((peer.uid, peer.may_speak), (nix::unistd::getuid().as_raw(), true));
    }

    #[test]
    fn a_descendant_is_known_by_its_ancestors() {
        use std::io::{BufRead, BufReader};

        // A shell, its child and that one's child, which says its number and waits.
        let script = "sh -c 'sh -c \"echo \\$\\$; read line\"; true'; true";
        let mut shell = Command::new("sh");
        let shell = shell.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut shell = shell.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(shell.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let youngest = Pid::from_raw(line.trim().parse().unwrap());
        let oldest = Pid::from_raw(shell.id().try_into().unwrap());
        assert_ne!(process::parent(youngest), Some(oldest), "there is one in between");
        let known = |keeper| descends_from(youngest, &BTreeSet::from([keeper])).unwrap();
        assert!(known(youngest) && known(oldest) && known(nix::unistd::getpid()));
        // A sibling, and nobody.
        let mut other = Command::new("sleep").arg("600").spawn().unwrap();
        assert!(!known(Pid::from_raw(other.id().try_into().unwrap())));
        assert!(!descends_from(youngest, &BTreeSet::new()).unwrap());
        other.kill().unwrap();
        other.wait().unwrap();
        drop(shell.stdin.take());
        shell.wait().unwrap();
        assert!(descends_from(youngest, &BTreeSet::from([oldest])).is_err(), "it is gone");
    }
}
