//! The simulator: nodes that run the real `protocol` and `mvcc` code, object storage, clients and watchers in one thread,
//! with all chance from one seed. A run is data ([`scenario::Scenario`]); what it breaks is found by [`run::run`].
//!
//! Not here: anything that runs in production.
//!
//! Start reading at [`run::run`], then [`world::World`].

#![allow(missing_docs)]

mod background;
mod boot;
pub mod bucket;
mod client;
mod convert;
pub mod disk;
mod driver;
mod faults;
mod network;
pub mod process;
pub mod rare;
mod requests;
pub mod rng;
mod rows;
pub mod run;
pub mod scenario;
mod storage;
mod streams;
pub mod truth;
mod uploads;
mod visible;
pub mod world;
