//! Coordinated compaction: nodes report the lowest revision that their watches need, the Primary announces a floor, nodes
//! refuse new watches below it, then it compacts. A node that is not heard does not hold it up.

use crate::command::Command;
use crate::engine::Engine;
use crate::primary::Phase;
use netsy_api::ids::Revision;

/// A floor on its way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FloorRound {
    floor: Revision,
    /// This node's own answer: its watches need nothing below that.
    own: Option<Option<Revision>>,
}

/// The lower of what is wanted and what watches need.
fn lower(wanted: Revision, lowest: Option<Revision>) -> Revision {
    lowest.map_or(wanted, |lowest| wanted.min(lowest))
}

impl Engine {
    pub(crate) fn on_compact_wanted(&mut self, wanted: Revision) {
        let (now, silence) = (self.now, self.settings.silence());
        let own = self.watch_lowest;
        let Some(primary) = self.primary.as_mut().filter(|p| p.phase == Phase::Ready && p.floor.is_none()) else {
            return;
        };
        let heard = primary.streams.values().filter(|r| now.saturating_sub(r.last_heard) <= silence);
        let floor = heard.map(|r| r.watch_lowest).chain([own]).fold(wanted, lower);
        // A floor that was announced stays; one that would be lower is no news.
        let floor = floor.max(primary.floor_announced.unwrap_or(floor));
        primary.floor = Some(FloorRound { floor, own: None });
        primary.floor_announced = Some(floor);
        self.out.push_back(Command::RefuseWatchesBelow(floor));
        self.beat_replicas();
    }

    pub(crate) fn on_watch_floor_set(&mut self, floor: Revision, lowest: Option<Revision>) {
        self.watch_floor = self.watch_floor.max(Some(floor));
        self.watch_lowest = lowest;
        if let Some(round) = self.primary.as_mut().and_then(|p| p.floor.as_mut()).filter(|r| r.floor == floor) {
            round.own = Some(lowest);
        }
        self.send_alive();
        self.floor_may_go_on();
    }

    /// Compacts once everybody that is heard answered with the floor in force.
    pub(crate) fn floor_may_go_on(&mut self) {
        let (now, silence) = (self.now, self.settings.silence());
        let Some(primary) = &mut self.primary else { return };
        let Some(FloorRound { floor, own: Some(own) }) = primary.floor else { return };
        let mut agreed = lower(floor, own);
        for replica in primary.streams.values().filter(|r| now.saturating_sub(r.last_heard) <= silence) {
            if replica.watch_floor < Some(floor) {
                return;
            }
            agreed = lower(agreed, replica.watch_lowest);
        }
        primary.floor = None;
        self.out.push_back(Command::Compact(agreed));
    }

    pub(crate) fn tick_watch_floor(&mut self) {
        self.floor_may_go_on();
    }
}
