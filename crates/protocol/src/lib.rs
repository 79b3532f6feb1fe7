//! The safety rules of the replication protocol (R1 to R12) as plain functions of state and event.
//!
//! [`engine::Engine`] is one process's whole behaviour: it takes [`event::Event`]s and gives
//! [`command::Command`]s. Its parts are one file each, named after what the rules call them.
//!
//! Not here: sockets, files, clocks, randomness, threads, entries' bytes. Time and a seed come in as arguments.
//!
//! Start reading at [`engine::Engine`].

pub mod command;
pub mod commit;
pub mod config;
pub mod engine;
pub mod event;
pub mod manifest;
pub mod message;
pub mod quorum;
pub mod read;
pub mod reconcile;
pub mod status;
