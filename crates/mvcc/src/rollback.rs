//! Dropping entries that were never shown (R7).

use crate::error::ApplyError;
use crate::store::{Store, Undo};
use netsy_api::ids::{LogIndex, Position};
use netsy_api::log::Mutation;

impl Store {
    /// Drops every entry after `last`: a deposed Primary's own that the log did not keep. Refused where readers saw
    /// one of them. The local database drops its rows itself; their positions are used again.
    pub fn rollback(&mut self, last: LogIndex) -> Result<(), ApplyError> {
        if last < self.visible.index {
            return Err(ApplyError::RollbackBelowVisible { last, visible: self.visible.index });
        }
        while self.head.index > last {
            let Some(dropped) = self.pending.pop_back() else { break };
            let before = self.pending.back().map_or(self.visible, |p| p.after);
            self.undo(dropped.after.index, before.next_position, &dropped.entry.mutations, dropped.undo);
            self.head = before;
        }
        Ok(())
    }

    /// Takes back the mutations of the entry `index`, whose first position is `first`.
    pub(crate) fn undo(&mut self, index: LogIndex, first: Position, mutations: &[Mutation], mut undo: Vec<Undo>) {
        for mutation in mutations.iter().rev() {
            match mutation {
                Mutation::Put { key, .. } | Mutation::Delete { key } => {
                    let Some((dropped, before)) = self.index.pop(key) else { continue };
                    self.cache.remove(dropped.slot, dropped.position);
                    if dropped.lease.0 != 0 {
                        self.lessor.detach(dropped.lease, key);
                    }
                    if let Some(before) = before.filter(|b| b.lease.0 != 0) {
                        self.lessor.attach(before.lease, key);
                    }
                }
                _ => {
                    if let Some(step) = undo.pop() {
                        self.undo_step(index, step);
                    }
                }
            }
        }
        while self.dead_rows.back().is_some_and(|d| d.by >= index) {
            self.dead_rows.pop_back();
        }
        self.cache.roll_back(Position(first.0 - 1));
    }

    fn undo_step(&mut self, index: LogIndex, step: Undo) {
        match step {
            Undo::Grant(id) => {
                self.lessor.remove(id);
            }
            Undo::Revoke(id) => self.lessor.restore_revoked(id, index),
            Undo::Checkpoint(id, seconds, row) => {
                self.lessor.checkpoint(id, seconds, row);
            }
            // The revision itself is part of the mark that the head goes back to.
            Undo::Compact(row) => self.compact_row = row,
            Undo::Alarm(member_id, alarm, before) => {
                self.alarms.set(member_id, alarm, before);
            }
        }
    }
}
