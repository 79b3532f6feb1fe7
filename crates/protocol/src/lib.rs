//! Rules R1 to R12 of the replication protocol, without I/O.
