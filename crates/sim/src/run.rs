//! One run: from a scenario to what is wrong with it.

use crate::convert;
use crate::process::new_store;
use crate::scenario::Scenario;
use crate::world::World;
use netsy_history::{History, Log, NodeState, Rules, steps};
use netsy_mvcc::Store;
use netsy_protocol::mutant::Mutant;
use std::collections::BTreeMap;

/// A cluster settles within this many milliseconds once faults are over.
pub const SETTLE_MAX: u64 = 30_000;

/// What came of a run.
#[derive(Debug, Default)]
pub struct Finding {
    pub breaches: Vec<String>,
    pub counters: BTreeMap<&'static str, u64>,
    pub ops: usize,
    pub settled_ms: Option<u64>,
    pub steps: u64,
    pub simulated: u64,
}

/// Runs a scenario to its end and checks everything.
pub fn run(scenario: Scenario, mutant: Option<Mutant>, trace: bool) -> Finding {
    let calm_at = scenario.calm_at;
    let mut world = World::new(scenario, mutant, trace);
    while world.now < calm_at && world.truth.breaches.is_empty() {
        if !world.step() {
            break;
        }
    }
    let mut lost_for_good = false;
    if world.truth.breaches.is_empty() {
        world.calm_down();
        lost_for_good = settle(&mut world, calm_at);
    }
    finish(world, lost_for_good, calm_at)
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
    // No more requests; what is under way ends.
    world.clients.stopped = true;
    let end = world.now + 9_000;
    while world.now < end && world.truth.breaches.is_empty() && world.step() {
        if world.clients.idle() && world.is_settled() && quiet(world) {
            break;
        }
    }
    world.finish_watches();
    false
}

fn quiet(world: &World) -> bool {
    let ends: Vec<usize> =
        world.slots.iter().filter_map(|s| s.process.as_ref()).map(|p| p.store.visible_index().0 as usize).collect();
    let uploaded = world.truth.objects.len();
    ends.iter().all(|end| *end == world.truth.entries.len()) && uploaded >= world.truth.entries.len()
}

/// R12: fewer voters than an election needs still have the database that the manifest names.
fn quorum_is_lost(world: &World) -> bool {
    let Some(manifest) = &world.bucket.manifest else { return false };
    let left = manifest.voters.iter().filter(|v| world.incarnation(&v.node_id) == Some(v.incarnation)).count();
    left < manifest.rule().election
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

fn digest(store: &Store) -> String {
    // Everything a client can see, and the leases.
    let request = netsy_api::etcdserverpb::RangeRequest {
        key: "\0".into(),
        range_end: "\0".into(),
        serializable: true,
        ..Default::default()
    };
    let mut leases = store.leases();
    leases.sort_unstable();
    format!("{:?} leases {leases:?}", convert::range(store, &request))
}

fn finish(mut world: World, lost_for_good: bool, calm_at: u64) -> Finding {
    world.truth.compare_objects();
    let mut states = vec![];
    for slot in &world.slots {
        let Some(process) = &slot.process else { continue };
        states.push(NodeState {
            name: slot.id.to_string(),
            at: process.store.visible_index().to_string(),
            digest: digest(&process.store).into_bytes(),
        });
    }
    // Any node rebuilt from the bucket alone equals the others.
    if world.truth.breaches.is_empty() {
        match restored(&world) {
            Ok(store) => states.push(NodeState {
                name: "restored from the bucket".into(),
                at: store.visible_index().to_string(),
                digest: digest(&store).into_bytes(),
            }),
            Err(text) => world.truth.breach(format!("the bucket cannot be restored: {text}")),
        }
    }
    let mut breaches = std::mem::take(&mut world.truth.breaches);
    if breaches.is_empty() {
        let events = world.truth.entries.iter().flat_map(|e| convert::events(e));
        let history = History {
            ops: std::mem::take(&mut world.clients.ops),
            watches: world.watchers.iter().flat_map(|w| w.over.iter().chain([&w.record])).cloned().collect(),
            log: Log::new(steps(events)),
            states,
            rules: Rules {
                units_per_second: Some(1000),
                lease_slack: 100 + world.scenario.drift_ppm * 10 / 1000,
                auto_compaction: true,
                nodes_never_go_back: false,
            },
        };
        world.truth.counters.insert("ops", history.ops.len() as u64);
        if world.trace {
            for entry in &world.truth.entries {
                eprintln!(
                    "ENTRY {} term {} revision {} {:?}",
                    entry.index, entry.term, entry.revision, entry.mutations
                );
            }
            for op in &history.ops {
                eprintln!("OP {op}");
            }
        }
        for state in &history.states {
            let other = history.states.iter().find(|o| o.at == state.at && o.digest != state.digest);
            if let (Some(other), true) = (other, world.trace) {
                let text = |d: &[u8]| String::from_utf8_lossy(d).into_owned();
                eprintln!("{}: {}\n{}: {}", state.name, text(&state.digest), other.name, text(&other.digest));
            }
        }
        let report = history.check();
        if !report.is_empty() {
            breaches.push(format!("history: {report}"));
        }
    }
    let _ = lost_for_good;
    Finding {
        breaches,
        ops: world.truth.counters.get("ops").copied().unwrap_or(0) as usize,
        counters: world.truth.counters,
        settled_ms: world.settled_at.map(|at| at.saturating_sub(calm_at)),
        steps: world.steps,
        simulated: world.now,
    }
}

fn restored(world: &World) -> Result<Store, String> {
    let entries = world.bucket.restore()?;
    let mut store = new_store();
    for entry in entries {
        let index = entry.index;
        if let Some(known) = world.truth.entries.get(index.0 as usize - 1)
            && *known != entry
        {
            return Err(format!("entry {index} differs from what was shown"));
        }
        store.apply(entry).map_err(|e| e.to_string())?;
        store.set_visible(index);
    }
    Ok(store)
}
