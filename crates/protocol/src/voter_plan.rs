//! Who should vote: what a Primary changes by itself (R10, R11), and what it is asked to.

use crate::command::{Command, Report, StoreCall};
use crate::config::Millis;
use crate::engine::{Engine, Purpose};
use crate::manifest::{ProcessId, Recovered, usual_member_id};
use crate::message::Message;
use crate::primary::{Phase, Primary};
use crate::quorum::Voter;
use netsy_api::ids::NodeId;
use std::collections::BTreeMap;

/// Pause between two looks at who should vote.
const PLAN_PAUSE: Millis = 100;

/// The set that should vote and the member ids that are missing; `None`: all is as it should be.
struct Plan {
    voters: Vec<Voter>,
    members: Vec<NodeId>,
}

impl Primary {
    /// Replicas that have caught up, by node: those that hold the log as it was a moment ago.
    fn caught_up(&self, now: Millis, silence: Millis) -> BTreeMap<NodeId, (Voter, bool)> {
        self.streams
            .values()
            .filter(|r| r.held >= self.end_before && now.saturating_sub(r.last_heard) <= silence)
            .map(|r| (r.process.node_id.clone(), (r.process.voter(), r.stopping)))
            .collect()
    }
}

impl Engine {
    /// The most voters there may be: with a static quorum of N at most 2N + 1, so that neither a commit nor an election
    /// needs more than N + 1 (flaw 20).
    fn voters_limit(&self, quorum: i32) -> usize {
        let fixed = usize::try_from(quorum).ok().filter(|n| *n > 0).map(|n| 2 * n + 1);
        self.settings.voters_max.max(1).min(fixed.unwrap_or(usize::MAX))
    }

    pub(crate) fn plan_voters(&mut self) {
        let now = self.now;
        let bound = self.is_bound();
        let Some(primary) = &mut self.primary else { return };
        let early = crate::mutant::mutant!(self, ChangeBeforeReady) && primary.uploads();
        if primary.phase != Phase::Ready && !early || primary.change.is_some() || bound || now < primary.next_plan {
            return;
        }
        primary.next_plan = now + PLAN_PAUSE;
        if self.hand_over.is_some() || self.stop.as_ref().is_some_and(|stop| stop.paused) {
            return; // One thing at a time.
        }
        let Some(primary) = &self.primary else { return };
        let wanted = primary.wanted;
        let manifest = &primary.manifest;
        let quorum = wanted.quorum.unwrap_or(manifest.quorum);
        let copies = wanted.copies_min.unwrap_or(manifest.copies_min);
        let numbers = (quorum, copies) != (manifest.quorum, manifest.copies_min);
        if !numbers && let Some(primary) = &mut self.primary {
            primary.wanted = Default::default();
        }
        let plan = self.plan();
        // A hand-over that came to nothing, or an earlier term of this process, gave the read lease up: taken back
        // here, before there is one again (R9).
        let me = self.me.session;
        let lease_back = self.stop.is_none()
            && !crate::mutant::mutant!(self, ReleasedLeaseUsed)
            && self
                .primary
                .as_ref()
                .is_some_and(|p| p.manifest.released == Some(me) && p.manifest.rule().election == 0);
        let recovered = self.recovered_from();
        // R12: noted by any change.
        let safe = self.primary.as_ref().is_some_and(|p| p.manifest.kept.is_some());
        if !numbers && plan.is_none() && !lease_back && recovered.is_none() && !safe {
            return self.answer_leavers();
        }
        let spare: Vec<u64> = plan.iter().flat_map(|p| &p.members).map(|_| self.random.next() >> 1).collect();
        let cluster_id = self.cluster_id.clone();
        let kept = crate::mutant::mutant!(self, ReleasedLeaseUsed);
        self.begin_change(|m| {
            (m.quorum, m.copies_min) = (quorum, copies);
            m.released = m.released.filter(|session| *session != me || kept);
            m.recovered = recovered.or(m.recovered);
            let Some(plan) = plan else { return };
            m.voters = plan.voters;
            for (node, spare) in plan.members.into_iter().zip(spare) {
                let usual = usual_member_id(&cluster_id, &node);
                let taken = |m: &crate::manifest::Manifest, id: u64| m.members.values().any(|other| *other == id);
                let id = if taken(m, usual) { spare } else { usual };
                // 0 is no member id, and one that is taken, too, waits for the next plan.
                if id != 0 && !taken(m, id) {
                    m.members.insert(node, id);
                }
            }
        });
    }

    /// R12: where this term began after voters were given up, if the manifest does not say so yet. Who elected knew the
    /// logs of the nodes; what the object log holds beyond them was found when this Primary took over (R4).
    fn recovered_from(&self) -> Option<Recovered> {
        let primary = self.primary.as_ref()?;
        let noted = primary.manifest.recovered.filter(|r| r.term == primary.term)?;
        let index = self.log.runs().before(primary.term);
        (index > noted.index).then_some(Recovered { index, ..noted })
    }

    fn plan(&self) -> Option<Plan> {
        let primary = self.primary.as_ref()?;
        let manifest = &primary.manifest;
        let (now, silence) = (self.now, self.settings.silence());
        let limit = self.voters_limit(primary.wanted.quorum.unwrap_or(manifest.quorum));
        let me = self.me.voter();
        let caught_up = primary.caught_up(now, silence);
        let timeout = self.settings.deregistration_timeout;
        let heard = |v: &Voter| primary.voter_heard.get(v).copied().unwrap_or(primary.since);
        let dead = |v: &Voter| *v != me && timeout > 0 && now.saturating_sub(heard(v)) >= timeout;
        let mut voters: Vec<Voter> = vec![];
        for voter in &manifest.voters {
            let goes = primary.leaving.contains(voter) || primary.removing.contains(&voter.node_id) && *voter != me;
            if goes {
                continue;
            }
            // Registered with another database: replaced in one change, once the new one has caught up (R11).
            if voter.node_id == me.node_id {
                voters.push(me.clone());
                continue;
            }
            match caught_up.get(&voter.node_id) {
                Some((new, stopping)) if new != voter => {
                    if !stopping {
                        voters.push(new.clone());
                    }
                }
                _ if dead(voter) => {}
                _ => voters.push(voter.clone()),
            }
        }
        // A static quorum that became smaller: those furthest behind become learners; never this node.
        while voters.len() > limit {
            let held = |v: &Voter| primary.tracker.as_ref().and_then(|t| t.held_by(v)).unwrap_or_default();
            let last = voters.iter().filter(|v| **v != me).min_by_key(|v| held(v)).cloned()?;
            voters.retain(|v| *v != last);
        }
        if !voters.contains(&me) {
            if voters.len() >= limit {
                voters.pop();
            }
            voters.push(me.clone());
        }
        for (node, (voter, stopping)) in &caught_up {
            let known = voters.iter().any(|v| v.node_id == *node);
            let leaving = primary.leaving.contains(voter) || primary.removing.contains(node);
            if !known && !stopping && !leaving && voters.len() < limit {
                voters.push(voter.clone());
            }
        }
        let streams = primary.streams.values().map(|r| &r.process.node_id);
        let members: Vec<NodeId> =
            streams.chain([&me.node_id]).filter(|node| !manifest.members.contains_key(*node)).cloned().collect();
        let (mut old, mut new) = (manifest.voters.clone(), voters.clone());
        old.sort();
        new.sort();
        (old != new || !members.is_empty()).then_some(Plan { voters, members })
    }

    // ---- what it is asked to ----

    pub(crate) fn on_set_cluster(&mut self, quorum: Option<i32>, copies_min: Option<usize>) {
        let bad = quorum.is_some_and(|q| q < -1) || copies_min == Some(0);
        let Some(primary) = self.primary.as_mut().filter(|p| p.phase == Phase::Ready && !bad) else {
            let why = if bad {
                "quorum is -1, 0 or a number of replicas, copies_min at least 1"
            } else {
                "this node is not Primary"
            };
            return self.report(Report::Declined(why.into()));
        };
        primary.wanted.quorum = quorum.or(primary.wanted.quorum);
        primary.wanted.copies_min = copies_min.or(primary.wanted.copies_min);
        primary.next_plan = self.now;
        self.plan_voters();
    }

    pub(crate) fn on_remove_node(&mut self, node: NodeId) {
        let now = self.now;
        let Some(primary) = self.primary.as_mut().filter(|p| p.phase == Phase::Ready) else {
            return self.report(Report::Declined("this node is not Primary".into()));
        };
        let running = node == self.me.node_id || primary.streams.values().any(|r| r.process.node_id == node);
        if running {
            return self.report(Report::Declined(format!("node {node} is running: stop it, it leaves by itself")));
        }
        if !primary.removing.contains(&node) {
            primary.removing.push(node.clone());
        }
        primary.next_plan = now;
        if let Some(known) = self.nodes.get(&node) {
            let incarnation = known.incarnation;
            self.store(Purpose::MarkOther, StoreCall::MarkStopped { node_id: node, incarnation });
        }
        self.plan_voters();
    }

    /// A replica stops gracefully.
    pub(crate) fn on_leave(&mut self, from: NodeId, process: ProcessId) {
        let now = self.now;
        let Some(primary) = self.primary.as_mut().filter(|p| p.phase == Phase::Ready) else { return };
        if process.node_id != from {
            return; // A node speaks for itself only.
        }
        let voter = process.voter();
        for replica in primary.streams.values_mut().filter(|r| r.process == process) {
            replica.stopping = true;
        }
        if !primary.leaving.contains(&voter) {
            primary.leaving.push(voter);
        }
        primary.next_plan = now;
        self.plan_voters();
        self.answer_leavers_of(&process);
        self.stop_may_go_on();
    }

    /// Tells those that asked to leave and are no voters any more.
    pub(crate) fn answer_leavers(&mut self) {
        let Some(primary) = &self.primary else { return };
        let leavers: Vec<ProcessId> = primary
            .streams
            .values()
            .filter(|r| primary.leaving.contains(&r.process.voter()))
            .map(|r| r.process.clone())
            .collect();
        for process in leavers {
            self.answer_leavers_of(&process);
        }
    }

    fn answer_leavers_of(&mut self, process: &ProcessId) {
        let Some(primary) = &mut self.primary else { return };
        let voter = process.voter();
        // While a change is under way, the old rule still needs it.
        if primary.change.is_some() || primary.manifest.names(&voter) {
            return;
        }
        primary.leaving.retain(|v| *v != voter);
        self.send(&process.node_id.clone(), Message::Left { process: process.clone() });
    }

    pub(crate) fn flush_all(&mut self) {
        let end = self.log.end().last_index;
        self.out.push_back(Command::Flush(end));
    }
}
