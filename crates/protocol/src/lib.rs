//! The safety rules of the replication protocol (R1 to R12) as plain functions of state and event.
//!
//! [`engine::Engine`] is one process's whole behaviour: it takes [`event::Event`]s and gives
//! [`command::Command`]s. Its parts are one file each, named after what the rules call them.
//!
//! Not here: sockets, files, clocks, randomness, threads, entries' bytes. Time and a seed come in as arguments.
//!
//! Start reading at [`engine::Engine`].

#![deny(clippy::disallowed_methods, clippy::iter_over_hash_type)]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::unreachable))]

mod change;
pub mod command;
pub mod commit;
pub mod config;
mod disk;
mod election;
pub mod engine;
pub mod event;
mod follower;
mod hand_over;
mod health;
mod local_log;
mod lock;
pub mod manifest;
pub mod message;
#[cfg(feature = "mutants")]
pub mod mutant;
#[cfg(not(feature = "mutants"))]
mod mutant;
mod mutant_support;
mod primary;
mod promise;
pub mod quorum;
mod random;
pub mod read;
mod reads;
pub mod reconcile;
mod snapshots;
pub mod status;
mod streams;
mod take_over;
mod voter_plan;
mod watch_floor;
