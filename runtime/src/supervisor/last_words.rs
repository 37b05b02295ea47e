//! What a host writes to stderr: passed on in the form of the node's log, and its last lines kept for whoever asks what
//! it died of.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use relmgr_model::settings::LogFormat;
use tokio::sync::oneshot;

use super::lock;
use super::relay::Relay;

/// So many lines are kept: a panic with its place, a sanitizer's report's head, a stack overflow's notice.
const LINES: usize = 20;

/// Of each line so much is kept, in bytes.
const LINE: usize = 500;

/// The last lines of one process.
#[derive(Debug, Clone, Default)]
pub struct LastWords {
    tail: Arc<Mutex<Tail>>,
    /// Held from the moment at which bytes are taken out of the pipe until they are passed on.
    passing: Arc<Mutex<()>>,
}

#[derive(Debug, Default)]
struct Tail {
    lines: VecDeque<String>,
    open: Vec<u8>,
}

impl LastWords {
    /// Of a process that says nothing.
    pub fn none() -> (Self, oneshot::Receiver<()>) {
        (Self::default(), oneshot::channel().1)
    }

    /// Passes on what comes through `pipe` to where `log` says, on a thread of its own: what the supervisor waits for
    /// must not keep the host from writing. `before` are the lines that it wrote so far. The receiver is told when
    /// there is nothing more to come.
    ///
    /// # Errors
    /// When there is no thread.
    pub fn listen(
        pipe: OwnedFd,
        log: LogFormat,
        before: Vec<String>,
    ) -> std::io::Result<(Self, oneshot::Receiver<()>)> {
        let (over, heard) = oneshot::channel();
        let words = Self::default();
        lock(&words.tail).lines = before.into();
        let tail = words.clone();
        std::thread::Builder::new().name("last-words".into()).spawn(move || {
            tail.pass_on(File::from(pipe), Relay::new(log, std::io::stderr()));
            let _ = over.send(());
        })?;
        Ok((words, heard))
    }

    fn pass_on(&self, mut pipe: File, mut relay: Relay<impl Write>) {
        let mut buffer = [0; 8192];
        loop {
            let mut awaited = [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)];
            // What it says is what the read says.
            let _ = poll(&mut awaited, PollTimeout::NONE);
            let _passing = lock(&self.passing);
            match pipe.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => {
                    let for_people = relay.take(&buffer[..count]);
                    lock(&self.tail).take(&for_people);
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        let for_people = relay.end();
        lock(&self.tail).take(&for_people);
    }

    /// Takes nothing out of the pipe as long as the guard lives; what was taken has been passed on.
    pub fn hold(&self) -> MutexGuard<'_, ()> {
        lock(&self.passing)
    }

    /// The lines so far, oldest first.
    pub fn lines(&self) -> Vec<String> {
        let tail = lock(&self.tail);
        let open = (!tail.open.is_empty()).then(|| text(&tail.open));
        let lines: Vec<String> = tail.lines.iter().cloned().chain(open).collect();
        lines[lines.len().saturating_sub(LINES)..].to_vec()
    }
}

impl Tail {
    fn take(&mut self, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (line, ends) = piece.strip_suffix(b"\n").map_or((piece, false), |line| (line, true));
            let room = LINE.saturating_sub(self.open.len());
            self.open.extend_from_slice(&line[..line.len().min(room)]);
            if ends {
                let line = text(&std::mem::take(&mut self.open));
                if !line.is_empty() {
                    self.lines.push_back(line);
                }
                if self.lines.len() > LINES {
                    self.lines.pop_front();
                }
            }
        }
    }
}

/// Without what would colour a terminal.
fn text(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.chars().filter(|c| !c.is_control()).collect::<String>().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_kept_and_no_more() {
        let mut tail = Tail::default();
        for number in 0..100 {
            tail.take(format!("line {number}\n").as_bytes());
        }
        tail.take(b"cut ");
        tail.take(&[b'x'; 4096]);
        let words = LastWords { tail: Arc::new(Mutex::new(tail)), ..LastWords::default() }.lines();
        assert_eq!(words.len(), LINES);
        assert_eq!(words[LINES - 2], "line 99");
        assert_eq!(words[LINES - 1].len(), LINE);
    }
}
