//! The whole check.

use crate::leases::Leases;
use crate::log::Log;
use crate::op::Op;
use crate::order::Order;
use crate::refusals::Compactions;
use crate::states::{NodeState, check_states};
use crate::timeline::Timeline;
use crate::violation::Report;
use crate::watch::WatchRecord;
use crate::writes::{Cause, find_causes};
use crate::{reads, refusals, watch_check};

/// What the run promises beyond etcd, and its unit of time.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// Units of the operations' times in a second. `None`: they are no durations, and the time of leases is not judged.
    pub units_per_second: Option<u64>,
    /// So much earlier than by the clients' clock a lease may end (drift), in units.
    pub lease_slack: u64,
    /// The server compacts by itself; so any compaction may have happened at any time.
    pub auto_compaction: bool,
    /// A node's answers do not go back even over its restarts.
    pub nodes_never_go_back: bool,
}

/// All of a run.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// In any order.
    pub ops: Vec<Op>,
    /// What watches were told.
    pub watches: Vec<WatchRecord>,
    /// All key changes, as the survivors have them in the end.
    pub log: Log,
    /// Digests of nodes and of what the bucket restores to.
    pub states: Vec<NodeState>,
    /// What is promised.
    pub rules: Rules,
}

impl History {
    /// Everything that is wrong.
    pub fn check(&self) -> Report {
        let mut report = Report::default();
        let Self { ops, watches, log, states, rules } = self;
        log.check_dense(&mut report);
        let timeline = Timeline::new(log);
        let mut order = Order::new(ops, watches, log.base_revision, log.head());
        let leases = Leases::new(ops, rules);
        let compactions = Compactions::new(ops, rules);

        let causes = find_causes(ops, log, &timeline, &order, &leases, &mut report);
        let sent = causes.iter().map(|cause| match cause {
            Cause::Op(at) => ops[*at].invoked,
            Cause::Expiry(_) | Cause::Unknown => 0,
        });
        // A log with a hole is reported; times are then by place.
        order.set_possible_from(sent.collect());

        reads::check_answers(ops, log, &timeline, &mut report);
        reads::check_real_time(ops, &order, &mut report);
        reads::check_went_back(ops, rules.nodes_never_go_back, &mut report);
        reads::check_attached(ops, log, &causes, &timeline, &leases, &mut report);
        leases.check_answers(&order, &timeline, &mut report);
        refusals::check(ops, &order, &timeline, &leases, &compactions, &mut report);
        let truth = watch_check::Truth { log, timeline: &timeline, order: &order, compactions: &compactions };
        for record in watches {
            watch_check::check(record, &truth, &mut report);
        }
        check_states(states, &mut report);
        report
    }
}
