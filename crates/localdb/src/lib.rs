//! A node's local SQLite database.
