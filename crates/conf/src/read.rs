//! Reads a text file whole, or says exactly why not: a file that cannot be read is never taken as empty.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use zeroize::Zeroizing;

/// Limit on one configuration file. 10,000 keys with their comments take a quarter of it.
pub(crate) const MAX_BYTES: u64 = 4 * 1024 * 1024;

/// Limit on a file that holds one value: a certificate chain is 10 KB.
pub(crate) const MAX_VALUE_BYTES: u64 = 1024 * 1024;

/// Why a file could not be read.
#[derive(Debug)]
pub(crate) enum Unreadable {
    /// It is not there.
    Missing,
    /// Something else, in words that follow the file's name.
    Because(String),
    /// It is no text, seen at this line and column.
    NoText { line: usize, column: usize, reason: &'static str },
}

impl Unreadable {
    /// The reason in words that follow the file's name.
    pub(crate) fn reason(&self) -> String {
        match self {
            Self::Missing => "does not exist".to_owned(),
            Self::Because(reason) => reason.clone(),
            Self::NoText { line, column, reason } => format!("is no text file: {reason} at {line}:{column}"),
        }
    }
}

impl From<io::Error> for Unreadable {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            // A component of the path that is a file is as good as no file.
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Self::Missing,
            _ => Self::Because(format!("cannot be read: {error}")),
        }
    }
}

/// The text of the file at `path`, of at most `limit` bytes.
pub(crate) fn text(path: &Path, limit: u64) -> Result<Zeroizing<String>, Unreadable> {
    // Without O_NONBLOCK, opening a pipe in the file's place would wait for a writer for ever.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let metadata = file.metadata()?;
    if metadata.is_dir() {
        return Err(Unreadable::Because("is a directory; a file was expected".to_owned()));
    }
    if !metadata.is_file() {
        return Err(Unreadable::Because("is not a regular file".to_owned()));
    }
    let too_large = || Unreadable::Because(format!("is larger than {limit} bytes"));
    if metadata.len() > limit {
        return Err(too_large());
    }
    // One byte more than the file has, so that the buffer never moves and leaves a secret behind.
    let capacity = usize::try_from(metadata.len()).unwrap_or(0) + 1;
    let mut bytes = Zeroizing::new(Vec::with_capacity(capacity));
    file.take(limit + 1).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > limit {
        return Err(too_large());
    }
    if let Some(at) = bytes.iter().position(|byte| *byte == 0) {
        return Err(no_text(&bytes[..at], "a NUL byte"));
    }
    match std::str::from_utf8(&bytes) {
        Ok(_) => {}
        Err(error) => return Err(no_text(&bytes[..error.valid_up_to()], "a byte that is not UTF-8")),
    }
    let bytes = std::mem::take(&mut *bytes);
    String::from_utf8(bytes).map(Zeroizing::new).map_err(|_| no_text(&[], "a byte that is not UTF-8"))
}

/// The fault behind `before`, which is all that could be read.
fn no_text(before: &[u8], reason: &'static str) -> Unreadable {
    let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
    let last = before.rsplit(|byte| *byte == b'\n').next().unwrap_or(&[]);
    Unreadable::NoText { line, column: String::from_utf8_lossy(last).chars().count() + 1, reason }
}
