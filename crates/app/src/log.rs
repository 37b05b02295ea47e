//! `tracing` events on their way to the host.
//!
//! The subscriber has no memory of its own: what a static of a library holds on the heap is lost when the
//! library is unmapped. So it takes events, and gives spans no more than an id. (tracing-core itself keeps about
//! 150 bytes for a global subscriber, once per generation.)

use std::fmt::Write;
use std::sync::OnceLock;

use relmgr_abi::root::{HostRef, LogRecord};
use tracing_core::field::{Field, Visit};
use tracing_core::span::{Attributes, Id, Record};
use tracing_core::{Dispatch, Event, Level, Metadata, Subscriber};

struct Forward;

static HOST: OnceLock<HostRef> = OnceLock::new();
static VERSION: OnceLock<Version> = OnceLock::new();

/// A version's text in place: a static of a library must not hold memory of the heap.
struct Version {
    text: [u8; Version::MAX_LEN],
    len: usize,
}

impl Version {
    /// As long as a version may be (relmgr-model).
    const MAX_LEN: usize = 64;

    fn new(version: &str) -> Self {
        let len = version.len().min(Self::MAX_LEN);
        let mut text = [0; Self::MAX_LEN];
        text[..len].copy_from_slice(&version.as_bytes()[..len]);
        Self { text, len }
    }

    fn as_str(&self) -> &str {
        std::str::from_utf8(&self.text[..self.len]).unwrap_or("")
    }
}

/// Sends this library's events and panics to `host`. Nothing is lost when a subscriber is there already: then
/// the events go there.
pub(crate) fn install(host: HostRef, version: &str) {
    if HOST.set(host).is_err() {
        return;
    }
    let _ = VERSION.set(Version::new(version));
    let _ = tracing_core::dispatcher::set_global_default(Dispatch::new(Forward));
    // A closure without captures: its box has no memory either.
    std::panic::set_hook(Box::new(|info| {
        let place = info.location().map(|at| format!(" at {}:{}", at.file(), at.line())).unwrap_or_default();
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("unnamed").to_owned();
        let words = info.payload_as_str().unwrap_or("a panic without words");
        send(1, "panic", &format!("panic in thread {name}{place}: {words}"));
    }));
}

/// The host's functions; `None`: there is no host (a test, a program of its own).
pub(crate) fn host() -> Option<HostRef> {
    HOST.get().copied()
}

/// Sends one record from this crate itself.
pub(crate) fn send(level: u8, target: &str, message: &str) {
    if let Some(host) = HOST.get() {
        let version = VERSION.get().map_or("", Version::as_str);
        host.log()(LogRecord {
            level,
            target: target.into(),
            message: message.into(),
            version: version.into(),
        });
    }
}

impl Subscriber for Forward {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::DEBUG
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut text = Text(String::new());
        event.record(&mut text);
        let level = match *event.metadata().level() {
            Level::ERROR => 1,
            Level::WARN => 2,
            Level::INFO => 3,
            Level::DEBUG => 4,
            Level::TRACE => 5,
        };
        send(level, event.metadata().target(), &text.0);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// An event as a line: its message, then its fields as `name=value`.
struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let space = if self.0.is_empty() { "" } else { " " };
        // Writing to a string does not fail.
        let _ = match field.name() {
            "message" => {
                let rest = std::mem::take(&mut self.0);
                write!(self.0, "{value:?}{}{rest}", if rest.is_empty() { "" } else { " " })
            }
            name => write!(self.0, "{space}{name}={value:?}"),
        };
    }
}
