//! The supervisor's commands: one JSON object a line, each answered under its number.

use std::os::fd::{AsFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context;
use relmgr_model::host::{
    Answer, CHANNEL_FD, Command, Envelope, FIRST_LISTENER_FD, HostError, HostStart, Reply,
};
use relmgr_model::settings::Unload;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, UnixStream};
use tokio::sync::mpsc;

use super::Host;
use super::front::{Front, Speaks};
use super::loader::{library, sys};
use super::sessions::hub::HUB;
use super::tls::Tls;

/// Connections that the host has not accepted when the supervisor is gone wait no longer than this for those
/// that are being served.
const ORPHAN_DRAIN: Duration = Duration::from_secs(1);

/// A command of which only the number is understood.
#[derive(serde::Deserialize)]
struct Numbered {
    id: u64,
}

type Commands = Lines<BufReader<OwnedReadHalf>>;

/// Serves until the supervisor says stop, or is gone.
pub async fn serve() -> anyhow::Result<()> {
    let channel = sys::inherited(CHANNEL_FD).context("`relmgr host` is started by `relmgr run` only")?;
    let channel = std::os::unix::net::UnixStream::from(channel);
    channel.set_nonblocking(true)?;
    let (reader, writer) = UnixStream::from_std(channel)?.into_split();
    let mut commands = BufReader::new(reader).lines();
    let (replies, outbox) = mpsc::unbounded_channel();
    let writing = tokio::spawn(write_replies(writer, outbox));

    let (id, start) = read_init(&mut commands).await?;
    let (host, limits) = init(start)?;
    watch_for_orphanhood()?;
    tokio::spawn({
        let front = host.front.clone();
        async move { front.connections.sweep(&limits).await }
    });
    let _ = replies.send(Reply { id, result: Ok(Answer::Done) });

    let end = obey(&host, &mut commands, &replies).await?;
    host.stop(end.drain, end.linger).await;
    if let Some(id) = end.asked {
        let stopped = Answer::Stopped { releases: host.counts(), sessions: HUB.counts() };
        let _ = replies.send(Reply { id, result: Ok(stopped) });
    }
    drop((host, replies));
    // The last replies go out; the supervisor may be gone already.
    let _ = tokio::time::timeout(ORPHAN_DRAIN, writing).await;
    Ok(())
}

/// How a host is to end.
struct End {
    /// The command's number; `None`: nobody is there to be answered.
    asked: Option<u64>,
    /// Requests may take so long.
    drain: Duration,
    /// Whether another host serves.
    linger: bool,
}

/// Carries out commands until one says stop, or nobody does any more.
async fn obey(
    host: &Arc<Host>,
    commands: &mut Commands,
    replies: &mpsc::UnboundedSender<Reply>,
) -> anyhow::Result<End> {
    while let Some(line) = commands.next_line().await.context("the supervisor's channel broke")? {
        let Envelope { id, command } = match serde_json::from_str(&line) {
            Ok(envelope) => envelope,
            // A later relmgr's, which took this host over: it has to do without, and clients do not notice.
            Err(error) => {
                let Numbered { id } =
                    serde_json::from_str(&line).context("the supervisor's command does not parse")?;
                let message = format!("the host does not know this command: {error}");
                let _ = replies.send(Reply { id, result: Err(HostError { message }) });
                continue;
            }
        };
        if let Command::Stop { drain_ms, linger } = command {
            return Ok(End { asked: Some(id), drain: Duration::from_millis(drain_ms), linger });
        }
        let (host, replies) = (host.clone(), replies.clone());
        tokio::spawn(async move {
            let result = carry_out(&host, command).await;
            // Nobody listens any more when the supervisor is gone; then the host ends anyway.
            let _ = replies.send(Reply { id, result });
        });
    }
    tracing::warn!("the supervisor is gone: the host ends");
    Ok(End { asked: None, drain: ORPHAN_DRAIN, linger: false })
}

async fn carry_out(host: &Arc<Host>, command: Command) -> Result<Answer, HostError> {
    match command {
        Command::Load(request) => host.load(request).await,
        Command::Health { generation, probes, deadline_ms } => {
            host.health(generation, &probes, Duration::from_millis(deadline_ms)).await
        }
        Command::Swap { generation, patience_ms, code_change } => {
            host.swap(generation, Duration::from_millis(patience_ms), code_change).await
        }
        Command::SwapBack { generation, patience_ms, code_change } => {
            host.swap_back(generation, Duration::from_millis(patience_ms), code_change).await
        }
        Command::Suspend { patience_ms } => {
            host.suspend(Duration::from_millis(patience_ms)).await;
            Ok(Answer::Done)
        }
        Command::Resume => {
            host.resume().await;
            Ok(Answer::Done)
        }
        Command::LendState { patience_ms, code_change, quiet_ms } => {
            let quiet = quiet_ms.map(Duration::from_millis);
            host.lend_state(Duration::from_millis(patience_ms), &code_change, quiet).await
        }
        Command::TakeState { generation, path, code_change } => {
            host.take_state(generation, &path, &code_change).await
        }
        Command::ForgetState => {
            host.forget_state();
            Ok(Answer::Done)
        }
        Command::LoadState { path, own_schema, patience_ms, code_change } => {
            host.load_state(&path, own_schema, Duration::from_millis(patience_ms), &code_change).await
        }
        Command::CopyTables { path } => super::tables::copy(path).await,
        Command::Accept => {
            host.accept();
            Ok(Answer::Done)
        }
        Command::Commit { generation } => host.commit(generation),
        Command::Certificates { certificates } => host.certificates(&certificates),
        Command::ConfChange(change) => host.conf_change(change).await,
        Command::Retire { generation, drain_ms } => {
            host.retire(generation, Duration::from_millis(drain_ms)).await
        }
        Command::Generations => {
            Ok(Answer::Generations { generations: host.generations(), sessions: HUB.counts() })
        }
        Command::Counts => Ok(Answer::Counts { releases: host.counts(), sessions: HUB.counts() }),
        // Memory is read, and no file: it needs no other thread.
        Command::Tables => Ok(Answer::Tables { tables: super::tables::status() }),
        Command::Pulse => Ok(host.pulse()),
        Command::Hear => {
            let heard = host.front.clone().hear_version().await;
            let version = heard.map_err(|error| HostError { message: error.to_string() })?;
            Ok(Answer::Heard { version, full: host.front.is_full() })
        }
        Command::Init(_) | Command::Stop { .. } => {
            Err(HostError { message: "the host has been initialised already".into() })
        }
    }
}

async fn read_init(commands: &mut Commands) -> anyhow::Result<(u64, HostStart)> {
    let line = commands.next_line().await?.context("the supervisor said nothing")?;
    match serde_json::from_str(&line)? {
        Envelope { id, command: Command::Init(start) } => Ok((id, start)),
        other => anyhow::bail!("the supervisor's first command is not init: {other:?}"),
    }
}

fn init(start: HostStart) -> anyhow::Result<(Arc<Host>, relmgr_model::settings::Limits)> {
    library::NEVER_UNLOAD.store(start.unload == Unload::Never, Ordering::Relaxed);
    if let Some(tables) = start.tables {
        super::tables::settle(tables).context("no thread for the state tables")?;
    }
    HUB.set_limits(start.sessions);
    let limits = start.limits.clone();
    let tls = (start.secure > 0).then(|| Tls::new(&start.certificates)).transpose()?;
    let front = Front::new(start.version_path, start.limits, tls);
    // In the order in which the supervisor passed them: those for HTTP, those of them that speak TLS last, then those
    // for raw TCP.
    let first_secure = start.listeners.saturating_sub(start.secure);
    let http = (0..start.listeners).map(|at| if at < first_secure { Speaks::Http } else { Speaks::Https });
    let uses = http.chain(start.tcp.into_iter().map(|tcp| Speaks::Tcp(Arc::new(tcp))));
    let listeners = uses.enumerate().map(|(at, speaks)| {
        inherited_listener(FIRST_LISTENER_FD + at as RawFd).map(|listener| (listener, speaks))
    });
    let listeners = listeners.collect::<Result<_, _>>()?;
    Ok((Host::new(front, listeners), limits))
}

fn inherited_listener(fd: RawFd) -> anyhow::Result<TcpListener> {
    let socket = sys::inherited(fd).with_context(|| format!("listening socket {fd} was not passed down"))?;
    let listener = std::net::TcpListener::from(socket);
    listener.set_nonblocking(true)?;
    Ok(TcpListener::from_std(listener)?)
}

/// Ends the process when the supervisor is gone and the workers are too stuck to see it: a host that nobody
/// commands would keep the listening sockets from the next supervisor.
fn watch_for_orphanhood() -> anyhow::Result<()> {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    let channel = sys::duplicate(CHANNEL_FD).context("the supervisor's channel")?;
    let watch = move || {
        // No event is asked for: the end of the other side is always told.
        let mut fds = [PollFd::new(channel.as_fd(), PollFlags::empty())];
        while poll(&mut fds, PollTimeout::NONE).is_err() {}
        std::thread::sleep(ORPHAN_DRAIN * 5);
        std::process::exit(1);
    };
    std::thread::Builder::new().name("orphan-watch".into()).spawn(watch)?;
    Ok(())
}

async fn write_replies(mut writer: OwnedWriteHalf, mut outbox: mpsc::UnboundedReceiver<Reply>) {
    while let Some(reply) = outbox.recv().await {
        // Every reply has a JSON form.
        let Ok(mut line) = serde_json::to_vec(&reply) else { continue };
        line.push(b'\n');
        if writer.write_all(&line).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_command_that_is_not_known_is_refused_and_the_host_lives() {
        let (supervisor, host) = UnixStream::pair().unwrap();
        let (reader, _writer) = host.into_split();
        let mut commands = BufReader::new(reader).lines();
        let (replies, mut outbox) = mpsc::unbounded_channel();
        let front = Front::new("/version".into(), relmgr_model::settings::Limits::default(), None);
        let host = Host::new(front, vec![]);
        let (_, mut supervisor) = supervisor.into_split();
        supervisor
            .write_all(b"{\"id\":7,\"command\":\"dance\"}\n{\"id\":8,\"command\":\"pulse\"}\n")
            .await
            .unwrap();
        drop(supervisor);
        let end = obey(&host, &mut commands, &replies).await.unwrap();
        assert_eq!(end.asked, None, "the supervisor has gone, and nothing else ends it");
        let mut answered = [outbox.recv().await.unwrap(), outbox.recv().await.unwrap()];
        answered.sort_by_key(|reply| reply.id);
        let [unknown, known] = answered;
        let words = unknown.result.unwrap_err().message;
        assert!(unknown.id == 7 && words.contains("does not know this command"), "{words}");
        assert!(known.id == 8 && known.result.is_ok());
    }
}
