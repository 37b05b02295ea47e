//! Which system calls change files, and what of them.

use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use nix::libc;
use nix::unistd::Pid;

/// A call that changes files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Its name in the manual.
    pub name: &'static str,
    /// What it changes; paths are absolute.
    pub change: Change,
}

/// What a call changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The entry of this path: a file, directory or link comes or is replaced.
    Made(PathBuf),
    /// The entry goes.
    Removed(PathBuf),
    /// The entry at the first path goes to the second.
    Renamed(PathBuf, PathBuf),
    /// The content or the attributes of the file.
    Written(PathBuf),
    /// The content of the file, made durable by the call that writes it (`O_DSYNC`, `O_SYNC`).
    WrittenThrough(PathBuf),
    /// The file or directory is made durable.
    Synced(PathBuf),
}

impl Change {
    fn paths(&self) -> [&Path; 2] {
        match self {
            Self::Renamed(from, to) => [from, to],
            Self::Made(path)
            | Self::Removed(path)
            | Self::Written(path)
            | Self::WrittenThrough(path)
            | Self::Synced(path) => [path, path],
        }
    }
}

impl Call {
    pub(super) fn is_below(&self, directory: &Path) -> bool {
        self.change.paths().iter().any(|path| path.starts_with(directory))
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.change {
            Change::Renamed(from, to) => write!(f, "{}({}, {})", self.name, from.display(), to.display()),
            change => write!(f, "{}({})", self.name, change.paths()[0].display()),
        }
    }
}

/// The thread's registers at a call's entry.
pub(super) type Registers = libc::user_regs_struct;

/// The call that `thread` is about to make, if it is one that changes files.
pub(super) fn decode(thread: Pid, registers: &Registers) -> Option<Call> {
    let at = At { thread };
    let (a, b, c, d) = (registers.rdi, registers.rsi, registers.rdx, registers.r10);
    const CWD: u64 = libc::AT_FDCWD as i64 as u64;
    let makes = |flags: u64| flags & (libc::O_CREAT | libc::O_TRUNC) as u64 != 0;
    let number = registers.orig_rax.cast_signed();
    let (name, change) = match number {
        libc::SYS_open if makes(b) => ("open", Change::Made(at.path(CWD, a)?)),
        libc::SYS_openat if makes(c) => ("openat", Change::Made(at.path(a, b)?)),
        libc::SYS_creat => ("creat", Change::Made(at.path(CWD, a)?)),
        libc::SYS_mkdir => ("mkdir", Change::Made(at.path(CWD, a)?)),
        libc::SYS_mkdirat => ("mkdirat", Change::Made(at.path(a, b)?)),
        libc::SYS_link => ("link", Change::Made(at.path(CWD, b)?)),
        libc::SYS_linkat => ("linkat", Change::Made(at.path(c, d)?)),
        libc::SYS_symlink => ("symlink", Change::Made(at.path(CWD, b)?)),
        libc::SYS_symlinkat => ("symlinkat", Change::Made(at.path(b, c)?)),
        libc::SYS_unlink => ("unlink", Change::Removed(at.path(CWD, a)?)),
        libc::SYS_unlinkat => ("unlinkat", Change::Removed(at.path(a, b)?)),
        libc::SYS_rmdir => ("rmdir", Change::Removed(at.path(CWD, a)?)),
        libc::SYS_rename => ("rename", Change::Renamed(at.path(CWD, a)?, at.path(CWD, b)?)),
        libc::SYS_renameat => ("renameat", Change::Renamed(at.path(a, b)?, at.path(c, d)?)),
        libc::SYS_renameat2 => ("renameat2", Change::Renamed(at.path(a, b)?, at.path(c, d)?)),
        libc::SYS_write => ("write", at.written(a)?),
        libc::SYS_pwrite64 => ("pwrite64", at.written(a)?),
        libc::SYS_writev => ("writev", at.written(a)?),
        libc::SYS_pwritev => ("pwritev", at.written(a)?),
        libc::SYS_pwritev2 => ("pwritev2", at.written(a)?),
        libc::SYS_sendfile => ("sendfile", Change::Written(at.file(a)?)),
        libc::SYS_copy_file_range => ("copy_file_range", Change::Written(at.file(c)?)),
        libc::SYS_ftruncate => ("ftruncate", Change::Written(at.file(a)?)),
        libc::SYS_fallocate => ("fallocate", Change::Written(at.file(a)?)),
        libc::SYS_fchmod => ("fchmod", Change::Written(at.file(a)?)),
        libc::SYS_fchown => ("fchown", Change::Written(at.file(a)?)),
        libc::SYS_truncate => ("truncate", Change::Written(at.path(CWD, a)?)),
        libc::SYS_chmod => ("chmod", Change::Written(at.path(CWD, a)?)),
        libc::SYS_fchmodat => ("fchmodat", Change::Written(at.path(a, b)?)),
        libc::SYS_fsync => ("fsync", Change::Synced(at.file(a)?)),
        libc::SYS_fdatasync => ("fdatasync", Change::Synced(at.file(a)?)),
        _ => return None,
    };
    Some(Call { name, change })
}

/// Where a stopped thread's arguments point to.
struct At {
    thread: Pid,
}

impl At {
    /// The file that a descriptor is of; `None`: a pipe, a socket.
    fn file(&self, descriptor: u64) -> Option<PathBuf> {
        let target = std::fs::read_link(format!("/proc/{}/fd/{}", self.thread, descriptor as i32)).ok()?;
        target.is_absolute().then_some(target)
    }

    /// A write to the file that a descriptor is of.
    fn written(&self, descriptor: u64) -> Option<Change> {
        let path = self.file(descriptor)?;
        Some(if self.writes_through(descriptor) {
            Change::WrittenThrough(path)
        } else {
            Change::Written(path)
        })
    }

    /// Whether what is written to a descriptor is durable when the call returns.
    fn writes_through(&self, descriptor: u64) -> bool {
        let facts = format!("/proc/{}/fdinfo/{}", self.thread, descriptor as i32);
        let facts = std::fs::read_to_string(facts).unwrap_or_default();
        let flags = facts.lines().find_map(|line| line.strip_prefix("flags:"));
        let flags = flags.and_then(|flags| i32::from_str_radix(flags.trim(), 8).ok()).unwrap_or_default();
        // Of the two bits of `O_SYNC`, one is `O_DSYNC`.
        flags & libc::O_DSYNC != 0
    }

    /// The path that `pointer` names, from the directory that `descriptor` is of.
    fn path(&self, descriptor: u64, pointer: u64) -> Option<PathBuf> {
        let path = self.text(pointer).ok()?;
        if path.is_absolute() {
            return Some(path);
        }
        let directory = match descriptor as i32 {
            libc::AT_FDCWD => std::fs::read_link(format!("/proc/{}/cwd", self.thread)).ok()?,
            _ => self.file(descriptor)?,
        };
        Some(directory.join(path))
    }

    fn text(&self, pointer: u64) -> io::Result<PathBuf> {
        let memory = File::open(format!("/proc/{}/mem", self.thread))?;
        let mut bytes = vec![0; libc::PATH_MAX as usize];
        // Fewer where the page after it is not there.
        let read = memory.read_at(&mut bytes, pointer)?;
        let end = bytes[..read].iter().position(|byte| *byte == 0).unwrap_or(read);
        bytes.truncate(end);
        Ok(OsString::from_vec(bytes).into())
    }
}
