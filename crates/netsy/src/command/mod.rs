//! One file per command.

pub mod certs;
pub mod cluster;
pub mod config;
#[cfg(feature = "crashfs")]
pub mod crashfs;
pub mod dev;
mod dev_nodes;
pub mod inspect;
pub mod member;
mod node_client;
pub mod recover;
mod run_node;
pub mod server;
pub mod tls;
