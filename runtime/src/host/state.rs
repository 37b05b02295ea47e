//! In-memory state from one generation to another.
//!
//! 1. The gate is shut: new requests wait.
//! 2. Those whose handlers run are waited for.
//! 3. The one gives its state and keeps it; the other reads it at the same time, changes it and takes it over.
//! 4. What serves is exchanged, and the gate opens.
//!
//! The host copies each piece, so that no code of one library runs on a thread of the other's, which would leave
//! there what could not be cleaned up.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use relmgr_abi::body::{BodySource, FfiBody, Frame, SizeHint};
use relmgr_model::host::{CodeChange, CodeChanged};
use tokio::sync::mpsc;

use super::app::{self, Fault};
use super::gate::{self, Hold};
use super::generation::{Generation, HeldWaker, Mapping};

/// So many pieces may be on their way.
pub const AHEAD: usize = 4;

/// A generation that goes on with its own state has it at hand. Its `resume` has as long as requests may wait for a code
/// change, and so long at least: one that takes longer hangs.
const BACK_PATIENCE: Duration = Duration::from_secs(5);

/// A hand-over that was none.
#[derive(Debug)]
pub struct Failed {
    /// Why.
    pub reason: String,
    /// Whether it is the fault of the one that was to take the state.
    pub blames_taker: bool,
    /// Whether the one that was to give the state was asked for it.
    asked: bool,
}

impl Failed {
    fn new(reason: String, blames_taker: bool) -> Self {
        Self { reason, blames_taker, asked: true }
    }

    /// It did not come to be asked for in time.
    pub fn late(reason: &str) -> Self {
        let reason = format!("{reason} in time (upgrade.quiesce)");
        Self { reason, blames_taker: false, asked: false }
    }
}

/// Hands the state of `from` to `to` while `hold` keeps the gate shut.
///
/// # Errors
/// [`Failed`]; `from` has to be given its own state back by [`back`], unless it is given up.
pub async fn hand_over(
    hold: &Hold,
    from: &Arc<Generation>,
    to: &Arc<Generation>,
    change: &CodeChange,
) -> Result<CodeChanged, Failed> {
    let quiet = wait_quiet(hold, from, change).await?;
    let late = || {
        let (from, to) = (&from.facts.version, &to.facts.version);
        late(&format!("the code change from {from} to {to}"), change)
    };
    let deadline = hold.since + Duration::from_millis(change.quiesce_ms);
    let bytes = gate::until(deadline, transfer(from, to, change)).await.ok_or_else(late)??;
    let (waited, refused) = hold.counts();
    let (held_ms, quiet_ms) = (milliseconds(hold.since.elapsed()), milliseconds(quiet));
    Ok(CodeChanged { bytes, held_ms, quiet_ms, waited, refused })
}

/// Waits until no handler of `generation` runs; how long that took.
async fn wait_quiet(hold: &Hold, generation: &Generation, change: &CodeChange) -> Result<Duration, Failed> {
    let quiesce = Duration::from_millis(change.quiesce_ms);
    if gate::until(hold.since + quiesce, gate::soon(|| generation.facts.running() == 0)).await.is_some() {
        return Ok(hold.since.elapsed());
    }
    let requests = not_over(generation, quiesce);
    let reason = format!("{requests} (upgrade.quiesce): their handlers were still running");
    Err(Failed { reason, blames_taker: false, asked: false })
}

/// Waits until no handler of `generation` runs, for `limit` at most, for somebody who needs no more than a copy.
///
/// # Errors
/// Some run longer.
pub async fn quiet_within(hold: &Hold, generation: &Generation, limit: Duration) -> Result<(), Failed> {
    if gate::until(hold.since + limit, gate::soon(|| generation.facts.running() == 0)).await.is_some() {
        return Ok(());
    }
    let requests = not_over(generation, limit);
    let reason = format!(
        "the state could not be looked at: {requests}, and no other is to wait longer for that; try again when no \
         request takes so long"
    );
    Err(Failed { reason, blames_taker: false, asked: false })
}

fn not_over(generation: &Generation, limit: Duration) -> String {
    let running = generation.facts.running();
    let requests = if running == 1 { "1 request was" } else { &format!("{running} requests were") };
    format!("{requests} not over within {}", humantime::format_duration(limit))
}

fn late(what: &str, change: &CodeChange) -> Failed {
    let limit = humantime::format_duration(Duration::from_millis(change.quiesce_ms));
    Failed::new(format!("{what} took longer than {limit} (upgrade.quiesce)"), true)
}

fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

/// Has `generation` go on with the state that it was asked for. Until then, or until it has taken longer than `quiesce`
/// (`upgrade.quiesce`) allows, whoever asks for this keeps the gate shut: what clients wrote into the state that it has
/// meanwhile would be overwritten.
///
/// # Errors
/// It does not.
pub async fn back(generation: &Generation, quiesce: Duration) -> Result<(), String> {
    let Some(back) = generation.state_back() else { return Ok(()) };
    resumed(app::told(back), quiesce).await
}

async fn resumed(back: impl Future<Output = Result<(), Fault>>, quiesce: Duration) -> Result<(), String> {
    let patience = BACK_PATIENCE.max(quiesce);
    match tokio::time::timeout(patience, back).await {
        Ok(result) => result.map_err(|fault| fault.0),
        Err(_) => Err(format!("its resume takes longer than {}", humantime::format_duration(patience))),
    }
}

/// After a hand-over that failed: `from` goes on. The words for people.
pub async fn give_up(from: &Generation, failed: Failed, change: &CodeChange) -> Failed {
    if !failed.asked {
        return failed;
    }
    match back(from, Duration::from_millis(change.quiesce_ms)).await {
        Ok(()) => failed,
        Err(words) => {
            let version = &from.facts.version;
            let reason =
                format!("{}; and {version} did not go on with its own state: {words}", failed.reason);
            Failed { reason, ..failed }
        }
    }
}

/// Has `from` give its state into `pieces`, while `hold` keeps the gate shut; how many bytes it had.
///
/// # Errors
/// As [`hand_over`].
pub async fn give(
    hold: &Hold,
    from: &Generation,
    change: &CodeChange,
    pieces: mpsc::Sender<Piece>,
) -> Result<u64, Failed> {
    wait_quiet(hold, from, change).await?;
    let deadline = hold.since + Duration::from_millis(change.quiesce_ms);
    let given =
        gate::until(deadline, async { pass_on(ask(from, change.schema).await?, pieces, from, change).await });
    given.await.ok_or_else(|| Failed { blames_taker: false, ..late("giving the state", change) })?
}

/// Has `to` take a state over.
///
/// # Errors
/// [`Failed`].
pub async fn take(to: &Generation, schema: u32, source: mpsc::Receiver<Piece>) -> Result<(), Failed> {
    let version = &to.facts.version;
    let source = body(source, Some(to.mapping().clone()));
    let taking = to.state_in(schema, source).ok_or_else(|| none(to))?;
    let taken = app::told(taking).await;
    taken.map_err(|fault| Failed::new(format!("{version} did not take the state over: {fault}"), true))
}

/// Has `of` go on with another state, which `begin` sends, while `hold` keeps the gate shut. Its own is taken from it
/// first, so that it has something to go on with when it does not take the other.
///
/// # Errors
/// [`Failed`]; it goes on with its own.
pub async fn load(
    hold: &Hold,
    of: &Arc<Generation>,
    own_schema: u32,
    change: &CodeChange,
    begin: impl FnOnce(mpsc::Sender<Piece>),
) -> Result<(), Failed> {
    let (pieces, mut own) = mpsc::channel(AHEAD);
    // Nobody needs the bytes: the library keeps the state itself.
    let unread = tokio::spawn(async move { while own.recv().await.is_some() {} });
    let own_form = CodeChange { schema: own_schema, ..change.clone() };
    if let Err(failed) = give(hold, of, &own_form, pieces).await {
        return Err(give_up(of, failed, change).await);
    }
    let _ = unread.await;
    let (pieces, source) = mpsc::channel(AHEAD);
    begin(pieces);
    let deadline = hold.since + Duration::from_millis(change.quiesce_ms);
    match gate::until(deadline, take(of, change.schema, source)).await {
        Some(Ok(())) => Ok(()),
        Some(Err(failed)) => Err(give_up(of, failed, change).await),
        None => Err(give_up(of, late("taking over the state", change), change).await),
    }
}

fn none(generation: &Generation) -> Failed {
    Failed::new(format!("the library of {} hands over no state", generation.facts.version), false)
}

async fn ask(from: &Generation, schema: u32) -> Result<FfiBody, Failed> {
    let asked = from.state_out(schema).ok_or_else(|| none(from))?;
    app::told(asked).await.map_err(|fault| not_given(from, &fault.0))
}

fn not_given(from: &Generation, words: &str) -> Failed {
    Failed::new(format!("{} did not give its state: {words}", from.facts.version), false)
}

/// Both ends at work at the same time.
async fn transfer(from: &Generation, to: &Generation, change: &CodeChange) -> Result<u64, Failed> {
    let body = ask(from, change.schema).await?;
    let (pieces, source) = mpsc::channel(AHEAD);
    let (passed, taken) = tokio::join!(pass_on(body, pieces, from, change), take(to, change.schema, source));
    // Why it could not be read is the giver's to say.
    passed.and_then(|bytes| taken.map(|()| bytes))
}

/// Some bytes of a state, or why there are no more.
pub type Piece = Result<Bytes, String>;

/// Passes the pieces of `body` on; how many bytes they had. Where nobody takes them any more, who took them says why.
async fn pass_on(
    mut body: FfiBody,
    pieces: mpsc::Sender<Piece>,
    from: &Generation,
    change: &CodeChange,
) -> Result<u64, Failed> {
    let (mut bytes, most) = (0, change.max_bytes);
    let failed = loop {
        // A copy: see the module.
        let frame = poll_fn(|cx| match body.poll_frame(cx.waker()) {
            Frame::Pending => Poll::Pending,
            Frame::Data(piece) => Poll::Ready(Some(Ok(Bytes::copy_from_slice(piece.as_ref())))),
            Frame::Trailers(_) => Poll::Ready(Some(Ok(Bytes::new()))),
            Frame::End => Poll::Ready(None),
            Frame::Failed(words) => Poll::Ready(Some(Err(words.as_str().to_owned()))),
        });
        match frame.await {
            None => return Ok(bytes),
            Some(Err(words)) => break words,
            Some(Ok(piece)) => {
                bytes += piece.len() as u64;
                if bytes > most {
                    break format!("it is larger than {most} bytes (upgrade.state_max)");
                }
                if pieces.send(Ok(piece)).await.is_err() {
                    return Ok(bytes);
                }
            }
        }
    };
    let _ = pieces.send(Err(failed.clone())).await;
    Err(not_given(from, &failed))
}

/// The pieces as a library reads them; `mapping` is that of the library, where it is ever unmapped.
pub fn body(pieces: mpsc::Receiver<Piece>, mapping: Option<Arc<Mapping>>) -> FfiBody {
    FfiBody::new(Source { pieces, mapping })
}

/// The state as a library reads it.
struct Source {
    pieces: mpsc::Receiver<Piece>,
    mapping: Option<Arc<Mapping>>,
}

impl BodySource for Source {
    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Frame {
        // The other end may keep the waker beyond this one's life, so it has to hold the mapping.
        let waker = match &self.mapping {
            Some(mapping) => HeldWaker::wrap(cx.waker(), mapping),
            None => cx.waker().clone(),
        };
        match self.pieces.poll_recv(&mut Context::from_waker(&waker)) {
            Poll::Pending => Frame::Pending,
            Poll::Ready(None) => Frame::End,
            Poll::Ready(Some(Ok(piece))) => Frame::Data(piece.into()),
            Poll::Ready(Some(Err(words))) => Frame::Failed(words.into()),
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint { lower: 0, upper: u64::MAX }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn slow(seconds: u64) -> Result<(), Fault> {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        Ok(())
    }

    #[tokio::test(start_paused = true)]
    async fn a_state_that_comes_back_slowly_has_as_long_as_requests_may_wait() {
        assert_eq!(resumed(slow(20), Duration::from_secs(60)).await, Ok(()));
        // Short waits of requests leave it a little while all the same.
        assert_eq!(resumed(slow(4), Duration::from_secs(1)).await, Ok(()));
        let late = resumed(slow(20), Duration::from_secs(1)).await;
        assert_eq!(late, Err("its resume takes longer than 5s".into()));
        let late = resumed(slow(90), Duration::from_secs(60)).await;
        assert_eq!(late, Err("its resume takes longer than 1m".into()));
    }
}
