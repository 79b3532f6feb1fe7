//! Clusters of real processes, and what operators do with them.

mod dev;
mod operator;
mod recover;
mod tls;
mod watch;
