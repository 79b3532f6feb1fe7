//! Quorum arithmetic (protocol.md section 2).

use netsy_api::ids::{Incarnation, NodeId};

/// A node that votes: with another incarnation the same node id is another voter (R11).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Voter {
    /// The node's name.
    pub node_id: NodeId,
    /// The database it voted with.
    pub incarnation: Incarnation,
}

/// How many copies commit an entry, and how many promises elect a Primary: what follows from the manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuorumRule {
    /// `Qc`: voters that must durably hold an entry (R5 a); `None`: counting commits nothing, only the
    /// object log does (R5 b).
    pub commit: Option<usize>,
    /// `Qe`: promises an election needs (R6).
    pub election: usize,
}

impl QuorumRule {
    /// The rule for `voters` voters with the manifest's `quorum` (-1 majority, 0 object storage, N replica
    /// receipts; any other negative number is refused when the config is read) and `copies_min`.
    pub fn new(voters: usize, quorum: i32, copies_min: usize) -> Self {
        let wanted = match quorum {
            0 => None,
            n if n > 0 => Some(n as usize + 1),
            _ => Some((voters / 2 + 1).max(copies_min)),
        };
        match wanted {
            Some(commit) if voters > 0 && commit <= voters => {
                Self { commit: Some(commit), election: voters - commit + 1 }
            }
            _ => Self { commit: None, election: 0 },
        }
    }

    /// Whether only the object log commits; then nothing but the bucket is needed to elect (`Qe` = 0).
    pub fn only_object_log(&self) -> bool {
        self.commit.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commit_and_election_quorums_always_meet() {
        for voters in 0..=9 {
            for quorum in -1..=9 {
                for copies_min in 1..=4 {
                    let rule = QuorumRule::new(voters, quorum, copies_min);
                    match rule.commit {
                        Some(commit) => {
                            assert!(commit + rule.election > voters, "{voters} {quorum} {copies_min}");
                            assert!(commit <= voters && rule.election >= 1);
                        }
                        None => assert_eq!(rule.election, 0),
                    }
                }
            }
        }
    }

    #[test]
    fn the_table_of_the_protocol() {
        let rule = |n, q, c| QuorumRule::new(n, q, c);
        assert_eq!(rule(3, -1, 2), QuorumRule { commit: Some(2), election: 2 });
        assert_eq!(rule(5, -1, 2), QuorumRule { commit: Some(3), election: 3 });
        assert_eq!(rule(5, 1, 2), QuorumRule { commit: Some(2), election: 4 });
        assert_eq!(rule(1, -1, 1), QuorumRule { commit: Some(1), election: 1 });
        // A lone voter with copies_min 2, quorum 0, no voters, Qc > n: only the bucket commits.
        for r in [rule(1, -1, 2), rule(3, 0, 2), rule(0, -1, 1), rule(2, 2, 1)] {
            assert!(r.only_object_log());
            assert_eq!(r.election, 0);
        }
    }
}
