//! Proof that this Primary may answer linearizable reads (R9), shared by all reads that wait for one.

use crate::clock::boot_millis;
use crate::error::{NodeError, Unavailable};
use crate::manifest_store::ManifestStore;
use netsy_api::ids::{Session, Term};
use netsy_protocol::read::{ReadLease, ReadProof};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio::sync::oneshot;

/// How a read was let in; asked again after the state was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ticket {
    /// The Primary is the whole commit quorum.
    Own,
    /// A manifest read that started after the read arrived showed our term: settled for good.
    Confirmed,
    /// Under the read lease, which must still hold once the state was read.
    Lease,
}

/// One per Primary and term.
pub(crate) struct Confirmer {
    manifest: Arc<ManifestStore>,
    term: Term,
    session: Session,
    proof: ReadProof,
    lease: Mutex<ReadLease>,
    state: Mutex<Waiters>,
    deposed: AtomicBool,
    /// Manifest reads made, for metrics.
    pub(crate) manifest_reads: AtomicU64,
}

#[derive(Default)]
struct Waiters {
    running: bool,
    /// Reads that arrived after the running round was sent: the next round is theirs.
    next: Vec<oneshot::Sender<Result<(), NodeError>>>,
}

impl Confirmer {
    pub(crate) fn new(
        manifest: Arc<ManifestStore>,
        term: Term,
        session: Session,
        proof: ReadProof,
        lease_ms: u64,
    ) -> Arc<Self> {
        Arc::new(Self {
            manifest,
            term,
            session,
            proof,
            lease: Mutex::new(ReadLease::new(lease_ms)),
            state: Mutex::default(),
            deposed: AtomicBool::new(false),
            manifest_reads: AtomicU64::new(0),
        })
    }

    /// Lets a read in; waits for a manifest read only where neither a lease nor the own vote will do.
    pub(crate) async fn enter(self: &Arc<Self>) -> Result<Ticket, NodeError> {
        if self.deposed.load(Ordering::Acquire) {
            return Err(Unavailable::LeaderChanged.into());
        }
        match self.proof {
            ReadProof::Own => Ok(Ticket::Own),
            // A cluster of one has no one to ask; the manifest is proof whatever the quorum (R9 ii).
            ReadProof::Manifest | ReadProof::Round(_) => {
                let (holds, renew) = {
                    let lease = self.lease.lock();
                    let now = boot_millis();
                    (lease.holds(now), lease.wants_renewal(now))
                };
                if holds {
                    if renew {
                        self.ask(None);
                    }
                    return Ok(Ticket::Lease);
                }
                let (tx, rx) = oneshot::channel();
                self.ask(Some(tx));
                rx.await.map_err(|_| NodeError::from(Unavailable::Stopped))??;
                Ok(Ticket::Confirmed)
            }
        }
    }

    /// Whether what was read after [`enter`](Self::enter) may be answered; if not, enter again.
    pub(crate) fn leave(&self, ticket: Ticket) -> bool {
        match ticket {
            Ticket::Own => !self.deposed.load(Ordering::Acquire),
            Ticket::Confirmed => true,
            Ticket::Lease => self.lease.lock().holds(boot_millis()),
        }
    }

    /// A higher term was seen: nothing is confirmed any more.
    pub(crate) fn depose(&self) {
        self.deposed.store(true, Ordering::Release);
        self.lease.lock().ended();
    }

    fn ask(self: &Arc<Self>, waiter: Option<oneshot::Sender<Result<(), NodeError>>>) {
        let mut state = self.state.lock();
        let wanted = waiter.is_some();
        state.next.extend(waiter);
        if state.running {
            return; // A renewal without a waiter is content with the round under way.
        }
        state.running = true;
        drop(state);
        let this = self.clone();
        tokio::spawn(async move { this.rounds(wanted).await });
    }

    async fn rounds(self: Arc<Self>, mut wanted: bool) {
        loop {
            let waiters = {
                let mut state = self.state.lock();
                if state.next.is_empty() && wanted {
                    state.running = false;
                    return;
                }
                std::mem::take(&mut state.next)
            };
            let result = self.read_manifest().await;
            for waiter in waiters {
                // The reader may have given up: then nobody is there to be told.
                let _ = waiter.send(result.clone());
            }
            wanted = true;
        }
    }

    async fn read_manifest(&self) -> Result<(), NodeError> {
        let sent = boot_millis();
        self.manifest_reads.fetch_add(1, Ordering::Relaxed);
        let shown = self.manifest.read().await.map_err(|e| NodeError::from(Unavailable::Storage(e.to_string())))?;
        let ours = shown.as_ref().is_some_and(|m| m.term == self.term && m.primary.session == self.session);
        if ours && !self.deposed.load(Ordering::Acquire) {
            self.lease.lock().renewed(sent);
            Ok(())
        } else {
            self.depose();
            Err(Unavailable::LeaderChanged.into())
        }
    }
}
