//! The kinds of unary requests.

use anyhow::Result;

use super::unary::{Requests, Verdict};
use crate::engine::Message;
use crate::http2::Want;
use crate::keys::{KeySpace, Rng, Values};
use crate::messages::{self, path};

/// A slot without a right answer yet.
const NO_ANSWER: Verdict = Verdict::Wrong("the call ended well but without a right answer");

/// Takes each slot's verdict once; the next answer starts from nothing.
struct Verdicts(Vec<Verdict>);

impl Verdicts {
    fn new(slots: usize) -> Verdicts {
        Verdicts(vec![NO_ANSWER; slots])
    }

    fn take(&mut self, slot: usize) -> Verdict {
        std::mem::replace(&mut self.0[slot], NO_ANSWER)
    }
}

fn body<'a>(message: &Message<'a>) -> &'a [u8] {
    match *message {
        Message::Bytes(bytes) => bytes,
        Message::Size(_) => &[],
    }
}

/// One linearizable get that may find nothing: the server serves.
#[derive(Default)]
pub struct Probe {
    sent: bool,
    answered: bool,
}

impl Requests for Probe {
    fn next(&mut self, _: usize, out: &mut Vec<u8>) -> Option<&'static str> {
        if std::mem::replace(&mut self.sent, true) {
            return None;
        }
        messages::range(b"probe", b"", 0, false, out);
        Some(path::RANGE)
    }

    fn want(&self) -> Want {
        Want::Bodies
    }

    fn message(&mut self, _: usize, message: Message<'_>) -> Result<()> {
        self.answered = messages::header_revision(body(&message))? > 0;
        Ok(())
    }

    fn finish(&mut self, _: usize) -> Verdict {
        if self.answered { Verdict::Done } else { NO_ANSWER }
    }
}

/// Puts of random keys.
pub struct Puts {
    keys: KeySpace,
    values: Values,
    rng: Rng,
    verdicts: Verdicts,
}

impl Puts {
    pub fn new(slots: usize, keys: KeySpace, values: Values, rng: Rng) -> Puts {
        Puts { keys, values, rng, verdicts: Verdicts::new(slots) }
    }
}

impl Requests for Puts {
    fn next(&mut self, _: usize, out: &mut Vec<u8>) -> Option<&'static str> {
        let index = self.rng.below(self.keys.count());
        messages::put(self.keys.key(index), self.values.value(&mut self.rng), out);
        Some(path::PUT)
    }

    fn want(&self) -> Want {
        Want::Bodies
    }

    fn message(&mut self, slot: usize, message: Message<'_>) -> Result<()> {
        if messages::header_revision(body(&message))? > 1 {
            self.verdicts.0[slot] = Verdict::Done;
        }
        Ok(())
    }

    fn finish(&mut self, slot: usize) -> Verdict {
        self.verdicts.take(slot)
    }
}

/// Puts of all keys in order, once. Remembers the revision each key got.
pub struct Fill {
    keys: KeySpace,
    values: Values,
    rng: Rng,
    next: usize,
    current: Vec<usize>,
    verdicts: Verdicts,
    pub revisions: Vec<u64>,
}

impl Fill {
    pub fn new(slots: usize, keys: KeySpace, values: Values, rng: Rng) -> Fill {
        let revisions = vec![0; keys.count()];
        Fill { keys, values, rng, next: 0, current: vec![0; slots], verdicts: Verdicts::new(slots), revisions }
    }
}

impl Requests for Fill {
    fn next(&mut self, slot: usize, out: &mut Vec<u8>) -> Option<&'static str> {
        if self.next == self.keys.count() {
            return None;
        }
        self.current[slot] = self.next;
        self.next += 1;
        messages::put(self.keys.key(self.current[slot]), self.values.value(&mut self.rng), out);
        Some(path::PUT)
    }

    fn want(&self) -> Want {
        Want::Bodies
    }

    fn message(&mut self, slot: usize, message: Message<'_>) -> Result<()> {
        self.revisions[self.current[slot]] = messages::header_revision(body(&message))?;
        self.verdicts.0[slot] = Verdict::Done;
        Ok(())
    }

    fn finish(&mut self, slot: usize) -> Verdict {
        self.verdicts.take(slot)
    }
}

/// Gets of random keys.
pub struct Gets {
    keys: KeySpace,
    serializable: bool,
    /// An answer shorter than this cannot hold the key and its value, bytes.
    answer_bytes_min: usize,
    rng: Rng,
    verdicts: Verdicts,
}

impl Gets {
    pub fn new(slots: usize, keys: KeySpace, value_bytes: usize, serializable: bool, rng: Rng) -> Gets {
        let answer_bytes_min = keys.key_bytes() + value_bytes;
        Gets { keys, serializable, answer_bytes_min, rng, verdicts: Verdicts::new(slots) }
    }
}

impl Requests for Gets {
    fn next(&mut self, _: usize, out: &mut Vec<u8>) -> Option<&'static str> {
        let index = self.rng.below(self.keys.count());
        messages::range(self.keys.key(index), b"", 0, self.serializable, out);
        Some(path::RANGE)
    }

    fn want(&self) -> Want {
        Want::Bodies
    }

    fn message(&mut self, slot: usize, message: Message<'_>) -> Result<()> {
        if body(&message).len() > self.answer_bytes_min {
            self.verdicts.0[slot] = Verdict::Done;
        }
        Ok(())
    }

    fn finish(&mut self, slot: usize) -> Verdict {
        self.verdicts.take(slot)
    }
}

/// Gets, and some puts between them.
pub struct Mixed {
    gets: Gets,
    puts: Puts,
    read_percent: usize,
    rng: Rng,
    reading: Vec<bool>,
}

impl Mixed {
    pub fn new(gets: Gets, puts: Puts, read_percent: usize, slots: usize, rng: Rng) -> Mixed {
        Mixed { gets, puts, read_percent, rng, reading: vec![false; slots] }
    }

    fn of(&mut self, slot: usize) -> &mut dyn Requests {
        if self.reading[slot] { &mut self.gets } else { &mut self.puts }
    }
}

impl Requests for Mixed {
    fn next(&mut self, slot: usize, out: &mut Vec<u8>) -> Option<&'static str> {
        self.reading[slot] = self.rng.below(100) < self.read_percent;
        self.of(slot).next(slot, out)
    }

    fn want(&self) -> Want {
        Want::Bodies
    }

    fn message(&mut self, slot: usize, message: Message<'_>) -> Result<()> {
        self.of(slot).message(slot, message)
    }

    fn finish(&mut self, slot: usize) -> Verdict {
        self.of(slot).finish(slot)
    }
}

/// Compare the mod revision, then put. Each client updates keys of its own, so that comparisons
/// hold; `revisions` is what the keys were filled at.
pub struct Updates<'a> {
    keys: KeySpace,
    values: Values,
    rng: Rng,
    slots: usize,
    revisions: &'a mut [u64],
    current: Vec<usize>,
    retrying: Vec<bool>,
    verdicts: Verdicts,
}

impl<'a> Updates<'a> {
    pub fn new(slots: usize, keys: KeySpace, values: Values, rng: Rng, revisions: &'a mut [u64]) -> Updates<'a> {
        let (current, retrying) = (vec![0; slots], vec![false; slots]);
        Updates { keys, values, rng, slots, revisions, current, retrying, verdicts: Verdicts::new(slots) }
    }
}

impl Requests for Updates<'_> {
    fn next(&mut self, slot: usize, out: &mut Vec<u8>) -> Option<&'static str> {
        if !self.retrying[slot] {
            let own = self.keys.count().saturating_sub(slot).div_ceil(self.slots);
            self.current[slot] = slot + self.rng.below(own) * self.slots;
        }
        let index = self.current[slot];
        let value = self.values.value(&mut self.rng);
        messages::update_txn(self.keys.key(index), self.revisions[index], value, out);
        Some(path::TXN)
    }

    fn want(&self) -> Want {
        Want::Bodies
    }

    fn message(&mut self, slot: usize, message: Message<'_>) -> Result<()> {
        let answer = body(&message);
        let succeeded = messages::int_of(answer, 2)? == 1;
        let index = self.current[slot];
        self.revisions[index] = match succeeded {
            true => messages::header_revision(answer)?,
            false => messages::refused_mod_revision(answer)?,
        };
        self.retrying[slot] = !succeeded;
        self.verdicts.0[slot] = if succeeded { Verdict::Done } else { Verdict::Retry };
        Ok(())
    }

    fn finish(&mut self, slot: usize) -> Verdict {
        self.verdicts.take(slot)
    }
}

/// Lists of all keys: at once, in pages, or as a stream.
pub struct Lists {
    keys: KeySpace,
    value_bytes: usize,
    range_end: Vec<u8>,
    /// Keys a page; 0: all at once.
    page: usize,
    stream: bool,
    serializable: bool,
    listed: Vec<usize>,
    received: Vec<usize>,
}

impl Lists {
    pub fn new(slots: usize, keys: KeySpace, value_bytes: usize, page: usize, stream: bool, ser: bool) -> Lists {
        let range_end = keys.range_end();
        let (listed, received) = (vec![0; slots], vec![0; slots]);
        Lists { keys, value_bytes, range_end, page, stream, serializable: ser, listed, received }
    }
}

impl Requests for Lists {
    fn next(&mut self, slot: usize, out: &mut Vec<u8>) -> Option<&'static str> {
        let from = self.listed[slot];
        messages::range(self.keys.key(from), &self.range_end, self.page as u64, self.serializable, out);
        Some(if self.stream { path::RANGE_STREAM } else { path::RANGE })
    }

    fn want(&self) -> Want {
        Want::Sizes
    }

    fn message(&mut self, slot: usize, message: Message<'_>) -> Result<()> {
        if let Message::Size(size) = message {
            self.received[slot] += size;
        }
        Ok(())
    }

    fn finish(&mut self, slot: usize) -> Verdict {
        let left = self.keys.count() - self.listed[slot];
        let asked = if self.page == 0 { left } else { left.min(self.page) };
        let received = std::mem::take(&mut self.received[slot]);
        if received < asked * (self.keys.key_bytes() + self.value_bytes) {
            self.listed[slot] = 0;
            return Verdict::Wrong("a list is shorter than its keys and values");
        }
        if asked < left {
            self.listed[slot] += asked;
            return Verdict::More;
        }
        self.listed[slot] = 0;
        Verdict::Done
    }
}
