//! A lease that outlives a run, and its key: whatever happens meanwhile, both are there in the end.

use crate::record::Recorder;
use anyhow::{Result, bail};
use netsy_api::etcdserverpb as pb;
use netsy_e2e::ops;
use netsy_history::{Answer, Outcome, Request};

/// Its id.
pub const LEASE: i64 = 77;
/// Longer than any run.
const TTL: i64 = 3_600;
/// What it holds.
const KEY: &str = "kept";

/// Makes both.
pub async fn grant(client: &mut Recorder, node: usize) -> Result<()> {
    let put = pb::PutRequest { lease: LEASE, ..ops::put(KEY, "kept") };
    for request in [Request::LeaseGrant { id: LEASE, ttl: TTL }, Request::Put(put)] {
        match client.ask(node, request).await {
            Some(Outcome::Done(_)) => {}
            other => bail!("a lease that is to last: {other:?}"),
        }
    }
    Ok(())
}

/// Both are there, by the word of this node.
pub async fn check(client: &mut Recorder, node: usize) -> Result<()> {
    match client.ask(node, Request::LeaseTimeToLive { id: LEASE, keys: true }).await {
        Some(Outcome::Done(done)) => match done.answer {
            Answer::LeaseTimeToLive { ttl, granted: TTL, keys } if ttl > 0 && keys == [KEY] => Ok(()),
            other => bail!("the lease of {TTL} s of the run's beginning is not there: {other:?}"),
        },
        other => bail!("asking for the lease of the run's beginning: {other:?}"),
    }
}
