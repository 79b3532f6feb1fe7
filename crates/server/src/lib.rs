//! What clients talk to: etcd services, health, metrics.
