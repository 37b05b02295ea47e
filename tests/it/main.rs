//! Journeys of whole nodes: real releases made by the real builder, real processes, real faults.

#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

mod admin;
mod client;
mod conf;
mod contract;
mod crash;
mod defects;
mod faults;
mod faulty;
mod journey;
mod kitchen;
mod log;
mod new;
mod points;
mod probation;
mod random;
mod repository;
mod retire;
mod scripts;
mod supervisor;
