//! Fetches the values that have left memory, for answers of writes.

use super::Service;
use super::errors::status;
use crate::grpc::status::Status;
use netsy_mvcc::{KvRef, OpResult, Outcome, TxnResult, ValueRef};

impl Service {
    /// Replaces what is only in the local database by the values themselves.
    pub(crate) async fn resolve_outcome(&self, outcome: &mut Outcome) -> Result<(), Status> {
        let mut stored = Vec::new();
        match outcome {
            Outcome::Put { prev } => prev.iter_mut().for_each(|kv| collect(kv, &mut stored)),
            Outcome::DeleteRange { prevs, .. } => prevs.iter_mut().for_each(|kv| collect(kv, &mut stored)),
            Outcome::Txn(result) => collect_txn(result, &mut stored),
            _ => {}
        }
        if stored.is_empty() {
            return Ok(());
        }
        let wanted = stored.iter().map(|kv| (**kv).clone()).collect();
        let resolved = self.node.resolve(wanted).await.map_err(status)?;
        if resolved.len() != stored.len() {
            return Err(Status::internal(
                "netsy: internal error: the node resolved another number of values than asked",
            ));
        }
        for (kv, resolved) in stored.into_iter().zip(resolved) {
            kv.value = ValueRef::Here(resolved.value);
        }
        Ok(())
    }
}

fn collect<'a>(kv: &'a mut KvRef, stored: &mut Vec<&'a mut KvRef>) {
    if matches!(kv.value, ValueRef::Stored(_)) {
        stored.push(kv);
    }
}

fn collect_txn<'a>(result: &'a mut TxnResult, stored: &mut Vec<&'a mut KvRef>) {
    for response in &mut result.responses {
        match response {
            OpResult::Range(range) => range.kvs.iter_mut().for_each(|kv| collect(kv, stored)),
            OpResult::Put { prev, .. } => prev.iter_mut().for_each(|kv| collect(kv, stored)),
            OpResult::DeleteRange { prevs, .. } => prevs.iter_mut().for_each(|kv| collect(kv, stored)),
            OpResult::Txn(nested) => collect_txn(nested, stored),
        }
    }
}
