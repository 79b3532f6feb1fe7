//! The crash test: a server is killed again and again under load, and after each restart everything a client was told
//! is held against what is there.

pub mod checker;
pub mod history;
mod load;
mod observe;
mod run;
pub mod watch_checker;

pub use run::{Plan, Report, is_netsy, run};
