//! Replicas of a Primary: presenting themselves (R7), receipts (R5, R11), signs of life.

use crate::command::{Command, Report};
use crate::config::Millis;
use crate::engine::Engine;
use crate::event::StreamId;
use crate::manifest::ProcessId;
use crate::message::{Beat, Hello, Receipt, ToReplica, Welcome};
use crate::mutant::mutant;
use crate::reconcile::with_object_log;
use netsy_api::ids::{LogIndex, Revision};

/// Streams that a Primary keeps at the same time, waiting ones included.
const STREAMS_MAX: usize = 256;

/// A replica, as its Primary sees it.
#[derive(Clone, Debug)]
pub(crate) struct Replica {
    pub(crate) process: ProcessId,
    /// Durable there, by its receipts.
    pub(crate) held: LogIndex,
    pub(crate) last_heard: Millis,
    pub(crate) stopping: bool,
    pub(crate) watch_lowest: Option<Revision>,
    pub(crate) watch_floor: Option<Revision>,
}

impl Engine {
    pub(crate) fn on_hello(&mut self, stream: StreamId, hello: Hello) {
        let refuse = |higher| Command::ToReplica { stream, frame: ToReplica::Refused { higher } };
        let higher = self.follower.target.as_ref().map(|(term, _)| *term).filter(|term| *term > hello.term);
        let early = mutant!(self, ServeBeforeSeal);
        let Some(primary) = &mut self.primary else {
            self.out.push_back(refuse(higher));
            return;
        };
        let mine = primary.term == hello.term && self.me.session == hello.session;
        let full = primary.streams.len() + primary.waiting_hellos.len() >= STREAMS_MAX;
        if !mine || hello.promised > primary.term || full {
            if hello.promised > primary.term && mine {
                primary.refused_since.get_or_insert(self.now);
            }
            self.out.push_back(refuse(higher));
            return;
        }
        // R4: a Primary serves followers only once its log is settled.
        if !primary.serves() && !early {
            primary.waiting_hellos.insert(stream, hello);
            return;
        }
        self.welcome(stream, hello);
    }

    pub(crate) fn answer_waiting_hellos(&mut self) {
        let Some(primary) = &mut self.primary else { return };
        for (stream, hello) in std::mem::take(&mut primary.waiting_hellos) {
            self.welcome(stream, hello);
        }
    }

    fn welcome(&mut self, stream: StreamId, hello: Hello) {
        let now = self.now;
        let entries_from = self.entries_from;
        let end = self.log.end();
        let common = with_object_log(&hello.runs, self.log.runs()).common;
        let committed = self.committed();
        let Some(primary) = &mut self.primary else { return };
        let voter = hello.process.voter();
        // R11: a database that holds less than it once acknowledged is not the database it says it is.
        let seen = primary.tracker.as_ref().and_then(|t| t.held_by(&voter)).unwrap_or_default();
        if common < seen && !mutant!(self, IgnoreIncarnation) {
            self.out.push_back(Command::ToReplica { stream, frame: ToReplica::Refused { higher: None } });
            self.report(Report::Forgetful(hello.process.node_id));
            return;
        }
        // One stream per node: an older one is over.
        let old: Vec<StreamId> = primary
            .streams
            .iter()
            .filter(|(_, replica)| replica.process.node_id == hello.process.node_id)
            .map(|(id, _)| *id)
            .collect();
        for id in old {
            primary.streams.remove(&id);
            self.out.push_back(Command::CloseStream(id));
        }
        if common.next() < entries_from {
            self.out.push_back(Command::ToReplica { stream, frame: ToReplica::LoadObjectLog });
            return;
        }
        if !hello.stopping {
            primary.leaving.retain(|v| *v != voter);
            primary.removing.retain(|n| *n != hello.process.node_id);
        }
        primary.voter_heard.insert(voter, now);
        let welcome = Welcome {
            term: primary.term,
            session: self.me.session,
            common,
            end,
            commit: committed,
            recovered: primary.manifest.recovered,
        };
        primary.streams.insert(
            stream,
            Replica {
                process: hello.process,
                held: LogIndex(0),
                last_heard: now,
                stopping: hello.stopping,
                watch_lowest: None,
                watch_floor: None,
            },
        );
        self.out.push_back(Command::ToReplica { stream, frame: ToReplica::Welcome(welcome) });
        let beat = self.beat(stream);
        self.out.push_back(Command::ToReplica { stream, frame: ToReplica::Beat(beat) });
    }

    /// The Primary's sign of life on a stream as of now: for the driver, where the commit index moved and there is nothing
    /// to send.
    pub fn beat(&self, stream: StreamId) -> Beat {
        Beat {
            term: self.primary.as_ref().map(|p| p.term).unwrap_or_default(),
            commit: self.committed(),
            store_age: self.store_age(),
            watch_floor: self.primary.as_ref().and_then(|p| p.floor_announced),
            snapshots: self.primary.as_ref().is_some_and(|p| p.snapshots_on(stream)),
        }
    }

    pub(crate) fn beat_replicas(&mut self) {
        self.choose_snapshot_maker();
        let streams: Vec<StreamId> = self.primary.iter().flat_map(|p| p.streams.keys().copied()).collect();
        for stream in streams {
            let beat = self.beat(stream);
            self.out.push_back(Command::ToReplica { stream, frame: ToReplica::Beat(beat) });
        }
    }

    pub(crate) fn drop_silent_replicas(&mut self) {
        let (now, silence) = (self.now, self.settings.silence() * 2);
        let Some(primary) = &mut self.primary else { return };
        let silent: Vec<StreamId> = primary
            .streams
            .iter()
            .filter(|(_, replica)| now.saturating_sub(replica.last_heard) > silence)
            .map(|(id, _)| *id)
            .collect();
        for stream in silent {
            primary.streams.remove(&stream);
            self.out.push_back(Command::CloseStream(stream));
        }
    }

    pub(crate) fn on_replica_gone(&mut self, stream: StreamId) {
        if let Some(primary) = &mut self.primary {
            primary.waiting_hellos.remove(&stream);
            if let Some(replica) = primary.streams.remove(&stream)
                && let Some(tracker) = &mut primary.tracker
            {
                tracker.forget(&replica.process.voter());
            }
        }
    }

    pub(crate) fn on_alive(
        &mut self,
        stream: StreamId,
        watch_lowest: Option<Revision>,
        watch_floor: Option<Revision>,
        stopping: bool,
    ) {
        let now = self.now;
        let Some(primary) = &mut self.primary else { return };
        let Some(replica) = primary.streams.get_mut(&stream) else { return };
        replica.last_heard = now;
        replica.stopping |= stopping;
        (replica.watch_lowest, replica.watch_floor) = (watch_lowest, watch_floor);
        primary.voter_heard.insert(replica.process.voter(), now);
        self.floor_may_go_on();
    }

    /// R5: what a voter durably holds, as verified with this term's Primary.
    pub(crate) fn on_receipt(&mut self, stream: StreamId, receipt: Receipt) {
        let (now, end) = (self.now, self.log.end().last_index);
        let ignore = mutant!(self, IgnoreIncarnation);
        let Some(primary) = &mut self.primary else { return };
        if receipt.term != primary.term || receipt.held > end {
            return;
        }
        let Some(replica) = primary.streams.get_mut(&stream) else { return };
        // R11: checked on every receipt.
        if replica.process.incarnation != receipt.incarnation {
            return;
        }
        replica.last_heard = now;
        replica.held = replica.held.max(receipt.held);
        let mut voter = replica.process.voter();
        let held = replica.held;
        if ignore && let Some(named) = primary.manifest.voters.iter().find(|v| v.node_id == voter.node_id) {
            voter = named.clone();
        }
        match primary.voter_heard.get_mut(&voter) {
            Some(at) => *at = now,
            None => {
                primary.voter_heard.insert(voter.clone(), now);
            }
        }
        let committed = primary.tracker.as_mut().and_then(|tracker| tracker.held(&voter, held));
        if let Some(committed) = committed {
            self.on_committed(committed);
        } else if self.primary.as_ref().is_some_and(|p| p.change.is_some()) {
            self.change_may_go_on();
        }
        if self.hand_over.is_some() {
            self.hand_over_may_go_on();
        }
    }
}
