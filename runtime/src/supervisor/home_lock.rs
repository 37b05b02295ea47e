//! The lock of a home: of two supervisors only one runs it.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal;
use nix::unistd::Pid;
use relmgr_model::home::Home;

use super::RunError;

/// How long a process that a supervisor was starting when it was killed may hold the lock: from its fork to its exec
/// it has the descriptor, too.
const LEFT: Duration = Duration::from_secs(5);

/// Takes the home's lock, which ends with the process however that ends.
///
/// # Errors
/// [`RunError::Locked`] and [`RunError::Io`].
pub fn take(home: &Home) -> Result<Flock<File>, RunError> {
    let path = home.lock();
    let opened = File::options().read(true).write(true).create(true).truncate(false).open(&path);
    let unwritten = |source| RunError::Io { path: path.clone(), what: "written", source };
    let mut lock = lock_after(opened.map_err(unwritten)?, is_gone)?;
    // For people only: the lock is what counts, so this need not be durable.
    let emptied = lock.set_len(0).and_then(|()| lock.rewind());
    emptied.and_then(|()| writeln!(lock, "{}", std::process::id())).map_err(unwritten)?;
    Ok(lock)
}

/// Locks `file`, and waits for that where the supervisor which wrote its pid there `is_gone`.
fn lock_after(mut file: File, mut is_gone: impl FnMut(&str) -> bool) -> Result<Flock<File>, RunError> {
    let deadline = Instant::now() + LEFT;
    loop {
        file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((file, _)) => file,
        };
        let mut pid = String::new();
        let _ = file.rewind().and_then(|()| file.read_to_string(&mut pid));
        let pid = pid.trim();
        if Instant::now() > deadline || !is_gone(pid) {
            return Err(RunError::Locked { pid: pid.to_owned() });
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Whether no process has this pid. Of words that are no number nothing is known.
fn is_gone(pid: &str) -> bool {
    pid.parse().is_ok_and(|pid| signal::kill(Pid::from_raw(pid), None) == Err(Errno::ESRCH))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_dead_supervisors_child_still_holds_is_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let home = Home::new(directory.path());
        std::fs::create_dir_all(home.lock().parent().unwrap()).unwrap();
        let first = take(&home).unwrap();
        let pid = std::process::id().to_string();
        assert!(matches!(take(&home), Err(RunError::Locked { pid: by }) if by == pid));
        let mut held = Some(first);
        let file = File::options().read(true).write(true).open(home.lock()).unwrap();
        let taken = lock_after(file, |by| {
            assert_eq!(by, pid);
            held.take().is_some()
        });
        drop(taken.unwrap());
        // Longer than what is written there now.
        std::fs::write(home.lock(), "99999999999\n").unwrap();
        drop(take(&home).unwrap());
        assert_eq!(std::fs::read_to_string(home.lock()).unwrap(), format!("{pid}\n"));
        let mut ended = std::process::Command::new("true").spawn().unwrap();
        let pid = ended.id().to_string();
        ended.wait().unwrap();
        assert!(is_gone(&pid) && !is_gone("") && !is_gone(&std::process::id().to_string()));
    }
}
