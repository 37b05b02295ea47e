//! Reads a response as it comes in, and says when it is complete. Of the body only a version is kept.

use super::report::Failure;

/// More fields than any answer of ours has.
const MAX_FIELDS: usize = 64;

/// A head that is longer is no answer.
const MAX_HEAD: usize = 64 * 1024;

/// A version is shorter, as plain text and as JSON with all that the version endpoint tells.
const MAX_KEPT: usize = 4096;

/// Reads one response after the other.
#[derive(Debug, Default)]
pub(super) struct Reader {
    state: State,
    /// The part of the head, or of a chunk's line, that has come.
    pending: Vec<u8>,
    /// Whether the body is kept.
    keep: bool,
    kept: Vec<u8>,
    status: u16,
    close: bool,
    /// Whether anything of this response has come.
    begun: bool,
}

#[derive(Debug, Default, Clone, Copy, PartialEq)]
enum State {
    #[default]
    Head,
    /// So many bytes of the body are to come.
    Body(u64),
    ChunkSize,
    Chunk(u64),
    ChunkEnd,
    Trailers,
    /// The body ends with the connection.
    UntilClose,
    Complete,
}

impl Reader {
    /// Makes ready for the next response.
    pub(super) fn begin(&mut self, keep: bool) {
        self.pending.clear();
        self.kept.clear();
        (self.state, self.keep, self.begun) = (State::Head, keep, false);
    }

    /// The status, once the response is complete.
    pub(super) fn status(&self) -> u16 {
        self.status
    }

    /// Whether the server has said that it closes the connection.
    pub(super) fn close(&self) -> bool {
        self.close
    }

    /// The body, where it was to be kept.
    pub(super) fn kept(&self) -> &[u8] {
        &self.kept
    }

    /// Takes what has come; whether the response is complete with it.
    ///
    /// # Errors
    /// Bytes that are no response, or more than one.
    pub(super) fn feed(&mut self, mut bytes: &[u8]) -> Result<bool, Failure> {
        self.begun |= !bytes.is_empty();
        while !bytes.is_empty() {
            bytes = match self.state {
                State::Head => self.head(bytes)?,
                State::Body(left) => {
                    let (rest, left) = self.body(bytes, left);
                    self.state = if left == 0 { State::Complete } else { State::Body(left) };
                    rest
                }
                State::Chunk(left) => {
                    let (rest, left) = self.body(bytes, left);
                    self.state = if left == 0 { State::ChunkEnd } else { State::Chunk(left) };
                    rest
                }
                State::ChunkSize | State::ChunkEnd | State::Trailers => self.line(bytes)?,
                State::UntilClose => self.body(bytes, u64::MAX).0,
                State::Complete => return Err(Failure::ExtraBytes),
            };
        }
        Ok(self.state == State::Complete)
    }

    /// The connection has ended.
    ///
    /// # Errors
    /// The response was not complete.
    pub(super) fn end(&mut self) -> Result<(), Failure> {
        match self.state {
            State::UntilClose => {
                (self.state, self.close) = (State::Complete, true);
                Ok(())
            }
            _ if self.begun => Err(Failure::EofInResponse),
            _ => Err(Failure::EofBeforeResponse),
        }
    }

    fn head<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], Failure> {
        // Nearly always it comes in one piece, which need not be copied.
        if self.pending.is_empty() {
            return match self.read_head(bytes)? {
                Some(length) => Ok(&bytes[length..]),
                None => {
                    self.pending.extend_from_slice(bytes);
                    Ok(&[])
                }
            };
        }
        let had = self.pending.len();
        let mut pending = std::mem::take(&mut self.pending);
        pending.extend_from_slice(bytes);
        match self.read_head(&pending)? {
            Some(length) => Ok(&bytes[length - had..]),
            None if pending.len() > MAX_HEAD => Err(Failure::BadResponse),
            None => {
                self.pending = pending;
                Ok(&[])
            }
        }
    }

    /// The head's length, once it is whole.
    fn read_head(&mut self, bytes: &[u8]) -> Result<Option<usize>, Failure> {
        let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
        let mut head = httparse::Response::new(&mut fields);
        let length = match head.parse(bytes).map_err(|_| Failure::BadResponse)? {
            httparse::Status::Complete(length) => length,
            httparse::Status::Partial => return Ok(None),
        };
        self.status = head.code.unwrap_or(0);
        self.close = head.version == Some(0);
        let (mut body, mut chunked) = (None, false);
        for field in head.headers.iter() {
            let value = std::str::from_utf8(field.value).unwrap_or("").trim();
            if field.name.eq_ignore_ascii_case("content-length") {
                body = Some(value.parse().map_err(|_| Failure::BadResponse)?);
            } else if field.name.eq_ignore_ascii_case("transfer-encoding") {
                chunked = value.eq_ignore_ascii_case("chunked");
            } else if field.name.eq_ignore_ascii_case("connection") {
                self.close = value.eq_ignore_ascii_case("close");
            }
        }
        self.state = match (self.status, body) {
            // What comes before the answer: 100 Continue, 103 Early Hints.
            (100..=199, _) => State::Head,
            (204 | 304, _) | (_, Some(0)) => State::Complete,
            _ if chunked => State::ChunkSize,
            (_, Some(length)) => State::Body(length),
            (_, None) => State::UntilClose,
        };
        Ok(Some(length))
    }

    /// Takes at most `left` bytes of a body; what comes after them, and how many are still to come.
    fn body<'a>(&mut self, bytes: &'a [u8], left: u64) -> (&'a [u8], u64) {
        let taken = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        if self.keep {
            let room = MAX_KEPT.saturating_sub(self.kept.len());
            self.kept.extend_from_slice(&bytes[..taken.min(room)]);
        }
        (&bytes[taken..], left - taken as u64)
    }

    /// Takes a line between chunks.
    fn line<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], Failure> {
        let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else {
            self.pending.extend_from_slice(bytes);
            return if self.pending.len() > MAX_HEAD { Err(Failure::BadResponse) } else { Ok(&[]) };
        };
        let mut line = std::mem::take(&mut self.pending);
        line.extend_from_slice(&bytes[..=end]);
        let Some(text) = line.strip_suffix(b"\r\n") else { return Err(Failure::BadResponse) };
        self.state = match self.state {
            State::ChunkSize => match chunk_size(text).ok_or(Failure::BadResponse)? {
                0 => State::Trailers,
                size => State::Chunk(size),
            },
            State::ChunkEnd if text.is_empty() => State::ChunkSize,
            State::Trailers if text.is_empty() => State::Complete,
            State::Trailers => State::Trailers,
            _ => return Err(Failure::BadResponse),
        };
        line.clear();
        self.pending = line;
        Ok(&bytes[end + 1..])
    }
}

/// The number at a chunk's beginning; extensions behind a semicolon are allowed.
fn chunk_size(line: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(line).ok()?.split(';').next()?.trim();
    // A sign is none of a chunk's digits, but of Rust's.
    text.bytes().all(|byte| byte.is_ascii_hexdigit()).then(|| u64::from_str_radix(text, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads `text` in pieces of `size` bytes; the body.
    fn read(text: &str, size: usize) -> Result<(u16, String), Failure> {
        let mut reader = Reader::default();
        reader.begin(true);
        let mut complete = false;
        for piece in text.as_bytes().chunks(size) {
            complete = reader.feed(piece)?;
        }
        if !complete {
            reader.end()?;
        }
        Ok((reader.status(), String::from_utf8(reader.kept().to_vec()).unwrap()))
    }

    const GOOD: [(&str, u16, &str); 7] = [
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", 200, "hello"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", 200, ""),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5;a=b\r\n0\r\n\r\n\r\n2\r\nab\r\n0\r\n\r\n",
            200,
            "0\r\n\r\nab",
        ),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\ngrpc-status: 0\r\n\r\n",
            200,
            "x",
        ),
        ("HTTP/1.1 204 No Content\r\n\r\n", 204, ""),
        ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created\r\ncontent-length: 2\r\n\r\nok", 201, "ok"),
        ("HTTP/1.1 200 OK\r\n\r\nto the end", 200, "to the end"),
    ];

    #[test]
    fn complete_responses_are_read_however_they_are_cut() {
        for (text, status, body) in GOOD {
            for size in 1..=text.len() {
                assert_eq!(read(text, size), Ok((status, body.to_owned())), "{text} in pieces of {size}");
            }
        }
    }

    #[test]
    fn a_response_is_not_complete_before_its_last_byte() {
        for (text, ..) in &GOOD[..6] {
            for end in 0..text.len() {
                let expected = if end == 0 { Failure::EofBeforeResponse } else { Failure::EofInResponse };
                assert_eq!(read(&text[..end], 1000), Err(expected), "{:?}", &text[..end]);
            }
        }
    }

    #[test]
    fn what_is_no_response_is_a_failure() {
        for (text, failure) in [
            ("SSH-2.0-OpenSSH_9.2p1\r\n\r\n", Failure::BadResponse),
            ("HTTP/1.1 200 OK\r\ncontent-length: many\r\n\r\n", Failure::BadResponse),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n+2\r\nab\r\n", Failure::BadResponse),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nab\r\n", Failure::BadResponse),
            ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nabc", Failure::ExtraBytes),
        ] {
            for size in [1, 7, text.len()] {
                assert_eq!(read(text, size), Err(failure), "{text} in pieces of {size}");
            }
        }
    }

    #[test]
    fn a_closing_response_says_so() {
        for (head, close) in [
            ("HTTP/1.1 200 OK\r\nConnection: close", true),
            ("HTTP/1.1 200 OK\r\nconnection: keep-alive", false),
            ("HTTP/1.0 200 OK", true),
            ("HTTP/1.0 200 OK\r\nconnection: keep-alive", false),
        ] {
            let mut reader = Reader::default();
            reader.begin(false);
            assert_eq!(reader.feed(format!("{head}\r\ncontent-length: 0\r\n\r\n").as_bytes()), Ok(true));
            assert_eq!(reader.close(), close, "{head}");
        }
    }
}
