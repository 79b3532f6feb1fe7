//! The loads: what the clients send, and what counts as a right answer.

pub mod lease;
pub mod requests;
pub mod unary;
pub mod watch;
