//! Acting as the Primary of a term: what is committed (R5), and what happens when the quorum is late (R8).

use crate::change::Change;
use crate::command::{Command, Report};
use crate::commit::{CommitTracker, Electorate};
use crate::config::Millis;
use crate::engine::Engine;
use crate::event::StreamId;
use crate::manifest::Manifest;
use crate::message::Hello;
#[cfg(feature = "mutants")]
use crate::mutant::mutant;
use crate::quorum::Voter;
use crate::read::{ReadId, ReadLease};
use crate::reads::{RemoteAsk, Round};
use crate::snapshots::SnapshotMaker;
use crate::streams::Replica;
use crate::watch_floor::FloorRound;
use netsy_api::ids::{ChunkSeq, LogIndex, NodeId, Revision, Term};
use std::collections::BTreeMap;

/// How far the take-over has come (R4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Loading,
    Sealing,
    CheckingSeal,
    Retry {
        at: Millis,
        seal: bool,
    },
    Tail {
        through: LogIndex,
    },
    LeaseWait,
    /// All is committed; the driver brings its state to the log's end.
    Starting,
    Ready,
}

/// A Primary, from the manifest that names it on.
#[derive(Clone, Debug)]
pub(crate) struct Primary {
    pub(crate) term: Term,
    /// The newest manifest of this term that is known to be in place.
    pub(crate) manifest: Manifest,
    pub(crate) phase: Phase,
    pub(crate) since: Millis,
    /// R9: nothing is answered before this.
    pub(crate) lease_wait_until: Millis,
    /// The last chunk of the object log.
    pub(crate) seq: ChunkSeq,
    /// The last entry in it.
    pub(crate) uploaded: LogIndex,
    pub(crate) seal_losses: u32,
    /// From the end of R4 on.
    pub(crate) tracker: Option<CommitTracker>,
    pub(crate) streams: BTreeMap<StreamId, Replica>,
    /// Hellos that came before R4 was done.
    pub(crate) waiting_hellos: BTreeMap<StreamId, Hello>,
    /// When each voter was last heard from.
    pub(crate) voter_heard: BTreeMap<Voter, Millis>,
    next_beat: Millis,
    /// An entry that was the newest at some moment, and that moment: what waits for a commit for how long.
    mark: Option<(Millis, LogIndex)>,
    /// The quorum is late: writes take the object log (R8).
    pub(crate) late: bool,
    in_time_since: Option<Millis>,
    upload_at_once: Option<bool>,
    /// The log's end a while ago: who holds that has caught up.
    pub(crate) end_before: LogIndex,
    next_end: Millis,
    pub(crate) change: Option<Change>,
    pub(crate) next_plan: Millis,
    pub(crate) lease: ReadLease,
    pub(crate) lease_renewed_for_use: bool,
    pub(crate) round: Option<Round>,
    pub(crate) last_round: u64,
    /// Reads up to this one were confirmed.
    pub(crate) confirmed: ReadId,
    pub(crate) remote_reads: BTreeMap<NodeId, RemoteAsk>,
    /// Since when voters refuse it, with a higher promise.
    pub(crate) refused_since: Option<Millis>,
    pub(crate) next_wish: Millis,
    /// Somebody says that a higher term exists: no chunk is started until then, or until the manifest tells.
    pub(crate) doubted_until: Millis,
    pub(crate) floor: Option<FloorRound>,
    pub(crate) floor_announced: Option<Revision>,
    /// Voters that asked to leave.
    pub(crate) leaving: Vec<Voter>,
    /// Nodes that an operator takes out.
    pub(crate) removing: Vec<NodeId>,
    pub(crate) wanted: crate::change::Wanted,
    /// Who makes the snapshots.
    pub(crate) snapshot_maker: Option<SnapshotMaker>,
}

impl Primary {
    pub(crate) fn new(manifest: Manifest, now: Millis, lease: Millis) -> Self {
        let voter_heard = manifest.voters.iter().map(|v| (v.clone(), now)).collect();
        Self {
            term: manifest.term,
            manifest,
            phase: Phase::Loading,
            since: now,
            lease_wait_until: 0,
            seq: ChunkSeq(0),
            uploaded: LogIndex(0),
            seal_losses: 0,
            tracker: None,
            streams: BTreeMap::new(),
            waiting_hellos: BTreeMap::new(),
            voter_heard,
            next_beat: now,
            mark: None,
            late: false,
            in_time_since: None,
            upload_at_once: None,
            end_before: LogIndex(0),
            next_end: now,
            change: None,
            next_plan: now,
            lease: ReadLease::new(lease),
            lease_renewed_for_use: false,
            round: None,
            last_round: 0,
            confirmed: ReadId(0),
            remote_reads: BTreeMap::new(),
            refused_since: None,
            next_wish: now,
            doubted_until: 0,
            floor: None,
            floor_announced: None,
            leaving: vec![],
            removing: vec![],
            wanted: Default::default(),
            snapshot_maker: None,
        }
    }

    /// R4 is done: requests and followers are served.
    pub(crate) fn serves(&self) -> bool {
        matches!(self.phase, Phase::Starting | Phase::Ready)
    }

    /// The seal stands: chunks may be created.
    pub(crate) fn uploads(&self) -> bool {
        matches!(self.phase, Phase::Tail { .. } | Phase::LeaseWait | Phase::Starting | Phase::Ready)
    }

    pub(crate) fn begin_commits(&mut self, end: LogIndex) {
        self.tracker = Some(CommitTracker::new(self.term, self.manifest.rule(), self.manifest.voters.clone(), end));
        self.end_before = end;
    }

    pub(crate) fn committed(&self) -> LogIndex {
        self.tracker.as_ref().map_or(self.uploaded, CommitTracker::committed)
    }
}

impl Engine {
    /// Who counts by `manifest`, and how.
    pub(crate) fn electorate(&self, manifest: &Manifest) -> Electorate {
        #[allow(unused_mut)]
        let mut rule = manifest.rule();
        #[cfg(feature = "mutants")]
        if mutant!(self, CommitQuorumMinusOne) {
            rule.commit = rule.commit.map(|quorum| (quorum - 1).max(1));
        }
        Electorate { rule, voters: manifest.voters.clone() }
    }

    #[cfg(feature = "mutants")]
    pub(crate) fn weaken_commits(&mut self) {
        let electorate = self.primary.as_ref().map(|p| self.electorate(&p.manifest));
        let (no_tail, no_check) = (mutant!(self, NoTailUpload), mutant!(self, NoTailNoTermCheck));
        if let (Some(primary), Some(electorate)) = (self.primary.as_mut(), electorate) {
            let uploaded = primary.uploaded;
            if let Some(tracker) = &mut primary.tracker {
                let _ = tracker.settle(electorate);
                if no_tail || no_check {
                    tracker.weaken(uploaded, no_check);
                }
            }
        }
    }

    pub(crate) fn on_appended(&mut self, last: LogIndex) {
        let now = self.now;
        if let Some(primary) = &mut self.primary {
            primary.mark.get_or_insert((now, last));
        }
    }

    /// The Primary's own copy, as far as it is durable; if it promised above its term, that is what the promise
    /// reported, since it accepts nothing more.
    pub(crate) fn own_copy(&mut self) {
        let durable = self.log.durable();
        let me = self.me.voter();
        let Some(primary) = self.primary.as_mut() else { return };
        let Some(tracker) = &mut primary.tracker else { return };
        if let Some(committed) = tracker.held(&me, durable) {
            self.on_committed(committed);
        }
    }

    pub(crate) fn on_committed(&mut self, committed: LogIndex) {
        let (now, end) = (self.now, self.log.end().last_index);
        if let Some(primary) = &mut self.primary
            && primary.mark.is_some_and(|(_, index)| index <= committed)
        {
            primary.mark = (end > committed).then_some((now, end));
        }
        self.show(committed);
        self.change_may_go_on();
    }

    pub(crate) fn on_chunk_landed(&mut self, term: Term, seq: ChunkSeq, last: LogIndex) {
        let Some(primary) = self.primary.as_mut().filter(|p| p.term == term) else { return };
        primary.seq = primary.seq.max(seq);
        primary.uploaded = primary.uploaded.max(last);
        if let Some(committed) = primary.tracker.as_mut().and_then(|tracker| tracker.landed(last)) {
            self.on_committed(committed);
        }
        self.tail_landed();
        self.change_may_go_on();
        self.hand_over_may_go_on();
    }

    pub(crate) fn tick_primary(&mut self) {
        let (now, end) = (self.now, self.log.end().last_index);
        let Some(primary) = &mut self.primary else { return };
        if !primary.serves() {
            return;
        }
        if now >= primary.next_beat {
            primary.next_beat = now + self.settings.heartbeat_interval;
            self.beat_replicas();
        }
        self.drop_silent_replicas();
        let timeout = self.settings.quorum_timeout;
        let Some(primary) = &mut self.primary else { return };
        if now >= primary.next_end {
            primary.next_end = now + self.settings.heartbeat_interval / 5;
            primary.end_before = end;
        }
        // R8: the write goes to the object log and is never taken back.
        let waits = primary.mark.is_some_and(|(since, _)| now.saturating_sub(since) >= timeout);
        let counts = primary.tracker.as_ref().and_then(CommitTracker::counted);
        if waits && !primary.late && counts.is_some() {
            primary.late = true;
            primary.in_time_since = None;
            self.report(Report::QuorumLate);
        } else if primary.late {
            // Back once `Qc` voters are as far as the object log, for a while.
            let caught_up = counts.is_some_and(|counted| counted >= primary.end_before && counted >= primary.uploaded);
            if !caught_up {
                primary.in_time_since = None;
            } else if now.saturating_sub(*primary.in_time_since.get_or_insert(now)) >= timeout {
                primary.late = false;
                self.report(Report::QuorumInTime);
            }
        }
        self.update_upload_mode();
        self.wish_for_another();
    }

    /// Whether chunks leave at once: where only the object log commits, or the quorum is late.
    pub(crate) fn update_upload_mode(&mut self) {
        let Some(primary) = &mut self.primary else { return };
        let Some(tracker) = &primary.tracker else { return };
        let at_once = primary.late || tracker.only_object_log();
        if primary.upload_at_once != Some(at_once) {
            primary.upload_at_once = Some(at_once);
            self.out.push_back(Command::UploadAtOnce(at_once));
        }
    }
}
