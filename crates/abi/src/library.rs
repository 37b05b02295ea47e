//! For tools: what a built library says of itself.
//!
//! Opening a library runs its static initialisers, and what they do cannot be undone: only in a process that is
//! thrown away afterwards.

use std::path::Path;

use abi_stable::library::RawLibrary;

use crate::entry::{ENTRY_SYMBOL, Entry};
use crate::state::Schema;

/// What a library says of itself to the release builder.
#[derive(Debug)]
pub struct Said {
    /// The schema of its settings, as the text of a `conf/schema.toml`; `None`: it is written by hand, or the library
    /// is of a contract that did not know of it.
    pub schema: Option<String>,
    /// The form of its state; `None`: it keeps none.
    pub state: Option<Schema>,
}

/// Asks the library of the application at `path`, which stays open.
///
/// # Errors
/// The dynamic linker's, a library that is no application of this contract, what the application says.
pub fn ask(path: &Path) -> Result<Said, String> {
    let library = RawLibrary::load_at(path).map_err(|error| error.to_string())?;
    // What it gives may point into it.
    let library: &'static RawLibrary = Box::leak(Box::new(library));
    // SAFETY: the export macro of relmgr-app puts an `Entry` there, and no other program uses the name. Its header
    // has one layout for ever, and `check` reads nothing else of it.
    let entry = unsafe { library.get::<*const Entry>(ENTRY_SYMBOL.as_bytes()) };
    let entry = *entry.map_err(|error| error.to_string())?;
    // SAFETY: the symbol's address, of a library that stays open.
    let entry = unsafe { &*entry };
    entry.check()?;
    // The header says that both sides mean the same by what follows.
    let schema = match entry.root.schema().map(|schema| schema().into_result()) {
        None => None,
        Some(Ok(text)) => text.into_option().map(String::from),
        Some(Err(fault)) => return Err(fault.into()),
    };
    let state = match entry.root.state() {
        None => None,
        Some(state) => serde_json::from_slice(&state())
            .map_err(|error| format!("what it says of its state is in no form that is known: {error}"))?,
    };
    Ok(Said { schema, state })
}
