//! A run as data: nodes, settings, weather, faults, clients.

use crate::rng::Rng;
use netsy_history::Request;
use netsy_protocol::config::Settings;

/// Every run of a seed has at least so many operations, and so many faults that did something.
pub const OPS_MIN: u64 = 1_000;
/// See above.
pub const FAULTS_MIN: u64 = 20;
/// A run is made longer by this at most, in milliseconds, to come to that.
pub const EXTENSION_MAX: u64 = 300_000;

/// How a crashed node comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskFate {
    /// With its disk.
    Kept,
    /// Without.
    Wiped,
    /// With a copy of it that was made earlier.
    Old,
}

/// Something that goes wrong, or is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// kill -9; starts again later.
    Crash { node: usize, down: u64, disk: DiskFate },
    /// Whoever is Primary.
    CrashPrimary { down: u64, disk: DiskFate },
    /// Whoever is Elector.
    CrashElector { down: u64 },
    /// SIGSTOP, SIGCONT.
    Pause { node: usize, length: u64 },
    /// Whoever is Primary.
    PausePrimary { length: u64 },
    /// A node hears nobody and nobody hears it.
    Isolate { node: usize, length: u64 },
    /// Messages from one to another are lost.
    Cut { from: usize, to: usize, length: u64 },
    /// A node does not reach object storage.
    CutStore { node: usize, length: u64 },
    /// Whoever is Primary does not.
    CutStoreOfPrimary { length: u64 },
    /// Nobody reaches it.
    StoreDown { length: u64 },
    /// A disk's syncs take very long.
    SlowDisk { node: usize, length: u64 },
    /// A disk takes nothing: for want of space, as its node sees.
    FullDisk { node: usize, length: u64 },
    /// SIGTERM; starts again later.
    Stop { node: usize, down: u64 },
    /// SIGTERM to all at once, or nearly; each starts again later.
    StopAll { down: u64 },
    /// An operator moves the Primary.
    Move,
    /// To this node.
    MoveTo { node: usize },
    /// An operator takes a node out, which is to be one that is not running.
    Remove { node: usize },
    /// An operator changes `quorum`.
    SetQuorum { quorum: i32 },
    /// An operator changes `copies_min`.
    SetCopies { copies: usize },
    /// A copy of a disk is made.
    Backup { node: usize },
    /// A snapshot is written and chunks are deleted.
    Snapshot { node: usize },
    /// A run of chunks becomes a segment, and those chunks are deleted.
    Fold { slow: bool },
    /// Every chunk before the newest snapshot that may be deleted is.
    CleanUp { slow: bool },
    /// Entries before the newest snapshot are at hand on no node any more.
    ForgetEntries,
    /// An operator gives up every voter that is not running, or whose disk is another one by now.
    Recover,
    /// The disk of a node that is not running is gone.
    Wipe { node: usize },
    /// A node's clock jumps by this much (never back).
    Clock { node: usize, by: u64 },
    /// What a node creates in the object log in this time is there as ever, and is answered later by so much. In scripts.
    LateAnswers { node: usize, length: u64, by: u64 },
}

/// How calls, messages and disks behave.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    /// Per mille of messages that are lost, doubled, very late.
    pub lost: u64,
    pub doubled: u64,
    pub late: u64,
    /// Per mille of store calls that end without an answer, unlanded or landed; that land long after.
    pub store_lost: u64,
    pub store_unanswered: u64,
    pub store_late: u64,
    /// Milliseconds that a store call takes.
    pub store_ms: (u64, u64),
    /// Milliseconds that a sync takes.
    pub sync_ms: (u64, u64),
    /// Per mille of streams' frames that break the stream.
    pub breaks: u64,
    /// Per mille of appends that a connection takes long for.
    pub slow_streams: u64,
    /// Milliseconds that a replica's state takes to come to what it may show; 0: none, it is shown at once.
    pub show_ms: (u64, u64),
}

impl Weather {
    /// Nothing goes wrong.
    pub const FAIR: Weather = Weather {
        lost: 0,
        doubled: 0,
        late: 0,
        store_lost: 0,
        store_unanswered: 0,
        store_late: 0,
        store_ms: (5, 40),
        sync_ms: (1, 6),
        breaks: 0,
        slow_streams: 0,
        show_ms: (0, 0),
    };
}

/// A run.
#[derive(Clone, Debug)]
pub struct Scenario {
    pub seed: u64,
    pub nodes: usize,
    /// Nodes that start at first; the others come by `Crash` with `down`.
    pub started: usize,
    pub settings: Settings,
    pub weather: Weather,
    /// When, ascending.
    pub faults: Vec<(u64, Fault)>,
    pub clients: usize,
    /// Clients begin then.
    pub clients_from: u64,
    /// Requests that are written down: when, through which node.
    pub asks: Vec<(u64, usize, Request)>,
    pub watchers: usize,
    /// Pause between a client's operations, at most.
    pub think: u64,
    pub keys: u64,
    /// Clock rates differ by up to this many parts in a million.
    pub drift_ppm: u64,
    /// Faults stop here, once there were enough of them and of operations.
    pub calm_at: u64,
    /// At least so many operations and faults before that.
    pub least: (u64, u64),
    pub client_compactions: bool,
}

impl Scenario {
    /// Nothing but what is written down: three nodes in fair weather.
    pub fn scripted(seed: u64, nodes: usize, quorum: i32, calm_at: u64, faults: &[(u64, Fault)]) -> Self {
        let settings = Settings { quorum, leader_timeout: 5_000, drain_timeout: 8_000, ..Settings::default() };
        Self {
            seed,
            nodes,
            started: nodes,
            settings,
            weather: Weather::FAIR,
            faults: faults.to_vec(),
            clients: 4,
            clients_from: 0,
            asks: vec![],
            watchers: 1,
            think: 60,
            keys: 8,
            drift_ppm: 0,
            calm_at,
            least: (0, 0),
            client_compactions: false,
        }
    }

    /// What a seed stands for.
    pub fn of_seed(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let nodes = *rng.pick(&[3, 3, 3, 3, 5, 5, 1, 2, 4]).unwrap_or(&3);
        let quorum = *rng.pick(&[-1, -1, -1, -1, 0, 0, 1, 2]).unwrap_or(&-1);
        let calm_at = rng.range(25_000, 45_000);
        let read_lease = *rng.pick(&[0, 2_000, 2_000, 5_000]).unwrap_or(&2_000);
        let settings = Settings {
            quorum,
            copies_min: if rng.chance(200) { 1 } else { 2 },
            voters_max: if rng.chance(200) { 3 } else { 5 },
            read_lease,
            deregistration_timeout: *rng.pick(&[0, 5_000, 15_000, 180_000]).unwrap_or(&180_000),
            leader_timeout: 5_000,
            drain_timeout: 8_000,
            quorum_timeout: *rng.pick(&[100, 500, 500]).unwrap_or(&500),
            ..Settings::default()
        };
        let bad = rng.below(4);
        let scale = |rng: &mut Rng, most: u64| if bad == 0 { 0 } else { rng.below(most * bad / 3 + 1) };
        let weather = Weather {
            lost: scale(&mut rng, 30),
            doubled: scale(&mut rng, 30),
            late: scale(&mut rng, 20),
            store_lost: scale(&mut rng, 60),
            store_unanswered: scale(&mut rng, 60),
            store_late: scale(&mut rng, 60),
            store_ms: *rng.pick(&[(2, 10), (5, 40), (20, 200)]).unwrap_or(&(5, 40)),
            sync_ms: *rng.pick(&[(1, 3), (1, 10), (2, 60)]).unwrap_or(&(1, 10)),
            breaks: scale(&mut rng, 5),
            slow_streams: if rng.chance(250) { rng.range(1, 300) } else { 0 },
            show_ms: (0, 0),
        };
        let mut faults = vec![];
        let wipes = rng.chance(300);
        let stops = rng.chance(300);
        let recovers = rng.chance(150);
        let mut at = rng.range(1_000, 4_000);
        // A node or two have to be left alone a little, or they never serve.
        let gap = rng.range(250, 1_000) * if nodes < 3 { 2 } else { 1 };
        // Some are to spare: a run in which little was done goes on, with fewer of them.
        while at < calm_at + EXTENSION_MAX {
            let what = if recovers && rng.chance(60) { Fault::Recover } else { fault(&mut rng, nodes, wipes, stops) };
            faults.push((at, what));
            at += rng.range(1, gap * if at < calm_at { 2 } else { 6 });
        }
        Self {
            seed,
            nodes,
            started: nodes,
            settings,
            weather,
            faults,
            clients: rng.range(8, 14) as usize,
            clients_from: 0,
            asks: vec![],
            watchers: rng.range(1, 3) as usize,
            think: *rng.pick(&[20, 50, 200]).unwrap_or(&50),
            keys: *rng.pick(&[3, 8, 30]).unwrap_or(&8),
            drift_ppm: *rng.pick(&[0, 500, 4_000]).unwrap_or(&0),
            calm_at,
            least: (OPS_MIN, FAULTS_MIN),
            client_compactions: rng.chance(300),
        }
    }
}

fn fault(rng: &mut Rng, nodes: usize, wipes: bool, stops: bool) -> Fault {
    let node = rng.below(nodes as u64) as usize;
    let other = rng.below(nodes as u64) as usize;
    let down = rng.range(20, 4_000);
    let length = rng.range(50, 5_000);
    let disk = match rng.below(10) {
        0 | 1 if wipes => DiskFate::Wiped,
        2 if wipes => DiskFate::Old,
        _ => DiskFate::Kept,
    };
    match rng.below(41) {
        0..=2 => Fault::Crash { node, down, disk },
        3..=5 => Fault::CrashPrimary { down, disk },
        6 => Fault::CrashElector { down },
        7 => Fault::Pause { node, length },
        8..=10 => Fault::PausePrimary { length },
        11 | 12 => Fault::Isolate { node, length },
        13..=15 => Fault::Cut { from: node, to: other, length },
        16 => Fault::CutStore { node, length },
        17 | 18 => Fault::CutStoreOfPrimary { length },
        19 => Fault::StoreDown { length: length / 2 },
        20 => Fault::SlowDisk { node, length },
        21 if stops => Fault::Stop { node, down },
        22 if stops => Fault::StopAll { down },
        21 | 22 => Fault::Move,
        23 => Fault::MoveTo { node },
        24 => Fault::SetQuorum { quorum: *rng.pick(&[-1, 0, 1, 2]).unwrap_or(&-1) },
        25 => Fault::SetCopies { copies: rng.range(1, 2) as usize },
        26 => Fault::Backup { node },
        27 | 28 => Fault::Snapshot { node },
        29..=31 => Fault::CleanUp { slow: rng.chance(300) },
        32 => Fault::ForgetEntries,
        33..=35 => Fault::Fold { slow: rng.chance(300) },
        36 => Fault::Remove { node },
        38 => Fault::FullDisk { node, length },
        37 if nodes > 2 => Fault::Crash { node, down: down * 5, disk },
        _ => Fault::Clock { node, by: length },
    }
}
