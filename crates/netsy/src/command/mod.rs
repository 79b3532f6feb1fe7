//! One file per command.

pub mod certs;
pub mod config;
#[cfg(feature = "crashfs")]
pub mod crashfs;
pub mod dev;
pub mod inspect;
mod run_node;
pub mod server;
pub mod tls;
