//! Walking all rows fast, to rebuild the index at start.
//!
//! The positions are cut into stretches; several threads, each with its own connection, read every n-th
//! stretch and hand batches through bounded channels; the caller takes them in order.

use crate::Error;
use crate::readers::Readers;
use crate::row_codec::{DELETE, PUT, blob, read_head, read_kind, read_other, read_put_numbers};
use netsy_api::ids::{LeaseId, LogIndex, Position, Revision, Term, UnixMillis};
use netsy_api::log::Mutation;
use rusqlite::types::ValueRef;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Positions a stretch has at least.
const STRETCH_POSITIONS_MIN: u64 = 8_192;
/// Stretches there are at most, so that a log with large gaps does not become many empty ones.
const STRETCHES_MAX: u64 = 1_024;
/// Rows in a batch at most.
const BATCH_ROWS_MAX: usize = 1_024;
/// Bytes of keys and values from which on a batch is full.
const BATCH_BYTES_MAX: usize = 256 << 10;
/// Batches waiting in each channel at most.
const BATCHES_WAITING_MAX: usize = 16;

/// What to scan.
#[derive(Clone, Copy, Debug)]
pub struct ScanOptions {
    /// Rows after this position only.
    pub after: Position,
    /// Reading threads, at least 1.
    pub threads: usize,
    /// Values of rows after this position are handed over, too: to fill a cache with the newest. `None`: no values.
    pub values_after: Option<Position>,
}

impl Default for ScanOptions {
    fn default() -> Self {
        Self { after: Position(0), threads: 2, values_after: None }
    }
}

/// A row without, or with, its value.
#[derive(Clone, Copy, Debug)]
pub struct RowMeta<'a> {
    /// As in [`netsy_api::log::Row`].
    pub position: Position,
    /// As in [`netsy_api::log::Row`].
    pub index: LogIndex,
    /// As in [`netsy_api::log::Row`].
    pub term: Term,
    /// As in [`netsy_api::log::Row`].
    pub time: UnixMillis,
    /// As in [`netsy_api::log::Row`].
    pub revision: Revision,
    /// As in [`netsy_api::log::Row`].
    pub sub: u32,
    /// The effect.
    pub what: RowWhat<'a>,
}

/// The effect of a row.
#[derive(Clone, Copy, Debug)]
pub enum RowWhat<'a> {
    /// A key has a new value.
    Put {
        /// The key.
        key: &'a [u8],
        /// As in [`Mutation::Put`].
        create_revision: Revision,
        /// As in [`Mutation::Put`].
        version: i64,
        /// As in [`Mutation::Put`].
        lease: LeaseId,
        /// The value's length.
        value_bytes: u32,
        /// The value, if it was wanted.
        value: Option<&'a [u8]>,
    },
    /// A key is gone.
    Delete {
        /// The key.
        key: &'a [u8],
    },
    /// Any other effect.
    Other(&'a Mutation),
}

/// What a scan walked over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScanEnd {
    /// Rows handed over.
    pub rows: u64,
    /// The last row's position; 0: none.
    pub last: Position,
}

/// A row in a batch; keys and values lie in the batch's bytes.
struct Stored {
    head: crate::row_codec::RowHead,
    what: StoredWhat,
}

enum StoredWhat {
    Put {
        key: (u32, u32),
        create_revision: Revision,
        version: i64,
        lease: LeaseId,
        value_bytes: u32,
        value: Option<(u32, u32)>,
    },
    Delete {
        key: (u32, u32),
    },
    Other(Mutation),
}

#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    rows: Vec<Stored>,
    /// The stretch ends with this batch.
    last: bool,
}

struct Plan {
    first: u64,
    end: u64,
    stretch: u64,
    stretches: u64,
    threads: u64,
    values_after: Option<Position>,
}

impl Readers {
    /// Hands all rows to `each` in ascending order, those that are there when it begins.
    ///
    /// # Errors
    /// The first error of reading or of `each` ends the scan.
    pub fn scan<E: From<Error>>(
        &self,
        options: ScanOptions,
        mut each: impl FnMut(RowMeta<'_>) -> Result<(), E>,
    ) -> Result<ScanEnd, E> {
        let Some(plan) = self.plan(options)? else { return Ok(ScanEnd::default()) };
        let plan = &plan;
        std::thread::scope(|scope| {
            let mut channels = Vec::new();
            for thread in 0..plan.threads {
                let (send, receive) = sync_channel(BATCHES_WAITING_MAX);
                std::thread::Builder::new()
                    .name(format!("db-scan-{thread}"))
                    .spawn_scoped(scope, move || self.scan_stretches(plan, thread, &send))
                    .map_err(|e| Error::io(self.path(), "starting a thread to scan", e))?;
                channels.push(receive);
            }
            // Dropping the channels on the way out ends the threads.
            self.take_in_order(plan, &channels, &mut each)
        })
    }

    fn plan(&self, options: ScanOptions) -> Result<Option<Plan>, Error> {
        let lent = self.lend()?;
        let bounds = lent.query_row(
            "SELECT (SELECT min(position) FROM rows WHERE position > ?1), (SELECT max(position) FROM rows)",
            [options.after.0 as i64],
            |row| Ok((row.get::<_, Option<i64>>(0)?, row.get::<_, Option<i64>>(1)?)),
        );
        let (Some(first), Some(last)) = bounds.map_err(|e| self.failed("scanning", e))? else { return Ok(None) };
        let (first, end) = (first as u64, last as u64 + 1);
        let stretch = (end - first).div_ceil(STRETCHES_MAX).max(STRETCH_POSITIONS_MIN);
        let stretches = (end - first).div_ceil(stretch);
        let threads = (options.threads.max(1) as u64).min(stretches);
        Ok(Some(Plan { first, end, stretch, stretches, threads, values_after: options.values_after }))
    }

    fn take_in_order<E: From<Error>>(
        &self,
        plan: &Plan,
        channels: &[Receiver<Result<Batch, Error>>],
        each: &mut impl FnMut(RowMeta<'_>) -> Result<(), E>,
    ) -> Result<ScanEnd, E> {
        let mut end = ScanEnd::default();
        for stretch in 0..plan.stretches {
            let channel = &channels[(stretch % plan.threads) as usize];
            loop {
                let batch = channel
                    .recv()
                    .map_err(|_| self.damaged("a scanning thread ended before its rows did".to_string()))??;
                for stored in &batch.rows {
                    let meta = stored.view(&batch.bytes);
                    if meta.position <= end.last {
                        return Err(self.damaged(format!("row {} follows row {}", meta.position, end.last)).into());
                    }
                    end = ScanEnd { rows: end.rows + 1, last: meta.position };
                    each(meta)?;
                }
                if batch.last {
                    break;
                }
            }
        }
        Ok(end)
    }

    /// One thread's work; ends early, without a word, when nobody listens any more.
    fn scan_stretches(&self, plan: &Plan, thread: u64, send: &SyncSender<Result<Batch, Error>>) {
        let outcome = self.lend().and_then(|lent| {
            let mut stretch = thread;
            while stretch < plan.stretches {
                let first = plan.first + stretch * plan.stretch;
                let end = (first + plan.stretch).min(plan.end);
                if !self.scan_stretch(&lent, plan, first..end, send)? {
                    break;
                }
                stretch += plan.threads;
            }
            Ok(())
        });
        if let Err(e) = outcome {
            // Nobody listens: the scan has failed already.
            let _ = send.send(Err(e));
        }
    }

    fn scan_stretch(
        &self,
        conn: &rusqlite::Connection,
        plan: &Plan,
        positions: std::ops::Range<u64>,
        send: &SyncSender<Result<Batch, Error>>,
    ) -> Result<bool, Error> {
        let failed = |e| self.failed("scanning", e);
        let with_values = plan.values_after.is_some_and(|after| positions.end - 1 > after.0);
        let mut select = conn.prepare_cached(if with_values { WITH_VALUES } else { WITHOUT_VALUES }).map_err(failed)?;
        let mut rows = select.query([positions.start as i64, positions.end as i64 - 1]).map_err(failed)?;
        let mut batch = Batch::default();
        while let Some(row) = rows.next().map_err(failed)? {
            batch.push(row, plan.values_after.filter(|_| with_values)).map_err(|detail| self.damaged(detail))?;
            if batch.rows.len() >= BATCH_ROWS_MAX || batch.bytes.len() >= BATCH_BYTES_MAX {
                let full = std::mem::replace(&mut batch, Batch::with_room());
                if send.send(Ok(full)).is_err() {
                    return Ok(false);
                }
            }
        }
        batch.last = true;
        Ok(send.send(Ok(batch)).is_ok())
    }
}

const WITHOUT_VALUES: &str = "SELECT position, idx, term, time_ms, revision, sub, kind, key, create_revision, version, \
     lease, length(value) FROM rows WHERE position BETWEEN ?1 AND ?2 ORDER BY position";
const WITH_VALUES: &str = "SELECT position, idx, term, time_ms, revision, sub, kind, key, create_revision, version, \
     lease, length(value), value FROM rows WHERE position BETWEEN ?1 AND ?2 ORDER BY position";

impl Batch {
    fn with_room() -> Self {
        Self { bytes: Vec::with_capacity(64 << 10), rows: Vec::with_capacity(BATCH_ROWS_MAX), last: false }
    }

    fn keep(&mut self, bytes: &[u8]) -> (u32, u32) {
        // A batch has at most BATCH_BYTES_MAX and one row of at most 1 GB (SQLite's own limit).
        let start = self.bytes.len() as u32;
        self.bytes.extend_from_slice(bytes);
        (start, start + bytes.len() as u32)
    }

    fn push(&mut self, row: &rusqlite::Row<'_>, values_after: Option<Position>) -> Result<(), String> {
        let head = read_head(row)?;
        let named = |detail: String| format!("row {}: {detail}", head.position);
        let what = match read_kind(row)? {
            PUT => {
                let key = self.keep(blob(row, 7).map_err(named)?);
                let (create_revision, version, lease) = read_put_numbers(row).map_err(named)?;
                let value_bytes = match row.get_ref(11) {
                    Ok(ValueRef::Integer(n)) => n as u32,
                    _ => return Err(named("a put without a value".to_string())),
                };
                let value = match values_after {
                    Some(after) if head.position > after => Some(self.keep(blob(row, 12).map_err(named)?)),
                    _ => None,
                };
                StoredWhat::Put { key, create_revision, version, lease, value_bytes, value }
            }
            DELETE => StoredWhat::Delete { key: self.keep(blob(row, 7).map_err(named)?) },
            other => StoredWhat::Other(read_other(row, other).map_err(named)?),
        };
        self.rows.push(Stored { head, what });
        Ok(())
    }
}

impl Stored {
    fn view<'a>(&'a self, bytes: &'a [u8]) -> RowMeta<'a> {
        let slice = |(start, end): (u32, u32)| &bytes[start as usize..end as usize];
        let what = match &self.what {
            StoredWhat::Put { key, create_revision, version, lease, value_bytes, value } => RowWhat::Put {
                key: slice(*key),
                create_revision: *create_revision,
                version: *version,
                lease: *lease,
                value_bytes: *value_bytes,
                value: value.map(slice),
            },
            StoredWhat::Delete { key } => RowWhat::Delete { key: slice(*key) },
            StoredWhat::Other(mutation) => RowWhat::Other(mutation),
        };
        let head = &self.head;
        RowMeta {
            position: head.position,
            index: head.index,
            term: head.term,
            time: head.time,
            revision: head.revision,
            sub: head.sub,
            what,
        }
    }
}
