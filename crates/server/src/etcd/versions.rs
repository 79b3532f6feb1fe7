//! The versions this server says it has.
//!
//! Clients switch features by them: kube-apiserver reads `Status.version` and turns consistent
//! reads from its cache on from 3.4.31 and 3.5.13 (reference/etcd.md 3.2). The API served here is
//! that of 3.6 (`hash_revision`, `storageVersion`, `downgradeInfo`) with 3.7's `RangeStream`, which
//! clients find out by calling it, not by version. So: a 3.6 release whose fixes all hold here.

/// `Status.version`, and `etcdserver` of `/version`.
pub(crate) const SERVER: &str = "3.6.14";
/// The cluster's version: always the minor release's first.
pub(crate) const CLUSTER: &str = "3.6.0";
/// The version of etcd's storage schema that the answers imply.
pub(crate) const STORAGE: &str = "3.6.0";
