//! Who makes the snapshots (section 6): a replica where one keeps up, so that the Primary has its machine for writes; two at
//! once do no harm.

use crate::config::Millis;
use crate::engine::Engine;
use crate::event::StreamId;
use crate::primary::{Phase, Primary};
use netsy_api::ids::NodeId;

/// A replica that has fallen behind for so long is relieved.
const BEHIND_MAX: Millis = 10_000;

/// The replica that does it.
#[derive(Clone, Debug)]
pub(crate) struct SnapshotMaker {
    node: NodeId,
    /// When it was last up to date.
    at: Millis,
}

impl Primary {
    /// Whether the replica on this stream is to make them.
    pub(crate) fn snapshots_on(&self, stream: StreamId) -> bool {
        let replica = self.streams.get(&stream);
        replica.is_some_and(|r| self.snapshot_maker.as_ref().is_some_and(|maker| maker.node == r.process.node_id))
    }
}

impl Engine {
    /// Whether this node is to make snapshots now, and to fold and clean up the object log.
    pub fn makes_snapshots(&self) -> bool {
        match &self.primary {
            Some(primary) => primary.phase == Phase::Ready && primary.snapshot_maker.is_none(),
            None => self.follower.snapshots && self.follower.target.as_ref().is_some_and(|(term, _)| self.hears(*term)),
        }
    }

    pub(crate) fn choose_snapshot_maker(&mut self) {
        let (now, silence) = (self.now, self.settings.silence());
        let Some(primary) = &mut self.primary else { return };
        let here = |node: &NodeId| {
            let replica = primary.streams.values().find(|r| r.process.node_id == *node)?;
            (!replica.stopping && now.saturating_sub(replica.last_heard) <= silence).then_some(replica)
        };
        if let Some(mut maker) = primary.snapshot_maker.take()
            && let Some(replica) = here(&maker.node)
        {
            if replica.held >= primary.end_before {
                maker.at = now;
            }
            if now.saturating_sub(maker.at) <= BEHIND_MAX {
                primary.snapshot_maker = Some(maker);
                return;
            }
        }
        let names = primary.streams.values().map(|r| &r.process.node_id);
        let fit = names.filter(|node| here(node).is_some_and(|r| r.held >= primary.end_before)).min().cloned();
        primary.snapshot_maker = fit.map(|node| SnapshotMaker { node, at: now });
    }
}
