//! What relmgr keeps on disk, and where releases come from.
//!
//! | module | what |
//! | --- | --- |
//! | [`atomic`] | the one way in which a file is replaced |
//! | [`digest`] | sizes and SHA-256 |
//! | [`delta`] | `<from>_<to>.delta`: what changed between two releases' files: make, and apply |
//! | [`package`] | `<version>.tar.gz`: pack, and unpack what nobody has vouched for yet |
//! | [`repository`] | where releases are published and fetched from |
//! | [`signature`] | who vouches for manifests and channels |
//! | [`storage`] | what repositories lie on: a directory or a bucket |
//! | [`tree`] | a node's `releases/` directory |
//! | [`journal`] | a node's `state.json` and `history.jsonl` |

pub mod atomic;
pub mod delta;
pub mod digest;
pub mod journal;
pub mod package;
pub mod repository;
pub mod signature;
mod staged;
pub mod storage;
pub mod tree;
