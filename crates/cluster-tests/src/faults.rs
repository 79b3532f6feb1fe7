//! Makes faults happen.

use crate::checks;
use crate::cluster::{Cluster, name};
use crate::net::Place;
use crate::operator;
use crate::proxy::Mode;
use crate::record::Shared;
use crate::scenario::{Fault, ServerKind};
use anyhow::{Context, Result, anyhow, bail, ensure};
use netsy_api::etcdserverpb::MoveLeaderRequest;
use netsy_e2e::random::Random;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// A hand-over.
const MOVE_WITHIN: Duration = Duration::from_secs(15);
/// How long the roles are waited for that a fault is to strike.
const ROLE_WITHIN: Duration = Duration::from_secs(20);
/// Fills a disk; larger than any `disk_mib`.
const FILLER: &str = "filler";
const FILL_BYTES: usize = 1 << 20;

/// What a run has done so far to its cluster.
pub struct Faults {
    random: Random,
    /// The nodes of the last fault.
    last: Vec<usize>,
    fillers: Vec<std::path::PathBuf>,
}

impl Faults {
    /// None yet.
    pub fn new(random: Random) -> Self {
        Self { random, last: Vec::new(), fillers: Vec::new() }
    }

    /// Makes it happen; says what it was.
    pub async fn apply(&mut self, cluster: &mut Cluster, fault: &Fault, shared: &Shared) -> Result<String> {
        let struck = match fault {
            Fault::Kill { node }
            | Fault::Stop { node, .. }
            | Fault::Start { node }
            | Fault::Pause { node }
            | Fault::Resume { node }
            | Fault::Wipe { node }
            | Fault::DiskFull { node }
            | Fault::DiskFree { node }
            | Fault::DiskSlow { node, .. }
            | Fault::Clock { node, .. }
            | Fault::Voters { node, .. }
            | Fault::Says { node, .. }
            | Fault::SaysNot { node, .. }
            | Fault::Renew { node, .. }
            | Fault::Recover { node, .. }
            | Fault::Isolate { node, .. } => self.nodes(cluster, node, &[]).await?,
            _ => Vec::new(),
        };
        match fault {
            Fault::Kill { .. } => each(&struck, |node| cluster.nodes[node].process.kill())?,
            Fault::Stop { undone, .. } => {
                // Together, as when a machine goes down.
                each(&struck, |node| cluster.nodes[node].process.terminate())?;
                for node in &struck {
                    cluster.stop(*node, *undone).await?;
                }
            }
            Fault::Start { .. } => {
                for node in &struck {
                    if !cluster.nodes[*node].process.is_running() {
                        cluster.nodes[*node].process.kill()?;
                        cluster.start(*node)?;
                    }
                }
            }
            Fault::Pause { .. } => each(&struck, |node| cluster.nodes[node].process.pause())?,
            Fault::Resume { .. } => each(&struck, |node| cluster.nodes[node].process.resume())?,
            Fault::Wipe { .. } => each(&struck, |node| cluster.wipe(node))?,
            Fault::Isolate { clients, .. } => {
                for node in &struck {
                    let others = (0..cluster.nodes.len()).filter(|other| !struck.contains(other)).map(Place::Node);
                    let mut places: Vec<Place> = others.chain([Place::Store]).collect();
                    places.extend(clients.then_some(Place::Clients));
                    for place in places {
                        cluster.net.cut(Place::Node(*node), place)?;
                        cluster.net.cut(place, Place::Node(*node))?;
                    }
                }
            }
            Fault::Cut { from, to, both } => {
                let from_nodes = self.places(cluster, from, &[]).await?;
                let to_nodes = self.places(cluster, to, &from_nodes).await?;
                for (from, to) in from_nodes.iter().flat_map(|from| to_nodes.iter().map(move |to| (*from, *to))) {
                    cluster.net.cut(from, to)?;
                    if *both {
                        cluster.net.cut(to, from)?;
                    }
                }
                return Ok(format!("{fault:?}: {from_nodes:?}, {to_nodes:?}"));
            }
            Fault::Heal => cluster.net.heal()?,
            Fault::DiskFull { .. } => {
                for node in &struck {
                    let home = cluster.nodes[*node].data.parent().context("a node's data has a folder")?.to_owned();
                    self.fillers.push(fill(&home.join(FILLER))?);
                }
            }
            Fault::DiskFree { .. } => self.free()?,
            Fault::DiskSlow { ms, .. } => each(&struck, |node| {
                let told = cluster.nodes[node].told.as_mut().context("no library is preloaded")?;
                told.set_fsync_delay(*ms)
            })?,
            Fault::Clock { seconds, .. } => each(&struck, |node| {
                let told = cluster.nodes[node].told.as_mut().context("no library is preloaded")?;
                told.set_clock_offset(*seconds)
            })?,
            Fault::StoreDown => cluster.store.set(Mode::Refuse)?,
            Fault::StoreHangs => cluster.store.set(Mode::Hang)?,
            Fault::StoreSlow { ms } => cluster.store.set(Mode::Slow(Duration::from_millis(*ms)))?,
            Fault::StoreFails { percent } => cluster.store.fail(*percent)?,
            Fault::StoreOk => cluster.store.well(),
            Fault::MovePrimary { apart } => return self.move_primary(cluster, *apart).await,
            Fault::Cure => self.cure(cluster)?,
            Fault::Rest => shared.rest.store(true, Ordering::SeqCst),
            Fault::Work => shared.rest.store(false, Ordering::SeqCst),
            Fault::Recover { lost, .. } => {
                let lost = self.nodes(cluster, lost, &[]).await?;
                let at = *struck.first().context("nobody to ask")?;
                operator::recover(cluster, at, &lost).await?;
            }
            Fault::Voters { within, .. } => checks::voters(cluster, &struck, *within).await?,
            Fault::Says { place, text, within, .. } => checks::says(cluster, &struck, place, text, *within).await?,
            Fault::SaysNot { place, text, .. } => checks::says_not(cluster, &struck, place, text).await?,
            Fault::Renew { within, .. } => cluster.renew(&struck, Duration::from_secs_f64(*within)).await?,
            Fault::Serves { within } => return checks::serves(shared, *within).await,
            Fault::Halted { seconds } => checks::halted(shared, *seconds).await?,
        }
        let names: Vec<String> = struck.iter().map(|node| name(*node)).collect();
        if !struck.is_empty() {
            self.last = struck;
        }
        Ok(format!("{fault:?} {}", names.join(" ")))
    }

    /// Puts everything right.
    pub fn cure(&mut self, cluster: &mut Cluster) -> Result<()> {
        cluster.net.heal()?;
        cluster.store.well();
        self.free()?;
        for node in 0..cluster.nodes.len() {
            let one = &mut cluster.nodes[node];
            one.process.resume()?;
            if let Some(told) = &mut one.told {
                told.set_fsync_delay(0)?;
                told.set_clock_offset(0.0)?;
            }
            if !one.process.is_running() {
                // One that has ended by itself is waited for.
                one.process.kill()?;
                cluster.start(node)?;
            }
        }
        Ok(())
    }

    fn free(&mut self) -> Result<()> {
        for filler in std::mem::take(&mut self.fillers) {
            match std::fs::remove_file(&filler) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("remove {}", filler.display()));
                }
                _ => {}
            }
        }
        Ok(())
    }

    async fn places(&mut self, cluster: &mut Cluster, who: &str, named: &[Place]) -> Result<Vec<Place>> {
        match who {
            "store" => Ok(vec![Place::Store]),
            "clients" => Ok(vec![Place::Clients]),
            who => {
                let nodes = self.nodes(cluster, who, named).await?;
                self.last.clone_from(&nodes);
                Ok(nodes.into_iter().map(Place::Node).collect())
            }
        }
    }

    /// Those that are meant.
    pub async fn nodes(&mut self, cluster: &mut Cluster, who: &str, named: &[Place]) -> Result<Vec<usize>> {
        let mut all = Vec::new();
        for who in who.split('+') {
            all.extend(self.some(cluster, who, named).await?);
        }
        all.sort_unstable();
        all.dedup();
        Ok(all)
    }

    async fn some(&mut self, cluster: &mut Cluster, who: &str, named: &[Place]) -> Result<Vec<usize>> {
        let all = 0..cluster.nodes.len();
        let mut any = |of: Vec<usize>| -> Result<Vec<usize>> {
            ensure!(!of.is_empty(), "there is no node that is {who:?}");
            Ok(vec![of[self.random.below(of.len() as u64) as usize]])
        };
        Ok(match who {
            "all" => all.collect(),
            "none" => Vec::new(),
            "last" => self.last.clone(),
            "rest" => all.filter(|node| !named.contains(&Place::Node(*node))).collect(),
            "stopped" => all.filter(|node| !cluster.nodes[*node].process.is_running()).collect(),
            "any" => {
                let running = all.filter(|node| cluster.nodes[*node].process.is_running()).collect();
                any(running)?
            }
            "primary" => vec![primary(cluster).await?],
            "replica" => {
                let primary = primary(cluster).await?;
                let others = all.filter(|node| *node != primary && cluster.nodes[*node].process.is_running()).collect();
                any(others)?
            }
            "replicas" => {
                let primary = primary(cluster).await?;
                all.filter(|node| *node != primary && cluster.nodes[*node].process.is_running()).collect()
            }
            // What is Elector and Primary in one, etcd has only together.
            "elector" if cluster.kind == ServerKind::Etcd => vec![primary(cluster).await?],
            "elector" => vec![cluster.elector().context("nobody holds the elector lock, or it cannot be read")?],
            who => {
                let number = who.strip_prefix('n').and_then(|number| number.parse::<usize>().ok());
                let number = number.filter(|number| (1..=cluster.nodes.len()).contains(number));
                vec![number.ok_or_else(|| anyhow!("{who:?} is nobody"))? - 1]
            }
        })
    }

    async fn move_primary(&mut self, cluster: &mut Cluster, apart: bool) -> Result<String> {
        let from = primary(cluster).await?;
        if apart && cluster.kind == ServerKind::Netsy && cluster.elector() != Some(from) {
            return Ok(format!("{} is Primary and not the Elector", name(from)));
        }
        let others: Vec<usize> = (0..cluster.nodes.len())
            .filter(|node| *node != from && cluster.nodes[*node].process.is_running())
            .collect();
        ensure!(!others.is_empty(), "there is no other node to be Primary");
        let to = others[self.random.below(others.len() as u64) as usize];
        // A node that started lately may not vote yet: then it is refused.
        let start = std::time::Instant::now();
        loop {
            match hand_over(cluster, from, to).await {
                Ok(()) => break,
                Err(_) if start.elapsed() < ROLE_WITHIN => tokio::time::sleep(Duration::from_millis(100)).await,
                Err(error) => return Err(error),
            }
        }
        self.last = vec![from];
        Ok(format!("MovePrimary {} to {}", name(from), name(to)))
    }
}

/// The Primary, once there is one that answers.
pub async fn primary(cluster: &Cluster) -> Result<usize> {
    let start = std::time::Instant::now();
    loop {
        if let Some(primary) = cluster.primary().await {
            return Ok(primary);
        }
        ensure!(start.elapsed() < ROLE_WITHIN, "no node says that it is Primary");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Asks the Primary to make another node Primary, by etcd's MoveLeader.
pub async fn hand_over(cluster: &Cluster, from: usize, to: usize) -> Result<()> {
    let asked = async {
        let client = crate::cluster::connect(cluster.nodes[to].view.address).await?;
        let target_id = client.status().await?.header.context("a status without a header")?.member_id;
        let client = crate::cluster::connect(cluster.nodes[from].view.address).await?;
        client.maintenance().move_leader(MoveLeaderRequest { target_id }).await?;
        anyhow::Ok(())
    };
    match tokio::time::timeout(MOVE_WITHIN, asked).await {
        Ok(done) => done.context("MoveLeader"),
        Err(_) => bail!("MoveLeader took more than {MOVE_WITHIN:?}"),
    }
}

fn each(nodes: &[usize], mut act: impl FnMut(usize) -> Result<()>) -> Result<()> {
    nodes.iter().try_for_each(|node| act(*node))
}

/// Writes until there is no room.
fn fill(path: &std::path::Path) -> Result<std::path::PathBuf> {
    use std::io::Write;
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path)?;
    let mut piece = vec![0; FILL_BYTES];
    loop {
        match file.write_all(&piece) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::StorageFull => {
                if piece.len() == 1 {
                    return Ok(path.to_owned());
                }
                piece.truncate(piece.len() / 2);
            }
            Err(error) => return Err(error).with_context(|| format!("fill {}", path.display())),
        }
    }
}
