//! Configuration: the grammar of `app.conf`, the schema that a release carries, and the effective values.

mod ast;
mod decode;
mod effective;
mod evaluate;
mod fault;
mod key;
mod layer;
mod parse;
mod print;
mod read;
mod scalar;
mod schema;
mod schema_read;
mod schema_write;
mod secret;
mod source;
mod suggest;
mod types;
mod units;
mod value;

pub use effective::{Changes, Effective, Entry, Origin};
pub use evaluate::{Sources, check, effective, reload};
pub use fault::{Fault, Faults, Place, Related, Snippet};
pub use key::{Key, ParseKeyError};
pub use schema::{KeySpec, Schema};
pub use secret::{MASK, Secret};
pub use types::{Bounds, Field, Pattern, Type};
pub use value::Value;
