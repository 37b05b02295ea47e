//! Configuration: the grammar of `app.conf`, the schema that a release carries, and the effective values.
//!
//! ```text
//! schema's defaults  <  app.conf (with what it includes)  <  app.conf.d/*.conf in order  <  environment
//! ```
//!
//! | module | what |
//! | --- | --- |
//! | `parse`, `list`, `scalar`, `ast` | the grammar: text to statements with positions, and every mistake |
//! | `schema`, `types` | `conf/schema.toml`: which keys there are and what each may be |
//! | `layer`, `others` | files, includes and the keys in them |
//! | `decode` | what is written to a typed value; `${NAME}` and `file:/path` are resolved here |
//! | `evaluate` | all of it together: [`effective`], [`check`], [`reload`] |
//! | `format`, `edit`, `documented`, `diff` | what the command line does with files and schemas |
//! | `fault` | what is wrong, where, and what to do |
//!
//! Nothing here writes a file, and nothing that is printed shows a secret: lines of source whose key is secret or
//! not known are masked, and [`Secret`] shows itself as `***`.

mod ast;
mod decode;
mod diff;
mod documented;
mod edit;
mod effective;
mod evaluate;
mod fault;
mod format;
mod include;
mod key;
mod layer;
mod list;
mod others;
mod parse;
mod print;
mod read;
mod scalar;
mod schema;
mod schema_read;
mod schema_types;
mod schema_write;
mod secret;
mod source;
mod suggest;
mod types;
mod units;
mod value;
#[cfg(test)]
mod vectors;

pub use diff::{Added, Change, Dropped, Note, Renamed, SchemaDiff, What};
pub use documented::documented;
pub use edit::{get, set, unset};
pub use effective::{Changes, Effective, Entry, Origin};
pub use evaluate::{Reads, Sources, applied, check, effective, reload};
pub use fault::{Fault, Faults, Place, Related, Snippet};
pub use format::format;
pub use key::{Key, ParseKeyError};
pub use others::Others;
pub use schema::{KeySpec, Schema};
pub use secret::{MASK, Secret};
pub use types::{Bounds, Field, Pattern, Type};
pub use value::Value;
