//! The new image's first act: what it inherits is taken over before anything else is opened.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use relmgr_model::settings::{Settings, SettingsError};
use relmgr_model::takeover::{Command, FORMAT, Takeover, VARIABLE};

use super::super::host_process::{Ends, Left};
use crate::host::loader::sys;

/// The description is a few kilobytes, or two megabytes where many notifications wait for webhooks.
const BYTES: u64 = 4 * 1024 * 1024;

/// What was handed over cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ReceivedError {
    /// The descriptor is none, or not the one.
    #[error("{VARIABLE} names descriptor {number}, which was not passed down: it is set by relmgr only")]
    Descriptor {
        /// Its number, or what stands there.
        number: String,
    },
    /// It cannot be read.
    #[error("what another relmgr handed over cannot be read")]
    Io(#[from] std::io::Error),
    /// It does not parse.
    #[error("what another relmgr handed over does not parse")]
    Parse(#[from] serde_json::Error),
    /// It has another format.
    #[error("what another relmgr handed over has format {0}, this relmgr reads format {FORMAT}")]
    Format(u32),
    /// The settings do not parse.
    #[error("what another relmgr handed over: relmgr.toml: {0}")]
    Settings(#[from] SettingsError),
}

/// What another image of this process has left.
#[derive(Debug)]
pub struct Received {
    /// What was handed over in words.
    pub takeover: Takeover,
    /// The settings, as they were checked.
    pub settings: Settings,
    /// The home's lock.
    pub lock: OwnedFd,
    /// The control socket.
    pub control: OwnedFd,
    /// The public listeners.
    pub listeners: Vec<OwnedFd>,
    /// The admin listener.
    pub admin: Option<OwnedFd>,
    /// The host.
    pub host: Left,
    /// The operator's commands that run, and where their stderr is read.
    pub commands: Vec<(Command, Option<OwnedFd>)>,
}

/// Takes over what another image has left; `None`: this process starts from nothing. To be called once, before the
/// process has a second thread or opens anything.
///
/// # Errors
/// [`ReceivedError`].
pub fn received() -> Result<Option<Received>, ReceivedError> {
    let Some(number) = sys::take_variable(VARIABLE) else { return Ok(None) };
    let memory = number.parse().ok().and_then(sys::inherited);
    let memory = memory.ok_or(ReceivedError::Descriptor { number })?;
    let mut text = String::new();
    File::from(memory).take(BYTES).read_to_string(&mut text)?;
    let mut takeover: Takeover = serde_json::from_str(&text)?;
    if takeover.format != FORMAT {
        return Err(ReceivedError::Format(takeover.format));
    }
    // What the kernel calls a process that was started through a descriptor is that descriptor's number.
    let _ = nix::sys::prctl::set_name(c"relmgr");
    let settings = Settings::parse(&takeover.settings)?;
    let (lock, control) = (take(takeover.lock)?, take(takeover.control)?);
    let listeners = takeover.listeners.iter().map(|number| take(*number)).collect::<Result<_, _>>()?;
    let admin = takeover.admin.map(take).transpose()?;
    let ends =
        Ends { channel: take(takeover.host.channel)?, stderr: takeover.host.stderr.map(take).transpose()? };
    let commands = std::mem::take(&mut takeover.commands).into_iter();
    let commands = commands.map(|command| {
        let stderr = command.stderr.map(take).transpose();
        stderr.map(|stderr| (command, stderr))
    });
    let commands = commands.collect::<Result<_, _>>()?;
    let host = Left {
        pid: takeover.host.pid.unsigned_abs(),
        ends,
        next_id: takeover.host.next_id,
        last_words: std::mem::take(&mut takeover.host.last_words),
    };
    Ok(Some(Received { takeover, settings, lock, control, listeners, admin, host, commands }))
}

fn take(number: i32) -> Result<OwnedFd, ReceivedError> {
    let fd =
        sys::inherited(number).ok_or_else(|| ReceivedError::Descriptor { number: number.to_string() })?;
    // Children get copies of what they are to have, and nothing else.
    fcntl(fd.as_fd(), FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).map_err(std::io::Error::from)?;
    Ok(fd)
}

/// Lets through the signals that waited for this image; its handlers stand.
pub fn hear_signals() {
    let of_the_node: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect();
    if let Err(error) = of_the_node.thread_unblock() {
        tracing::error!(%error, "signals are not heard: `relmgr stop` ends the node");
    }
}

/// Waits for the end of children that another image has started, so that none stays a zombie.
pub fn await_children(children: &[i32]) {
    for pid in children {
        let pid = Pid::from_raw(*pid);
        let wait = move || {
            // An error means that it is gone already.
            let _ = waitpid(pid, None);
        };
        let waiting = std::thread::Builder::new().name("child".into()).spawn(wait);
        if let Err(error) = waiting {
            tracing::warn!(%error, %pid, "nobody waits for a child's end");
        }
    }
}
