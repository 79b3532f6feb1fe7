//! An in-memory world for the watch hub: a store with history, a database that lags behind it,
//! compactions in two steps, and an observer that knows what each watcher must be told.

pub mod observer;
pub mod world;
