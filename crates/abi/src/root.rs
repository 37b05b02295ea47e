//! The functions that the two sides call. These are abi_stable's prefix types: fields may be added at the end,
//! with a new [`crate::ABI_MINOR`], and a library that has fewer is served all the same.

use abi_stable::StableAbi;
use abi_stable::std_types::{ROption, RResult, RStr, RString, RVec};

use crate::body::FfiBody;
use crate::buffer::FfiBytes;
use crate::future::FfiFuture;
use crate::head::{RequestHead, Response};
use crate::session::{SessionOpening, SessionOutcome, SessionView};
use crate::tables::{FfiStore, TableFault};

/// What a library offers, before anything in it runs.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = AppRootRef)))]
#[sabi(missing_field(option))]
pub struct AppRoot {
    /// Decodes the settings and runs the application's own check, without starting it. For the preflight.
    pub check: extern "C" fn(StartArgs) -> FfiFuture<RResult<(), RString>>,
    /// Makes an instance with its own threads and begins the application's start, which goes on by itself.
    /// Fails only when the instance cannot be made.
    #[sabi(last_prefix_field)]
    pub start: extern "C" fn(StartArgs) -> RResult<Instance, RString>,
    /// Who it is. Beyond the fixed part: a host does without it.
    pub describe: extern "C" fn() -> Description,
    /// Which settings it has, for the release builder. Since contract 1.1.
    pub schema: extern "C" fn() -> SchemaText,
    /// The form of its state: a [`Schema`](crate::state::Schema) as JSON; `null`: it keeps none. Since contract 1.3;
    /// where it is missing, it keeps none.
    pub state: extern "C" fn() -> RVec<u8>,
    /// Reads a state of this schema version and changes it into the library's own form, without an instance: a
    /// [`Trial`](crate::state::Trial) as JSON. For the preflight. Since contract 1.3; where it is missing, it takes
    /// over none.
    pub code_change: extern "C" fn(u32, FfiBody) -> FfiFuture<RResult<RVec<u8>, RString>>,
    /// As `code_change`, and gives what came of it in the form of another schema version, as a body that streams:
    /// the step down, without an instance. For the preflight. Since contract 1.3; where it is missing, a step down
    /// cannot be tried.
    pub change_back: extern "C" fn(u32, FfiBody, u32) -> FfiFuture<RResult<FfiBody, RString>>,
}

/// The text of a `conf/schema.toml`; none: it is written by hand. Or what of the settings' type no schema can say.
pub type SchemaText = RResult<ROption<RString>, RString>;

impl abi_stable::library::RootModule for AppRootRef {
    abi_stable::declare_root_module_statics! {AppRootRef}

    const BASE_NAME: &'static str = "relmgr";
    const NAME: &'static str = "relmgr application";
    const VERSION_STRINGS: abi_stable::sabi_types::VersionStrings = abi_stable::package_version_strings!();
}

/// Who a library is.
#[repr(C)]
#[derive(StableAbi, Clone, Debug)]
pub struct Description {
    /// Path of the application's type, such as `live_poll::LivePoll`.
    pub name: RString,
}

/// What an application is started with.
#[repr(C)]
#[derive(StableAbi)]
pub struct StartArgs {
    /// The release's version.
    pub version: RString,
    /// The release's directory, absolute.
    pub directory: RString,
    /// The effective configuration: a JSON object, UTF-8.
    pub settings: RVec<u8>,
    /// The host's functions.
    pub host: HostRef,
}

/// An instance of an application: one generation's.
///
/// The host gives it up with [`InstanceFunctions::destroy`]; dropping it without frees nothing.
#[repr(C)]
#[derive(StableAbi, Clone, Copy)]
pub struct Instance {
    /// Only the library looks inside.
    pub data: *const (),
    /// What it does.
    pub functions: InstanceFunctionsRef,
}

// SAFETY: the library makes `data` from a type that is `Send` and `Sync`, and the functions are.
unsafe impl Send for Instance {}
// SAFETY: as above.
unsafe impl Sync for Instance {}

/// What an instance does. Each takes the instance's `data`.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = InstanceFunctionsRef)))]
#[sabi(missing_field(option))]
pub struct InstanceFunctions {
    /// Waits for the application's start.
    pub started: unsafe extern "C" fn(*const ()) -> FfiFuture<RResult<(), RString>>,
    /// Answers a request; an absent body is an empty one. Dropping the future cancels it.
    pub call: unsafe extern "C" fn(*const (), RequestHead<'_>, ROption<FfiBody>) -> FfiFuture<Response>,
    /// The application's health.
    pub health: unsafe extern "C" fn(*const ()) -> FfiFuture<RResult<(), RString>>,
    /// Starts the background children: this generation is current from now on.
    pub resume: unsafe extern "C" fn(*const ()),
    /// Stops the background children and waits for their ends: this generation is current no longer.
    pub suspend: unsafe extern "C" fn(*const ()) -> FfiFuture<()>,
    /// The application's own stop.
    pub stop: unsafe extern "C" fn(*const ()) -> FfiFuture<()>,
    /// Ends the instance's threads, waiting at most so many milliseconds for blocking ones, and frees it. To be
    /// called once, from a thread that may block, when nothing else of the instance is in use.
    #[sabi(last_prefix_field)]
    pub destroy: unsafe extern "C" fn(*const (), u64),
    /// Tells the application of settings that changed while it runs: a [`ConfChange`](crate::conf::ConfChange) as
    /// JSON. `false`: the application does not take changes while it runs. Since contract 1.1; where it is missing,
    /// the answer is `false`. Dropping the future gives up.
    pub conf_change: unsafe extern "C" fn(*const (), RVec<u8>) -> FfiFuture<RResult<bool, RString>>,
    /// The background children as they are: a [`Node`](crate::children::Node) as JSON; `null`: none were
    /// started. Since contract 1.2; where it is missing, nothing is known of them.
    pub children: unsafe extern "C" fn(*const ()) -> RVec<u8>,
    /// As `suspend`, within so many milliseconds: children that have not ended by then are dropped where they stand.
    /// Since contract 1.2; where it is missing, `suspend` waits for each child as long as that may take.
    pub suspend_within: unsafe extern "C" fn(*const (), u64) -> FfiFuture<()>,
    /// Suspends the holder of the state and gives the state in the form of this schema version, as a body that
    /// streams. The instance keeps the state itself until `state_back` or `state_in`. No request may be running.
    /// Since contract 1.3; where it is missing, there is no state.
    pub state_out: unsafe extern "C" fn(*const (), u32) -> FfiFuture<RResult<FfiBody, RString>>,
    /// Takes over a state of this schema version. Dropping the future gives up. Since contract 1.3; where it is
    /// missing, there is no state.
    pub state_in: unsafe extern "C" fn(*const (), u32, FfiBody) -> FfiFuture<RResult<(), RString>>,
    /// What `state_out` gave was not taken: goes on with the state that the instance kept. Since contract 1.3; where
    /// it is missing, there is no state.
    pub state_back: unsafe extern "C" fn(*const ()) -> FfiFuture<RResult<(), RString>>,
    /// Makes every record of its tables readable for all who have them open: a release of an older schema is about
    /// to take over. How many were written; the future ends when none is left. Since contract 1.3; where it is
    /// missing, the release has no tables.
    pub hand_down: unsafe extern "C" fn(*const ()) -> FfiFuture<RResult<u64, RString>>,
    /// Which long conversations it takes: an [`Offer`](crate::session::Offer) as JSON, asked for once after the
    /// start. Since contract 1.3; where it is missing, none.
    pub sessions: unsafe extern "C" fn(*const ()) -> RVec<u8>,
    /// A session begins. Dropping the future gives it up. Since contract 1.3; where it is missing, there are none.
    pub session_open: unsafe extern "C" fn(*const (), SessionOpening<'_>) -> FfiFuture<SessionOutcome>,
    /// A message of a session, of this kind ([`TEXT`](crate::session::TEXT), [`BINARY`](crate::session::BINARY)).
    /// Dropping the future gives it up. Since contract 1.3; where it is missing, there are no sessions.
    pub session_message:
        unsafe extern "C" fn(*const (), SessionView<'_>, u8, FfiBytes) -> FfiFuture<SessionOutcome>,
    /// A session is over, with this WebSocket close code and in these words. Since contract 1.3; where it is
    /// missing, there are none.
    pub session_close:
        unsafe extern "C" fn(*const (), SessionView<'_>, u16, RStr<'_>) -> FfiFuture<SessionOutcome>,
    /// The generation's drain begins: long answers are to come to their ends. Since contract 1.3; where it is
    /// missing, they are broken off at the drain's end without a word before.
    pub wind_up: unsafe extern "C" fn(*const ()),
}

/// The host's functions for an application. The host is never unmapped.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = HostRef)))]
#[sabi(missing_field(option))]
pub struct Host {
    /// Takes a log record.
    #[sabi(last_prefix_field)]
    pub log: extern "C" fn(LogRecord),
    /// The state tables, for an instance of the release of this version; it gives them up by dropping them. Since
    /// contract 1.3; where it is missing, there are none.
    pub tables: extern "C" fn(RStr<'_>) -> RResult<FfiStore, TableFault>,
    /// Sends a message of this kind to a session: [`DONE`](crate::session::DONE), [`GONE`](crate::session::GONE) or
    /// [`FULL`](crate::session::FULL). The bytes are copied. Since contract 1.3; where it is missing, there are no
    /// sessions.
    pub session_send: extern "C" fn(u64, u8, FfiBytes) -> u8,
    /// Ends a session with this WebSocket close code, after what has been sent to it. Since contract 1.3; where it
    /// is missing, there are no sessions.
    pub session_end: extern "C" fn(u64, u16, RStr<'_>) -> u8,
    /// Has a session get what is published to a topic, or no longer. Since contract 1.3; where it is missing, there
    /// are no sessions.
    pub session_subscribe: extern "C" fn(u64, RStr<'_>, bool) -> u8,
    /// Sends a message of this kind to every session that is subscribed to a topic; to how many. The bytes are
    /// copied once. Since contract 1.3; where it is missing, there are no sessions.
    pub publish: extern "C" fn(RStr<'_>, u8, FfiBytes) -> u64,
}

/// A log record of an application.
#[repr(C)]
#[derive(StableAbi)]
pub struct LogRecord {
    /// 1 error, 2 warning, 3 info, 4 debug, 5 trace.
    pub level: u8,
    /// The module that it came from.
    pub target: RString,
    /// The text, with fields as `name=value`.
    pub message: RString,
    /// The release's version.
    pub version: RString,
}
