//! What the kernel says of a process in `/proc` (proc_pid_stat(5)), and whom it ends first when there is no memory.

use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::Pid;

/// Who is ended first when there is no memory (proc_pid_oom_score_adj(5)): the trial of a release, which nobody waits
/// for, before everything else.
pub const TRIALS_OOM_SCORE: i32 = 1000;

/// The host is ended before the supervisor, which starts the next one, even where it is the smaller of the two: it
/// gives up what the supervisor is spared (the unit's OOMScoreAdjust), at most so many thousandths of the memory. Where
/// the supervisor is spared nothing it counts as one larger, no more: other services are not to be spared for it.
const SPARED: i32 = 100;

const OOM_SCORE: &str = "/proc/self/oom_score_adj";

/// The parent of process `pid`; 0: it has none here. `None`: nothing is to be seen of it.
pub fn parent(pid: Pid) -> Option<Pid> {
    parent_in(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The name, in parentheses, may hold anything; what follows is the state and the parent.
fn parent_in(stat: &str) -> Option<Pid> {
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(1)?.parse().ok().map(Pid::from_raw)
}

/// Whether there is a process `pid`, whatever else of it may be seen.
pub fn is_there(pid: Pid) -> bool {
    kill(pid, None) != Err(Errno::ESRCH)
}

/// The children of this process, dead ones that nobody has waited for among them.
pub fn children() -> Vec<Pid> {
    // The kernel's own lists have those, too, that /proc hides from the node's user.
    let threads = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let lists: Option<Vec<_>> =
        threads.map(|thread| std::fs::read_to_string(thread.path().join("children")).ok()).collect();
    match lists {
        Some(lists) if !lists.is_empty() => {
            let numbers = lists.iter().flat_map(|list| list.split_whitespace());
            numbers.filter_map(|pid| pid.parse().ok().map(Pid::from_raw)).collect()
        }
        _ => visible_children(),
    }
}

/// Those that /proc shows, for a kernel that has no such lists (CONFIG_PROC_CHILDREN).
fn visible_children() -> Vec<Pid> {
    let here = nix::unistd::getpid();
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    numbers.map(Pid::from_raw).filter(|pid| parent(*pid) == Some(here)).collect()
}

/// Has the kernel end this process, a host, before the supervisor that it inherited its score from.
///
/// # Errors
/// What the system says: then the kernel goes by their size.
pub fn end_before_the_supervisor() -> std::io::Result<()> {
    let inherited = std::fs::read_to_string(OOM_SCORE)?.trim().parse::<i32>().unwrap_or(0);
    std::fs::write(OOM_SCORE, hosts_score(inherited).to_string())
}

fn hosts_score(inherited: i32) -> i32 {
    match inherited < 0 {
        true => (inherited + SPARED).min(0),
        false => (inherited + 1).min(TRIALS_OOM_SCORE),
    }
}

/// Has the kernel end this process, a trial, before everything else.
///
/// # Errors
/// As above.
pub fn end_first() -> std::io::Result<()> {
    std::fs::write(OOM_SCORE, TRIALS_OOM_SCORE.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_knows_its_parent_and_its_children() {
        assert_eq!(parent(nix::unistd::getpid()), Some(nix::unistd::getppid()));
        let mut child = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        let pid = Pid::from_raw(child.id().try_into().unwrap());
        assert!(children().contains(&pid) && visible_children().contains(&pid) && is_there(pid));
        child.kill().unwrap();
        assert!(children().contains(&pid), "it is dead or dying, and there");
        child.wait().unwrap();
        assert!(!children().contains(&pid));
    }

    #[test]
    fn a_host_is_ended_before_its_supervisor_and_not_before_others() {
        let scores = [-1000, -100, -50, 0, 500, 1000].map(hosts_score);
        assert_eq!(scores, [-900, 0, 0, 1, 501, 1000]);
    }

    #[test]
    fn a_name_may_look_like_the_rest() {
        assert_eq!(parent_in("12 (a) R 7 (b) S 34 12 12 0"), Some(Pid::from_raw(34)));
        assert_eq!(parent_in("12 (a"), None);
    }
}
