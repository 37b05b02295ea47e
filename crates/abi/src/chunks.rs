//! The bytes of a state on its way: a header, chunks with their checksums, an end that tells how many bytes it was.
//!
//! ```text
//! "RMST" 1  schema u32  shape u64          each number little-endian
//! len u32  crc32 u32  len bytes            again and again; a chunk is checked before any of it is decoded
//! 0 u32    total u64
//! ```

use std::io::{self, Read, Write};

use bytes::{Buf, Bytes};

const MAGIC: [u8; 5] = *b"RMST\x01";

/// Large enough that what is done for each chunk is nothing beside its checksum, small enough for a cache.
const CHUNK: usize = 256 * 1024;

/// The first chunk; each is twice as large as the one before it up to [`CHUNK`]. So whoever reads begins early, also
/// where the whole state is less than one full chunk.
const FIRST_CHUNK: usize = 16 * 1024;

/// Before the bytes of a chunk.
const CHUNK_HEAD: usize = 8;

/// A shape as text.
pub fn hex(shape: u64) -> String {
    format!("{shape:016x}")
}

/// Cuts what is written to it into chunks and gives each to `send`.
pub struct ChunkWriter<F> {
    /// The chunk, with room for its head.
    chunk: Vec<u8>,
    /// Of the chunk, when it is full, with its head.
    full: usize,
    total: u64,
    send: F,
}

impl<F: FnMut(Vec<u8>) -> io::Result<()>> ChunkWriter<F> {
    /// Begins with the header.
    ///
    /// # Errors
    /// Those of `send`, here and later.
    pub fn new(schema: u32, shape: u64, mut send: F) -> io::Result<Self> {
        let mut head = MAGIC.to_vec();
        head.extend(schema.to_le_bytes());
        head.extend(shape.to_le_bytes());
        send(head)?;
        let full = CHUNK_HEAD + FIRST_CHUNK;
        Ok(Self { chunk: Self::empty(full), full, total: 0, send })
    }

    fn empty(full: usize) -> Vec<u8> {
        let mut chunk = Vec::with_capacity(full);
        chunk.resize(CHUNK_HEAD, 0);
        chunk
    }

    #[cold]
    fn send_chunk(&mut self) -> io::Result<()> {
        let len = self.chunk.len() - CHUNK_HEAD;
        if len == 0 {
            return Ok(());
        }
        self.full = CHUNK_HEAD + CHUNK.min(2 * (self.full - CHUNK_HEAD));
        let mut chunk = std::mem::replace(&mut self.chunk, Self::empty(self.full));
        let crc = crc32fast::hash(&chunk[CHUNK_HEAD..]);
        // Never longer than `CHUNK`.
        chunk[..4].copy_from_slice(&(len as u32).to_le_bytes());
        chunk[4..CHUNK_HEAD].copy_from_slice(&crc.to_le_bytes());
        self.total += len as u64;
        (self.send)(chunk)
    }

    /// Ends with the total.
    ///
    /// # Errors
    /// As [`ChunkWriter::new`].
    pub fn finish(mut self) -> io::Result<u64> {
        self.send_chunk()?;
        let mut end = 0_u32.to_le_bytes().to_vec();
        end.extend(self.total.to_le_bytes());
        (self.send)(end)?;
        Ok(self.total)
    }
}

impl<F: FnMut(Vec<u8>) -> io::Result<()>> Write for ChunkWriter<F> {
    #[inline]
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let len = bytes.len().min(self.full - self.chunk.len());
        self.chunk.extend_from_slice(&bytes[..len]);
        if self.chunk.len() == self.full {
            self.send_chunk()?;
        }
        Ok(len)
    }

    /// Mostly into the same chunk: an encoder writes a few bytes at a time.
    #[inline]
    fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        // The room was made with the chunk.
        if bytes.len() < self.full - self.chunk.len() {
            self.chunk.extend_from_slice(bytes);
            return Ok(());
        }
        while !bytes.is_empty() {
            let len = self.write(bytes)?;
            bytes = &bytes[len..];
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads back what [`ChunkWriter`] wrote, from pieces of any size that `next` gives.
pub struct ChunkReader<F> {
    next: F,
    /// What came and was not looked at.
    pending: Bytes,
    /// What is left of the chunk, checked.
    chunk: Bytes,
    total: u64,
    over: bool,
}

fn broken(reason: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason.into())
}

impl<F: FnMut() -> io::Result<Option<Bytes>>> ChunkReader<F> {
    /// Reads the header; the schema version of the state and its shape.
    ///
    /// # Errors
    /// It is none, or those of `next`.
    pub fn open(next: F) -> io::Result<(Self, u32, u64)> {
        let mut reader = Self { next, pending: Bytes::new(), chunk: Bytes::new(), total: 0, over: false };
        let mut head = reader.piece(MAGIC.len() + 12)?;
        if !head.starts_with(&MAGIC) {
            return Err(broken("what came is no state of a relmgr application"));
        }
        head.advance(MAGIC.len());
        let (schema, shape) = (head.get_u32_le(), head.get_u64_le());
        Ok((reader, schema, shape))
    }

    /// As [`ChunkReader::open`]: the state has to be of `schema` in `shape`.
    ///
    /// # Errors
    /// As there, or it is another one.
    pub fn new(schema: u32, shape: u64, next: F) -> io::Result<Self> {
        let (reader, found, of_shape) = Self::open(next)?;
        if (found, of_shape) != (schema, shape) {
            let (found_shape, shape) = (hex(of_shape), hex(shape));
            return Err(broken(format!(
                "the state is of schema {found} (shape {found_shape}), expected was schema {schema} (shape {shape})"
            )));
        }
        Ok(reader)
    }

    /// So many bytes.
    fn piece(&mut self, len: usize) -> io::Result<Bytes> {
        if self.pending.len() >= len {
            return Ok(self.pending.split_to(len));
        }
        let mut gathered = Vec::with_capacity(len);
        loop {
            let part = self.pending.split_to(self.pending.len().min(len - gathered.len()));
            gathered.extend_from_slice(&part);
            if gathered.len() == len {
                return Ok(gathered.into());
            }
            self.pending = (self.next)()?.ok_or_else(|| broken("the state was cut short"))?;
        }
    }

    /// Reads what is in more than one chunk.
    #[cold]
    fn read_over(&mut self, mut into: &mut [u8]) -> io::Result<()> {
        while !into.is_empty() {
            let len = self.read(into)?;
            if len == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            into = &mut into[len..];
        }
        Ok(())
    }

    #[cold]
    fn next_chunk(&mut self) -> io::Result<()> {
        let len = self.piece(4)?.get_u32_le() as usize;
        if len == 0 {
            let total = self.piece(8)?.get_u64_le();
            self.over = true;
            return match total == self.total {
                true => Ok(()),
                false => Err(broken(format!("the state is {} bytes long, {total} were sent", self.total))),
            };
        }
        if len > CHUNK {
            return Err(broken(format!("a chunk of {len} bytes is none")));
        }
        let crc = self.piece(4)?.get_u32_le();
        self.chunk = self.piece(len)?;
        if crc32fast::hash(&self.chunk) != crc {
            return Err(broken("the state was damaged on its way: a checksum does not fit"));
        }
        self.total += len as u64;
        Ok(())
    }

    /// Reads the end: nothing may be left. How many bytes it was.
    ///
    /// # Errors
    /// Something is left, or missing.
    pub fn finish(mut self) -> io::Result<u64> {
        while !self.over && self.chunk.is_empty() {
            self.next_chunk()?;
        }
        match self.chunk.is_empty() {
            true => Ok(self.total),
            false => Err(broken("the state goes on after its end")),
        }
    }
}

impl<F: FnMut() -> io::Result<Option<Bytes>>> Read for ChunkReader<F> {
    #[inline]
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() {
            if self.over {
                return Ok(0);
            }
            self.next_chunk()?;
        }
        let len = into.len().min(self.chunk.len());
        self.chunk.copy_to_slice(&mut into[..len]);
        Ok(len)
    }

    /// Mostly within a chunk: a decoder asks for a few bytes at a time.
    #[inline]
    fn read_exact(&mut self, into: &mut [u8]) -> io::Result<()> {
        if into.len() <= self.chunk.len() {
            self.chunk.copy_to_slice(into);
            return Ok(());
        }
        self.read_over(into)
    }
}
