//! Tables as an application has them, over a real store.

mod migrating;
mod model;
mod operations;
mod releases;
