//! Rows that compactions let go: deleted once the object log has them (decision 0006, `netsy-node`'s `background`).

use crate::disk::{DiskOp, entry_of};
use crate::world::World;
use netsy_api::ids::{LogIndex, Revision};
use netsy_protocol::mutant::Mutant;

/// Keys looked at in one step.
const KEYS_PER_STEP: usize = 8;

impl World {
    /// One step of the walk over the index, and the rows that it let go on their way to the disk.
    pub fn tick_rows(&mut self, slot: usize) {
        let early = self.mutant == Some(Mutant::RowsGoBeforeLogged);
        let newest = self.mutant == Some(Mutant::RowsOfNewestGo);
        let dead = self.mutant == Some(Mutant::DeadRowsGoBeforeLogged);
        let Some(process) = self.process(slot) else { return };
        let (wanted, shown) = (process.store.compact_revision(), process.store.visible_index());
        if wanted <= process.compacted || shown < process.installed {
            return;
        }
        // A restore then needs none of them from here, nor does a Primary-to-be for its tail.
        let (wanted, logged_to) = *process.removing.get_or_insert((wanted, shown));
        if process.logged.last.last_index < logged_to && !early {
            if let Some(uploads) = &mut process.uploads {
                uploads.flush = uploads.flush.max(logged_to);
                self.upload_soon(slot);
            }
            return;
        }
        let revision = if newest { Revision(i64::MAX) } else { wanted };
        let logged = if dead { LogIndex(u64::MAX) } else { logged_to };
        let step = process.store.compact_index(KEYS_PER_STEP, revision, logged);
        if step.done {
            process.compacted = wanted;
            process.removing = None;
        }
        if step.removed.is_empty() {
            return;
        }
        let last = step.removed.iter().filter_map(|at| entry_of(&process.mem, *at)).map(|e| e.index).max();
        let through = last.unwrap_or(LogIndex(0));
        process.holes.gone.extend(step.removed.iter().copied());
        process.holes.partial = process.holes.partial.max(through);
        process.holes.least = process.holes.least.max(logged_to);
        let delete = DiskOp::Delete { rows: step.removed, through, least: logged_to, visible: shown };
        process.queue.push_back((process.last_local, delete));
        let at_hand = LogIndex(self.entries_from).max(self.process(slot).map_or(LogIndex(1), |p| p.whole_from()));
        if let Some(process) = self.process(slot) {
            process.engine.set_entries_from(at_hand);
        }
        self.count("rows compacted");
        if through > shown {
            self.truth.breach(format!("n{slot} deletes rows of entry {through}, {shown} is shown"));
        }
        self.sync_soon(slot);
    }
}
