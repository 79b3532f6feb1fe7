//! Whether the database is whole.

use crate::Error;
use crate::readers::Readers;

/// Problems reported at most.
const PROBLEMS_MAX: usize = 100;

/// Rules that hold between a row and the one before it.
const ORDER: &str = "
WITH pairs AS (
  SELECT position, idx, term, revision,
    lag(position) OVER w AS p, lag(idx) OVER w AS i, lag(term) OVER w AS t, lag(revision) OVER w AS r
  FROM rows WINDOW w AS (ORDER BY position)
)
SELECT format('row %d (entry %d, term %d, revision %d) does not fit after row %d (entry %d, term %d, revision %d)',
  position, idx, term, revision, p, i, t, r)
FROM pairs
WHERE idx < i OR term < t OR revision < r
  OR (idx = i AND (term <> t OR revision <> r))
  OR idx - i > position - p
LIMIT ?1";

/// Rules of a single row.
const SHAPE: &str = "
SELECT format('row %d (kind %d) has columns that do not belong together', position, kind) FROM rows
WHERE position < 1 OR idx < 1 OR kind NOT BETWEEN 1 AND 7
  OR (kind IN (1, 2) AND (typeof(key) <> 'blob' OR length(key) = 0))
  OR (kind = 1 AND (typeof(value) <> 'blob' OR version < 1 OR create_revision > revision OR create_revision < 1))
  OR (kind <> 1 AND value IS NOT NULL)
  OR (kind IN (3, 4, 5) AND coalesce(lease, 0) = 0)
LIMIT ?1";

impl Readers {
    /// SQLite's own check and the rules of the log, while the node goes on working. Returns what is wrong, at
    /// most 100 problems; empty: nothing. Takes seconds per gigabyte; the write-ahead log grows meanwhile.
    pub fn integrity_check(&self) -> Result<Vec<String>, Error> {
        let lent = self.lend()?;
        self.as_of_one_moment(&lent, |conn| {
            let failed = |e| self.failed("checking", e);
            let texts = |sql: &str, limit: Option<usize>| {
                let mut select = conn.prepare(sql)?;
                let read = |row: &rusqlite::Row<'_>| row.get::<_, String>(0);
                let rows: rusqlite::Result<Vec<String>> = match limit {
                    Some(limit) => select.query_map([limit as i64], read)?.collect(),
                    None => select.query_map([], read)?.collect(),
                };
                rows
            };
            let pragma = format!("PRAGMA integrity_check({PROBLEMS_MAX})");
            let mut problems: Vec<String> = texts(&pragma, None).map_err(failed)?;
            problems.retain(|text| text != "ok");
            if problems.is_empty() {
                for rules in [SHAPE, ORDER] {
                    problems.extend(texts(rules, Some(PROBLEMS_MAX)).map_err(failed)?);
                }
            }
            problems.truncate(PROBLEMS_MAX);
            Ok(problems)
        })
    }
}
