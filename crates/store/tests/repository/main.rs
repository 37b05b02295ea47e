//! Repositories in directories and in buckets: publishing that cannot half-happen, fetching that believes nothing. One
//! suite for both.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

mod place;
mod publishing;
mod reading;
mod s3;
mod signed;
