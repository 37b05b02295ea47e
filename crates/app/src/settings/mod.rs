//! The application's settings: what `app.conf` may say, read off the type that it is decoded into.
//!
//! ```
//! use std::collections::BTreeMap;
//! use std::time::Duration;
//!
//! use relmgr_app::Settings;
//! use relmgr_app::settings::Secret;
//! use serde::Deserialize;
//!
//! #[derive(Deserialize, Settings)]
//! struct MySettings {
//!     #[serde(default)]
//!     poll: Poll,
//!     #[serde(rename = "Repo")]
//!     repo: Repo,
//!     /// Workers of each queue.
//!     queues: BTreeMap<String, Queue>,
//! }
//!
//! /// `poll.title`, `poll.closes_after`
//! #[derive(Deserialize, Settings)]
//! #[serde(default)]
//! struct Poll {
//!     /// What the pages show above the polls.
//!     #[conf(min = 1)]
//!     title: String,
//!     /// How long a poll is open.
//!     #[serde(with = "relmgr_app::settings::duration")]
//!     closes_after: Duration,
//! }
//!
//! impl Default for Poll {
//!     fn default() -> Self {
//!         Self { title: "Live poll".into(), closes_after: Duration::from_secs(3600) }
//!     }
//! }
//!
//! /// `Repo.password`: no default, so the operator has to set it.
//! #[derive(Deserialize, Settings)]
//! struct Repo {
//!     #[conf(env = "REPO_PASSWORD", restart)]
//!     password: Secret,
//! }
//!
//! /// `queues.$name.size`
//! #[derive(Deserialize, Settings)]
//! struct Queue {
//!     #[conf(range = 1..=64)]
//!     size: u8,
//! }
//!
//! # fn main() {
//! let schema = relmgr_app::settings::schema::<MySettings>().unwrap().unwrap();
//! assert!(schema.contains("[keys.\"poll.title\"]\ntype = \"string\"\nmin = 1\ndefault = \"Live poll\""));
//! assert!(schema.contains("[keys.\"queues.$name.size\"]"));
//! # }
//! ```
//!
//! `cargo relmgr release` asks the library for this schema and puts it into the release as `conf/schema.toml`; a
//! node checks `app.conf` against it before the release may start.
//!
//! # Types
//! | in Rust | in the schema |
//! | --- | --- |
//! | a struct with named fields | a group of keys; in a list, a record |
//! | a struct of one unnamed field | what it holds |
//! | an enum of plain words | `enum` |
//! | `Option<T>` | a key that may be left out; an optional group is there when one of its keys is set |
//! | `Vec<T>` | `list` |
//! | `BTreeMap<String, T>`, `HashMap<String, T>` | a group of any names: `queues.$name.size` |
//! | `String`, `PathBuf` | `string` |
//! | [`Secret`] | `string` that is secret |
//! | `u8` … `u64`, `usize`, `i8` … `i64`, `isize`, `NonZero…` | `integer` within what the type holds |
//! | `f32`, `f64` | `float` |
//! | `bool` | `boolean` |
//! | [`std::time::Duration`] with `#[serde(with = "relmgr_app::settings::duration")]` | `duration` |
//! | [`ByteSize`] | `bytes` |
//! | `SocketAddr`, `IpAddr` | `address` (of IP addresses), `ip` |
//! | any type that is read from a text, with `#[conf(type = "url")]` | that type |
//!
//! # serde's attributes
//! `rename` and `rename_all` name keys and words; `alias` is a former name, still read with a warning; `default`
//! (of a field or the whole struct) is the key's default; `skip` and `skip_deserializing` make no key; `flatten`
//! puts a struct's keys among its parent's. A field that has no default and is no `Option` must be set.
//!
//! # Attributes of a field: `#[conf(…)]`
//! | attribute | meaning |
//! | --- | --- |
//! | `example = 50` | shown where there is no default |
//! | `env = "NAME"` | this environment variable wins over every file |
//! | `required` | must be set, whatever the type's default is |
//! | `secret` | never shown, logged or written; a [`Secret`] is it anyway |
//! | `restart` | a change waits for a restart; of a group: of each of its keys |
//! | `min = 2`, `max = 100`, `range = 2..=100` | of numbers, durations (`"1s"`), sizes (`"1MB"`), a text's characters, a list's items |
//! | `pattern = "[a-z]+"` | a regular expression for the whole text |
//! | `schemes = ["https"]` | of a URL |
//! | `deprecated = "use Repo.url"` | still read, with this warning |
//! | `renamed_from = "old"` | its former name in the same group; with dots, the whole key: `"Polls.old"` |
//! | `type = "url"` | the schema's type: `string`, `url`, `address`, `ip` or `bytes`; the value is read from a text (a size from a number), and a default is written by `Display` |
//! | `name = "queue"` | of a map: what its names are called in the schema, `$queue` |
//!
//! And of a struct: `#[conf(removed("colour", "polls have no colour any more"))]`, a key that is gone: ignored,
//! with this warning.

//!
//! # What does not compile
//! Whatever serde would read in another way than a schema can say. A type of which nothing is known:
//! ```compile_fail
//! # use relmgr_app::Settings;
//! #[derive(serde::Deserialize)]
//! struct Unknown;
//! #[derive(serde::Deserialize, Settings)]
//! struct Mine { unknown: Unknown }
//! ```
//! Names that a schema cannot know beforehand, among names that it does:
//! ```compile_fail
//! # use relmgr_app::Settings;
//! #[derive(serde::Deserialize, Settings)]
//! struct Mine { #[serde(flatten)] rest: std::collections::BTreeMap<String, String> }
//! ```
//! A secret that is no text, an attribute of one key on a group of them:
//! ```compile_fail
//! # use relmgr_app::Settings;
//! #[derive(serde::Deserialize, Settings)]
//! struct Mine { #[conf(secret)] pin: u32 }
//! ```
//! ```compile_fail
//! # use relmgr_app::Settings;
//! # #[derive(serde::Deserialize, Settings)]
//! # struct Group { a: u8 }
//! #[derive(serde::Deserialize, Settings)]
//! struct Mine { #[conf(env = "GROUP")] group: Group }
//! ```
//! A list of structs that hold lists, an option of an option, of a map or within one:
//! ```compile_fail
//! # use relmgr_app::Settings;
//! # #[derive(serde::Deserialize, Settings)]
//! # struct Rule { to: Vec<String> }
//! #[derive(serde::Deserialize, Settings)]
//! struct Mine { rules: Vec<Rule> }
//! ```
//! ```compile_fail
//! # use relmgr_app::Settings;
//! #[derive(serde::Deserialize, Settings)]
//! struct Mine { twice: Option<Option<u8>> }
//! ```
//! ```compile_fail
//! # use relmgr_app::Settings;
//! #[derive(serde::Deserialize, Settings)]
//! struct Mine { names: std::collections::BTreeMap<String, Option<u8>> }
//! ```
//! A duration without the function that reads it (the compiler says which one):
//! ```compile_fail
//! # use relmgr_app::Settings;
//! #[derive(serde::Deserialize, Settings)]
//! struct Mine { patience: std::time::Duration }
//! ```

mod decode;
mod schema;
mod secret;
mod setting;
mod shape;
#[cfg(test)]
mod tests;
mod units;

pub use relmgr_app_derive::Settings;
pub use schema::{SchemaError, schema};
pub use secret::Secret;
pub use setting::Setting;
pub use units::{ByteSize, duration};

pub(crate) use decode::{decode, decode_value, parse};

/// For the derive macro.
#[doc(hidden)]
pub mod __private {
    pub use super::setting::{Kind, What};
    pub use super::shape::{Group, Member, Notes, Shape, Type, Value, Word};
}

/// An application's settings: `#[derive(serde::Deserialize, relmgr_app::Settings)]`. See [the module](self).
///
/// A type whose schema is written by hand, as `conf/schema.toml` beside its Cargo.toml, says so:
/// `impl relmgr_app::Settings for MySettings {}`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not known as an application's settings",
    note = "derive it: #[derive(serde::Deserialize, relmgr_app::Settings)]",
    note = "or, where conf/schema.toml is written by hand: impl relmgr_app::Settings for {Self} {{}}"
)]
pub trait Settings: serde::de::DeserializeOwned + Send + 'static {
    /// The keys that the type has; `None`: they stand in `conf/schema.toml`.
    #[doc(hidden)]
    fn keys() -> Option<shape::Shape> {
        None
    }
}

impl Settings for crate::NoSettings {}
