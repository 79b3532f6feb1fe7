//! Leases, status, hashes and upkeep, as the server asks for them.

use crate::clock::boot_millis;
use crate::error::{NodeError, Unavailable};
use crate::manifest_store::random_128;
use crate::node::{Inner, Node};
use crate::primary::Primary;
use crate::shared::StateNumber;
use crate::writer::Written;
use bytes::Bytes;
use netsy_api::ids::{LeaseId, LogIndex, NodeId, Position, Revision, Term};
use netsy_api::log::AlarmKind;
use netsy_mvcc::{HashKv, Renewal, WriteRequest};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Registrations older than this are read anew for a list of members.
const MEMBERS_AGE_MAX: Duration = Duration::from_secs(1);
/// Ids offered for a lease that may choose: with 2^63 of them one is enough, more cost nothing.
const LEASE_CANDIDATES: usize = 4;
/// Pages given back in one step of a defragmentation.
const VACUUM_PAGES: u32 = 64;
/// Pause between two steps, so that writes go on.
const VACUUM_PAUSE: Duration = Duration::from_millis(2);
/// Rows and bytes read at a time for a hash.
const HASH_ROWS: usize = 4096;
const HASH_BYTES: usize = 4 << 20;

/// A lease, as LeaseTimeToLive shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseInfo {
    /// Seconds left, rounded down.
    pub ttl: i64,
    /// Seconds granted.
    pub granted_ttl: i64,
    /// Keys that hang on it, if asked for.
    pub keys: Vec<Bytes>,
}

/// A member of the cluster, as MemberList shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberInfo {
    /// etcd's member id.
    pub id: u64,
    /// The node's name.
    pub name: String,
    /// URLs for other nodes.
    pub peer_urls: Vec<String>,
    /// URLs for clients.
    pub client_urls: Vec<String>,
    /// Whether it has no vote.
    pub learner: bool,
}

/// What Status and health checks show.
#[derive(Clone, Debug)]
pub struct NodeStatus {
    /// Bytes of the local database's file.
    pub db_size: u64,
    /// Bytes of it in use.
    pub db_size_in_use: u64,
    /// `limits.db_bytes_max`.
    pub db_quota: u64,
    /// The Primary's member id; 0: none.
    pub leader_member_id: u64,
    /// Index of the newest entry known to be committed.
    pub index: LogIndex,
    /// Index up to which state is shown.
    pub applied_index: LogIndex,
    /// The term.
    pub term: Term,
    /// Active alarms, by member.
    pub alarms: Vec<(u64, AlarmKind)>,
    /// Keys in the index, deleted ones that are not yet compacted away included.
    pub keys: u64,
    /// Leases.
    pub leases: u64,
    /// Why it does not serve as it should, if so.
    pub ready: Result<(), String>,
    /// That object storage does not answer, where this node cannot work without it.
    pub storage_missed: Option<String>,
    /// R12: why there is no Primary and will be none, and what to do.
    pub quorum_lost: Option<String>,
    /// R12: how many voters the cluster waits for.
    pub missing_voters: usize,
}

/// What HashKV shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashKvResult {
    /// The hash.
    pub hash: u32,
    /// The lowest readable revision when it was taken.
    pub compact_revision: Revision,
    /// The revision it is of.
    pub hash_revision: Revision,
}

impl Node {
    /// Grants a lease; `id` 0: one is chosen.
    pub async fn lease_grant(&self, id: LeaseId, ttl_seconds: i64) -> Result<Written, NodeError> {
        let mut candidates = vec![];
        if id.0 == 0 {
            for _ in 0..LEASE_CANDIDATES {
                let random = random_128().map_err(|e| NodeError::Storage(format!("no randomness: {e}")))?;
                candidates.push(LeaseId((random as u64 >> 1) as i64));
            }
        }
        self.write(WriteRequest::LeaseGrant { id, ttl_seconds, candidates, now_ms: boot_millis() }).await
    }

    /// Gives a lease all its time again: seconds, or `None` if there is no such lease.
    pub async fn lease_keep_alive(&self, id: LeaseId) -> Result<Option<i64>, NodeError> {
        let primary = self.0.leading().ok_or(Unavailable::NotPrimary)?;
        let (renewed, depends_on) = self.0.renew(&primary, id).await?;
        // Its grant, or its end, may be on its way yet (R8).
        self.0.wait_committed(&primary, depends_on).await?;
        // After the renewal: a Primary that was deposed meanwhile renewed nothing.
        self.0.prove(&primary).await?;
        Ok(renewed)
    }

    /// A lease's time, and its keys if asked for.
    pub async fn lease_time_to_live(&self, id: LeaseId, keys: bool) -> Result<Option<LeaseInfo>, NodeError> {
        // Only the Primary keeps the time of leases: it has to be this one still when that was read.
        let primary = self.0.leading().ok_or(Unavailable::NotPrimary)?;
        let found = {
            let store = self.0.store.read();
            store.lease(id, boot_millis()).map(|info| LeaseInfo {
                ttl: info.remaining_seconds,
                granted_ttl: info.granted_seconds,
                keys: if keys { store.lease_keys(id) } else { vec![] },
            })
        };
        self.0.prove(&primary).await?;
        Ok(found)
    }

    /// All leases, those that end first first.
    pub async fn leases(&self) -> Result<Vec<LeaseId>, NodeError> {
        Ok(self.0.store.read().leases())
    }

    /// The members: nodes that are registered and did not stop, and voters in any case.
    pub async fn members(&self) -> Vec<MemberInfo> {
        let node = &self.0;
        let found = node.registrations(MEMBERS_AGE_MAX).await;
        let manifest = node.manifest_seen();
        let votes = |name: &NodeId| manifest.as_ref().is_none_or(|m| m.voters.iter().any(|v| v.node_id == *name));
        let mut members: Vec<MemberInfo> = found
            .iter()
            .filter(|r| !r.stopped || (manifest.is_some() && votes(&r.node_id)))
            .map(|r| MemberInfo {
                id: node.member_id_of(&r.node_id),
                name: r.node_id.as_str().to_string(),
                peer_urls: r.peer_urls.clone(),
                client_urls: r.client_urls.clone(),
                learner: !votes(&r.node_id),
            })
            .collect();
        if members.is_empty() {
            let me = &node.identity;
            members.push(MemberInfo {
                id: me.member_id(),
                name: me.node_id.as_str().to_string(),
                peer_urls: me.peer_urls.clone(),
                client_urls: me.client_urls.clone(),
                learner: false,
            });
        }
        members.sort_by_key(|member| member.id);
        members
    }

    /// The member with this id.
    pub async fn member(&self, id: u64) -> Option<MemberInfo> {
        self.members().await.into_iter().find(|member| member.id == id)
    }

    /// Whether this node has no vote.
    pub fn is_learner(&self) -> bool {
        let me = &self.0.config.node_id;
        self.0.manifest_seen().is_some_and(|m| !m.voters.is_empty() && !m.voters.iter().any(|v| v.node_id == *me))
    }

    /// What Status shows.
    pub fn status(&self) -> NodeStatus {
        let node = &self.0;
        let metrics = &node.metrics;
        let fault = metrics.local_fault().map(|e| format!("local database: {e}"));
        let storage_missed = node.storage_missed();
        let fault = fault.or_else(|| storage_missed.clone());
        let lost = node.driver.seen.quorum_lost();
        let fault = fault.or_else(|| lost.as_ref().map(|(text, _)| text.clone()));
        let stopping = node.is_stopping();
        let committed = node.ask_engine(|engine, _| engine.committed());
        let store = node.store.read();
        NodeStatus {
            db_size: metrics.db_bytes.load(Ordering::Relaxed),
            db_size_in_use: metrics.db_bytes_in_use.load(Ordering::Relaxed),
            db_quota: node.config.db_bytes_max,
            leader_member_id: if stopping { 0 } else { node.leader_member_id() },
            index: committed.max(store.visible_index()),
            applied_index: store.visible_index(),
            term: node.term(),
            alarms: store.alarms(),
            keys: store.key_count() as u64,
            leases: store.lease_count() as u64,
            ready: if stopping { Err("the node is stopping".into()) } else { fault.map_or(Ok(()), Err) },
            missing_voters: lost.as_ref().map_or(0, |(_, missing)| *missing),
            storage_missed,
            quorum_lost: lost.map(|(text, _)| text),
        }
    }

    /// Waits until what the compaction at `revision` let go is gone from the local database.
    pub async fn compact_wait(&self, revision: Revision) -> Result<(), NodeError> {
        let mut done = self.0.compacted.subscribe();
        done.wait_for(|done| *done >= revision).await.map_err(|_| NodeError::from(Unavailable::Stopped))?;
        Ok(())
    }

    /// Gives unused space of the local database back, in steps between which requests go on.
    pub async fn defragment(&self) -> Result<(), NodeError> {
        loop {
            let step = self.0.thread.with(|db| db.vacuum_step(VACUUM_PAGES)).await?;
            let step = step.map_err(|e| NodeError::Storage(e.to_string()))?;
            if step.freed_pages == 0 || step.left_pages == 0 {
                self.0.read_figures().await;
                return Ok(());
            }
            tokio::time::sleep(VACUUM_PAUSE).await;
        }
    }

    /// A hash of the newest state's keys; equal on nodes with equal state and equal compaction.
    pub async fn hash(&self) -> Result<u32, NodeError> {
        Ok(self.hash_kv(Revision(0)).await?.hash)
    }

    /// A hash of all keys up to `revision` (0: the newest), whatever is physically deleted by now.
    pub async fn hash_kv(&self, revision: Revision) -> Result<HashKvResult, NodeError> {
        loop {
            let (hash, state) = self.hash_kv_once(revision).await?;
            if !self.0.is_lost(state) {
                return Ok(hash);
            }
            self.0.wait_whole().await?;
        }
    }

    /// A hash, and the state that it is of, if rows and state belonged together all the time.
    async fn hash_kv_once(&self, revision: Revision) -> Result<(HashKvResult, StateNumber), NodeError> {
        let _rows_stay = self.0.rows_stay.lock().await;
        let (mut hasher, last, state) = {
            let store = self.0.store.read();
            let hasher = HashKv::new(&store, revision)?;
            (hasher, store.visible_index(), store.number())
        };
        // What is visible may still be on its way to the local database.
        self.0.wait_held_locally(last).await?;
        let (compact_revision, hash_revision) = (hasher.compact_revision(), hasher.revision());
        let (readers, store) = (self.0.readers.clone(), self.0.store.clone());
        let hashed = tokio::task::spawn_blocking(move || {
            let mut after = Position(0);
            loop {
                let rows = readers.rows_after(after, HASH_ROWS, HASH_BYTES)?;
                let Some(end) = rows.last() else {
                    return Ok::<u32, netsy_localdb::Error>(hasher.finish());
                };
                after = end.position;
                hasher.rows(&store.read(), &rows);
            }
        });
        let failed = |e: String| NodeError::Storage(e);
        let hash = hashed.await.map_err(|e| failed(e.to_string()))?.map_err(|e| failed(e.to_string()))?;
        Ok((HashKvResult { hash, compact_revision, hash_revision }, state))
    }
}

impl Inner {
    /// The Primary's member id; 0: none is known.
    pub(crate) fn leader_member_id(&self) -> u64 {
        match &self.leader.borrow().primary {
            Some(primary) => self.member_id_of(primary),
            None => 0,
        }
    }

    /// What there is to say of object storage that does not answer, if it is needed now: by a Primary whose writes it
    /// commits, and for an election. Who has the quorum's receipts, or a Primary, goes on without it. What cannot be used
    /// there does not mend itself, and is said by every node that needs it.
    fn storage_missed(&self) -> Option<String> {
        let leading = self.leading().is_some();
        let leaderless = self.leader.borrow().primary.is_none();
        let calls = &self.driver.calls;
        let wrong = calls.faults.lasts(leading || leaderless);
        let needed = if leading { self.upload_at_once() } else { leaderless };
        let silent = || calls.log.lasts().or_else(|| calls.control.lasts());
        wrong.or_else(|| if needed { silent() } else { None })
    }

    /// Gives a lease all its time again, and the entry up to which the answer depends on the log.
    async fn renew(&self, primary: &Primary, id: LeaseId) -> Result<(Option<i64>, LogIndex), NodeError> {
        let now = boot_millis();
        let (renewal, newest, newest_term) = {
            let mut store = self.store.write();
            (store.lease_renew(id, now), store.last_index(), store.last_term())
        };
        match renewal {
            Renewal::NotFound => Ok((None, newest)),
            Renewal::Expiring => {
                // Its end is under way: told once it is certain.
                self.submit(WriteRequest::LeaseExpire { id, now_ms: now }).await?;
                Ok((None, newest))
            }
            Renewal::Renewed { ttl_seconds, reset_checkpoint } => {
                // A term without entries leaves nothing in the logs that keeps a Primary of before from being elected,
                // who may have ended this lease by its own clock since.
                if reset_checkpoint || newest_term != primary.term {
                    self.submit(WriteRequest::LeaseCheckpoint(vec![(id, 0)])).await?;
                }
                Ok((Some(ttl_seconds), newest))
            }
        }
    }

    /// Waits until the own database has everything up to `index`.
    pub(crate) async fn wait_held_locally(&self, index: LogIndex) -> Result<(), NodeError> {
        let mut held = self.held_locally.subscribe();
        held.wait_for(|held| *held >= index).await.map_err(|_| NodeError::from(Unavailable::Stopped))?;
        Ok(())
    }
}
