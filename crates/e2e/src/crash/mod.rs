//! The crash test: a server is killed again and again under load, and after each restart everything a client was told
//! is held against what is there.

pub mod checker;
pub mod history;
pub mod watch_checker;
