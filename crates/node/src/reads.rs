//! Reading: ranges at one revision in short steps, values fetched once no lock is held (R9).

use crate::error::{NodeError, Unavailable};
use crate::held_values::{OWN_FREE_BYTES, READ_BYTES};
use crate::history::stored_at;
use crate::node::{Inner, Node};
use crate::read_again::Unread;
use crate::shared::ReadEpoch;
use bytes::Bytes;
use netsy_api::etcdserverpb::{RangeRequest, TxnRequest};
use netsy_api::ids::{Position, Revision};
use netsy_localdb::Readers;
use netsy_mvcc::{
    KvRef, OpResult, Outcome, RangeReader, RangeResult, Store, TxnReader, TxnResult, ValueRef, ValueSource,
};
use netsy_protocol::read::ReadTicket;
use std::sync::Arc;

/// Keys looked at under one lock: a long range lets writers in between.
const KEYS_PER_STEP: usize = 512;
/// Such steps before other tasks get a turn, which may mean to wake another thread.
const STEPS_PER_TURN: usize = 8;
/// A linearizable read that the lease ran out on is begun again this often.
pub(crate) const TRIES_MAX: usize = 16;
/// Values fetched in one go on this thread; more are fetched on a blocking one.
const VALUES_HERE_MAX: usize = 4;

/// Values that left memory, for transactions that compare them.
pub(crate) struct StoredValues<'a>(pub(crate) &'a Readers);

impl ValueSource for StoredValues<'_> {
    fn value(&self, at: Position) -> Result<Bytes, String> {
        match self.0.value(at) {
            Ok(Some(value)) => Ok(value),
            Ok(None) => Err(format!("no row at position {at}")),
            Err(e) => Err(e.to_string()),
        }
    }
}

/// Runs a read of visible state so that its result is linearizable: in again if the lease ran out meanwhile.
/// Refusals are results too: they tell of the state. (A macro, as futures of async closures are not known to be
/// `Send`.)
macro_rules! linearized {
    ($node:expr, $serializable:expr, $read:expr) => {{
        let mut tries = 0;
        loop {
            let ticket = if $serializable { None } else { Some($node.read_proof().await?) };
            let result = $read.await;
            if ticket.is_none_or(|ticket| ticket.holds()) {
                break result;
            }
            tries += 1;
            if tries >= $crate::reads::TRIES_MAX {
                break Err($crate::error::Unavailable::TimedOut.into());
            }
        }
    }};
}

impl Node {
    /// A linearizable point: afterwards the visible state includes all that was committed at the call.
    pub async fn read_index(&self) -> Result<(), NodeError> {
        // On the Primary what is committed is visible; what must be shown is that it still is the Primary.
        for _ in 0..TRIES_MAX {
            if self.0.read_proof().await?.holds() {
                return Ok(());
            }
        }
        Err(Unavailable::TimedOut.into())
    }

    /// Range, linearizable unless asked otherwise; all values are filled in.
    pub async fn range(&self, request: &RangeRequest) -> Result<RangeResult, NodeError> {
        linearized!(self.0, request.serializable, self.0.range_now(request))
    }

    /// Range in slices of one revision; the first step is linearizable unless asked otherwise.
    pub async fn range_pages(&self, request: RangeRequest, first_keys: usize) -> Result<RangePages, NodeError> {
        let begin = async || RangePages::begin(self, &request, first_keys);
        linearized!(self.0, request.serializable, begin())
    }

    /// A transaction that only reads ([`netsy_mvcc::is_read_only`]), and the revision it read at.
    pub async fn read_txn(&self, request: &TxnRequest) -> Result<(TxnResult, Revision), NodeError> {
        linearized!(self.0, netsy_mvcc::all_serializable(request), self.0.read_txn_now(request))
    }
}

/// What the first step of a range came to.
enum Begun {
    Done(RangeResult),
    /// Values are to be fetched.
    Unresolved(RangeResult, ReadEpoch),
    More(Box<RangeReader>, ReadEpoch),
}

/// How a read was let in; asked again after the state was read.
pub(crate) enum Entered {
    /// By a Primary that needs nobody's word for it.
    Now(Arc<Inner>, ReadTicket),
    /// What is shown includes all that was committed when it arrived.
    Settled,
}

impl Entered {
    /// Whether what was read since may be answered; if not, enter again.
    pub(crate) fn holds(&self) -> bool {
        match self {
            Self::Now(node, ticket) => node.ask_engine(|engine, now| engine.read_end(now, *ticket)),
            Self::Settled => true,
        }
    }
}

impl Inner {
    async fn read_txn_now(&self, request: &TxnRequest) -> Result<(TxnResult, Revision), NodeError> {
        loop {
            match self.read_txn_once(request).await {
                Ok(result) => return Ok(result),
                Err(unread) => self.may_read_again(unread).await?,
            }
        }
    }

    async fn read_txn_once(&self, request: &TxnRequest) -> Result<(TxnResult, Revision), Unread> {
        let (mut reader, mut done, epoch) = {
            let store = self.store.read();
            let mut reader = TxnReader::new(request, &store, &StoredValues(&self.readers))
                .map_err(|error| Unread::of(error, store.number()))?;
            let done = reader.step(&store, KEYS_PER_STEP)?;
            (reader, done, store.epoch())
        };
        while !done {
            tokio::task::yield_now().await;
            done = self.step(&epoch, |store| reader.step(store, KEYS_PER_STEP))?;
        }
        let wanted = reader.wanted();
        if !wanted.is_empty() {
            let values = self.values(wanted, &epoch).await?;
            reader.fill(values);
        }
        let (mut result, revision) = reader.finish();
        let mut stored = vec![];
        txn_refs(&mut result, &mut stored);
        self.fill(stored, &epoch).await?;
        Ok((result, revision))
    }

    async fn range_now(&self, request: &RangeRequest) -> Result<RangeResult, NodeError> {
        loop {
            match self.range_once(request).await {
                Ok(result) => return Ok(result),
                Err(unread) => self.may_read_again(unread).await?,
            }
        }
    }

    async fn range_once(&self, request: &RangeRequest) -> Result<RangeResult, Unread> {
        let (mut reader, epoch) = match self.range_begin(request)? {
            Begun::Done(result) => return Ok(result),
            Begun::Unresolved(mut result, epoch) => {
                let single = match &result.kvs[..] {
                    [kv] => stored_at(kv),
                    _ => None,
                };
                self.fill(result.kvs.iter_mut().collect(), &epoch).await?;
                if let (Some(at), [kv]) = (single, &result.kvs[..]) {
                    self.offer(kv, at);
                }
                return Ok(result);
            }
            Begun::More(reader, epoch) => (*reader, epoch),
        };
        let mut room = self.held_lists.answer();
        let mut steps = 1;
        while !self.step(&epoch, |store| reader.step(store, KEYS_PER_STEP))? {
            room.grow_to(reader.own_bytes()).await?;
            std::thread::yield_now();
            steps += 1;
            if steps % STEPS_PER_TURN == 0 {
                tokio::task::yield_now().await;
            }
        }
        room.grow_to(reader.own_bytes()).await?;
        let wanted = reader.wanted();
        if !wanted.is_empty() {
            let values = self.values(wanted, &epoch).await?;
            reader.fill(values);
        }
        let has_stored = reader.has_stored();
        let mut result = reader.finish();
        if has_stored {
            self.fill(result.kvs.iter_mut().collect(), &epoch).await?;
        }
        // It is sent in order.
        if let Some(last) = result.kvs.last_mut() {
            last.key = room.keep_with(std::mem::take(&mut last.key));
        }
        Ok(result)
    }

    /// A further step of a read that began in the state of `epoch`: in another one its revision may be compacted.
    fn step(
        &self,
        epoch: &ReadEpoch,
        step: impl FnOnce(&Store) -> Result<bool, netsy_mvcc::Error>,
    ) -> Result<bool, Unread> {
        let store = self.store.read();
        if store.number() != epoch.state() {
            return Err(Unread::Replaced);
        }
        Ok(step(&store)?)
    }

    /// The first step, which is all there is to most reads.
    fn range_begin(&self, request: &RangeRequest) -> Result<Begun, NodeError> {
        let store = self.store.read();
        let mut reader = RangeReader::new(request, &store)?;
        let done = reader.step(&store, KEYS_PER_STEP)?;
        if !done || !reader.wanted().is_empty() || reader.own_bytes() > OWN_FREE_BYTES {
            return Ok(Begun::More(Box::new(reader), store.epoch()));
        }
        let has_stored = reader.has_stored();
        let result = reader.finish();
        if has_stored && result.kvs.iter().any(|kv| stored_at(kv).is_some()) {
            return Ok(Begun::Unresolved(result, store.epoch()));
        }
        Ok(Begun::Done(result))
    }

    /// Gives a value that was read from disk a place in memory, if there is room.
    fn offer(&self, kv: &KvRef, at: Position) {
        if let ValueRef::Here(value) = &kv.value {
            self.store.write().offer_value(&kv.key, at, value);
        }
    }

    /// Replaces stored values by the values. `epoch` was taken under the lock under which the positions were.
    pub(crate) async fn fill(&self, kvs: Vec<&mut KvRef>, epoch: &ReadEpoch) -> Result<(), Unread> {
        let stored: Vec<Position> = kvs.iter().filter_map(|kv| stored_at(kv)).collect();
        if stored.is_empty() {
            return Ok(());
        }
        let values = self.values(stored, epoch).await?;
        let wanting = kvs.into_iter().filter(|kv| stored_at(kv).is_some());
        for (kv, value) in wanting.zip(values) {
            kv.value = ValueRef::Here(value);
        }
        Ok(())
    }

    async fn values(&self, at: Vec<Position>, epoch: &ReadEpoch) -> Result<Vec<Bytes>, Unread> {
        let failed = |e: String| NodeError::Storage(e);
        let at: Arc<[Position]> = at.into();
        let few = at.len() <= VALUES_HERE_MAX;
        let mut answer = if few { self.held_short.answer() } else { self.held_values.answer() };
        let mut values = Vec::with_capacity(at.len());
        while values.len() < at.len() {
            let reserved = answer.reserve().await?;
            let from = values.len();
            let read = if few {
                self.readers.values(&at[from..], READ_BYTES).map_err(|e| failed(e.to_string()))?
            } else {
                let (readers, at) = (self.readers.clone(), at.clone());
                tokio::task::spawn_blocking(move || readers.values(&at[from..], READ_BYTES))
                    .await
                    .map_err(|e| failed(e.to_string()))?
                    .map_err(|e| failed(e.to_string()))?
            };
            let missing = |position: &Position| Unread::Gone {
                state: epoch.state(),
                error: failed(format!("the row at position {position} is not there")),
            };
            let read = at[from..].iter().zip(read).map(|(position, value)| value.ok_or_else(|| missing(position)));
            values.extend(answer.count(reserved, read.collect::<Result<_, _>>()?));
        }
        Ok(values)
    }

    /// Fills in what the answer of a write shows of earlier states.
    pub(crate) async fn fill_outcome(&self, outcome: &mut Outcome, epoch: ReadEpoch) -> Result<(), NodeError> {
        let mut stored = vec![];
        outcome_refs(outcome, &mut stored);
        self.fill(stored, &epoch).await.map_err(|unread| match unread {
            // The write has happened, which that text denies.
            Unread::Failed(NodeError::Unavailable(Unavailable::TooManyRequests)) => Unavailable::TimedOut.into(),
            // This node is Primary no more; what the write showed cannot be read again.
            Unread::Gone { state, .. } if self.is_lost(state) => Unavailable::TimedOut.into(),
            Unread::Replaced => Unavailable::TimedOut.into(),
            Unread::Failed(error) | Unread::Gone { error, .. } => error,
        })
    }
}

/// Whether an outcome shows values that are not in memory.
pub(crate) fn shows_stored(outcome: &Outcome) -> bool {
    let stored = |kv: &KvRef| stored_at(kv).is_some();
    match outcome {
        Outcome::Put { prev } => prev.as_ref().is_some_and(stored),
        Outcome::DeleteRange { prevs, .. } => prevs.iter().any(stored),
        Outcome::Txn(result) => txn_shows_stored(result),
        _ => false,
    }
}

fn txn_shows_stored(result: &TxnResult) -> bool {
    let stored = |kv: &KvRef| stored_at(kv).is_some();
    result.responses.iter().any(|response| match response {
        OpResult::Range(range) => range.kvs.iter().any(stored),
        OpResult::Put { prev, .. } => prev.as_ref().is_some_and(stored),
        OpResult::DeleteRange { prevs, .. } => prevs.iter().any(stored),
        OpResult::Txn(nested) => txn_shows_stored(nested),
    })
}

fn outcome_refs<'a>(outcome: &'a mut Outcome, out: &mut Vec<&'a mut KvRef>) {
    match outcome {
        Outcome::Put { prev } => out.extend(prev),
        Outcome::DeleteRange { prevs, .. } => out.extend(prevs),
        Outcome::Txn(result) => txn_refs(result, out),
        _ => {}
    }
}

fn txn_refs<'a>(result: &'a mut TxnResult, out: &mut Vec<&'a mut KvRef>) {
    for response in &mut result.responses {
        match response {
            OpResult::Range(range) => out.extend(&mut range.kvs),
            OpResult::Put { prev, .. } => out.extend(prev),
            OpResult::DeleteRange { prevs, .. } => out.extend(prevs),
            OpResult::Txn(nested) => txn_refs(nested, out),
        }
    }
}

/// A range in slices, all of one revision. What it reads is not compacted away until its last slice is taken, unless by
/// a snapshot that takes the place of all that there is.
pub struct RangePages {
    node: Node,
    reading: Option<(RangeReader, ReadEpoch)>,
    done: bool,
    /// Until the first slice is taken: with which it may be begun again.
    first: Option<(RangeRequest, usize)>,
}

impl RangePages {
    fn begin(node: &Node, request: &RangeRequest, first_keys: usize) -> Result<Self, NodeError> {
        let store = node.0.store.read();
        let mut reader = RangeReader::new(request, &store)?;
        let epoch = store.epoch();
        let done = reader.step(&store, first_keys.max(1))?;
        let first = Some((request.clone(), first_keys));
        Ok(Self { node: node.clone(), reading: Some((reader, epoch)), done, first })
    }

    /// Whether a compaction has passed what is still to be read here. Its rows stay until then.
    pub fn is_compacted(&self) -> bool {
        let at = self.reading.as_ref().and_then(|(reader, _)| reader.revision());
        at.is_some_and(|at| at < self.node.0.store.read().compact_revision())
    }

    /// The next slice, of at most about `keys` keys; the last one has `count` and `more`. `None`: that was all.
    pub async fn next(&mut self, keys: usize) -> Result<Option<RangeResult>, NodeError> {
        loop {
            let page = self.next_now(keys).await;
            match (page, self.first.take()) {
                // A revision that nobody named, and of which nothing was told: the newest takes its place.
                (Err(NodeError::Mvcc(netsy_mvcc::Error::Compacted)), Some((request, first)))
                    if request.revision <= 0 =>
                {
                    *self = Self::begin(&self.node, &request, first)?;
                }
                (page, _) => return page,
            }
        }
    }

    async fn next_now(&mut self, keys: usize) -> Result<Option<RangeResult>, NodeError> {
        loop {
            let Some((mut reader, epoch)) = self.reading.take() else {
                return Ok(None);
            };
            let at = reader.revision();
            if self.done {
                let mut page = reader.finish();
                self.fill(&mut page, epoch, at).await?;
                return Ok(Some(page));
            }
            let mut page = RangeResult { kvs: reader.take_page(), ..RangeResult::default() };
            let next = {
                let store = self.node.0.store.read();
                if store.number() != epoch.state() {
                    reader.go_on_in(&store)?;
                }
                self.done = reader.step(&store, keys.clamp(1, KEYS_PER_STEP))?;
                store.epoch()
            };
            self.reading = Some((reader, next));
            if page.kvs.is_empty() {
                // Counting on beyond the limit.
                tokio::task::yield_now().await;
                continue;
            }
            self.fill(&mut page, epoch, at).await?;
            return Ok(Some(page));
        }
    }

    /// Fills in the values of a slice that was read at `at`.
    async fn fill(&self, page: &mut RangeResult, mut epoch: ReadEpoch, at: Option<Revision>) -> Result<(), NodeError> {
        let node = &self.node.0;
        while let Err(unread) = node.fill(page.kvs.iter_mut().collect(), &epoch).await {
            node.may_read_again(unread).await?;
            // What is not compacted has the same rows in every state.
            let store = node.store.read();
            if at.is_some_and(|at| at < store.compact_revision()) {
                return Err(netsy_mvcc::Error::Compacted.into());
            }
            epoch = store.epoch();
        }
        Ok(())
    }
}
