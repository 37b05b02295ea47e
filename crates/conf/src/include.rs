//! Which files an `include` line names.

use std::path::{Path, PathBuf};

/// Whether an include names whatever matches, and not one file.
pub(crate) fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?', '['])
}

/// The files that an include names, relative to `base`. A plain path must be there; a pattern may match nothing.
pub(crate) fn matching(base: &Path, pattern: &str) -> Result<Vec<PathBuf>, String> {
    let options = glob::MatchOptions {
        case_sensitive: true,
        require_literal_separator: true,
        require_literal_leading_dot: true,
    };
    if !is_pattern(pattern) {
        return Ok(vec![base.join(pattern)]);
    }
    let whole = if pattern.starts_with('/') || base.as_os_str().is_empty() {
        pattern.to_owned()
    } else {
        let base = base.to_str().ok_or("the directory's name is not UTF-8, so patterns cannot be used")?;
        format!("{}/{pattern}", glob::Pattern::escape(base))
    };
    let found =
        glob::glob_with(&whole, options).map_err(|error| format!("the pattern is wrong: {}", error.msg))?;
    found.collect::<Result<_, _>>().map_err(|error| format!("{} cannot be read", error.path().display()))
}
