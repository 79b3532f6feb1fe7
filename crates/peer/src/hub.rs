//! Which connections there are, by node.

use crate::config::PeerConfig;
use crate::error::Lost;
use crate::handler::{Direction, Handler, LocalNode, PeerEvent};
use crate::link::Link;
use crate::tls::PeerTls;
use netsy_api::ids::NodeId;
use parking_lot::{Mutex, RwLock};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::{Notify, watch};

/// Nodes that may be known by name. Far more than a cluster has: against names that are made up.
const SLOTS_MAX: usize = 4096;

/// What all connections of a node share.
pub(crate) struct Hub {
    pub(crate) local: LocalNode,
    pub(crate) config: PeerConfig,
    pub(crate) handler: Arc<dyn Handler>,
    pub(crate) tls: Option<PeerTls>,
    slots: RwLock<HashMap<NodeId, Arc<Slot>>>,
    next_link: AtomicU64,
    /// The reason to give to others, once this node stops.
    pub(crate) stopping: watch::Sender<Option<String>>,
}

/// Another node.
pub(crate) struct Slot {
    pub(crate) node_id: NodeId,
    links: Mutex<Links>,
    /// Where it is reached; None: it is not called, but may call.
    pub(crate) address: watch::Sender<Option<String>>,
    /// A task keeps a connection to it.
    pub(crate) kept: Mutex<bool>,
    /// Ends a pause between attempts to connect.
    pub(crate) nudge: Notify,
}

#[derive(Default)]
struct Links {
    outgoing: Option<Arc<Link>>,
    incoming: Option<Arc<Link>>,
}

impl Links {
    fn of(&mut self, direction: Direction) -> &mut Option<Arc<Link>> {
        match direction {
            Direction::Outgoing => &mut self.outgoing,
            Direction::Incoming => &mut self.incoming,
        }
    }

    fn all(&self) -> impl Iterator<Item = &Arc<Link>> {
        self.outgoing.iter().chain(&self.incoming)
    }
}

impl Slot {
    fn new(node_id: NodeId) -> Arc<Self> {
        Arc::new(Self {
            node_id,
            links: Mutex::new(Links::default()),
            address: watch::channel(None).0,
            kept: Mutex::new(false),
            nudge: Notify::new(),
        })
    }

    /// The connection this node asks over.
    pub(crate) fn outgoing(&self) -> Option<Arc<Link>> {
        self.links.lock().outgoing.clone()
    }

    /// Any connection, the outgoing one first.
    pub(crate) fn any(&self) -> Option<Arc<Link>> {
        self.links.lock().all().next().cloned()
    }

    fn all(&self) -> Vec<Arc<Link>> {
        self.links.lock().all().cloned().collect()
    }
}

impl Hub {
    pub(crate) fn new(
        config: PeerConfig,
        local: LocalNode,
        tls: Option<PeerTls>,
        handler: Arc<dyn Handler>,
    ) -> Arc<Self> {
        Arc::new(Self {
            local,
            config,
            handler,
            tls,
            slots: RwLock::new(HashMap::new()),
            next_link: AtomicU64::new(1),
            stopping: watch::channel(None).0,
        })
    }

    pub(crate) fn next_link(&self) -> u64 {
        self.next_link.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn slot(&self, node_id: &NodeId) -> Option<Arc<Slot>> {
        self.slots.read().get(node_id).cloned()
    }

    pub(crate) fn slots(&self) -> Vec<Arc<Slot>> {
        self.slots.read().values().cloned().collect()
    }

    /// The node's slot, made if there is none. It stays for good, so that who holds it need not look again.
    /// None: there are too many.
    pub(crate) fn slot_or_new(&self, node_id: &NodeId) -> Option<Arc<Slot>> {
        if let Some(slot) = self.slot(node_id) {
            return Some(slot);
        }
        let mut slots = self.slots.write();
        if slots.len() >= SLOTS_MAX && !slots.contains_key(node_id) {
            return None;
        }
        Some(slots.entry(node_id.clone()).or_insert_with(|| Slot::new(node_id.clone())).clone())
    }

    /// A connection can be used.
    pub(crate) fn up(&self, slot: &Slot, link: &Arc<Link>) {
        link.tasks.greeted();
        let older = slot.links.lock().of(link.direction).replace(link.clone());
        if let Some(older) = older {
            older.tasks.end(Lost::Superseded);
        }
        slot.nudge.notify_one();
        self.handler.event(PeerEvent::Up { remote: link.remote.clone(), direction: link.direction });
        // One that came up while all others were being closed.
        if let Some(reason) = self.stopping.borrow().clone() {
            link.tasks.end(Lost::Closed(reason.into()));
        }
    }

    /// It is gone.
    pub(crate) fn down(&self, link: &Arc<Link>, lost: Lost) {
        link.close(&lost);
        let last = self.slot(&link.remote.node_id).is_none_or(|slot| {
            let mut links = slot.links.lock();
            let place = links.of(link.direction);
            if place.as_ref().is_some_and(|current| current.id == link.id) {
                *place = None;
            }
            !links.all().any(|other| other.remote.session == link.remote.session)
        });
        self.handler.event(PeerEvent::Down { remote: link.remote.clone(), direction: link.direction, lost, last });
    }

    /// Says goodbye on all connections.
    pub(crate) fn stop(&self, reason: &str) {
        self.stopping.send_replace(Some(reason.to_owned()));
        for link in self.slots().iter().flat_map(|slot| slot.all()) {
            link.tasks.end(Lost::Closed(reason.to_owned().into()));
        }
    }
}
