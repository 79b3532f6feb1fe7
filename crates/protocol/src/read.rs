//! When a Primary may answer a linearizable read (R9).

use crate::quorum::{QuorumRule, Voter};

/// The number of a waiting read: they rise with arrival, so that one number stands for all that came before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReadId(pub u64);

/// How a linearizable read is let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadStart {
    /// At once: the state is read, then [`Engine::read_end`](crate::engine::Engine::read_end) says whether it counts.
    Now(ReadTicket),
    /// Once `ReadsReady` or `ReadsFailed` names this or a later read.
    Wait(ReadId),
    /// There is no Primary that this node knows, or it is not ready: wait for one, or fail.
    NoPrimary,
}

/// Proof that a read was let in at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadTicket {
    /// This node is the whole commit quorum, in this term.
    Own(netsy_api::ids::Term),
    /// Under the lease of this term.
    Lease(netsy_api::ids::Term),
}

/// What a Primary must have before it answers a read that arrived at some moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadProof {
    /// (i) with a commit quorum of one, itself: it knows what it promised.
    Own,
    /// (i) a round of confirmations by `Qc` voters, sent after the read arrived.
    Round(usize),
    /// (iii), and (ii) where no lease is in force: a read of `cluster.json` that shows its term and session.
    Manifest,
}

impl ReadProof {
    /// The proof `me` needs by the rule of the manifest.
    pub fn needed(rule: QuorumRule, voters: &[Voter], me: &Voter) -> Self {
        match rule.commit {
            None => Self::Manifest,
            Some(1) if voters == [me.clone()] => Self::Own,
            Some(quorum) => Self::Round(quorum),
        }
    }
}

/// The read lease of R9 (iii): in force for `length` after a manifest read that showed our term was *sent*.
/// Times are milliseconds of a clock that goes on while the machine is suspended.
#[derive(Clone, Copy, Debug)]
pub struct ReadLease {
    length_ms: u64,
    sent_at_ms: Option<u64>,
}

/// Clocks of two machines may differ in rate by this much: one part in this many.
const DRIFT_ONE_IN: u64 = 100;

impl ReadLease {
    /// Not in force yet. `length_ms` 0: never in force.
    pub fn new(length_ms: u64) -> Self {
        Self { length_ms, sent_at_ms: None }
    }

    /// A manifest read that was sent at `sent_at_ms` showed our term and session.
    pub fn renewed(&mut self, sent_at_ms: u64) {
        self.sent_at_ms = self.sent_at_ms.max(Some(sent_at_ms));
    }

    /// Another term was seen, or a change of the rule begins (flaw 19a): not in force any more.
    pub fn ended(&mut self) {
        self.sent_at_ms = None;
    }

    /// Whether it is in force now; to be asked *after* the state was read.
    pub fn holds(&self, now_ms: u64) -> bool {
        self.sent_at_ms.is_some_and(|sent| now_ms.saturating_sub(sent) < self.length_ms)
    }

    /// Whether a renewal should be sent, so that reads need not wait for one.
    pub fn wants_renewal(&self, now_ms: u64) -> bool {
        self.length_ms > 0 && self.sent_at_ms.is_none_or(|sent| now_ms.saturating_sub(sent) >= self.length_ms / 2)
    }

    /// How long a new Primary answers nothing after it learned of its swap, so that leases of its
    /// predecessors have run out on any clock of nearly the same rate.
    pub fn takeover_wait_ms(length_ms: u64) -> u64 {
        if length_ms == 0 { 0 } else { length_ms + length_ms / DRIFT_ONE_IN + 1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use netsy_api::ids::{Incarnation, NodeId};

    #[test]
    fn a_lease_counts_from_when_the_read_was_sent() {
        let mut lease = ReadLease::new(2000);
        assert!(!lease.holds(0));
        lease.renewed(1000);
        assert!(lease.holds(2999));
        assert!(!lease.holds(3000));
        lease.renewed(500);
        assert!(lease.holds(2999), "an older answer that comes later takes nothing back");
        lease.ended();
        assert!(!lease.holds(1000));
        let mut off = ReadLease::new(0);
        off.renewed(5);
        assert!(!off.holds(5));
        assert!(!off.wants_renewal(5));
    }

    #[test]
    fn only_a_lone_voter_with_one_copy_proves_its_reads_itself() {
        let me = Voter { node_id: NodeId::new("a").expect("valid"), incarnation: Incarnation(1) };
        let old = Voter { incarnation: Incarnation(2), ..me.clone() };
        let one = QuorumRule::new(1, -1, 1);
        assert_eq!(ReadProof::needed(one, std::slice::from_ref(&me), &me), ReadProof::Own);
        assert_eq!(ReadProof::needed(one, &[old], &me), ReadProof::Round(1));
        assert_eq!(ReadProof::needed(QuorumRule::new(1, -1, 2), std::slice::from_ref(&me), &me), ReadProof::Manifest);
    }
}
