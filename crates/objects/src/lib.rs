//! Object storage: providers, manifest, object log, snapshots.
