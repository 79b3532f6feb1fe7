//! One program for all end-to-end tests, as each test program costs a link.
//!
//! `NETSY_E2E_SERVER=etcd` runs them against a real etcd: what they expect was checked that way.

mod check;
mod errors;
mod etcdctl;
mod hostile;
mod http;
mod lease;
mod limits;
mod mismatch_kv;
mod mismatch_rest;
mod mismatch_watch;
mod restart;
mod watch;
