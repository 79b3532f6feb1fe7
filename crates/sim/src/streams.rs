//! Streams between a Primary and its replicas: ordered, until they break.

use crate::disk::Point;
use crate::world::{Conn, Input, World};
use netsy_api::ids::LogIndex;
use netsy_api::log::Entry;
use netsy_protocol::event::{Event, StreamId};
use netsy_protocol::message::{Append, Hello, ToPrimary, ToReplica};
use netsy_protocol::reconcile::Run;
use std::sync::Arc;

/// Entries in one append.
const APPEND_MAX: u64 = 16;

impl World {
    pub fn open(&mut self, slot: usize, stream: StreamId, primary: &netsy_api::ids::NodeId, hello: Hello) {
        let Some(process) = self.process(slot) else { return };
        let life = process.life;
        let Some(to) = self.slot_of(primary) else { return };
        let target = self.slots.get(to).and_then(|s| s.process.as_ref()).map(|p| p.life);
        if !self.linked(slot, to) || !self.linked(to, slot) {
            return self.input(slot, life, 300, Input::StreamClosed(stream));
        }
        let Some(target) = target else {
            return self.input(slot, life, 1, Input::StreamClosed(stream));
        };
        let id = self.fresh();
        let delay = self.rng.range(1, 4);
        let arrives = self.now + delay;
        self.conns.insert(
            id,
            Conn {
                replica: (slot, life, stream),
                primary: (to, target),
                primary_stream: None,
                open: true,
                last: [arrives, arrives],
            },
        );
        if let Some(process) = self.process(slot) {
            process.conns.insert(stream, id);
        }
        self.input(to, target, delay, Input::Hello { conn: id, hello });
    }

    pub fn on_hello(&mut self, slot: usize, conn: u64, hello: Hello) {
        let now = self.clock(slot);
        let Some(process) = self.process(slot) else { return };
        process.next_stream += 1;
        let stream = StreamId(process.next_stream);
        process.conns.insert(stream, conn);
        if let Some(conn) = self.conns.get_mut(&conn) {
            conn.primary_stream = Some(stream);
        }
        let Some(process) = self.process(slot) else { return };
        process.engine.handle(now, Event::StreamHello { stream, hello: Box::new(hello) });
        self.drain(slot);
    }

    /// Whether a frame goes through now, and when it arrives.
    fn carries(&mut self, id: u64, up: bool) -> Option<u64> {
        let breaks = self.rng.chance(self.weather.breaks);
        let stray = self.rng.chance(30);
        let delay = self.rng.range(0, 2);
        let now = self.now;
        let (from, to, open) = {
            let conn = self.conns.get(&id)?;
            let (a, b) = (conn.replica.0, conn.primary.0);
            if up { (a, b, conn.open) } else { (b, a, conn.open) }
        };
        let linked = self.linked(from, to);
        let late = self.rng.range(1, 3_000);
        let conn = self.conns.get_mut(&id)?;
        if !linked || breaks {
            conn.open = false;
        }
        if !open || !linked {
            // What was in some buffer may still come, long after.
            return (stray && linked).then_some(late);
        }
        let at = conn.last.get_mut(usize::from(up))?;
        *at = (now + delay).max(*at);
        Some(*at - now)
    }

    pub fn frame_down(&mut self, id: u64, frame: ToReplica, entries: Vec<Arc<Entry>>) {
        let Some(delay) = self.carries(id, false) else { return };
        let Some((replica, primary)) = self.conns.get(&id).map(|c| (c.replica, c.primary.0)) else { return };
        let (slot, life, stream) = replica;
        let logged = self.process(primary).and_then(|p| p.uploads.as_ref()).map(|u| Point {
            seq: u.seq,
            term: u.term,
            last: u.last,
        });
        self.input(slot, life, delay, Input::ToReplica { stream, frame, entries, logged });
    }

    pub fn frame_up(&mut self, id: u64, frame: ToPrimary) {
        let Some(delay) = self.carries(id, true) else { return };
        let Some(conn) = self.conns.get(&id) else { return };
        let ((slot, life), Some(stream)) = (conn.primary, conn.primary_stream) else { return };
        self.input(slot, life, delay, Input::ToPrimary { stream, frame });
    }

    pub fn close(&mut self, slot: usize, stream: StreamId) {
        let Some(process) = self.process(slot) else { return };
        process.senders.remove(&stream);
        let Some(id) = process.conns.remove(&stream) else { return };
        let Some(conn) = self.conns.get_mut(&id) else { return };
        if !std::mem::take(&mut conn.open) {
            return;
        }
        let is_replica = conn.replica.0 == slot && conn.replica.2 == stream;
        let other = if is_replica {
            conn.primary_stream.map(|s| (conn.primary.0, conn.primary.1, s))
        } else {
            Some(conn.replica)
        };
        // Frames on their way come first.
        let after = conn.last.iter().copied().max().unwrap_or(0).saturating_sub(self.now) + 1;
        if let Some((other, life, stream)) = other
            && self.linked(slot, other)
        {
            self.input(other, life, after, Input::StreamClosed(stream));
        }
    }

    /// Entries go out as soon as they are accepted, and as fast as a connection takes them.
    pub fn pump(&mut self, slot: usize) {
        let now = self.now;
        let slow = if self.rng.chance(self.weather.slow_streams) { self.rng.range(20, 400) } else { 0 };
        let Some(process) = self.process(slot) else { return };
        let (end, commit) = (process.engine.log_end().last_index, process.engine.committed());
        let (mut frames, mut gone) = (vec![], vec![]);
        let whole_from = process.whole_from();
        for (stream, sender) in &mut process.senders {
            let beat = process.engine.beat(*stream);
            while sender.next <= end && sender.busy_until <= now {
                if sender.next < whole_from {
                    gone.push(*stream);
                    break;
                }
                let prev = LogIndex(sender.next.0 - 1);
                let through = LogIndex(end.0.min(prev.0 + APPEND_MAX));
                let entries: Vec<Arc<Entry>> =
                    process.mem.iter().skip(prev.0 as usize).take((through.0 - prev.0) as usize).cloned().collect();
                let prev_term = process.engine.term_at(prev).unwrap_or_default();
                let append = Append {
                    term: beat.term,
                    prev: Run { term: prev_term, last_index: prev },
                    runs: process.engine.runs_between(prev, through),
                    commit,
                };
                sender.next = through.next();
                sender.told = commit;
                sender.busy_until = now + slow;
                frames.push((sender.conn, ToReplica::Append(append), entries));
            }
            if sender.told < commit {
                sender.told = commit;
                frames.push((sender.conn, ToReplica::Beat(beat), vec![]));
            }
        }
        for (conn, frame, entries) in frames {
            self.frame_down(conn, frame, entries);
        }
        for stream in gone {
            // A replica too slow for a compaction: it has to load the object log.
            self.count("entries compacted below a slow replica");
            self.close(slot, stream);
            let life = self.life_of(slot);
            self.input(slot, life, 0, Input::StreamClosed(stream));
        }
    }
}
