//! `/health`: one verdict with a reason, as etcd's older clients read it.

use super::{JSON, Query, answer};
use crate::etcd::{Service, alarm_name, timed_out};
use crate::grpc::call::until;
use bytes::Bytes;
use http::{Response, StatusCode};
use tokio::time::Instant;

pub(super) async fn health(service: &Service, query: Query<'_>) -> Response<Bytes> {
    let reason = match trouble(service, query).await {
        None => return answer(StatusCode::OK, JSON, r#"{"health":"true","reason":""}"#),
        Some(reason) => reason,
    };
    let body = serde_json::json!({ "health": "false", "reason": reason });
    answer(StatusCode::SERVICE_UNAVAILABLE, JSON, body.to_string())
}

/// What is wrong, if anything.
async fn trouble(service: &Service, query: Query<'_>) -> Option<String> {
    let status = service.node.status();
    for (_, kind) in &status.alarms {
        let name = alarm_name(*kind);
        if !query.all("exclude").any(|excluded| excluded.eq_ignore_ascii_case(name)) {
            return Some(format!("ALARM {name}"));
        }
    }
    if query.is_true("serializable") {
        return None;
    }
    if !service.has_leader() {
        let why = status.storage_missed.or(status.quorum_lost).map(|why| format!(": {why}")).unwrap_or_default();
        return Some(format!("RAFT NO LEADER{why}"));
    }
    let reason = linearizable_read(service).await.err()?;
    // Asked anew: waiting may have told.
    let why = service.node.status().storage_missed.map(|why| format!(" ({why})")).unwrap_or_default();
    Some(format!("RANGE ERROR:{reason}{why}"))
}

/// Whether a read that must see the newest state can be answered.
pub(super) async fn linearizable_read(service: &Service) -> Result<(), String> {
    let deadline = Instant::now() + service.limits.request_timeout;
    match until(deadline, timed_out, service.node.read_index()).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(late) => Err(late.message.into_owned()),
    }
}
