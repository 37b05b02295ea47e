//! What the host reads from a library's file.

use std::fs::File;
use std::path::Path;

use object::Object;
use object::read::ReadCache;

/// The build id of the library at `path`, hexadecimal, where it has one.
pub fn build_id(path: &Path) -> Option<String> {
    let file = ReadCache::new(File::open(path).ok()?);
    let object = object::File::parse(&file).ok()?;
    let id = object.build_id().ok()??;
    Some(id.iter().map(|byte| format!("{byte:02x}")).collect())
}
