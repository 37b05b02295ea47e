//! `relmgr preflight`: the trial of a release in a process that is thrown away.
//!
//! 0. Become one of two processes: the trial, and the one that ends it with all its descendants (`host::keeper`).
//!    Limit what the trial may use.
//! 1. Read the file as ELF: what it is not is said in words that the dynamic linker does not have.
//! 2. Open it: static initialisers run, missing libraries and symbols show.
//! 3. Compare the fixed header and the fingerprint, as the host will.
//! 4. abi_stable's layout check, field by field. It keeps references into the library for ever, which is one
//!    reason for a process of its own.
//! 5. Decode the settings and run the application's own `check`.

use std::future::poll_fn;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Instant;

use anyhow::{Context as _, bail};
use object::{Architecture, Object, ObjectKind};
use relmgr_abi::body::{FfiBody, Frame};
use relmgr_abi::entry::{ENTRY_SYMBOL, LAYOUT_SYMBOL};
use relmgr_abi::root::{AppRootRef, StartArgs};
use relmgr_abi::state::Trial;
use relmgr_model::manifest::AbiVersion;

use super::app;
use super::lend;
use super::loader::library::Library;

/// What a release that passed says of itself: one line on stdout.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Passed {
    /// Path of the application's type; empty: it does not say.
    pub name: String,
    /// The contract of the library.
    pub abi: AbiVersion,
    /// What its code change came to on a copy of the state, where it was tried on one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trial: Option<Trial>,
}

/// The largest settings that are read from stdin: app.conf's own limit is 4 MiB.
const SETTINGS_BYTES: u64 = 16 * 1024 * 1024;

/// Tries the library at `path` with the settings (a JSON object) on stdin, and its code change on the state in a file,
/// of that schema. 0 and a [`Passed`] on stdout, or 1 and the reason on stderr.
pub fn run(path: &Path, state: Option<(&Path, u32)>) -> ExitCode {
    let tried = examine(path, state).and_then(|passed| {
        let line = serde_json::to_string(&passed)?;
        writeln!(std::io::stdout(), "{line}").context("stdout is closed")
    });
    told(tried)
}

fn told(tried: anyhow::Result<()>) -> ExitCode {
    match tried {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The supervisor takes the last line as the reason.
            let _ = writeln!(std::io::stderr(), "{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Limits what this process may use, before a line of the release's code runs: processor time, memory that is written
/// to, open files.
///
/// # Errors
/// What the system says.
pub fn confine(cpu_seconds: u64, memory_bytes: u64, files: u64) -> std::io::Result<()> {
    use nix::sys::resource::{Resource, setrlimit};

    // A second more until SIGKILL, should SIGXCPU be caught.
    setrlimit(Resource::RLIMIT_CPU, cpu_seconds, cpu_seconds.saturating_add(1))?;
    if memory_bytes > 0 {
        // Not the address space: threads and allocators reserve gigabytes of it that they never touch.
        setrlimit(Resource::RLIMIT_DATA, memory_bytes, memory_bytes)?;
    }
    setrlimit(Resource::RLIMIT_NOFILE, files, files)?;
    Ok(())
}

fn examine(path: &Path, state: Option<(&Path, u32)>) -> anyhow::Result<Passed> {
    let mut settings = Vec::new();
    std::io::stdin().take(SETTINGS_BYTES).read_to_end(&mut settings).context("the settings on stdin")?;
    read_elf(path)?;
    let library = Library::open(path)?;
    // Here a call to `exit` may end the process: that is an answer too.
    library.record().holds_exit.store(false, Ordering::Release);
    let (root, _) = library.root()?;
    check_layout(&library)?;
    // A library of the first contract may lack it.
    let name = root.describe().map(|describe| describe().name.into()).unwrap_or_default();
    let directory = path.parent().and_then(Path::parent).unwrap_or(Path::new("/"));
    let args = StartArgs {
        version: directory.file_name().unwrap_or_default().to_string_lossy().as_ref().into(),
        directory: directory.to_string_lossy().as_ref().into(),
        settings: settings.as_slice().into(),
        host: app::host_functions(),
    };
    let check = app::told(root.check()(args));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let checked = runtime.block_on(check);
    checked.map_err(|fault| anyhow::anyhow!("the application's check failed: {fault}"))?;
    let trial = match state {
        Some((file, schema)) => Some(runtime.block_on(try_code_change(root, file, schema))?),
        None => None,
    };
    let abi = AbiVersion { major: relmgr_abi::ABI_MAJOR, minor: relmgr_abi::ABI_MINOR };
    Ok(Passed { name, abi, trial })
}

/// Where the state of a step down goes, and in which form.
#[derive(Debug)]
pub struct GiveBack {
    /// The schema version to give it in.
    pub schema: u32,
    /// The file, which is there.
    pub into: PathBuf,
    /// More bytes than these are refused.
    pub most: u64,
}

/// Has the library at `path` read the state in a file, of a schema version, and write it into another one in the form
/// that is asked for: the step down, or a way up and down again. 0 and a [`Trial`] on stdout (`null`: the library is of
/// before there was such a function), or 1 and the reason on stderr.
pub fn run_back(path: &Path, (state, schema): (&Path, u32), back: &GiveBack) -> ExitCode {
    let tried = || {
        let library = Library::open(path)?;
        library.record().holds_exit.store(false, Ordering::Release);
        let (root, _) = library.root()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let trial = runtime.block_on(change_back(root, state, schema, back))?;
        writeln!(std::io::stdout(), "{}", serde_json::to_string(&trial)?).context("stdout is closed")
    };
    told(tried())
}

async fn change_back(
    root: AppRootRef,
    state: &Path,
    schema: u32,
    back: &GiveBack,
) -> anyhow::Result<Option<Trial>> {
    let begun = Instant::now();
    let Some(change) = root.change_back() else { return Ok(None) };
    let state = lend::open(state).context("the copy of the state cannot be read")?;
    let into = &back.into;
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .truncate(true)
        .open(into)
        .with_context(|| format!("{} cannot be written", into.display()))?;
    let failed = |words: &str| anyhow::anyhow!("the code change fails on a copy of the state: {words}");
    let given = app::told(change(schema, state, back.schema)).await;
    let mut body = given.map_err(|fault| failed(&fault.0))?;
    let mut bytes = 0;
    loop {
        match poll_fn(|cx| next_frame(&mut body, cx)).await {
            Frame::Data(piece) => {
                bytes += piece.as_ref().len() as u64;
                if bytes > back.most {
                    bail!(
                        "the older form of the state is larger than {} bytes (upgrade.state_max)",
                        back.most
                    );
                }
                file.write_all(piece.as_ref())?;
            }
            Frame::Failed(words) => return Err(failed(words.as_str())),
            Frame::End => break,
            Frame::Trailers(_) | Frame::Pending => {}
        }
    }
    Ok(Some(Trial { bytes, ms: begun.elapsed().as_secs_f64() * 1e3 }))
}

fn next_frame(body: &mut FfiBody, cx: &mut Context<'_>) -> Poll<Frame> {
    match body.poll_frame(cx.waker()) {
        Frame::Pending => Poll::Pending,
        frame => Poll::Ready(frame),
    }
}

async fn try_code_change(root: AppRootRef, file: &Path, schema: u32) -> anyhow::Result<Trial> {
    let change = root.code_change().context("the library takes over no state")?;
    let state = lend::open(file).context("the copy of the state cannot be read")?;
    let tried = app::told(change(schema, state)).await;
    let told =
        tried.map_err(|fault| anyhow::anyhow!("the code change fails on a copy of the state: {fault}"))?;
    serde_json::from_slice(&told).context("what the code change came to is told in no form that is known")
}

fn read_elf(path: &Path) -> anyhow::Result<()> {
    let shown = path.display();
    let file = std::fs::File::open(path).with_context(|| format!("{shown} cannot be opened"))?;
    let cache = object::ReadCache::new(file);
    let object = object::File::parse(&cache)
        .with_context(|| format!("{shown} is no ELF file: build the release with `cargo relmgr release`"))?;
    if object.architecture() != Architecture::X86_64 || !object.is_64() {
        bail!(
            "{shown} was built for {:?}, this machine is X86_64: build it for this target",
            object.architecture()
        );
    }
    if object.kind() != ObjectKind::Dynamic {
        bail!("{shown} is no dynamic library: its crate needs crate-type = [\"cdylib\"]");
    }
    let exported =
        |name: &str| object.dynamic_symbols().any(|symbol| object::ObjectSymbol::name(&symbol) == Ok(name));
    for symbol in [ENTRY_SYMBOL, LAYOUT_SYMBOL] {
        if !exported(symbol) {
            bail!(
                "{shown} is no relmgr application: it has no symbol {symbol} \
                 (add `relmgr_app::export!(YourApplication);`)"
            );
        }
    }
    Ok(())
}

#[allow(unsafe_code, reason = "reads abi_stable's header; the block says who upholds what")]
fn check_layout(library: &Library) -> anyhow::Result<()> {
    use relmgr_abi::abi_stable::StableAbi;
    use relmgr_abi::abi_stable::abi_stability::abi_checking::check_layout_compatibility;
    use relmgr_abi::abi_stable::library::{AbiHeader, LibHeader};

    let symbol = library.symbol(LAYOUT_SYMBOL).context("the layout's symbol is missing")?;
    // SAFETY: the export macro puts a `LibHeader` there, whose first field is an `AbiHeader`; the fixed header
    // beside it was checked before, and the library is never unmapped in this process.
    let header = unsafe { &*symbol.cast::<AbiHeader>() };
    if !header.is_valid() {
        bail!(
            "the library was built with another abi_stable than this relmgr: rebuild it with a current relmgr-app"
        );
    }
    // SAFETY: as above; the abi_stable header that was just compared says that the types are the same.
    let header = unsafe { &*symbol.cast::<LibHeader>() };
    let theirs = header.layout().context("the library says nothing of its contract types' layout")?;
    // What the library knows of the contract must be part of what the host knows: then an older library fits too,
    // whose tables end earlier. (`LibHeader::check_layout` asks the other way round.)
    check_layout_compatibility(theirs, AppRootRef::LAYOUT).map_err(|errors| {
        tracing::debug!("{errors}");
        anyhow::anyhow!(
            "the library's contract types differ from this relmgr's: rebuild it with a current relmgr-app \
             (RELMGR_LOG=debug relmgr preflight LIBRARY says where)"
        )
    })
}
