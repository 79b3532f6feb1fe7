//! Watch fan-out: many watchers of one key, and writers that put it. A writer puts again once
//! every watcher has its last event, so the same events go to both servers of a comparison and
//! none of them can save work by falling behind.

use std::time::Instant;

use anyhow::{Result, bail, ensure};

use crate::engine::{Io, Load, Message};
use crate::http2::{Status, Want};
use crate::keys::{Rng, Values};
use crate::messages::{self, Field, Fields, path};

/// Bytes of a value that say which put it is from: writer, then number.
const MARK: usize = 8;

pub struct Fanout {
    key: Vec<u8>,
    values: Values,
    rng: Rng,
    writers: Vec<Writer>,
    streams: usize,
    watchers: usize,
    created: usize,
    scratch: Vec<u8>,
    value: Vec<u8>,
}

struct Writer {
    number: u32,
    put_at: Instant,
    answered: bool,
    events_left: usize,
    active: bool,
}

impl Fanout {
    /// Slots 0 to `writers` put; the `streams` slots after them share `watchers` watches.
    /// Errors when the value is too short to be recognised.
    pub fn new(
        key: Vec<u8>,
        values: Values,
        rng: Rng,
        writers: usize,
        streams: usize,
        watchers: usize,
    ) -> Result<Fanout> {
        ensure!(values.bytes() >= MARK, "watch needs --value-size of at least {MARK}");
        ensure!(streams > 0 && streams <= watchers, "--streams must be between 1 and --watchers ({watchers})");
        ensure!(writers > 0, "watch needs at least one writer");
        let idle = || Writer { number: 0, put_at: Instant::now(), answered: true, events_left: 0, active: false };
        let writers = (0..writers).map(|_| idle()).collect();
        let (scratch, value) = (Vec::new(), Vec::new());
        Ok(Fanout { key, values, rng, writers, streams, watchers, created: 0, scratch, value })
    }

    /// Writers on a connection of their own, watch streams over the others.
    pub fn layout(writers: usize, streams: usize, connections: usize) -> Vec<u32> {
        let watching = connections.clamp(1, streams.max(1));
        (0..writers).map(|_| 0).chain((0..streams).map(|s| 1 + (s % watching) as u32)).collect()
    }

    fn put(&mut self, slot: usize, io: &mut Io) -> Result<()> {
        let writer = &mut self.writers[slot];
        writer.number = writer.number.wrapping_add(1);
        writer.answered = false;
        writer.active = true;
        writer.events_left = self.watchers;
        self.value.clear();
        self.value.extend_from_slice(self.values.value(&mut self.rng));
        self.value[..4].copy_from_slice(&(slot as u32).to_le_bytes());
        self.value[4..MARK].copy_from_slice(&writer.number.to_le_bytes());
        self.scratch.clear();
        messages::put(&self.key, &self.value, &mut self.scratch);
        self.writers[slot].put_at = Instant::now();
        io.call(slot, path::PUT, Want::Bodies, &self.scratch)
    }

    fn next_put(&mut self, slot: usize, io: &mut Io) -> Result<()> {
        let writer = &mut self.writers[slot];
        if writer.answered && writer.events_left == 0 {
            writer.active = false;
            if !io.stopping() {
                self.put(slot, io)?;
            }
        }
        Ok(())
    }

    fn event(&mut self, event: &[u8], now: Instant, io: &mut Io) -> Result<()> {
        let kv = messages::bytes_of(event, 2)?.unwrap_or_default();
        let value = messages::bytes_of(kv, 5)?.unwrap_or_default();
        ensure!(value.len() == self.values.bytes(), "an event with a value of {} bytes", value.len());
        let slot = u32::from_le_bytes([value[0], value[1], value[2], value[3]]) as usize;
        let number = u32::from_le_bytes([value[4], value[5], value[6], value[7]]);
        let Some(writer) = self.writers.get_mut(slot).filter(|w| w.number == number && w.events_left > 0) else {
            bail!("an event of put {number} of writer {slot}, which is not awaited: delivered twice or not ours");
        };
        writer.events_left -= 1;
        io.meter.record(now - writer.put_at);
        if writer.events_left == 0 {
            self.next_put(slot, io)?;
        }
        Ok(())
    }
}

impl Load for Fanout {
    fn start(&mut self, io: &mut Io) -> Result<()> {
        for stream in 0..self.streams {
            let slot = self.writers.len() + stream;
            io.open(slot, path::WATCH)?;
            let mut watcher = stream;
            while watcher < self.watchers {
                self.scratch.clear();
                messages::watch_create(&self.key, 1 + watcher as u64, &mut self.scratch);
                io.send(slot, &self.scratch);
                watcher += self.streams;
            }
        }
        Ok(())
    }

    fn message(&mut self, slot: usize, message: Message<'_>, io: &mut Io) -> Result<()> {
        let Message::Bytes(body) = message else { return Ok(()) };
        if slot < self.writers.len() {
            return Ok(()); // the end of the call says whether the put is done
        }
        let now = Instant::now();
        let mut fields = Fields(body);
        while let Some((number, field)) = fields.next()? {
            match (number, field) {
                (3, Field::Int(1)) => {
                    self.created += 1;
                    if self.created == self.watchers {
                        for writer in 0..self.writers.len() {
                            self.put(writer, io)?;
                        }
                    }
                }
                (4, Field::Int(1)) => bail!("the server cancelled a watch"),
                (11, Field::Bytes(event)) => self.event(event, now, io)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn end(&mut self, slot: usize, status: Status, io: &mut Io) -> Result<()> {
        ensure!(slot < self.writers.len(), "a watch stream ended: gRPC code {} {}", status.code, status.message);
        ensure!(status.code == 0, "a put failed: gRPC code {} {}", status.code, status.message);
        self.writers[slot].answered = true;
        self.next_put(slot, io)
    }

    fn ready(&self) -> bool {
        self.created == self.watchers
    }

    fn idle(&self) -> bool {
        self.ready() && self.writers.iter().all(|w| !w.active)
    }
}
