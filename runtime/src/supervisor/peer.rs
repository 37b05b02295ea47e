//! Who is at the other end of a connection to the control socket.
//!
//! A release on trial has the node's user, so the socket's mode lets it in; yet what is tried is not to speak with the
//! node that tries it. The trial is started with a variable in its environment, which whatever it starts inherits, in
//! a session of its own or as an orphan too; and the kernel says which process has connected.
//!
//! It is no wall: a process that means harm starts another without the variable. Such a release does harm as soon as it
//! serves, and it is signatures that keep it out. This keeps out what does not know where it runs: a `check` that asks
//! the node for its version, a library that reloads or stops "its" service.

use std::io::ErrorKind;

use tokio::net::UnixStream;

/// Set for a trial, and so for all that it starts.
pub const TRIAL: &str = "RELMGR_TRIAL";

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
    pub async fn of(stream: &UnixStream) -> std::io::Result<Self> {
        let peer = stream.peer_cred()?;
        let uid = peer.uid();
        // A trial has the node's user. Without a number it lives in another namespace of processes, where none does.
        let pid = peer.pid().filter(|pid| *pid > 0 && uid == nix::unistd::getuid().as_raw());
        let Some(pid) = pid else { return Ok(Self { uid, may_speak: true }) };
        let may_speak = match tokio::fs::read(format!("/proc/{pid}/environ")).await {
            Ok(environment) => !is_of_a_trial(&environment),
            Err(error) if is_gone(&error) => return Err(error),
            // sshd's, say, which lets nobody look at it.
            Err(_) => true,
        };
        Ok(Self { uid, may_speak })
    }
}

/// Whether a process of this `environment` is part of a trial.
fn is_of_a_trial(environment: &[u8]) -> bool {
    let is_it =
        |variable: &[u8]| variable.strip_prefix(TRIAL.as_bytes()).is_some_and(|rest| rest.starts_with(b"="));
    environment.split(|byte| *byte == 0).any(is_it)
}

fn is_gone(error: &std::io::Error) -> bool {
    error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_tells_a_trial() {
        assert!(is_of_a_trial(b"HOME=/root\0RELMGR_TRIAL=1\0") && is_of_a_trial(b"RELMGR_TRIAL=\0"));
        assert!(!is_of_a_trial(b"") && !is_of_a_trial(b"RELMGR_TRIALS=1\0X=RELMGR_TRIAL=1\0"));
    }

    #[tokio::test]
    async fn who_has_connected_and_lives_may_speak_and_who_is_gone_is_not_heard() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let peer = Peer::of(&ours).await.unwrap();
        assert_eq!((peer.uid, peer.may_speak), (nix::unistd::getuid().as_raw(), true));
        drop(theirs);
        let gone = std::io::Error::from_raw_os_error;
        assert!(is_gone(&gone(libc::ENOENT)) && is_gone(&gone(libc::ESRCH)) && !is_gone(&gone(libc::EACCES)));
    }
}
