//! What happened, as only the simulator can know it: the one history, and every breach of it.

use crate::bucket::Chunk;
use netsy_api::ids::{ChunkSeq, LogIndex, Term};
use netsy_api::log::Entry;
use netsy_protocol::manifest::{Manifest, Recovered};
use netsy_protocol::quorum::Voter;
use std::collections::BTreeMap;
use std::sync::Arc;

/// An operator gave voters up (R12).
#[derive(Clone, Debug)]
pub struct Recovery {
    pub recovered: Recovered,
    /// Whose log was kept.
    pub kept: Voter,
    /// When the first of those landed after which nobody led yet.
    pub at: u64,
}

/// The committed log as the nodes showed it, and what contradicts it.
#[derive(Debug, Default)]
pub struct Truth {
    /// Entry `i` is at `i - 1`.
    pub entries: Vec<Arc<Entry>>,
    /// The object log's entries.
    pub objects: Vec<Arc<Entry>>,
    /// An operator gave voters up (R12).
    pub recovery_asked: bool,
    /// A recovery by an operator (R12) after which nobody led yet.
    pub recovered: Option<Recovery>,
    /// What was shown and lost by a recovery, as it was, and when that recovery landed.
    pub lost: Vec<(Vec<Arc<Entry>>, u64)>,
    pub now: u64,
    pub breaches: Vec<String>,
    pub counters: BTreeMap<&'static str, u64>,
}

impl Truth {
    pub fn count(&mut self, what: &'static str) {
        *self.counters.entry(what).or_default() += 1;
    }

    pub fn breach(&mut self, text: String) {
        if self.breaches.len() < 20 {
            self.breaches.push(text);
        }
    }

    /// A node shows `entry` as committed.
    pub fn shown(&mut self, node: &str, entry: &Arc<Entry>) {
        let at = entry.index.0 as usize;
        match self.entries.get(at - 1) {
            Some(known) if known == entry => {}
            Some(known) => self.breach(format!(
                "{node} shows entry {at} of term {}, which was shown as one of term {}: {:?} / {:?}",
                entry.term, known.term, entry.mutations, known.mutations
            )),
            None if at == self.entries.len() + 1 => self.entries.push(entry.clone()),
            None => self.breach(format!("{node} shows entry {at}, the last one shown was {}", self.entries.len())),
        }
    }

    /// A Primary of `term` begins to serve with `log`. If it is the first one since an operator gave voters up (R12),
    /// what was shown and is not in there is lost; nothing may be lost later.
    pub fn leads(&mut self, term: Term, by: &Voter, log: &[Arc<Entry>]) {
        let Some(of) = self.recovered.take_if(|of| of.recovered.term <= term) else { return };
        // R4 alone may have shortened the kept log, and then its index was corrected before others could follow.
        if of.kept != *by && (log.len() as u64) < of.recovered.index.0 {
            let (index, kept) = (of.recovered.index, log.len());
            self.breach(format!("a recovery kept entries up to {index}, {by:?} leads with {kept} in term {term}"));
        }
        // An end that was never committed may stand where other entries were.
        let same = self.entries.iter().zip(log).take_while(|(shown, own)| shown == own).count();
        if self.entries.len() > same {
            self.count("recovery lost entries");
            self.lost.push((self.entries.clone(), of.at));
            self.entries.truncate(same);
        }
    }

    /// A chunk landed at the end of the object log: one dense log, terms never fall.
    pub fn chunk_landed(&mut self, before: Option<&Chunk>, chunk: &Chunk) {
        let (seq, term, last) =
            before.map_or((ChunkSeq(0), Default::default(), LogIndex(0)), |b| (b.seq, b.term, b.last().last_index));
        self.count(if chunk.entries.is_empty() { "seal" } else { "chunk" });
        if chunk.seq != seq.next() || chunk.term < term || chunk.prev.last_index != last {
            self.breach(format!(
                "chunk {} of term {} after entry {} landed after chunk {seq} of term {term} that ends at entry {last}",
                chunk.seq, chunk.term, chunk.prev.last_index
            ));
        }
        for entry in &chunk.entries {
            if entry.index.0 as usize == self.objects.len() + 1 {
                self.objects.push(entry.clone());
            }
        }
    }

    /// A chunk landed in a hole that clean-up left.
    pub fn garbage(&mut self, chunk: &Chunk, covered: bool, same: bool) {
        self.count("landed in a hole");
        if !covered {
            self.breach(format!("chunk {} landed in a hole that no snapshot covers", chunk.seq));
        }
        if !same && !chunk.entries.is_empty() {
            self.breach(format!("chunk {} of term {} with entries landed in a hole", chunk.seq, chunk.term));
        }
    }

    pub fn manifest_written(&mut self, before: Option<&Manifest>, new: &Manifest) {
        let Some(before) = before else { return };
        if let (Some(of), Some(new)) = (&mut self.recovered, new.recovered)
            && of.recovered.term == new.term
        {
            of.recovered = new;
        }
        // By term: its index is corrected once R4 tells.
        if let Some(recovered) = new.recovered.filter(|new| before.recovered.map(|r| r.term) != Some(new.term)) {
            if !self.recovery_asked {
                self.breach(format!("voters were given up in term {}, and no operator asked for it", recovered.term));
            }
            // Of several that nobody led after, the first one ended what was before.
            let at = self.recovered.as_ref().map_or(self.now, |of| of.at);
            self.recovered = Some(Recovery { recovered, kept: new.primary.voter(), at });
        }
        if new.term < before.term || new.config_version <= before.config_version {
            self.breach(format!(
                "the manifest went from term {} version {} to term {} version {}",
                before.term, before.config_version, new.term, new.config_version
            ));
        }
    }

    /// The object log against what was shown.
    pub fn compare_objects(&mut self) {
        let differ = self.entries.iter().zip(&self.objects).find(|(a, b)| a != b);
        if let Some((shown, object)) = differ {
            let text = format!(
                "entry {} was shown as one of term {}, the object log has one of term {}",
                shown.index, shown.term, object.term
            );
            self.breach(text);
        }
    }
}
