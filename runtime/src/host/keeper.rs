//! Who keeps a trial: a process between it and the supervisor that runs no line of the release.
//!
//! ```text
//! supervisor
//!   └─ relmgr preflight          the keeper
//!        └─ relmgr preflight     the trial; a copy of the keeper, made before anything of the release is opened
//!             └─ …               what the release starts
//! ```
//!
//! Orphans among the trial's descendants become the keeper's children (PR_SET_CHILD_SUBREAPER), also those that left
//! group and session and forgot their environment. So there is no way out of its family: whoever asks the supervisor
//! something is known for one of a trial by its ancestors (`supervisor::peer`), and when the trial is over all of them
//! are found and ended. The keeper ends last, as the trial has ended: with its exit code, or of its signal.

use std::process::{ExitCode, exit};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::prctl::{set_child_subreaper, set_dumpable, set_pdeathsig};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getpid, getppid};

use super::loader::sys;
use crate::process;

/// Ending what can be ended takes milliseconds.
const END_PATIENCE: Duration = Duration::from_secs(2);

/// What this process is after [`part`].
pub enum Part {
    /// The keeper of that process.
    Keeper(Pid),
    /// The trial.
    Trial,
}

/// What the keeper waits for: the end of a child, and the word of the supervisor, a terminal or the kernel (when the
/// supervisor has died) that it is enough.
fn awaited() -> SigSet {
    [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP].into_iter().collect()
}

/// Makes a copy of this process that is the trial. What the supervisor's parent left open is closed in both. For the
/// start of a process, while it has one thread.
///
/// # Errors
/// What the system says.
pub fn part() -> std::io::Result<Part> {
    sys::close_from(3);
    set_pdeathsig(Signal::SIGTERM)?;
    set_child_subreaper(true)?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    awaited().thread_block()?;
    let keeper = getpid();
    if let Some(trial) = sys::fork()? {
        return Ok(Part::Keeper(trial));
    }
    awaited().thread_unblock()?;
    set_pdeathsig(Signal::SIGKILL)?;
    if getppid() != keeper {
        return Err(std::io::Error::other("its keeper has ended"));
    }
    Ok(Part::Trial)
}

/// Waits until `trial` ends, or until told that it is enough; ends what is left of its family, and then itself.
pub fn keep(trial: Pid) -> ExitCode {
    // What the trial is told and says is between it and the supervisor.
    sys::close_from(0);
    let ended = wait_for(trial);
    end_all();
    match ended {
        Some(WaitStatus::Exited(_, code)) => exit(code),
        Some(WaitStatus::Signaled(_, signal, _)) => end_of(signal),
        // It was enough.
        _ => end_of(Signal::SIGKILL),
    }
}

fn wait_for(trial: Pid) -> Option<WaitStatus> {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => match awaited().wait() {
                Ok(Signal::SIGCHLD) | Err(Errno::EINTR) => {}
                Ok(_) | Err(_) => return None,
            },
            Ok(status) if status.pid() == Some(trial) => return Some(status),
            // An orphan.
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return None,
        }
    }
}

/// Ends every descendant: the children of one that has ended become the keeper's own, until there are none. What cannot
/// be ended, another user's or one that waits for a disk, is left after a while: the trial's word is waited for.
fn end_all() {
    let deadline = Instant::now() + END_PATIENCE;
    while Instant::now() < deadline {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => {
                // Nobody else waits for them, so the numbers are theirs.
                for child in process::children() {
                    let _ = kill(child, Signal::SIGKILL);
                }
                // They end, and a descendant that was in between is a child in the next round.
                std::thread::sleep(Duration::from_millis(1));
            }
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return,
        }
    }
}

/// Ends of `signal`, as if it had been sent to this process, without a core.
fn end_of(signal: Signal) -> ExitCode {
    let _ = set_dumpable(false);
    sys::raise_by_default(signal as libc::c_int);
    // One that does not end a process by default has not ended the trial either.
    ExitCode::FAILURE
}
