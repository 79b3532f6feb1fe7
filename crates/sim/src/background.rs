//! Background work on the bucket (section 6): snapshots, segments, clean-up. Whoever does it may end at any point.

use crate::bucket::{Chunk, Op, Segment, SegmentKey, Snapshot, follow};
use crate::disk::Holes;
use crate::world::{Happening, Why, World};
use netsy_api::ids::ChunkSeq;
use netsy_protocol::mutant::Mutant;
use std::sync::Arc;

/// Chunks in a segment at least, and at most.
const FOLD_MIN: u64 = 3;
const FOLD_MAX: u64 = 12;

/// Folding a run of chunks, step by step.
#[derive(Clone, Debug)]
pub enum Fold {
    /// Reads the next chunk of the run, and at last the one after it.
    Read { run: SegmentKey, got: Vec<Chunk>, slow: bool },
    /// Deletes this chunk of a segment, and goes on with the next.
    Delete { key: SegmentKey, at: usize, slow: bool },
}

impl World {
    /// A node writes a snapshot at the end of a chunk that is known to exist.
    pub fn snapshot(&mut self, slot: usize) -> bool {
        let beyond = self.mutant == Some(Mutant::SnapshotPastObjectLog);
        let Some(process) = self.slots.get(slot).and_then(|s| s.process.as_ref()) else { return false };
        let visible = process.store.visible_index();
        let chunk = self.bucket.chunks.values().rev().find(|c| {
            let last = c.last();
            // Rows that are gone are missing in any state before the one that let them go.
            last.last_index <= visible
                && last.last_index >= process.holes.least
                && process.term_at(last.last_index) == Some(last.term)
        });
        let Some(chunk) = chunk else { return false };
        let mut covers = chunk.fact();
        if beyond {
            covers.last_index = visible;
        }
        let entries: Vec<_> = process.mem.iter().take(covers.last_index.0 as usize).cloned().collect();
        if (entries.len() as u64) < covers.last_index.0 {
            return false;
        }
        let life = process.life;
        let (gone, through) = (process.holes.gone.clone(), covers.last_index);
        let holes = Holes { gone, partial: through, least: through };
        self.count("snapshot");
        let snapshot = Snapshot { covers, entries: Arc::new(entries), holes };
        self.call(slot, life, Why::Nothing, Op::PutSnapshot(snapshot));
        true
    }

    /// Deletes chunks that the newest snapshot covers, one by one: never a seal, never the newest.
    pub fn clean_up(&mut self, seq: ChunkSeq, through: ChunkSeq, slow: bool) {
        let end = self.bucket.end();
        let newest_too = self.mutant == Some(Mutant::GcNewest);
        let seals_too = self.mutant == Some(Mutant::SealsDeleted);
        let covered = self.bucket.snapshots.last().map_or(ChunkSeq(0), |s| s.covers.seq);
        let next = self.bucket.chunks.range(seq.next()..).next().map(|(seq, chunk)| (*seq, chunk.entries.is_empty()));
        let Some((at, seal)) = next.filter(|(at, _)| *at <= through && *at <= covered) else {
            self.bucket.segments.retain(|(_, last), _| *last > through || *last > covered);
            return;
        };
        if (at < end || newest_too) && (!seal || seals_too) {
            self.bucket.chunks.remove(&at);
            self.count("chunk deleted");
        }
        let delay = if slow { self.rng.range(10, 500) } else { 0 };
        self.after(delay, Happening::CleanUp { seq: at, through, slow });
    }

    /// Begins to fold a run of chunks that no segment holds: above the snapshot, and not the newest.
    pub fn fold_some(&mut self, slow: bool) -> bool {
        let above = self.bucket.snapshots.last().map_or(ChunkSeq(0), |s| s.covers.seq);
        let newest = self.bucket.end();
        let free = |seq: &ChunkSeq| *seq > above && *seq < newest && self.bucket.segment_of(*seq).is_none();
        let mut runs: Vec<SegmentKey> = vec![];
        for seq in self.bucket.chunks.keys().filter(|seq| free(seq)) {
            match runs.last_mut() {
                Some((first, last)) if last.next() == *seq && last.0 - first.0 + 1 < FOLD_MAX => *last = *seq,
                _ => runs.push((*seq, *seq)),
            }
        }
        runs.retain(|(first, last)| last.0 - first.0 + 1 >= FOLD_MIN);
        let Some(run) = self.rng.pick(&runs).copied() else { return false };
        self.after(1, Happening::Fold(Fold::Read { run, got: vec![], slow }));
        true
    }

    pub fn fold(&mut self, fold: Fold) {
        // Whoever does it may end.
        if self.rng.chance(15) {
            return self.truth.count("fold broken off");
        }
        let unchecked = self.mutant == Some(Mutant::FoldUnchecked);
        let pause =
            |world: &mut World, slow: bool| if slow { world.rng.range(10, 900) } else { world.rng.range(0, 20) };
        match fold {
            Fold::Read { run, mut got, slow } => {
                let next = ChunkSeq(run.0.0 + got.len() as u64);
                // One more than the run: a seal that fell into a hole of another's clean-up has no continuation.
                if next > run.1.next() || unchecked && next > run.1 {
                    got.truncate((run.1.0 - run.0.0 + 1) as usize);
                    self.bucket.put_segment(Segment { chunks: got }, &mut self.truth);
                    let pause = pause(self, slow);
                    return self.after(pause, Happening::Fold(Fold::Delete { key: run, at: 0, slow }));
                }
                let Some(chunk) = self.bucket.chunks.get(&next) else { return };
                got.push(chunk.clone());
                if !follow(&got) {
                    return self.truth.count("fold refused");
                }
                let pause = pause(self, slow);
                self.after(pause, Happening::Fold(Fold::Read { run, got, slow }));
            }
            Fold::Delete { key, at, slow } => {
                // Read back each time: it may be gone with a snapshot by now.
                let Some(segment) = self.bucket.segments.get(&key) else { return };
                let Some(chunk) = segment.chunks.get(at) else { return };
                let there = self.bucket.chunks.get(&chunk.seq);
                let same = there.is_some_and(|there| there.same(chunk));
                if same && !chunk.entries.is_empty() && chunk.seq < self.bucket.end() {
                    let seq = chunk.seq;
                    self.bucket.chunks.remove(&seq);
                    self.count("folded chunk deleted");
                }
                let pause = pause(self, slow);
                self.after(pause, Happening::Fold(Fold::Delete { key, at: at + 1, slow }));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Scenario;
    use netsy_api::ids::{LogIndex, Revision, Session, Term, UnixMillis};
    use netsy_api::log::{Entry, Mutation};
    use netsy_protocol::reconcile::Run;

    fn chunk(seq: u64, after: u64, session: u128, entries: &[u64]) -> Chunk {
        let entry = |index: &u64| {
            let mutations = vec![Mutation::Compact { revision: Revision(1) }];
            let (index, term, time, revision) = (LogIndex(*index), Term(1), UnixMillis(0), Revision(1));
            Arc::new(Entry { index, term, time, revision, mutations })
        };
        let prev = Run { term: Term(u64::from(after > 0)), last_index: LogIndex(after) };
        let (seq, term, session) = (ChunkSeq(seq), Term(1), Session(session));
        Chunk { seq, term, session, prev, entries: entries.iter().map(entry).collect() }
    }

    /// Two nodes fold; the one that is slow reads the last chunk of its run only when that is gone, and a late seal in
    /// its place.
    fn slow_fold(mutant: Option<Mutant>) -> Vec<String> {
        let mut scenario = Scenario::scripted(2, 1, -1, 1_000, &[]);
        (scenario.started, scenario.clients, scenario.watchers) = (0, 0, 0);
        let mut world = World::new(scenario, mutant, false);
        let log: Vec<Chunk> = (1..=8).map(|seq| chunk(seq, seq - 1, 1, &[seq])).collect();
        for chunk in &log {
            world.bucket.apply(Op::Create(chunk.clone()), None, &mut world.truth);
        }
        world.bucket.put_segment(Segment { chunks: log[2..7].to_vec() }, &mut world.truth);
        for seq in 3..=7 {
            world.bucket.chunks.remove(&ChunkSeq(seq));
        }
        world.bucket.apply(Op::Create(chunk(4, 3, 9, &[])), None, &mut world.truth);
        let run = (ChunkSeq(2), ChunkSeq(4));
        world.fold(Fold::Read { run, got: log[1..3].to_vec(), slow: false });
        while world.step() {}
        assert_eq!(world.bucket.restore().map(|(entries, _)| entries.len()), Ok(8));
        assert_eq!(world.truth.counters.get("fold broken off"), None);
        world.truth.breaches
    }

    #[test]
    fn a_seal_that_fell_into_a_hole_is_not_folded() {
        assert_eq!(slow_fold(None), Vec::<String>::new());
        let breaches = slow_fold(Some(Mutant::FoldUnchecked));
        assert!(breaches.iter().any(|b| b.contains("what is not the log's")), "{breaches:?}");
    }
}
