//! The tables, see docs/local-database.md.

use crate::Error;
use rusqlite::Connection;
use std::path::Path;

/// `PRAGMA user_version`.
pub(crate) const VERSION: i64 = 1;
/// `PRAGMA application_id`: "ntsy".
pub(crate) const APPLICATION_ID: i64 = 0x6e74_7379;

/// The columns of `rows` in their order; `value` stands last, so that a scan of the others need not walk it.
pub(crate) const ROW_COLUMNS: &str =
    "position, idx, term, time_ms, revision, sub, kind, key, create_revision, version, lease, value";

const TABLES: &str = "
CREATE TABLE identity (
  one INTEGER PRIMARY KEY CHECK (one = 1),
  cluster_id TEXT NOT NULL,
  incarnation TEXT NOT NULL,
  boot_counter INTEGER NOT NULL,
  promised_term INTEGER NOT NULL
);
CREATE TABLE progress (
  one INTEGER PRIMARY KEY CHECK (one = 1),
  visible_index INTEGER NOT NULL DEFAULT 0,
  uploaded_seq INTEGER NOT NULL DEFAULT 0,
  uploaded_term INTEGER NOT NULL DEFAULT 0,
  uploaded_index INTEGER NOT NULL DEFAULT 0,
  partial_through INTEGER NOT NULL DEFAULT 0,
  end_index INTEGER NOT NULL DEFAULT 0,
  end_term INTEGER NOT NULL DEFAULT 0,
  end_position INTEGER NOT NULL DEFAULT 0,
  end_revision INTEGER NOT NULL DEFAULT 1
);
INSERT INTO progress (one) VALUES (1);
CREATE TABLE term_runs (
  term INTEGER PRIMARY KEY,
  first_index INTEGER NOT NULL
);
CREATE TABLE notes (
  name TEXT PRIMARY KEY,
  value BLOB NOT NULL
) WITHOUT ROWID;
CREATE TABLE rows (
  position INTEGER PRIMARY KEY,
  idx INTEGER NOT NULL,
  term INTEGER NOT NULL,
  time_ms INTEGER NOT NULL,
  revision INTEGER NOT NULL,
  sub INTEGER NOT NULL,
  kind INTEGER NOT NULL,
  key BLOB,
  create_revision INTEGER,
  version INTEGER,
  lease INTEGER,
  value BLOB
);
CREATE VIEW readable AS SELECT
  position, idx, term, datetime(time_ms / 1000, 'unixepoch') AS time, revision, sub,
  CASE kind WHEN 1 THEN 'put' WHEN 2 THEN 'delete' WHEN 3 THEN 'lease grant' WHEN 4 THEN 'lease revoke'
    WHEN 5 THEN 'lease checkpoint' WHEN 6 THEN 'compact' WHEN 7 THEN 'alarm' ELSE kind END AS what,
  CAST(key AS TEXT) AS key,
  CASE kind WHEN 1 THEN create_revision END AS create_revision,
  CASE kind WHEN 1 THEN version END AS version,
  CASE WHEN kind IN (1, 3, 4, 5) THEN printf('%x', lease) END AS lease_hex,
  CASE kind WHEN 3 THEN version END AS ttl_seconds,
  CASE kind WHEN 5 THEN version END AS remaining_seconds,
  CASE kind WHEN 6 THEN create_revision END AS compact_revision,
  CASE kind WHEN 7 THEN printf('%x %s %s', lease, iif(version = 1, 'NOSPACE', 'CORRUPT'),
    iif(create_revision, 'raised', 'cleared')) END AS alarm,
  length(value) AS value_bytes, value
FROM rows;
";

/// What a file holds.
pub(crate) enum Found {
    /// Nothing yet.
    Empty,
    /// Our tables, of this version.
    Ours,
}

/// Says what the database is; refuses what is not ours or too new.
pub(crate) fn inspect(conn: &Connection, path: &Path) -> Result<Found, Error> {
    let failed = |e| Error::sqlite(path, "reading the schema of", e);
    let number = |sql: &str| conn.query_row(sql, [], |row| row.get::<_, i64>(0)).map_err(failed);
    let application = number("PRAGMA application_id")?;
    let version = number("PRAGMA user_version")?;
    let tables = number("SELECT count(*) FROM sqlite_schema")?;
    if application == 0 && version == 0 && tables == 0 {
        return Ok(Found::Empty);
    }
    if application != APPLICATION_ID {
        let found = format!("application_id {application}, user_version {version}, {tables} tables and indexes");
        return Err(Error::Foreign { path: path.to_path_buf(), found });
    }
    if version > VERSION {
        return Err(Error::NewerSchema { path: path.to_path_buf(), found: version, known: VERSION });
    }
    if version < VERSION {
        let found = format!("user_version {version}, which no release of this program wrote");
        return Err(Error::Foreign { path: path.to_path_buf(), found });
    }
    Ok(Found::Ours)
}

/// Makes the tables inside the caller's transaction.
pub(crate) fn create(conn: &Connection, path: &Path) -> Result<(), Error> {
    let sql = format!("{TABLES} PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {VERSION};");
    conn.execute_batch(&sql).map_err(|e| Error::sqlite(path, "making the tables of", e))
}
