//! The state machine: keys, revisions, transactions, leases, watch matching; no I/O.
