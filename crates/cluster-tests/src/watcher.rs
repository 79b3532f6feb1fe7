//! Watchers that go on, at the same node or another, from where their stream broke.

use crate::cluster::connect;
use crate::record::Shared;
use bytes::Bytes;
use netsy_api::etcdserverpb as pb;
use netsy_api::etcdserverpb::watch_request::RequestUnion;
use netsy_e2e::random::Random;
use netsy_e2e::{WatchStream, ops};
use netsy_history::{Told, WatchMessage, WatchRecord, WatchSession};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

/// How often the server is asked how far it has got.
const ASK_EVERY: Duration = Duration::from_millis(300);
/// A stream that is silent for so long is given up.
const SILENT_MAX: Duration = Duration::from_secs(4);
/// Between two tries to open one.
const AGAIN_AFTER: Duration = Duration::from_millis(150);
/// A roaming watcher stays about so long at one node.
const STAY_MS: u64 = 3_000;

/// How a watcher works.
pub struct Watcher {
    shared: Arc<Shared>,
    /// The only node, or any.
    home: Option<usize>,
    prefix: Vec<u8>,
    random: Random,
    /// Everything up to here has been told.
    reached: Arc<AtomicI64>,
    records: Vec<WatchRecord>,
    name: String,
}

impl Watcher {
    /// Of everything, at one node.
    pub fn of_node(shared: Arc<Shared>, node: usize, random: Random) -> Self {
        let name = format!("watcher of everything at n{}", node + 1);
        Self::new(shared, Some(node), Vec::new(), random, name)
    }

    /// Of some keys, at one node after the other.
    pub fn roaming(shared: Arc<Shared>, prefix: &str, random: Random) -> Self {
        let name = format!("roaming watcher of {prefix:?}");
        Self::new(shared, None, prefix.as_bytes().to_vec(), random, name)
    }

    fn new(shared: Arc<Shared>, home: Option<usize>, prefix: Vec<u8>, random: Random, name: String) -> Self {
        let record = WatchRecord { name: name.clone(), sessions: Vec::new(), whole_to: None };
        Self { shared, home, prefix, random, reached: Arc::new(AtomicI64::new(1)), records: vec![record], name }
    }

    /// How far it has got.
    pub fn reached(&self) -> Arc<AtomicI64> {
        Arc::clone(&self.reached)
    }

    /// Watches until everybody is told to stop and `last` is reached (0: not known yet), or `give_up` is.
    pub async fn run(mut self, last: Arc<AtomicI64>) -> Vec<WatchRecord> {
        loop {
            let end = last.load(Ordering::SeqCst);
            if end < 0 || end > 0 && self.reached.load(Ordering::SeqCst) >= end {
                break;
            }
            let node = self.home.unwrap_or_else(|| self.random.below(self.shared.nodes.len() as u64) as usize);
            self.session(node, &last).await;
            tokio::time::sleep(AGAIN_AFTER).await;
        }
        self.records
    }

    async fn session(&mut self, node: usize, last: &AtomicI64) {
        let Ok(client) = connect(self.shared.nodes[node].address).await else { return };
        let mut stream = client.watch().await;
        let all = self.prefix.is_empty();
        let watched = if all { ops::watch_all() } else { ops::watch_prefix(self.prefix.clone()) };
        let start_revision = self.reached.load(Ordering::SeqCst) + 1;
        let prev_kv = all || self.random.chance(50);
        let request = pb::WatchCreateRequest { start_revision, prev_kv, progress_notify: true, ..watched };
        if stream.try_send(RequestUnion::CreateRequest(request.clone())).await.is_none() {
            return;
        }
        let mut session = WatchSession { node: node as u32 + 1, request, messages: Vec::new() };
        let leave_at = Duration::from_millis(STAY_MS / 2 + self.random.below(STAY_MS));
        let mut compacted = None;
        self.listen(&mut stream, &mut session, last, leave_at, &mut compacted).await;
        if !session.messages.is_empty()
            && let Some(record) = self.records.last_mut()
        {
            record.sessions.push(session);
        }
        if let Some(revision) = compacted {
            // What was compacted is lost to this watcher: another life begins there.
            self.records.push(WatchRecord { name: self.name.clone(), sessions: Vec::new(), whole_to: None });
            self.reached.store(revision - 1, Ordering::SeqCst);
        }
    }

    async fn listen(
        &mut self,
        stream: &mut WatchStream,
        session: &mut WatchSession,
        last: &AtomicI64,
        leave_at: Duration,
        compacted: &mut Option<i64>,
    ) {
        let start = Instant::now();
        let mut heard = Instant::now();
        // An answer in several parts counts when its last one is there.
        let mut parts = false;
        loop {
            let end = last.load(Ordering::SeqCst);
            let done = end < 0 || end > 0 && self.reached.load(Ordering::SeqCst) >= end;
            let roams = self.home.is_none() && start.elapsed() > leave_at && end == 0;
            if done || roams || heard.elapsed() > SILENT_MAX {
                return;
            }
            match tokio::time::timeout(ASK_EVERY, stream.try_next()).await {
                Err(_) => {
                    let progress = RequestUnion::ProgressRequest(pb::WatchProgressRequest {});
                    if tokio::time::timeout(SILENT_MAX, stream.try_send(progress)).await.ok().flatten().is_none() {
                        return;
                    }
                }
                Ok(Ok(Some(answer))) => {
                    heard = Instant::now();
                    let message = self.message(answer);
                    if let Told::Cancelled { compact_revision, .. } = message.told {
                        *compacted = (compact_revision > 0).then_some(compact_revision);
                        session.messages.push(message);
                        return;
                    }
                    parts = matches!(message.told, Told::Events { fragment: true, .. });
                    if !parts {
                        self.follow(&message);
                    }
                    session.messages.push(message);
                }
                Ok(_) => {
                    // Parts whose end never came were not told.
                    while parts
                        && matches!(
                            session.messages.last(),
                            Some(WatchMessage { told: Told::Events { fragment: true, .. }, .. })
                        )
                    {
                        session.messages.pop();
                    }
                    return;
                }
            }
        }
    }

    fn message(&self, answer: pb::WatchResponse) -> WatchMessage {
        let revision = answer.header.as_ref().map_or(0, |header| header.revision);
        let told = if answer.canceled {
            Told::Cancelled { compact_revision: answer.compact_revision, reason: answer.cancel_reason }
        } else if answer.created {
            Told::Created
        } else if answer.events.is_empty() {
            Told::Progress
        } else {
            Told::Events { events: answer.events, fragment: answer.fragment }
        };
        WatchMessage { at: self.shared.now(), revision, told }
    }

    fn follow(&self, message: &WatchMessage) {
        let told = match &message.told {
            Told::Events { events, .. } => {
                events.iter().filter_map(|event| event.kv.as_ref()).map(|kv| kv.mod_revision).max().unwrap_or(0)
            }
            Told::Progress => message.revision,
            _ => return,
        };
        self.shared.revision.fetch_max(told, Ordering::SeqCst);
        self.reached.fetch_max(told, Ordering::SeqCst);
    }
}

/// Not a prefix of anything: the range of all keys.
pub fn is_of_everything(request: &pb::WatchCreateRequest) -> bool {
    request.key == Bytes::from_static(ops::OPEN) && request.range_end == Bytes::from_static(ops::OPEN)
}
