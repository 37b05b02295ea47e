//! What is in the chunks of a [state on its way](relmgr_abi::chunks).
//!
//! It is MessagePack by rmp-serde. Of 10⁶ records of 38 bytes it writes 7 records a microsecond and
//! reads 3; postcard reads a quarter faster, but from a stream only with a buffer as large as the longest text; CBOR
//! with its field names takes three times as long. MessagePack can also be compared without the types.

use std::io;

use bytes::Bytes;
pub(crate) use relmgr_abi::chunks::hex;
pub(super) use relmgr_abi::chunks::{ChunkReader, ChunkWriter};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::Error;

/// Where a state is read from. One type for all: each item is a few reads, which are to be inlined; a call through a
/// pointer comes once a chunk.
pub(super) type Source<'a> = ChunkReader<Box<dyn FnMut() -> io::Result<Option<Bytes>> + 'a>>;

/// Where a state is written to; as [`Source`].
pub(super) type Sink<'a> = ChunkWriter<Box<dyn FnMut(Vec<u8>) -> io::Result<()> + 'a>>;

pub(super) fn source<'a>(
    schema: u32,
    shape: u64,
    next: impl FnMut() -> io::Result<Option<Bytes>> + 'a,
) -> io::Result<Source<'a>> {
    ChunkReader::new(schema, shape, Box::new(next))
}

pub(super) fn sink<'a>(
    schema: u32,
    shape: u64,
    send: impl FnMut(Vec<u8>) -> io::Result<()> + 'a,
) -> io::Result<Sink<'a>> {
    ChunkWriter::new(schema, shape, Box::new(send))
}

pub(super) fn encode<S: Serialize>(state: &S, into: &mut Sink<'_>) -> Result<(), Error> {
    Ok(state.serialize(&mut rmp_serde::Serializer::new(into))?)
}

pub(super) fn decode<S: DeserializeOwned>(from: &mut Source<'_>) -> Result<S, Error> {
    Ok(rmp_serde::from_read(from)?)
}
