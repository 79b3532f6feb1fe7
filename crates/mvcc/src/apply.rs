//! A replica, or a node that restores itself, takes over what the Primary decided.

use crate::effects::{Effects, MUTATIONS_MAX};
use crate::error::{ApplyError, Error};
use crate::store::Store;
use crate::types::Event;
use bytes::Bytes;
use netsy_api::ids::{Position, Revision};
use netsy_api::log::{Entry, Mutation};
use std::sync::Arc;

/// What applying an entry came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Applied {
    /// Position of its first mutation.
    pub first_position: Position,
    /// Key changes, in order.
    pub events: Vec<Event>,
}

impl Store {
    /// Makes `entry` the newest, not yet visible. Everything it says is checked against the state; an error leaves the
    /// state untouched.
    pub fn apply(&mut self, entry: Arc<Entry>) -> Result<Applied, ApplyError> {
        self.check_entry(&entry)?;
        let mut effects = Effects::new(self, entry.mutations.len());
        for mutation in &entry.mutations {
            if let Err(what) = apply_one(&mut effects, mutation) {
                effects.abort();
                return Err(ApplyError::Diverged { index: entry.index, what });
            }
        }
        let expected = effects.revision();
        if entry.revision != expected {
            effects.abort();
            return Err(ApplyError::RevisionMismatch { index: entry.index, expected, got: entry.revision });
        }
        let (term, time) = (entry.term, entry.time);
        let done = effects.commit(term, time, Some(entry));
        Ok(Applied { first_position: done.first_position, events: done.events })
    }

    fn check_entry(&self, entry: &Entry) -> Result<(), ApplyError> {
        if entry.index != self.head.index.next() {
            return Err(ApplyError::IndexGap { last: self.head.index, got: entry.index });
        }
        if entry.term < self.head.term {
            return Err(ApplyError::TermFell { index: entry.index, last: self.head.term, got: entry.term });
        }
        if entry.mutations.is_empty() || entry.mutations.len() > MUTATIONS_MAX {
            return Err(ApplyError::MutationCount { index: entry.index, mutations: entry.mutations.len() });
        }
        let changes = entry.mutations.iter().any(Mutation::is_key_change);
        let expected = if changes { self.head.revision.next() } else { self.head.revision };
        if entry.revision != expected {
            return Err(ApplyError::RevisionMismatch { index: entry.index, expected, got: entry.revision });
        }
        Ok(())
    }
}

fn apply_one(effects: &mut Effects<'_>, mutation: &Mutation) -> Result<(), String> {
    let full = |e: Error| e.to_string();
    match mutation {
        Mutation::Put { key, value, create_revision, version, lease } => {
            if key.is_empty() {
                return Err("a put without a key".into());
            }
            if lease.0 != 0 && !effects.store.lessor.contains(*lease) {
                return Err(format!("a put of {key:?} names lease {lease}, which does not exist"));
            }
            // A copy: what came in may be a slice of a large receive buffer.
            let cached = Bytes::copy_from_slice(value);
            let numbers = effects.put(key.clone(), value.clone(), cached, *lease).map_err(full)?;
            if numbers != (*create_revision, *version) {
                let (create, times) = numbers;
                return Err(format!(
                    "a put of {key:?} claims version {version} since revision {create_revision}, \
                     here it is version {times} since {create}"
                ));
            }
        }
        Mutation::Delete { key } => {
            if !effects.delete(key.clone()).map_err(full)? {
                return Err(format!("a delete of {key:?}, which does not exist"));
            }
        }
        Mutation::LeaseGrant { id, ttl_seconds } => {
            if id.0 == 0 || effects.store.lessor.contains(*id) {
                return Err(format!("a grant of lease {id}, which is no free id"));
            }
            effects.grant(*id, *ttl_seconds);
        }
        Mutation::LeaseRevoke { id } => {
            let Some(lease) = effects.store.lessor.get(*id) else {
                return Err(format!("a revoke of lease {id}, which does not exist"));
            };
            if !lease.keys.is_empty() {
                return Err(format!("a revoke of lease {id}, on which {} keys still hang", lease.keys.len()));
            }
            effects.revoke(*id).map_err(full)?;
        }
        Mutation::LeaseCheckpoint { id, remaining_seconds } => {
            if !effects.store.lessor.contains(*id) {
                return Err(format!("a checkpoint of lease {id}, which does not exist"));
            }
            effects.checkpoint(*id, *remaining_seconds);
        }
        Mutation::Compact { revision } => {
            let (compact, head) = (effects.store.head.compact, effects.store.head.revision);
            if *revision <= compact || *revision > head || *revision < Revision(0) {
                return Err(format!("a compaction to {revision}, between {compact} and {head} is where it could be"));
            }
            effects.compact(*revision);
        }
        Mutation::Alarm { member_id, alarm, active } => {
            if effects.store.alarms.contains(*member_id, *alarm) == *active {
                return Err(format!("an alarm {alarm:?} of member {member_id} that changes nothing"));
            }
            effects.alarm(*member_id, *alarm, *active);
        }
    }
    Ok(())
}
