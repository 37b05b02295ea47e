//! Raw TCP: messages cut out of a stream of bytes.

use std::io;
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt};
use relmgr_abi::head::ConnectionFacts;
use relmgr_abi::session::{BINARY, Kind};
use relmgr_model::sessions::{Framing, TcpStart};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio_util::codec::{Decoder, Encoder, FramedRead, FramedWrite};

use super::super::connection::{Connection, Turn};
use super::super::front::Front;
use super::conversation::{Read, Reader, Writer, carry_on};
use super::end::End;
use super::hearing::{Clock, Listening};
use super::hub::HUB;
use super::session::Out;
use super::{deliver, enter};

/// What is read from a socket at once: idle sessions hold so much.
const BUFFER_BYTES: usize = 1024;

/// What a client that vanished without a word is noticed by, where nothing is sent to it.
const KEEPALIVE: std::time::Duration = std::time::Duration::from_secs(60);

/// Serves one accepted connection of a listener.
pub async fn serve(
    front: Arc<Front>,
    start: &TcpStart,
    stream: TcpStream,
    facts: ConnectionFacts,
    connection: &Arc<Connection>,
) {
    // For all of its life, so that it is never idle as a connection.
    let _turn = Turn::begin(connection);
    let probing = socket2::TcpKeepalive::new().with_time(KEEPALIVE);
    if let Err(error) = socket2::SockRef::from(&stream).set_tcp_keepalive(&probing) {
        tracing::debug!(%error, "a connection without keepalive");
    }
    let mut entered = HUB.enter(Kind::Tcp, start.name.clone(), facts);
    let Some(guard) = enter(&front).await else { return };
    let asked = deliver::ask(guard.generation(), &entered.session, None);
    if deliver::decided(asked, guard, &entered.session).await.is_err() {
        return;
    }
    entered.begin();
    let codec = || Codec { framing: start.framing, most: HUB.limits().message_bytes, seen: 0 };
    let clock = Clock::start();
    let (read, write) = stream.into_split();
    let read = Listening::new(read, clock.clone());
    let halves = (
        TcpReader(FramedRead::with_capacity(read, codec(), BUFFER_BYTES)),
        TcpWriter(FramedWrite::new(write, codec())),
    );
    carry_on(&front, connection, entered, &clock, halves).await;
}

struct TcpReader(FramedRead<Listening<OwnedReadHalf>, Codec>);

impl Reader for TcpReader {
    type Writer = TcpWriter;

    async fn read(&mut self) -> Read {
        match self.0.next().await {
            Some(Ok(bytes)) => Read::Message(BINARY, bytes),
            Some(Err(Fault::TooBig)) => Read::End(End::TooBig),
            Some(Err(Fault::Io(_))) => Read::End(End::Lost),
            None => Read::End(End::Client { code: 1000, reason: String::new() }),
        }
    }

    async fn linger(self, writer: TcpWriter) {
        // Dropping the half would say the end a second time.
        let (mut raw, _writer) = (self.0.into_inner(), writer);
        let mut nobody = [0; BUFFER_BYTES];
        while raw.read(&mut nobody).await.is_ok_and(|read| read > 0) {}
    }
}

struct TcpWriter(FramedWrite<OwnedWriteHalf, Codec>);

fn io_error(fault: Fault) -> io::Error {
    match fault {
        Fault::Io(error) => error,
        Fault::TooBig => io::Error::from(io::ErrorKind::InvalidInput),
    }
}

impl Writer for TcpWriter {
    async fn write(&mut self, out: Out) -> io::Result<()> {
        match out {
            Out::Message(_, bytes) => self.0.feed(bytes).await.map_err(io_error),
            // There is none in a stream of bytes.
            Out::Ping => Ok(()),
        }
    }

    async fn flush(&mut self) -> io::Result<()> {
        SinkExt::<Bytes>::flush(&mut self.0).await.map_err(io_error)
    }

    async fn close(&mut self, _: &End) -> io::Result<()> {
        self.flush().await?;
        self.0.get_mut().shutdown().await
    }
}

/// Cuts messages out of a stream, and puts them into one.
struct Codec {
    framing: Framing,
    most: usize,
    /// So many bytes have no end of a line among them.
    seen: usize,
}

/// What cannot be read on from.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error("a message is larger than sessions.message_bytes")]
    TooBig,
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Decoder for Codec {
    type Item = Bytes;
    type Error = Fault;

    fn decode(&mut self, from: &mut BytesMut) -> Result<Option<Bytes>, Fault> {
        match self.framing {
            Framing::Lines => self.line(from),
            Framing::Length => {
                let Some(length) = from.first_chunk::<4>() else { return Ok(None) };
                let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
                if length > self.most {
                    return Err(Fault::TooBig);
                }
                if from.len() - 4 < length {
                    return Ok(None);
                }
                from.advance(4);
                Ok(Some(from.split_to(length).freeze()))
            }
            Framing::Bytes if from.is_empty() => Ok(None),
            Framing::Bytes => Ok(Some(from.split_to(from.len().min(self.most)).freeze())),
        }
    }

    fn decode_eof(&mut self, from: &mut BytesMut) -> Result<Option<Bytes>, Fault> {
        match self.decode(from)? {
            // A last line without an end is one; a last piece of a message is none.
            None if self.framing == Framing::Lines && !from.is_empty() => {
                self.seen = 0;
                Ok(Some(from.split_to(from.len()).freeze()))
            }
            None => {
                from.clear();
                Ok(None)
            }
            some => Ok(some),
        }
    }
}

impl Codec {
    fn line(&mut self, from: &mut BytesMut) -> Result<Option<Bytes>, Fault> {
        match from[self.seen..].iter().position(|byte| *byte == b'\n') {
            Some(at) if self.seen + at <= self.most => {
                let mut line = from.split_to(self.seen + at);
                from.advance(1);
                self.seen = 0;
                if line.last() == Some(&b'\r') {
                    line.truncate(line.len() - 1);
                }
                Ok(Some(line.freeze()))
            }
            None if from.len() <= self.most => {
                self.seen = from.len();
                Ok(None)
            }
            _ => Err(Fault::TooBig),
        }
    }
}

impl Encoder<Bytes> for Codec {
    type Error = Fault;

    fn encode(&mut self, bytes: Bytes, to: &mut BytesMut) -> Result<(), Fault> {
        to.reserve(bytes.len() + 4);
        if self.framing == Framing::Length {
            to.put_u32(u32::try_from(bytes.len()).map_err(|_| Fault::TooBig)?);
        }
        to.put_slice(&bytes);
        if self.framing == Framing::Lines {
            to.put_u8(b'\n');
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All messages of `stream`, however it is cut into pieces.
    fn decode(framing: Framing, most: usize, stream: &[u8], piece: usize) -> Result<Vec<Vec<u8>>, Fault> {
        let (mut codec, mut buffer, mut found) = (Codec { framing, most, seen: 0 }, BytesMut::new(), vec![]);
        for bytes in stream.chunks(piece) {
            buffer.extend_from_slice(bytes);
            while let Some(message) = codec.decode(&mut buffer)? {
                found.push(message.to_vec());
            }
        }
        while let Some(message) = codec.decode_eof(&mut buffer)? {
            found.push(message.to_vec());
        }
        Ok(found)
    }

    #[test]
    fn messages_are_the_same_however_they_arrive() {
        for piece in 1..20 {
            let lines = decode(Framing::Lines, 10, b"vote 1 0\r\n\nshow 1\nrest", piece).unwrap();
            assert_eq!(lines, [&b"vote 1 0"[..], b"", b"show 1", b"rest"]);
            let lengths = decode(Framing::Length, 10, b"\0\0\0\x02ab\0\0\0\0\0\0\0\x03cde\0\0\0\x09x", piece);
            assert_eq!(lengths.unwrap(), [&b"ab"[..], b"", b"cde"], "the last one is not whole");
            let bytes = decode(Framing::Bytes, 4, b"abcdefghi", piece).unwrap();
            assert_eq!(bytes.concat(), b"abcdefghi");
            assert!(bytes.iter().all(|bytes| bytes.len() <= 4));
        }
    }

    #[test]
    fn what_is_too_large_is_refused_before_it_is_there() {
        for piece in 1..20 {
            let long = decode(Framing::Lines, 10, b"12345678901 and so on", piece);
            assert!(matches!(long, Err(Fault::TooBig)));
            assert!(matches!(decode(Framing::Length, 10, b"\x06\0\0\0", piece), Err(Fault::TooBig)));
        }
        assert_eq!(decode(Framing::Lines, 10, b"1234567890\n", 3).unwrap(), [b"1234567890"]);
    }

    #[test]
    fn what_is_sent_is_read_back() {
        for framing in [Framing::Lines, Framing::Length] {
            let mut codec = Codec { framing, most: 100, seen: 0 };
            let mut buffer = BytesMut::new();
            for text in ["one", "", "three"] {
                codec.encode(Bytes::from_static(text.as_bytes()), &mut buffer).unwrap();
            }
            assert_eq!(decode(framing, 100, &buffer, 2).unwrap(), [&b"one"[..], b"", b"three"]);
        }
    }
}
