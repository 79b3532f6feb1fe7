//! The safety rules of the replication protocol (R1 to R12) as plain functions of state and event.
//!
//! What is here: what a cluster of one needs of them, namely the quorum arithmetic ([`quorum`]), when an
//! entry is committed ([`commit`], R5), how a local log and the object log are reconciled
//! ([`reconcile`], R7), and when a Primary may answer a linearizable read ([`read`], R9).
//! Elections between several nodes, receipts of replicas and changes of the voter set under load
//! come with the cluster.
//!
//! Not here: sockets, files, clocks, randomness, threads. Time comes in as an argument.
//!
//! Start reading at [`commit::CommitTracker`].

pub mod commit;
pub mod quorum;
pub mod read;
pub mod reconcile;
