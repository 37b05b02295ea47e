//! The old image's last act.

use std::convert::Infallible;
use std::ffi::CString;
use std::fs::File;
use std::io::{Seek, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::Duration;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{SigSet, Signal};
use relmgr_model::takeover::{Command, FORMAT, Host, Operation, Serving, Takeover, VARIABLE};

use super::super::host_process::HostProcess;
use super::super::listeners::Listener;
use super::super::node::Node;
use super::super::systemd;
use super::super::tell::Running;
use super::Candidate;

/// A host that lives answers what it was asked within microseconds, but for a question of an application's health.
const QUIET: Duration = Duration::from_secs(5);

/// Who asks the supervisor something is answered in a second at most.
const ANSWERED: Duration = Duration::from_secs(2);

/// What a client of the operation was told is written, and a signal that has come is seen, within one turn of the
/// event loop.
const ONE_TURN: Duration = Duration::from_millis(2);

/// A hand-over that did not happen: everything is as it was.
#[derive(Debug, thiserror::Error)]
pub enum HandOverError {
    /// There is nothing to hand over.
    #[error("there is no host that could go on serving: see `relmgr status`")]
    NoHost,
    /// The host is busy with something that does not end, or stuck.
    #[error(
        "the host did not answer within {}: see `relmgr status`, and try again",
        humantime::format_duration(QUIET)
    )]
    Busy,
    /// The node ends.
    #[error("the node is stopping")]
    Stopping,
    /// The system refused.
    #[error("the new relmgr was not started: {0}")]
    System(#[from] nix::Error),
    /// The description cannot be written.
    #[error("what is handed over cannot be written")]
    Io(#[from] std::io::Error),
}

/// Has `candidate` go on in the place of this image; returns only when that failed. The caller holds `pointers` and
/// `operations`, and has noted the operation.
pub async fn hand_over(
    node: &Arc<Node>,
    candidate: &Candidate,
    settings: String,
    operation: Operation,
) -> HandOverError {
    let Some(host) = node.host() else { return HandOverError::NoHost };
    node.door.close(ANSWERED).await;
    let error = match host.freeze(QUIET).await {
        true => go(node, &host, candidate, settings, operation).await,
        false => HandOverError::Busy,
    };
    host.thaw();
    node.door.reopen();
    error
}

async fn go(
    node: &Arc<Node>,
    host: &Arc<HostProcess>,
    candidate: &Candidate,
    settings: String,
    operation: Operation,
) -> HandOverError {
    // From here to the new image's first look a signal waits: by default it would end the process.
    let of_the_node: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect();
    let result = match of_the_node.thread_block() {
        Ok(()) => {
            tokio::time::sleep(ONE_TURN).await;
            exec(node, host, candidate, settings, operation)
        }
        Err(error) => Err(error.into()),
    };
    let Err(error) = result;
    let _ = of_the_node.thread_unblock();
    error
}

fn exec(
    node: &Node,
    host: &HostProcess,
    candidate: &Candidate,
    settings: String,
    operation: Operation,
) -> Result<Infallible, HandOverError> {
    if node.is_stopping() {
        return Err(HandOverError::Stopping);
    }
    if host.ended().is_some() {
        return Err(HandOverError::NoHost);
    }
    // Held until this image is gone: no line of the host's is lost between two readers.
    let _held = host.hold_words();
    let commands = node.commands();
    let memory = describe(node, host, &commands, settings, operation)?;
    let mut arguments = [c"relmgr", c"run", c"--home"].map(CString::from).to_vec();
    arguments.push(c_string(node.home.path().as_os_str().as_bytes())?);
    let mut environment = vec![];
    for (name, value) in std::env::vars_os() {
        if name != VARIABLE {
            environment.push(c_string(&[name.as_bytes(), b"=", value.as_bytes()].concat())?);
        }
    }
    environment.push(c_string(format!("{VARIABLE}={}", memory.as_raw_fd()).as_bytes())?);
    // What was asked is what runs, whatever lies at its path by now.
    let binary = c_string(format!("/proc/self/fd/{}", candidate.as_fd().as_raw_fd()).as_bytes())?;
    let inherited: Vec<BorrowedFd<'_>> =
        descriptors(node, host, &commands).into_iter().chain([memory.as_fd()]).collect();
    let reloading = sd_notify::NotifyState::monotonic_usec_now();
    systemd::tell(
        &[Some(sd_notify::NotifyState::Reloading), reloading.ok()].into_iter().flatten().collect::<Vec<_>>(),
    );
    let kept = inherited.iter().try_for_each(|fd| set_inherited(*fd, true));
    let result = kept.and_then(|()| nix::unistd::execve(&binary, &arguments, &environment));
    // Still here: children are to inherit none of them.
    for fd in inherited {
        let _ = set_inherited(fd, false);
    }
    systemd::tell(&[sd_notify::NotifyState::Ready]);
    Ok(result?)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The public listeners in the order of the settings.
fn public(node: &Node) -> impl Iterator<Item = &Listener> {
    node.listeners.iter().chain(node.tcp.iter().map(|(_, listener)| listener))
}

/// Everything that goes on, in the order of [`Takeover`]'s fields.
fn descriptors<'a>(
    node: &'a Node,
    host: &'a HostProcess,
    commands: &'a [Arc<Running>],
) -> Vec<BorrowedFd<'a>> {
    let ends = host.ends();
    let own = [node.held.lock.as_fd(), node.held.control.as_fd(), ends.channel.as_fd()];
    let listeners = public(node).chain(&node.admin).map(AsFd::as_fd);
    let commands = commands.iter().filter_map(|command| command.stderr.as_ref().map(AsFd::as_fd));
    own.into_iter().chain(listeners).chain(ends.stderr.as_ref().map(AsFd::as_fd)).chain(commands).collect()
}

/// The description, in a file that lies in no directory.
fn describe(
    node: &Node,
    host: &HostProcess,
    commands: &[Arc<Running>],
    settings: String,
    operation: Operation,
) -> Result<File, HandOverError> {
    let number = |fd: BorrowedFd<'_>| fd.as_raw_fd();
    let children = commands.iter().map(|command| command.pid).collect();
    let commands = commands.iter().map(|command| Command {
        hook: command.hook.clone(),
        pid: command.pid,
        stderr: command.stderr.as_ref().map(|stderr| number(stderr.as_fd())),
        ran_ms: millis(command.ran()),
        timeout_ms: millis(command.timeout),
    });
    let (commands, untold) = (commands.collect(), node.webhooks.untold());
    let takeover = node.with(|state| Takeover {
        format: FORMAT,
        relmgr: crate::VERSION.into(),
        settings,
        lock: number(node.held.lock.as_fd()),
        control: number(node.held.control.as_fd()),
        listeners: public(node).map(|listener| number(listener.as_fd())).collect(),
        admin: node.admin.as_ref().map(|listener| number(listener.as_fd())),
        host: Host {
            pid: i32::try_from(host.pid).unwrap_or_default(),
            channel: number(host.ends().channel.as_fd()),
            stderr: host.ends().stderr.as_ref().map(|stderr| number(stderr.as_fd())),
            next_id: host.next_id(),
            last_words: host.last_words(),
        },
        serving: state
            .current
            .as_ref()
            .map(|serving| Serving { version: serving.version.clone(), since: serving.since }),
        children,
        commands,
        started_at: node.started_at,
        host_restarts: state.host_restarts,
        deaths_ms_ago: state.deaths.iter().map(|death| millis(death.elapsed())).collect(),
        answered: node.metrics.answered_before(),
        untold,
        fallen_back: state.fallen_back,
        operation,
    });
    let mut file = File::from(memfd_create(c"relmgr-takeover", MFdFlags::MFD_CLOEXEC)?);
    serde_json::to_writer(&mut file, &takeover).map_err(std::io::Error::from)?;
    file.flush()?;
    file.rewind()?;
    Ok(file)
}

fn set_inherited(fd: BorrowedFd<'_>, inherited: bool) -> nix::Result<()> {
    let flags = if inherited { FdFlag::empty() } else { FdFlag::FD_CLOEXEC };
    fcntl(fd, FcntlArg::F_SETFD(flags)).map(drop)
}

fn c_string(bytes: &[u8]) -> std::io::Result<CString> {
    CString::new(bytes).map_err(std::io::Error::other)
}
