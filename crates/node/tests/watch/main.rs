//! The watch hub against an in-memory world: a store with history, a database that lags behind it,
//! compactions in two steps, and observers that know what each watcher must be told.

mod model;
mod observer;
mod threads;
mod world;
