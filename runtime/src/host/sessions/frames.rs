//! Where in a WebSocket's stream the frames end, without taking them apart.

/// Follows a stream of frames (RFC 6455, 5.2), of either side.
#[derive(Debug, Default)]
pub struct Frames {
    /// The bytes of a header that is not whole yet.
    header: [u8; 14],
    known: usize,
    /// Bytes of the payload that are to come.
    left: u64,
    closed: bool,
}

/// The opcode of a close frame.
const CLOSE: u8 = 8;

impl Frames {
    /// Takes note of the next bytes.
    pub fn follow(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.left > 0 {
                let skipped = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
                self.left -= skipped as u64;
                bytes = &bytes[skipped..];
                continue;
            }
            self.header[self.known] = bytes[0];
            self.known += 1;
            bytes = &bytes[1..];
            if self.known == self.header_len() {
                self.left = self.payload_len();
                self.closed |= self.header[0] & 0x0f == CLOSE;
                self.known = 0;
            }
        }
    }

    /// Whether a frame may begin here.
    pub fn is_between(&self) -> bool {
        self.known == 0 && self.left == 0
    }

    /// Whether there was a close frame: none may follow it.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// As far as it is known, which is enough to know when it is reached.
    fn header_len(&self) -> usize {
        if self.known < 2 {
            return 2;
        }
        let extended = match self.header[1] & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let mask = if self.header[1] & 0x80 == 0 { 0 } else { 4 };
        2 + extended + mask
    }

    fn payload_len(&self) -> u64 {
        let number = |bytes: &[u8]| bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
        match self.header[1] & 0x7f {
            126 => number(&self.header[2..4]),
            127 => number(&self.header[2..10]),
            len => len.into(),
        }
    }
}

/// A close frame of a server.
pub fn close_frame(code: u16, reason: &str) -> Vec<u8> {
    // Words of the host's own: short.
    let mut frame = vec![0x80 | CLOSE, 2 + reason.len() as u8];
    frame.extend_from_slice(&code.to_be_bytes());
    frame.extend_from_slice(reason.as_bytes());
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ends_of_frames_are_found_however_they_arrive() {
        let mut stream = vec![];
        let mut ends = vec![];
        for (opcode, len, masked) in [(1, 5, false), (2, 200, false), (9, 0, true), (2, 70_000, true)] {
            let mask = if masked { 0x80 } else { 0 };
            stream.push(0x80 | opcode);
            match len {
                0..126 => stream.push(mask | len as u8),
                126..65_536 => {
                    stream.push(mask | 126);
                    stream.extend_from_slice(&(len as u16).to_be_bytes());
                }
                _ => {
                    stream.push(mask | 127);
                    stream.extend_from_slice(&(len as u64).to_be_bytes());
                }
            }
            stream.resize(stream.len() + len + if masked { 4 } else { 0 }, 0xff);
            ends.push(stream.len());
        }
        for piece in [1, 2, 3, 7, 64, 100_000] {
            let (mut frames, mut at) = (Frames::default(), 0);
            for bytes in stream.chunks(piece) {
                frames.follow(bytes);
                at += bytes.len();
                assert_eq!(frames.is_between(), ends.contains(&at), "{piece} {at}");
            }
            assert!(!frames.is_closed());
            frames.follow(&close_frame(1012, "service restart"));
            assert!(frames.is_closed() && frames.is_between());
        }
    }
}
