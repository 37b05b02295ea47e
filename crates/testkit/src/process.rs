//! What the kernel says of a process.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

/// Resident memory of the process `pid` in KiB.
pub fn resident_kib(pid: i32) -> u64 {
    of_status(pid, "VmRSS:")
}

/// The most that the process `pid` ever had of it, in KiB.
pub fn peak_resident_kib(pid: i32) -> u64 {
    of_status(pid, "VmHWM:")
}

/// Has the kernel count what the process `pid` has at most from now on.
pub fn forget_peak(pid: i32) {
    // proc_pid_clear_refs(5)
    std::fs::write(format!("/proc/{pid}/clear_refs"), "5").unwrap();
}

fn of_status(pid: i32, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// How much sooner than others of its size the process `pid` is ended when there is no memory, as proc_pid_oom_score_adj(5)
/// has it.
pub fn oom_score_adj(pid: i32) -> i32 {
    std::fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap().trim().parse().unwrap()
}

/// The files below `directory` that the process `pid` has mapped.
pub fn mapped_below(pid: i32, directory: &Path) -> Vec<String> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let directory = directory.to_str().unwrap();
    let below = |line: &str| line.find(directory).map(|at| line[at..].to_owned());
    maps.lines().filter_map(below).collect::<BTreeSet<_>>().into_iter().collect()
}

/// Processor time that the process `pid` has used, user and system together, to a hundredth of a second.
pub fn cpu_time(pid: i32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // After the name, which may hold anything, in parentheses: fields 3 and on.
    let fields: Vec<&str> = stat[stat.rfind(')').unwrap() + 2..].split(' ').collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    // USER_HZ is 100 on every Linux that Rust runs on.
    Duration::from_millis(ticks * 10)
}
