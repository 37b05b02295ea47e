//! Settings that change while an application runs. They cross as JSON, as the settings of a start do: the library
//! decodes them into a type that only it knows.

use serde::{Deserialize, Serialize};

/// What changed. Keys are written as in `app.conf`.
#[derive(Clone, Serialize, Deserialize)]
pub struct ConfChange<S> {
    /// All of the settings as they are now, **secrets included**.
    pub settings: S,
    /// Keys with another value.
    pub changed: Vec<String>,
    /// Keys that had no value.
    pub new: Vec<String>,
    /// Keys that have none any more.
    pub removed: Vec<String>,
}
