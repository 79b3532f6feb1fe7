//! Looks at a server from outside: its log, its keys, its leases; and keeps watches.

use super::history::{Event, Seen, steps};
use crate::client::Client;
use crate::ops;
use netsy_api::etcdserverpb as pb;
use netsy_api::mvccpb;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Silence after which a watch that has not said everything is taken to be stuck.
const SILENT_AT_MOST: Duration = Duration::from_secs(10);
/// Keys of one page.
const PAGE_KEYS: i64 = 1000;

/// Everything at the revision of one read. `from` is the revision after the last one seen before.
pub async fn observe(client: &Client, from: i64) -> Result<Seen, String> {
    let leases = leases(client).await?;
    let head = client
        .try_get("no such key")
        .await
        .map_err(|status| format!("read: {status}"))?
        .header
        .map_or(0, |header| header.revision);
    let log = if head >= from { read_log(client, from, head).await? } else { Vec::new() };
    let state = read_state(client, head).await?;
    Ok(Seen { head, log: steps(log), state, leases })
}

async fn leases(client: &Client) -> Result<BTreeMap<i64, i64>, String> {
    let listed = client
        .lease()
        .lease_leases(pb::LeaseLeasesRequest {})
        .await
        .map_err(|status| format!("list leases: {status}"))?;
    let mut leases = BTreeMap::new();
    for lease in listed.into_inner().leases {
        let answer =
            client.time_to_live(lease.id).await.map_err(|status| format!("time to live of {}: {status}", lease.id))?;
        // Gone since it was listed.
        if answer.ttl >= 0 {
            leases.insert(lease.id, answer.granted_ttl);
        }
    }
    Ok(leases)
}

async fn read_log(client: &Client, from: i64, head: i64) -> Result<Vec<Event>, String> {
    let mut stream = client.watch().await;
    let created =
        stream.create(pb::WatchCreateRequest { start_revision: from, prev_kv: true, ..ops::watch_all() }).await;
    if created.canceled {
        return Err(format!("a watch from revision {from} was refused: {created:?}"));
    }
    let mut events = Vec::new();
    // What is missing after the silence, the checker will find.
    while let Some(answer) = stream.next_within(SILENT_AT_MOST).await {
        if answer.canceled {
            return Err(format!("a watch from revision {from} was canceled: {answer:?}"));
        }
        let reached = answer.events.iter().filter_map(|event| event.kv.as_ref()).any(|kv| kv.mod_revision >= head);
        events.extend(answer.events.into_iter().filter_map(event_of).filter(|event| event.kv.mod_revision <= head));
        if reached {
            break;
        }
    }
    Ok(events)
}

async fn read_state(client: &Client, revision: i64) -> Result<Vec<mvccpb::KeyValue>, String> {
    let mut state: Vec<mvccpb::KeyValue> = Vec::new();
    let mut from = ops::OPEN.to_vec();
    loop {
        let request = pb::RangeRequest { revision, limit: PAGE_KEYS, ..ops::range(from.clone(), ops::OPEN) };
        let page = client.range(request).await.map_err(|status| format!("range at revision {revision}: {status}"))?;
        let more = page.more;
        state.extend(page.kvs);
        match state.last() {
            Some(last) if more => from = [&last.key[..], b"\0"].concat(),
            _ => return Ok(state),
        }
    }
}

fn event_of(event: mvccpb::Event) -> Option<Event> {
    let deleted = event.r#type == mvccpb::event::EventType::Delete as i32;
    Some(Event { deleted, kv: event.kv?, prev: event.prev_kv })
}

/// A watch kept by a task until its stream ends.
pub struct Watching {
    told: Arc<Mutex<Told>>,
    task: tokio::task::JoinHandle<()>,
}

#[derive(Default)]
struct Told {
    answers: Vec<Vec<Event>>,
    wrong: Vec<String>,
}

impl Watching {
    /// Begins to watch.
    pub fn start(client: Client, name: String, request: pb::WatchCreateRequest) -> Self {
        let told: Arc<Mutex<Told>> = Arc::default();
        let task = tokio::spawn(watch(client, name, request, told.clone()));
        Self { told, task }
    }

    /// The answers with events until now, and what is wrong with others.
    pub fn take(&self) -> (Vec<Vec<Event>>, Vec<String>) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        (std::mem::take(&mut told.answers), std::mem::take(&mut told.wrong))
    }

    /// Looks at the answers until now.
    pub fn look<T>(&self, look: impl FnOnce(&[Vec<Event>]) -> T) -> T {
        look(&self.told.lock().unwrap_or_else(PoisonError::into_inner).answers)
    }

    /// Waits for the end of the stream; the server is gone.
    pub async fn end(mut self) -> (Vec<Vec<Event>>, Vec<String>) {
        if tokio::time::timeout(SILENT_AT_MOST, &mut self.task).await.is_err() {
            self.task.abort();
        }
        self.take()
    }
}

async fn watch(client: Client, name: String, request: pb::WatchCreateRequest, told: Arc<Mutex<Told>>) {
    let mut stream = client.watch().await;
    let create = pb::watch_request::RequestUnion::CreateRequest(request);
    if stream.try_send(create).await.is_none() {
        return;
    }
    while let Ok(Some(answer)) = stream.try_next().await {
        let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
        if answer.canceled {
            told.wrong.push(format!("{name}: canceled: {answer:?}"));
        }
        let events: Vec<Event> = answer.events.into_iter().filter_map(event_of).collect();
        if !events.is_empty() {
            told.answers.push(events);
        }
    }
}
