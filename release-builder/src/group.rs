//! Process groups: what runs for us, and everything that it has started, ended as a whole.

use std::process::{Child, Command, ExitStatus};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;

/// Kills the group that `leader` leads, which nobody has waited for yet: later its number may be another's.
pub(crate) fn kill(leader: u32) {
    // An error means that nobody is left in it.
    let _ = killpg(pid(leader), Signal::SIGKILL);
}

fn pid(number: u32) -> Pid {
    // No process of Linux has a number beyond.
    Pid::from_raw(i32::try_from(number).unwrap_or(i32::MAX))
}

/// A command at a time, in a group of its own, which somebody else may end.
#[derive(Debug, Default)]
pub(crate) struct Group(Mutex<State>);

#[derive(Debug, Default)]
enum State {
    #[default]
    Idle,
    /// The leader's number.
    Runs(u32),
    /// Nothing is started any more.
    Ended,
}

impl Group {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts `command`.
    ///
    /// # Errors
    /// The system's, and `Interrupted` after [`Group::end`].
    pub(crate) fn spawn(&self, command: &mut Command) -> std::io::Result<Child> {
        let mut state = self.lock();
        if matches!(*state, State::Ended) {
            return Err(std::io::ErrorKind::Interrupted.into());
        }
        let child = std::os::unix::process::CommandExt::process_group(command, 0).spawn()?;
        *state = State::Runs(child.id());
        Ok(child)
    }

    /// Waits for the end of the command that was started last.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn wait(&self, child: &mut Child) -> std::io::Result<ExitStatus> {
        // Without taking its number away, which may be killed meanwhile.
        let ended = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
        while let Err(error) = waitid(Id::Pid(pid(child.id())), ended) {
            if error != Errno::EINTR {
                return Err(error.into());
            }
        }
        let mut state = self.lock();
        if matches!(*state, State::Runs(_)) {
            *state = State::Idle;
        }
        child.wait()
    }

    /// Kills what runs, and starts nothing any more.
    pub(crate) fn end(&self) {
        let mut state = self.lock();
        if let State::Runs(leader) = *state {
            kill(leader);
        }
        *state = State::Ended;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_ends_with_all_that_it_has_started_and_none_follows() {
        let group = Group::default();
        let mut through = group.spawn(&mut Command::new("true")).unwrap();
        assert!(group.wait(&mut through).unwrap().success());
        // What it starts would hold the pipe open.
        let mut shell = Command::new("sh");
        shell.args(["-c", "sleep 3600 & wait"]).stdout(std::process::Stdio::piped());
        let mut waits = group.spawn(&mut shell).unwrap();
        let pipe = waits.stdout.take().unwrap();
        group.end();
        assert_eq!(std::io::read_to_string(pipe).unwrap(), "");
        assert!(!group.wait(&mut waits).unwrap().success());
        let refused = group.spawn(&mut Command::new("true")).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::Interrupted);
    }
}
