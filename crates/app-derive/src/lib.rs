//! `#[derive(Settings)]`: the schema of `app.conf` from the type that it is decoded into. Used by way of
//! `relmgr_app::Settings`; `relmgr_app::settings` describes types and attributes. `#[derive(State)]` and
//! `#[derive(Shape)]`: what in-memory state looks like; `relmgr_app::state` describes them.
//!
//! | module | what |
//! | --- | --- |
//! | `conf` | `#[conf(…)]`, this macro's own attributes |
//! | `serde` | serde's attributes, as far as they decide on keys |
//! | `case` | serde's ways to write names |
//! | `field` | one field: name, kind, shape, default |
//! | `expand` | what the macro writes |
//! | `state` | the derives of in-memory state |
//!
//! serde reads the values, so whatever is refused here is something that serde would read in another way than the
//! schema says.

mod case;
mod conf;
mod expand;
mod field;
mod serde;
mod state;
#[cfg(test)]
mod tests;

use proc_macro::TokenStream;

/// Makes a type part of an application's settings: a struct with named fields (a group of keys), a struct with one
/// unnamed field, or an enum of plain words. To be derived beside `serde::Deserialize`.
///
/// The module `relmgr_app::settings` describes types and attributes.
#[proc_macro_derive(Settings, attributes(conf, serde))]
pub fn settings(input: TokenStream) -> TokenStream {
    let expanded = syn::parse(input).and_then(|input| expand::expand(&input));
    expanded.unwrap_or_else(|error| error.to_compile_error()).into()
}

/// Makes a type a form of the application's in-memory state: `#[state(version = 1)]`. To be derived beside
/// `serde::Serialize` and `serde::Deserialize`.
///
/// The module `relmgr_app::state` describes it.
#[proc_macro_derive(State, attributes(state, serde))]
pub fn state(input: TokenStream) -> TokenStream {
    let expanded = syn::parse(input).and_then(|input| state::state(&input));
    expanded.unwrap_or_else(|error| error.to_compile_error()).into()
}

/// Describes a type within a state. `#[state(opaque)]` on a field takes its type by its name.
///
/// The module `relmgr_app::state` describes it.
#[proc_macro_derive(Shape, attributes(state, serde))]
pub fn shape(input: TokenStream) -> TokenStream {
    let expanded = syn::parse(input).and_then(|input| state::shape(&input));
    expanded.unwrap_or_else(|error| error.to_compile_error()).into()
}
