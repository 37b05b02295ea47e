//! Writing a state in the form that is asked for, while it is kept.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::change::{Give, Spent};
use super::hand::{AHEAD, Kept, caught};
use super::shared::{Share, Shared};
use super::{CodeChange, State, codec};
use crate::Error;

/// A step down that only looks at a state of 10⁶ records has let go of it by then; one that has not hangs, and a copy
/// is made, which has to be there within the host's patience of five seconds too.
const LETS_GO: Duration = Duration::from_millis(500);

pub(super) type Chunk = Result<Vec<u8>, String>;

/// Writes `state` to `chunks` in the form that is asked for, and keeps it.
pub(super) fn write<S: State>(
    change: &CodeChange<S>,
    state: S,
    kept: &Arc<Kept>,
    (schema, shape): (u32, u64),
    chunks: mpsc::Sender<Chunk>,
) {
    let send = |chunk| chunks.blocking_send(Ok(chunk)).map_err(|_| io::ErrorKind::BrokenPipe.into());
    let written = match schema == S::SCHEMA {
        true => write_own(state, shape, kept, send).map(|()| None),
        false => match change.giving(schema) {
            Ok(Give::Copy(give)) => write_changed(give, state, kept, (schema, shape), send).map(Some),
            Ok(Give::Look(share, give)) => {
                write_looked_at((*share, give), state, kept, (schema, shape), send).map(Some)
            }
            Err(words) => {
                kept.put(state);
                Err(words)
            }
        },
    };
    let spent = written.unwrap_or_else(|words| {
        // Who gave up does not listen.
        let _ = chunks.blocking_send(Err(words));
        None
    });
    // The end, before what takes a while and nobody is to wait for.
    drop(chunks);
    drop(spent);
}

/// Writes the state in its own form, and keeps it.
fn write_own<S: State>(
    state: S,
    shape: u64,
    kept: &Kept,
    send: impl FnMut(Vec<u8>) -> io::Result<()>,
) -> Result<(), String> {
    let written = encode(&state, shape, send);
    kept.put(state);
    written
}

fn encode<S: State>(
    state: &S,
    shape: u64,
    send: impl FnMut(Vec<u8>) -> io::Result<()>,
) -> Result<(), String> {
    caught("writing the state", || {
        let mut chunks = codec::sink(S::SCHEMA, shape, send)?;
        codec::encode(state, &mut chunks)?;
        Ok(chunks.finish().map(drop)?)
    })
}

/// Writes a copy of the state in an older form. The copy goes by way of its bytes, since nothing else is known of how
/// to make one, and another thread writes them: the state itself is out of reach of whatever the change does.
fn write_changed<S: State>(
    give: impl FnOnce(S, &mut codec::Sink<'_>) -> Result<Spent, Error>,
    state: S,
    kept: &Arc<Kept>,
    (schema, shape): (u32, u64),
    send: impl FnMut(Vec<u8>) -> io::Result<()>,
) -> Result<Spent, String> {
    let own_shape = super::shape_hash::<S>();
    let (chunks, copied) = std::sync::mpsc::sync_channel(AHEAD);
    let keeper = kept.clone();
    let copier = std::thread::spawn(move || write_own(state, own_shape, &keeper, to_copy(chunks)));
    let changed = caught("code_change", move || {
        let copy = decode_copy(own_shape, copied)?;
        let mut chunks = codec::sink(schema, shape, send)?;
        let spent = give(copy, &mut chunks)?;
        chunks.finish()?;
        Ok(spent)
    });
    match (copier.join(), changed) {
        (Ok(Err(words)), Err(changed)) if !words.contains("broken pipe") => {
            Err(format!("{words}; then {changed}"))
        }
        (_, changed) => changed,
    }
}

fn to_copy(chunks: std::sync::mpsc::SyncSender<Vec<u8>>) -> impl FnMut(Vec<u8>) -> io::Result<()> {
    move |chunk| chunks.send(chunk).map_err(|_| io::ErrorKind::BrokenPipe.into())
}

fn decode_copy<S: State>(shape: u64, chunks: std::sync::mpsc::Receiver<Vec<u8>>) -> Result<S, Error> {
    let next = move || Ok(chunks.recv().ok().map(Bytes::from));
    let mut from = codec::source(S::SCHEMA, shape, next)?;
    let copy = codec::decode(&mut from)?;
    from.finish()?;
    Ok(copy)
}

/// Writes an older form that is made beside the state, which is kept from the beginning.
fn write_looked_at<S: State>(
    (share, give): (Share<S>, impl FnOnce(&S, &mut codec::Sink<'_>) -> Result<Spent, Error>),
    state: S,
    kept: &Kept,
    (schema, shape): (u32, u64),
    send: impl FnMut(Vec<u8>) -> io::Result<()>,
) -> Result<Spent, String> {
    let state = share(state);
    kept.put(state.another());
    let written = caught("code_change", || {
        let mut chunks = codec::sink(schema, shape, send)?;
        let spent = give(state.state(), &mut chunks)?;
        chunks.finish()?;
        Ok(spent)
    });
    drop(state);
    kept.written.notify_waiters();
    written
}

/// The state of `shared`, once nobody looks at it any more; a copy of it where somebody does not come to an end.
pub(super) async fn alone<S: State>(mut shared: Box<dyn Shared<S>>, kept: &Kept) -> S {
    let mut can_be_copied = true;
    loop {
        let mut written = std::pin::pin!(kept.written.notified());
        written.as_mut().enable();
        shared = match shared.into_state() {
            Ok(state) => return state,
            Err(shared) => shared,
        };
        if !can_be_copied {
            written.await;
        } else if tokio::time::timeout(LETS_GO, written).await.is_err() {
            let seen = shared.another();
            match tokio::task::spawn_blocking(move || copy(seen)).await {
                Ok(Ok(copy)) => return copy,
                Ok(Err(words)) => crate::log::send(2, "relmgr_app", &words),
                Err(error) => crate::log::send(2, "relmgr_app", &format!("no copy of the state: {error}")),
            }
            can_be_copied = false;
        }
    }
}

/// A copy of a state that others look at.
fn copy<S: State>(shared: Box<dyn Shared<S>>) -> Result<S, String> {
    let shape = super::shape_hash::<S>();
    let (chunks, copied) = std::sync::mpsc::sync_channel(AHEAD);
    let writer = std::thread::spawn(move || encode(shared.state(), shape, to_copy(chunks)));
    let copy = caught("reading a copy of the state", || decode_copy(shape, copied));
    match writer.join() {
        Ok(Err(words)) => Err(words),
        _ => copy,
    }
}
