//! One run: from a scenario to what is wrong with it.

use crate::convert;
use crate::disk::{self, Holes};
use crate::scenario::{EXTENSION_MAX, Scenario};
use crate::world::World;
use netsy_api::ids::Revision;
use netsy_api::log::Entry;
use netsy_history::{History, Log, NodeState, Op, Outcome, Rules, steps};
use netsy_mvcc::{HashKv, Store};
use netsy_protocol::manifest::Manifest;
use netsy_protocol::mutant::Mutant;
use netsy_protocol::quorum::Voter;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A cluster settles within this many milliseconds once faults are over.
pub const SETTLE_MAX: u64 = 30_000;

/// An operator looks at a lost quorum for so long before voters are given up, in milliseconds.
const RECOVER_AFTER: u64 = 3_000;

/// Without requests all nodes and the bucket hold the same after this: leases end, uploads are due.
const QUIET_MAX: u64 = 25_000;

/// What came of a run.
#[derive(Debug, Default)]
pub struct Finding {
    pub breaches: Vec<String>,
    pub counters: BTreeMap<&'static str, u64>,
    /// Operations asked for, and faults that did something, before things got calm.
    pub ops: u64,
    pub faults: u64,
    pub settled_ms: Option<u64>,
    /// As the bucket has it in the end.
    pub manifest: Option<Manifest>,
    pub steps: u64,
    pub simulated: u64,
}

/// Runs a scenario to its end and checks everything.
pub fn run(scenario: Scenario, mutant: Option<Mutant>, trace: bool) -> Finding {
    let mut world = World::new(scenario, mutant, trace);
    let calm_at = trouble(&mut world);
    let mut lost_for_good = false;
    if world.truth.breaches.is_empty() {
        world.calm_down();
        lost_for_good = settle(&mut world, calm_at);
    }
    finish(world, lost_for_good, calm_at)
}

/// The time of faults, until there were enough of them, and enough operations. Gives its end.
fn trouble(world: &mut World) -> u64 {
    let calm_at = world.scenario.calm_at;
    let (ops, faults) = world.scenario.least;
    let mut lost_since = None;
    while world.truth.breaches.is_empty() {
        let enough = world.asked >= ops && world.faults >= faults;
        if world.now >= calm_at && enough || !world.step() {
            break;
        }
        if world.now < calm_at || enough {
            continue;
        }
        if world.now >= calm_at + EXTENSION_MAX {
            // A cluster that hardly serves under its faults: the rest of the operations comes once they are over.
            world.count("operations left for the calm");
            break;
        }
        // Nothing but an operator ends this (R12).
        let since = *lost_since.get_or_insert(world.now);
        if !quorum_is_lost(world) {
            lost_since = None;
        } else if world.now >= since + RECOVER_AFTER {
            lost_since = None;
            world.recover();
        }
    }
    world.now.max(calm_at)
}

/// Waits until the cluster serves through every node. True: it never can (R12).
fn settle(world: &mut World, calm_at: u64) -> bool {
    let mut look_at = world.now;
    while world.now < calm_at + SETTLE_MAX && world.truth.breaches.is_empty() {
        if !world.step() {
            break;
        }
        if world.now < look_at {
            continue;
        }
        look_at = world.now + 100;
        if world.is_settled() && world.settled_at.is_none() {
            world.settled_at = Some(world.now);
        }
        let Some(settled) = world.settled_at else { continue };
        let served = (0..world.slots.len()).all(|slot| {
            [true, false].iter().all(|w| world.clients.served.get(&(slot, *w)).is_some_and(|at| *at > settled))
        });
        if served {
            break;
        }
    }
    let served = world.settled_at.is_some() && world.now < calm_at + SETTLE_MAX;
    if !served && world.truth.breaches.is_empty() {
        if quorum_is_lost(world) {
            world.count("quorum lost for good");
            return true;
        }
        let text = describe(world);
        world.truth.breach(format!("not settled {SETTLE_MAX} ms after the last fault: {text}"));
        return false;
    }
    while world.asked < world.scenario.least.0 && world.truth.breaches.is_empty() && world.step() {}
    // No more requests; what is under way ends.
    world.clients.stopped = true;
    let end = world.now + QUIET_MAX;
    let (mut is_quiet, mut look_at) = (false, world.now);
    while world.now < end && !is_quiet && world.truth.breaches.is_empty() && world.step() {
        if world.now >= look_at {
            look_at = world.now + 20;
            is_quiet = world.clients.idle() && quiet(world) && world.is_settled();
        }
    }
    if !is_quiet && world.truth.breaches.is_empty() {
        let (shown, uploaded) = (world.truth.entries.len(), world.truth.objects.len());
        let text = describe(world);
        world.truth.breach(format!(
            "{QUIET_MAX} ms after the last request nodes differ, or the bucket lacks something: {shown} shown, {uploaded} in the object log: {text}"
        ));
    }
    world.finish_watches();
    false
}

fn quiet(world: &World) -> bool {
    let ends: Vec<usize> =
        world.slots.iter().filter_map(|s| s.process.as_ref()).map(|p| p.store.visible_index().0 as usize).collect();
    // What a chunk commits before any node shows it has to be shown, too.
    let shown = world.truth.entries.len();
    ends.iter().all(|end| *end == shown) && world.truth.objects.len() == shown
}

/// R12: fewer voters than an election needs still have the database that the manifest names.
fn quorum_is_lost(world: &World) -> bool {
    let Some(manifest) = &world.bucket.manifest else { return false };
    let there = |v: &&Voter| world.incarnation(&v.node_id) == Some(v.incarnation);
    let left = manifest.voters.iter().filter(there).count();
    left < manifest.rule().election || manifest.kept.as_ref().is_some_and(|kept| !there(&kept))
}

fn describe(world: &World) -> String {
    let mut out = String::new();
    if let Some(m) = &world.bucket.manifest {
        out += &format!("manifest term {} primary {:?} voters {:?} quorum {}; ", m.term, m.primary, m.voters, m.quorum);
    }
    for (i, slot) in world.slots.iter().enumerate() {
        match &slot.process {
            Some(p) => {
                let s = p.engine.status(world.clock(i));
                out += &format!(
                    "n{i} {:?} term {} promised {} primary {:?} ready {} elector {:?}/{} visible {} end {} stopping {}; ",
                    s.role,
                    s.term,
                    s.promised,
                    s.primary.map(|(_, p)| p.node_id.to_string()),
                    s.primary_ready,
                    s.elector.map(|e| e.to_string()),
                    s.is_elector,
                    s.visible,
                    s.end,
                    s.stopping
                );
            }
            None => out += &format!("n{i} not running (booting {:?}, halted {:?}); ", slot.booting, slot.halted),
        }
    }
    out + &format!("served {:?}", world.clients.served)
}

/// Everything a client can see, the leases, and the hash over the rows that are left.
fn state_of(name: String, store: &Store, log: &[Arc<Entry>], holes: &Holes) -> NodeState {
    let request = netsy_api::etcdserverpb::RangeRequest {
        key: "\0".into(),
        range_end: "\0".into(),
        serializable: true,
        ..Default::default()
    };
    let mut leases = store.leases();
    leases.sort_unstable();
    let rows = disk::rows(log, holes, store.visible_index());
    let hash = HashKv::new(store, Revision(0)).map(|mut hasher| {
        hasher.rows(store, &rows);
        hasher.finish()
    });
    let state = convert::range(store, &request, &convert::Rows { log, holes });
    NodeState {
        name,
        at: format!("{}, compacted at {}", store.visible_index(), store.compact_revision()),
        digest: format!("{state:?} leases {leases:?} hash {hash:?}").into_bytes(),
    }
}

fn finish(mut world: World, lost_for_good: bool, calm_at: u64) -> Finding {
    world.truth.compare_objects();
    let mut states = vec![];
    for slot in &world.slots {
        let Some(process) = &slot.process else { continue };
        states.push(state_of(slot.id.to_string(), &process.store, &process.mem, &process.holes));
    }
    // Any node rebuilt from the bucket alone equals the others.
    if world.truth.breaches.is_empty() {
        match restored(&world) {
            Ok(state) => states.push(state),
            Err(text) => world.truth.breach(format!("the bucket cannot be restored: {text}")),
        }
        let at = states.first().map(|s| s.at.clone());
        if !lost_for_good && states.iter().any(|s| Some(&s.at) != at.as_ref()) {
            let all: Vec<String> = states.iter().map(|s| format!("{} at {}", s.name, s.at)).collect();
            world.truth.breach(format!("not all at one point: {all:?}"));
        }
    }
    let mut breaches = std::mem::take(&mut world.truth.breaches);
    if breaches.is_empty() {
        breaches.extend(check_history(&mut world, states));
    }
    Finding {
        breaches,
        ops: world.asked,
        faults: world.faults,
        counters: world.truth.counters,
        settled_ms: world.settled_at.map(|at| at.saturating_sub(calm_at)),
        manifest: world.bucket.manifest,
        steps: world.steps,
        simulated: world.now,
    }
}

fn check_history(world: &mut World, states: Vec<NodeState>) -> Option<String> {
    let log = |entries: &[Arc<Entry>]| Log::new(steps(entries.iter().flat_map(|e| convert::events(e))));
    let rules = Rules {
        units_per_second: Some(1000),
        lease_slack: 100 + world.scenario.drift_ppm * 10 / 1000,
        auto_compaction: true,
        nodes_never_go_back: false,
    };
    let watches = world.watchers.iter().flat_map(|w| w.over.iter().chain([&w.record])).cloned().collect();
    let mut history =
        History { ops: std::mem::take(&mut world.clients.ops), watches, log: log(&world.truth.entries), states, rules };
    world.truth.counters.insert("ops", history.ops.len() as u64);
    if world.trace {
        show(world, &history);
    }
    let mut reports = vec![];
    // What a recovery lost was never to be lost without one (R12): each stretch between two is held against the log
    // of its time. Watches of the whole run belong to no one log.
    let mut since = 0;
    for (entries, until) in std::mem::take(&mut world.truth.lost) {
        let part = History { ops: during(&history.ops, since, until), log: log(&entries), ..History::default() };
        reports.push(History { rules: history.rules.clone(), ..part }.check());
        since = until;
    }
    if since > 0 {
        history.watches.clear();
        history.ops = during(&history.ops, since, u64::MAX);
    }
    reports.push(history.check());
    let texts: Vec<String> = reports.iter().filter(|r| !r.is_empty()).map(|r| format!("history: {r}")).collect();
    (!texts.is_empty()).then(|| texts.join("\n"))
}

/// Operations as one sees them who knows only what was asked from `since` on and answered until `until`: of others it
/// is open whether they happened. Serializable reads may be of nodes that a recovery gave up.
fn during(ops: &[Op], since: u64, until: u64) -> Vec<Op> {
    let known = |op: &Op| op.invoked >= since && op.returned < until;
    let seen = ops.iter().filter(|op| op.invoked < until && !op.request.is_serializable());
    seen.map(|op| match known(op) || matches!(op.outcome, Outcome::Refused(_)) && op.returned < until {
        true => op.clone(),
        false => Op { outcome: Outcome::Unknown, ..op.clone() },
    })
    .collect()
}

fn show(world: &World, history: &History) {
    for entry in &world.truth.entries {
        eprintln!("ENTRY {} term {} revision {} {:?}", entry.index, entry.term, entry.revision, entry.mutations);
    }
    for op in &history.ops {
        eprintln!("OP {op}");
    }
    for state in &history.states {
        let other = history.states.iter().find(|o| o.at == state.at && o.digest != state.digest);
        if let Some(other) = other {
            let text = |d: &[u8]| String::from_utf8_lossy(d).into_owned();
            eprintln!("{}: {}\n{}: {}", state.name, text(&state.digest), other.name, text(&other.digest));
        }
    }
}

fn restored(world: &World) -> Result<NodeState, String> {
    let (entries, holes) = world.bucket.restore()?;
    for entry in &entries {
        if let Some(known) = world.truth.entries.get(entry.index.0 as usize - 1)
            && known != entry
        {
            return Err(format!("entry {} differs from what was shown", entry.index));
        }
    }
    // As a node does it: the snapshot's rows, then entries one by one.
    let mut store = disk::load(&entries, &holes, holes.partial)?;
    for entry in entries.iter().skip(holes.partial.0 as usize) {
        store.apply(entry.clone()).map_err(|e| e.to_string())?;
        store.set_visible(entry.index);
    }
    Ok(state_of("restored from the bucket".into(), &store, &entries, &holes))
}
