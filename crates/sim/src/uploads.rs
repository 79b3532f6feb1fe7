//! The uploader: puts a Primary's entries into the object log, one chunk at a time (R3).

use crate::bucket::{Answer, Chunk, Op};
use crate::disk::Point;
use crate::world::{Input, Why, World};
use netsy_api::ids::{ChunkSeq, LogIndex, Term};
use netsy_protocol::mutant::Mutant;

/// Entries in one chunk.
const CHUNK_MAX: usize = 40;
/// Age at which a chunk leaves.
const AGE: u64 = 1_000;

impl World {
    pub fn upload_soon(&mut self, slot: usize) {
        let Some(process) = self.process(slot) else { return };
        if process.uploads.is_some() && !process.upload_pending {
            process.upload_pending = true;
            let life = process.life;
            self.input(slot, life, 1, Input::Upload);
        }
    }

    pub fn upload(&mut self, slot: usize) {
        let now = self.now;
        let Some(process) = self.process(slot) else { return };
        let (life, session) = (process.life, process.session);
        let end = LogIndex(process.mem.len() as u64);
        let Some(uploads) = &mut process.uploads else { return };
        if uploads.in_flight.is_some() || end <= uploads.last.last_index {
            uploads.since = now;
            return;
        }
        let behind = (end.0 - uploads.last.last_index.0) as usize;
        let due = uploads.at_once
            || uploads.flush > uploads.last.last_index
            || behind >= CHUNK_MAX
            || now - uploads.since >= AGE;
        if !due || !process.engine.may_start_chunk(uploads.term) {
            return;
        }
        let from = uploads.last.last_index.0 as usize;
        if uploads.last.last_index < process.holes.partial {
            let text = format!("n{slot} is to upload entry {}, rows of which are gone", from + 1);
            return self.truth.breach(text);
        }
        let chunk = Chunk {
            seq: uploads.seq.next(),
            term: uploads.term,
            session,
            prev: uploads.last,
            entries: process.mem.iter().skip(from).take(CHUNK_MAX).cloned().collect(),
        };
        uploads.in_flight = Some(chunk.clone());
        uploads.since = now;
        let why = Why::Upload(chunk.term, chunk.seq);
        self.log(slot, || format!("uploads chunk {} of term {} to {}", chunk.seq, chunk.term, chunk.last().last_index));
        self.call(slot, life, why, Op::Create(chunk));
    }

    pub fn uploaded(&mut self, slot: usize, term: Term, seq: ChunkSeq, answer: Answer) {
        let any_term = self.mutant == Some(Mutant::UploadAnswerOfAnyTerm);
        self.log(slot, || format!("<- chunk {seq} of term {term} {answer:?}"));
        let Some(process) = self.process(slot) else { return };
        let life = process.life;
        let in_flight = process.uploads.as_ref().and_then(|u| u.in_flight.clone());
        // An answer to what an earlier term of this process sent says nothing about this one.
        let Some(chunk) = in_flight.filter(|c| (c.term, c.seq) == (term, seq) || any_term) else { return };
        match answer {
            Answer::Created(true) => self.chunk_landed(slot, &chunk),
            Answer::Created(false) => self.call(slot, life, Why::UploadRead(term, seq), Op::GetChunk(chunk.seq)),
            _ => self.repeat_upload(slot, chunk),
        }
    }

    fn repeat_upload(&mut self, slot: usize, chunk: Chunk) {
        let now = self.clock(slot);
        self.count("chunk repeated");
        let Some(process) = self.process(slot) else { return };
        let life = process.life;
        process.engine.store_answers(now, false);
        self.drain(slot);
        if self.process(slot).is_some_and(|p| p.uploads.as_ref().is_some_and(|u| u.in_flight.is_some())) {
            // The same bytes again (R3).
            let why = Why::Upload(chunk.term, chunk.seq);
            self.call(slot, life, why, Op::Create(chunk));
        }
    }

    pub fn upload_read(&mut self, slot: usize, term: Term, seq: ChunkSeq, answer: Answer) {
        let now = self.clock(slot);
        let any_term = self.mutant == Some(Mutant::UploadAnswerOfAnyTerm);
        let skip = self.mutant == Some(Mutant::SkipOnConflict);
        let Some(process) = self.process(slot) else { return };
        let in_flight = process.uploads.as_ref().and_then(|u| u.in_flight.clone());
        // An answer to what an earlier term of this process sent says nothing about this one.
        let Some(chunk) = in_flight.filter(|c| (c.term, c.seq) == (term, seq) || any_term) else { return };
        match answer {
            Answer::Chunk(Some(found))
                if (found.term, found.session, found.last()) == (chunk.term, chunk.session, chunk.last()) =>
            {
                self.chunk_landed(slot, &chunk);
            }
            Answer::Chunk(found) => {
                if skip {
                    if let Some(uploads) = process.uploads.as_mut() {
                        uploads.in_flight = None;
                        uploads.seq = chunk.seq;
                    }
                    return self.upload_soon(slot);
                }
                process.engine.chunk_taken(now, term, found.map(|f| f.term));
                self.count("chunk taken");
                self.drain(slot);
            }
            _ => self.repeat_upload(slot, chunk),
        }
    }

    fn chunk_landed(&mut self, slot: usize, chunk: &Chunk) {
        let now = self.clock(slot);
        let Some(process) = self.process(slot) else { return };
        let last = chunk.last();
        if let Some(uploads) = &mut process.uploads {
            uploads.in_flight = None;
            (uploads.seq, uploads.last) = (chunk.seq, last);
        }
        let point = Point { seq: chunk.seq, term: chunk.term, last };
        process.point = Some(point);
        process.saw_point(point);
        process.engine.chunk_landed(now, chunk.term, chunk.seq, last.last_index);
        self.drain(slot);
        self.upload_soon(slot);
    }
}
