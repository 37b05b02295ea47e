//! For tools: what a built library says of itself.
//!
//! Opening a library runs its static initialisers, and what they do cannot be undone: only in a process that is
//! thrown away afterwards.

use std::path::Path;

use abi_stable::library::RawLibrary;

use crate::entry::{ENTRY_SYMBOL, Entry};

/// The schema of the settings of the application at `path`, as the text of a `conf/schema.toml`; `None`: it is
/// written by hand, or the library is of a contract that did not know of it. The library stays open.
///
/// # Errors
/// The dynamic linker's, a library that is no application of this contract, what the application says.
pub fn schema(path: &Path) -> Result<Option<String>, String> {
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
    match entry.root.schema() {
        None => Ok(None),
        Some(schema) => match schema().into_result() {
            Ok(text) => Ok(text.into_option().map(String::from)),
            Err(fault) => Err(fault.into()),
        },
    }
}
