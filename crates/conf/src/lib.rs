//! Configuration: the grammar of `app.conf`, the schema that a release carries, and the effective values.

mod effective;
mod fault;
mod schema;
mod secret;

pub use effective::{Effective, Sources, effective};
pub use fault::{Fault, Faults, Place, Related, Snippet};
pub use schema::Schema;
pub use secret::{MASK, Secret};
