//! Whether the kernel has killed a process for want of memory. It says so to nobody but the control group that the
//! process was in, which counts them: `memory.events` of cgroups(7) version 2, `memory.oom_control` of version 1.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::host_process::was_killed_by;

/// How often it is looked how many there were. A process is not counted when it dies but when it is chosen, and may
/// take its time to die: so what was counted before the last look but one belongs to another.
pub const EVERY: Duration = Duration::from_secs(10);

/// How often the control group of a process has lost one that way.
#[derive(Debug)]
pub struct OomKills {
    /// The last two, the older one first.
    looks: VecDeque<Look>,
}

#[derive(Debug, PartialEq)]
struct Look {
    counter: PathBuf,
    kills: u64,
}

impl OomKills {
    /// Of this process's group, which those that it starts are in, from now on. To be called before the start: what is
    /// started may be killed before anybody looks.
    pub fn begin() -> Self {
        let mut kills = Self { looks: VecDeque::new() };
        kills.look_at("self");
        kills
    }

    /// Forgets those before the last look but one; the process is `pid`, wherever it is now. To be called [`EVERY`] so
    /// often.
    pub fn look(&mut self, pid: u32) {
        self.look_at(&pid.to_string());
    }

    fn look_at(&mut self, process: &str) {
        // A group that is not to be seen, or is none that counts memory, says nothing.
        let Some(counter) = counter_of(process) else { return };
        let Some(kills) = read(&counter) else { return };
        self.looks.push_back(Look { counter, kills });
        if self.looks.len() > 2 {
            self.looks.pop_front();
        }
    }

    /// Why the process, which ended with `status`, was killed, if it was this.
    pub fn blame(&self, status: ExitStatus) -> Option<String> {
        let more = |look: &Look| read(&look.counter).is_some_and(|kills| kills > look.kills);
        let blamed = was_killed_by(status, Signal::SIGKILL) && self.looks.iter().any(more);
        blamed.then(|| "the kernel killed it for want of memory".into())
    }
}

fn counter_of(process: &str) -> Option<PathBuf> {
    let groups = std::fs::read_to_string(format!("/proc/{process}/cgroup")).ok()?;
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    find_counter(&groups, &mounts)
}

fn read(counter: &Path) -> Option<u64> {
    let text = std::fs::read_to_string(counter).ok()?;
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

/// The file that counts, by what `/proc/PID/cgroup` says of the process and `/proc/self/mountinfo` of the file systems.
fn find_counter(groups: &str, mounts: &str) -> Option<PathBuf> {
    let mut version_2 = None;
    for line in groups.lines() {
        // hierarchy-ID:controller-list:cgroup-path
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, group) = (fields.next()?, fields.next()?);
        if controllers.split(',').any(|controller| controller == "memory") {
            let directory = directory(group, mounts, |mount| mount.is("cgroup", "memory"))?;
            return Some(directory.join("memory.oom_control"));
        }
        if controllers.is_empty() {
            version_2 = directory(group, mounts, |mount| mount.is("cgroup2", ""));
        }
    }
    version_2.map(|directory| directory.join("memory.events"))
}

/// Where `group` is to be seen in a file system that is `wanted`.
fn directory(group: &str, mounts: &str, wanted: impl Fn(&Mount<'_>) -> bool) -> Option<PathBuf> {
    let mounts = mounts.lines().filter_map(Mount::parse).filter(wanted);
    // A container sees its own part of the tree only.
    let mut seen = mounts.filter_map(|mount| {
        let below = Path::new(group).strip_prefix(mount.root).ok()?;
        Some(Path::new(mount.point).join(below))
    });
    seen.next()
}

/// A line of `/proc/self/mountinfo`, proc_pid_mountinfo(5).
struct Mount<'a> {
    root: &'a str,
    point: &'a str,
    kind: &'a str,
    options: &'a str,
}

impl<'a> Mount<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (mount, file_system) = line.split_once(" - ")?;
        let mut mount = mount.split(' ').skip(3);
        let mut file_system = file_system.split(' ');
        Some(Self {
            root: mount.next()?,
            point: mount.next()?,
            kind: file_system.next()?,
            options: file_system.nth(1)?,
        })
    }

    /// Whether it is a file system of this `kind` with this option; empty: with any.
    fn is(&self, kind: &str, option: &str) -> bool {
        self.kind == kind && (option.is_empty() || self.options.split(',').any(|other| other == option))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    const UNIFIED: &str = "30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
    const HYBRID: &str = "31 24 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
                          32 24 0:28 / /sys/fs/cgroup/cpu rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
                          33 24 0:29 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";

    fn found(groups: &str, mounts: &str) -> Option<String> {
        find_counter(groups, mounts).map(|path| path.display().to_string())
    }

    #[test]
    fn the_counter_is_found_in_both_versions_and_from_within_a_container() {
        let unit = "0::/system.slice/relmgr.service\n";
        let counter = found(unit, UNIFIED);
        assert_eq!(counter.as_deref(), Some("/sys/fs/cgroup/system.slice/relmgr.service/memory.events"));
        assert_eq!(found("0::/\n", UNIFIED).as_deref(), Some("/sys/fs/cgroup/memory.events"));
        let groups = "5:cpu,cpuacct:/a\n4:memory:/b/c\n1:name=systemd:/d\n0::/d\n";
        assert_eq!(found(groups, HYBRID).as_deref(), Some("/sys/fs/cgroup/memory/b/c/memory.oom_control"));
        // Its own part of the tree, and one beside it.
        let own = "40 39 0:29 /docker/12ab /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n";
        let counter = found("4:memory:/docker/12ab/x\n", own);
        assert_eq!(counter.as_deref(), Some("/sys/fs/cgroup/memory/x/memory.oom_control"));
        assert_eq!(found("4:memory:/docker/99\n", own), None);
        assert_eq!(found("", UNIFIED), None);
        assert_eq!(found("0::/x\n", ""), None);
        assert_eq!(found("5:cpu:/a\n1:name=systemd:/d\n", HYBRID), None);
    }

    #[test]
    fn only_a_death_that_was_counted_since_the_last_look_but_one_is_blamed_on_the_kernel() {
        let place = tempfile::tempdir().unwrap();
        let counter = place.path().join("memory.events");
        let count =
            |kills: u64| std::fs::write(&counter, format!("oom 9\noom_kill {kills}\noom_group_kill 0\n"));
        let look = |kills| Look { counter: counter.clone(), kills };
        let of = |looks: [u64; 2]| OomKills { looks: looks.map(look).into() };
        let (killed, aborted) = (ExitStatus::from_raw(9), ExitStatus::from_raw(6));
        count(3).unwrap();
        assert_eq!(of([3, 3]).blame(killed), None, "somebody else has killed it");
        assert!(of([2, 3]).blame(killed).is_some_and(|why| why.contains("want of memory")));
        assert_eq!(of([2, 3]).blame(aborted), None);
        count(4).unwrap();
        assert!(of([3, 3]).blame(killed).is_some());
        std::fs::remove_file(&counter).unwrap();
        assert_eq!(of([2, 3]).blame(killed), None, "nobody knows");
    }

    #[test]
    fn no_more_than_two_looks_are_kept() {
        let mut kills = OomKills::begin();
        (0..5).for_each(|_| kills.look(std::process::id()));
        assert!(kills.looks.len() <= 2, "{kills:?}");
    }
}
