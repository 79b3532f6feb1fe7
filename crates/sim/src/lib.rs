//! The simulator: nodes that run the real `protocol` and `mvcc` code, object storage, clients and watchers in one thread,
//! with all chance from one seed. A run is data ([`scenario::Scenario`]); what it breaks is found by [`run::run`].
//!
//! Not here: anything that runs in production.
//!
//! Start reading at [`run::run`], then [`world::World`].

#![allow(missing_docs)]

pub mod bucket;
mod client;
mod convert;
mod driver;
mod faults;
pub mod process;
mod requests;
pub mod rng;
pub mod run;
pub mod scenario;
mod storage;
pub mod truth;
pub mod world;
