//! Journeys of whole nodes: real releases made by the real builder, real processes, real faults.

#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

mod admin;
mod browser;
mod client;
mod code_change;
mod conf;
mod conf_start;
mod contract;
mod crash;
mod deaths;
mod defects;
mod dev;
mod faults;
mod faulty;
mod hostile;
mod http2;
mod journey;
mod kitchen;
mod limits;
mod live_poll;
mod log;
mod memory;
mod new;
mod points;
mod power;
mod probation;
mod pull;
mod random;
mod rehearse;
mod repository;
mod retire;
mod rights;
mod scripts;
mod self_upgrade;
mod sessions;
mod sessions_faults;
mod state;
mod state_check;
mod streams;
mod supervisor;
mod tables;
mod tables_faults;
mod tls;
mod trial;
mod webhooks;
