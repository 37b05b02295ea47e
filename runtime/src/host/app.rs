//! The calls into an application's instance: the only place outside of the loader that crosses the border
//! unsafely.

#![allow(
    unsafe_code,
    reason = "part of the loader: the calls across the border; each block says who upholds what"
)]

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use relmgr_abi::abi_stable::prefix_type::WithMetadata;
use relmgr_abi::abi_stable::std_types::{ROption, RResult, RStr, RString};
use relmgr_abi::body::FfiBody;
use relmgr_abi::buffer::FfiBytes;
use relmgr_abi::future::{FfiFuture, Poll as FfiPoll};
use relmgr_abi::head::{RequestHead, Response};
use relmgr_abi::root::{Host, HostRef, Instance, LogRecord};
use relmgr_abi::session::{SessionOpening, SessionOutcome, SessionView};
use relmgr_abi::tables::{FfiStore, TableFault};

use super::sessions::hub::HUB;
use crate::log::APPLICATION;

/// The application's words for what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Fault(pub String);

type InstanceFunction<T> = unsafe extern "C" fn(*const ()) -> FfiFuture<T>;

/// Asks one of the instance's own functions, such as `instance.functions.health()`.
pub fn ask<T>(instance: &Instance, function: InstanceFunction<T>) -> FfiFuture<T> {
    // SAFETY: a generation gives up its instance in `destroy` only, which consumes the generation; so it is live.
    unsafe { function(instance.data) }
}

/// Tells the application of changed settings; `None`: its library is of a contract that could not be told.
pub fn conf_change(instance: &Instance, change: &[u8]) -> Option<FfiFuture<RResult<bool, RString>>> {
    let function = instance.functions.conf_change()?;
    // SAFETY: as in `ask`.
    Some(unsafe { function(instance.data, change.into()) })
}

/// Answers a request.
pub fn call(instance: &Instance, head: RequestHead<'_>, body: ROption<FfiBody>) -> FfiFuture<Response> {
    // SAFETY: as in `ask`.
    unsafe { instance.functions.call()(instance.data, head, body) }
}

/// Starts the background children.
pub fn resume(instance: &Instance) {
    // SAFETY: as in `ask`.
    unsafe { instance.functions.resume()(instance.data) }
}

/// Stops the background children, within `patience` where the library knows of that.
pub fn suspend(instance: &Instance, patience: Duration) -> FfiFuture<()> {
    match instance.functions.suspend_within() {
        // SAFETY: as in `ask`.
        Some(function) => unsafe { function(instance.data, milliseconds(patience)) },
        None => ask(instance, instance.functions.suspend()),
    }
}

/// The background children as JSON; `None`: its library is of a contract that could not tell.
pub fn children(instance: &Instance) -> Option<Vec<u8>> {
    let function = instance.functions.children()?;
    // A copy, since the bytes are the library's.
    // SAFETY: as in `ask`.
    Some(unsafe { function(instance.data) }.to_vec())
}

/// Asks for the state in the form of `schema`; `None`: its library is of a contract that keeps none.
pub fn state_out(instance: &Instance, schema: u32) -> Option<FfiFuture<RResult<FfiBody, RString>>> {
    let function = instance.functions.state_out()?;
    // SAFETY: as in `ask`.
    Some(unsafe { function(instance.data, schema) })
}

/// Gives it a state of `schema`; `None`: its library is of a contract that keeps none.
pub fn state_in(instance: &Instance, schema: u32, state: FfiBody) -> Option<FfiFuture<RResult<(), RString>>> {
    let function = instance.functions.state_in()?;
    // SAFETY: as in `ask`.
    Some(unsafe { function(instance.data, schema, state) })
}

/// Has it go on with its own state; `None`: its library is of a contract that keeps none.
pub fn state_back(instance: &Instance) -> Option<FfiFuture<RResult<(), RString>>> {
    Some(ask(instance, instance.functions.state_back()?))
}

/// Which long conversations it takes, as JSON; `None`: its library is of a contract without.
pub fn sessions(instance: &Instance) -> Option<Vec<u8>> {
    let function = instance.functions.sessions()?;
    // A copy, since the bytes are the library's.
    // SAFETY: as in `ask`.
    Some(unsafe { function(instance.data) }.to_vec())
}

/// Begins a session; `None`: its library is of a contract without.
pub fn session_open(instance: &Instance, opening: SessionOpening<'_>) -> Option<FfiFuture<SessionOutcome>> {
    let function = instance.functions.session_open()?;
    // SAFETY: as in `ask`.
    Some(unsafe { function(instance.data, opening) })
}

/// Hands over a session's message; `None`: its library is of a contract without.
pub fn session_message(
    instance: &Instance,
    session: SessionView<'_>,
    kind: u8,
    bytes: FfiBytes,
) -> Option<FfiFuture<SessionOutcome>> {
    let function = instance.functions.session_message()?;
    // SAFETY: as in `ask`.
    Some(unsafe { function(instance.data, session, kind, bytes) })
}

/// Tells of a session's end; `None`: its library is of a contract without.
pub fn session_close(
    instance: &Instance,
    session: SessionView<'_>,
    code: u16,
    reason: RStr<'_>,
) -> Option<FfiFuture<SessionOutcome>> {
    let function = instance.functions.session_close()?;
    // SAFETY: as in `ask`.
    Some(unsafe { function(instance.data, session, code, reason) })
}

/// Tells the application that its drain begins, where its library can be told.
pub fn wind_up(instance: &Instance) {
    if let Some(function) = instance.functions.wind_up() {
        // SAFETY: as in `ask`.
        unsafe { function(instance.data) }
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Ends the instance's threads and frees it.
pub fn destroy(instance: Instance, patience: Duration) {
    // SAFETY: the caller had the generation for itself and gives it up: this is the last call.
    unsafe { instance.functions.destroy()(instance.data, milliseconds(patience)) }
}

/// Waits for what the application says of itself.
///
/// # Errors
/// Its words, or those of its panic.
pub async fn told<T>(mut future: FfiFuture<RResult<T, RString>>) -> Result<T, Fault> {
    poll_fn(|cx| match future.poll(cx.waker()) {
        FfiPoll::Pending => Poll::Pending,
        FfiPoll::Ready(RResult::ROk(value)) => Poll::Ready(Ok(value)),
        // Copies: the words lie in the library.
        FfiPoll::Ready(RResult::RErr(words)) => Poll::Ready(Err(Fault(words.as_str().to_owned()))),
        FfiPoll::Panicked(words) => Poll::Ready(Err(Fault(format!("it panicked: {words}")))),
    })
    .await
}

/// Waits for the end of something that cannot fail.
pub async fn done(mut future: FfiFuture<()>) {
    poll_fn(|cx| match future.poll(cx.waker()) {
        FfiPoll::Pending => Poll::Pending,
        FfiPoll::Ready(()) | FfiPoll::Panicked(_) => Poll::Ready(()),
    })
    .await;
}

/// Has the application make its tables' records readable for an older release; `None`: it has no tables.
pub fn hand_down(instance: &Instance) -> Option<FfiFuture<RResult<u64, RString>>> {
    let function = instance.functions.hand_down()?;
    // SAFETY: as in `ask`.
    Some(unsafe { function(instance.data) })
}

static HOST_FIELDS: WithMetadata<Host> =
    WithMetadata::new(Host { log, tables, session_send, session_end, session_subscribe, publish });

/// The host's functions for applications.
pub fn host_functions() -> HostRef {
    HostRef(HOST_FIELDS.static_as_prefix())
}

extern "C" fn tables(version: RStr<'_>) -> RResult<FfiStore, TableFault> {
    super::tables::lend(&version).into()
}

extern "C" fn log(record: LogRecord) {
    let LogRecord { level, target, message, version } = &record;
    match level {
        1 => tracing::error!(target: APPLICATION, release = %version, module = %target, "{message}"),
        2 => tracing::warn!(target: APPLICATION, release = %version, module = %target, "{message}"),
        3 => tracing::info!(target: APPLICATION, release = %version, module = %target, "{message}"),
        4 => tracing::debug!(target: APPLICATION, release = %version, module = %target, "{message}"),
        _ => tracing::trace!(target: APPLICATION, release = %version, module = %target, "{message}"),
    }
}

// What a library hands over is copied at once: nothing of it stays in the host's hands when its generation goes.

extern "C" fn session_send(id: u64, kind: u8, bytes: FfiBytes) -> u8 {
    HUB.send(id, kind, Bytes::copy_from_slice(bytes.as_ref()))
}

extern "C" fn session_end(id: u64, code: u16, reason: RStr<'_>) -> u8 {
    HUB.end(id, code, reason.as_str())
}

extern "C" fn session_subscribe(id: u64, topic: RStr<'_>, subscribed: bool) -> u8 {
    HUB.subscribe(id, topic.as_str(), subscribed)
}

extern "C" fn publish(topic: RStr<'_>, kind: u8, bytes: FfiBytes) -> u64 {
    HUB.publish(topic.as_str(), kind, &Bytes::copy_from_slice(bytes.as_ref()))
}
