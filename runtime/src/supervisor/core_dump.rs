//! Where the core of a process that died of a signal is, from what the kernel is told of it
//! (`/proc/sys/kernel/core_pattern`, core(5)).

use std::fmt::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;

/// What is said of the core of process `pid`, which ended with `status`, after the words for its signal: ` with its
/// core in /srv/hello/core.4711`, ` without a core`, or nothing where no core was to be expected.
pub fn told(status: ExitStatus, pid: u32) -> String {
    let Some(signal) = status.signal().filter(|signal| leaves_a_core(*signal)) else { return String::new() };
    if !status.core_dumped() {
        return " without a core".into();
    }
    let read = |name| std::fs::read_to_string(format!("/proc/sys/kernel/{name}"));
    let (pattern, uses_pid) = (read("core_pattern"), read("core_uses_pid"));
    let uses_pid = uses_pid.is_ok_and(|text| text.trim() != "0");
    // The host has the supervisor's directory.
    let directory = std::env::current_dir().unwrap_or_default();
    match pattern {
        Ok(pattern) => place(pattern.trim_end_matches('\n'), &directory, uses_pid, pid, signal),
        Err(_) => " with a core".into(),
    }
}

/// Signals whose default action is a core, by signal(7).
fn leaves_a_core(signal: i32) -> bool {
    use libc::{SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGQUIT, SIGSEGV, SIGSYS, SIGTRAP, SIGXCPU, SIGXFSZ};
    [SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGQUIT, SIGSEGV, SIGSYS, SIGTRAP, SIGXCPU, SIGXFSZ].contains(&signal)
}

/// Where `pattern` puts the core. What only the kernel knew (the thread, the time) stays as in the pattern.
fn place(pattern: &str, directory: &Path, uses_pid: bool, pid: u32, signal: i32) -> String {
    if let Some(command) = pattern.strip_prefix('|') {
        let program = command.split_whitespace().next().unwrap_or("a program");
        return if program.ends_with("systemd-coredump") {
            format!(" with its core in `coredumpctl info {pid}`")
        } else {
            format!(" with its core piped to {program}")
        };
    }
    let mut name = String::new();
    let mut letters = pattern.chars();
    while let Some(letter) = letters.next() {
        if letter != '%' {
            name.push(letter);
            continue;
        }
        // Writing to a `String` cannot fail.
        let _ = match letters.next() {
            Some('%') => write!(name, "%"),
            Some('p' | 'P') => write!(name, "{pid}"),
            Some('s') => write!(name, "{signal}"),
            Some('u') => write!(name, "{}", nix::unistd::getuid()),
            Some('g') => write!(name, "{}", nix::unistd::getgid()),
            Some('h') => write!(name, "{}", hostname()),
            Some(other) => write!(name, "%{other}"),
            // A single one at the end is dropped by the kernel too.
            None => Ok(()),
        };
    }
    if uses_pid && !pattern.contains("%p") {
        let _ = write!(name, ".{pid}");
    }
    format!(" with its core in {}", directory.join(name).display())
}

fn hostname() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_pattern_says_where_a_core_is() {
        let at = |pattern: &str, uses_pid| place(pattern, Path::new("/srv/hello"), uses_pid, 4711, 11);
        assert_eq!(at("core", false), " with its core in /srv/hello/core");
        assert_eq!(at("core", true), " with its core in /srv/hello/core.4711");
        assert_eq!(at("core.%p", true), " with its core in /srv/hello/core.4711");
        assert_eq!(at("/var/crash/%s-%P-100%%-%t", false), " with its core in /var/crash/11-4711-100%-%t");
        assert_eq!(at("/cores/%", false), " with its core in /cores/");
        let apport = "|/usr/share/apport/apport -p%p -s%s";
        assert_eq!(at(apport, true), " with its core piped to /usr/share/apport/apport");
        let systemd = "|/usr/lib/systemd/systemd-coredump %P %u %g";
        assert_eq!(at(systemd, false), " with its core in `coredumpctl info 4711`");
    }

    #[test]
    fn only_what_might_have_left_a_core_is_said_to_have_none() {
        // As waitpid(2) has them: the signal in the low bits, 0x80 for a core.
        assert_eq!(told(ExitStatus::from_raw(11), 1), " without a core");
        assert!(told(ExitStatus::from_raw(11 | 0x80), 1).starts_with(" with "));
        assert_eq!(told(ExitStatus::from_raw(9), 1), "");
        assert_eq!(told(ExitStatus::from_raw(7 << 8), 1), "");
    }
}
