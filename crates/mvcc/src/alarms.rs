//! Active alarms.

use netsy_api::ids::Position;
use netsy_api::log::AlarmKind;
use std::collections::BTreeMap;

/// Active alarms with the rows that raised them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Alarms(BTreeMap<(u64, AlarmKind), Position>);

impl Alarms {
    /// Sets or clears one; returns the row that had raised it.
    pub(crate) fn set(&mut self, member_id: u64, alarm: AlarmKind, raised_by: Option<Position>) -> Option<Position> {
        match raised_by {
            Some(row) => self.0.insert((member_id, alarm), row),
            None => self.0.remove(&(member_id, alarm)),
        }
    }

    pub(crate) fn contains(&self, member_id: u64, alarm: AlarmKind) -> bool {
        self.0.contains_key(&(member_id, alarm))
    }

    pub(crate) fn is_active(&self, alarm: AlarmKind) -> bool {
        self.0.keys().any(|(_, kind)| *kind == alarm)
    }

    pub(crate) fn list(&self) -> Vec<(u64, AlarmKind)> {
        self.0.keys().copied().collect()
    }
}
