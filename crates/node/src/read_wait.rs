//! Linearizable reads that wait for a proof (R9); one proof serves all that came before it.

use crate::error::Unavailable;
use netsy_api::ids::LogIndex;
use netsy_protocol::read::ReadId;
use parking_lot::Mutex;
use std::collections::VecDeque;
use tokio::sync::oneshot;

/// Reads that may wait; past it they are refused.
const WAITING_READS_MAX: usize = 100_000;

/// What a waiting read is told.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Told {
    /// It may be answered from what is visible at this index or later.
    Ready(LogIndex),
    /// Not now: it waits for a Primary again.
    Again,
}

/// Ascending by their numbers.
#[derive(Default)]
pub(crate) struct ReadWait(Mutex<VecDeque<(ReadId, oneshot::Sender<Told>)>>);

impl ReadWait {
    /// To be called under the engine's lock that gave the number.
    pub(crate) fn wait(&self, id: ReadId) -> Result<oneshot::Receiver<Told>, Unavailable> {
        let mut waiting = self.0.lock();
        if waiting.len() >= WAITING_READS_MAX {
            // Those whose clients gave up make room.
            waiting.retain(|(_, reply)| !reply.is_closed());
            if waiting.len() >= WAITING_READS_MAX {
                return Err(Unavailable::TooManyRequests);
            }
        }
        let (reply, told) = oneshot::channel();
        waiting.push_back((id, reply));
        Ok(told)
    }

    pub(crate) fn tell(&self, through: ReadId, told: Told) {
        let mut waiting = self.0.lock();
        let count = waiting.partition_point(|(id, _)| *id <= through);
        let ready: Vec<_> = waiting.drain(..count).collect();
        drop(waiting);
        for (_, reply) in ready {
            // A reader that gave up needs no answer.
            let _ = reply.send(told);
        }
    }
}
