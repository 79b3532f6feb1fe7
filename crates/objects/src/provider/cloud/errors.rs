//! What `object_store`'s errors mean for the caller.

use http::StatusCode;
use object_store::Error;

use super::wire::{Fate, FateNote, chain};
use crate::bucket::{ErrorKind, StoreError};

/// What a conditional write that was not a success is.
pub(crate) enum NotWritten {
    /// The condition does not hold.
    Condition,
    Error(StoreError),
}

/// A conditional write, sent once.
pub(crate) fn of_conditional(op: &'static str, key: &str, e: &Error, note: &FateNote) -> NotWritten {
    let text = chain(e);
    let error = |kind| NotWritten::Error(StoreError::new(kind, op, key, explain(&text)));
    let status = match note.get() {
        // Not even sent: no connection, or no credentials.
        None | Some(Fate::NotSent) => return error(ErrorKind::Unavailable),
        Some(Fate::Unanswered) => return error(ErrorKind::Unclear),
        Some(Fate::Answered(status)) => status,
    };
    match status {
        StatusCode::PRECONDITION_FAILED | StatusCode::NOT_MODIFIED => NotWritten::Condition,
        // S3: another conditional write of the key was under way; nothing was written.
        StatusCode::CONFLICT => error(ErrorKind::Unavailable),
        // Refused before it was looked at.
        StatusCode::TOO_MANY_REQUESTS => error(ErrorKind::Unavailable),
        // Nothing there that could be replaced; unless the bucket itself is missing.
        StatusCode::NOT_FOUND if op == "swap" && !no_bucket(&text) => NotWritten::Condition,
        StatusCode::REQUEST_TIMEOUT => error(ErrorKind::Unclear),
        _ if text.contains(REQUEST_TIMEOUT) => error(ErrorKind::Unclear),
        s if transient(s, &text) => error(ErrorKind::Unavailable),
        // Written, but the answer lacks its version: reading the object will tell it.
        s if s.is_success() => error(ErrorKind::Unclear),
        StatusCode::NOT_IMPLEMENTED => error(ErrorKind::Refused),
        // Whatever failed may have failed after the write.
        s if s.is_server_error() => error(ErrorKind::Unclear),
        _ => error(ErrorKind::Refused),
    }
}

/// Any other call: `late` is what one leaves that ended without a clear answer.
pub(crate) fn of_plain(op: &'static str, key: &str, e: &Error, late: ErrorKind) -> StoreError {
    let text = chain(e);
    let kind = match e {
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } if transient(StatusCode::FORBIDDEN, &text) => {
            ErrorKind::Unavailable
        }
        Error::PermissionDenied { .. }
        | Error::Unauthenticated { .. }
        | Error::NotFound { .. }
        | Error::InvalidPath { .. } => ErrorKind::Refused,
        Error::NotImplemented { .. } | Error::NotSupported { .. } | Error::UnknownConfigurationKey { .. } => {
            ErrorKind::Refused
        }
        _ if text.contains("status code: 4") && !transient_text(&text) => ErrorKind::Refused,
        _ => late,
    };
    StoreError::new(kind, op, key, explain(&text))
}

/// Answers of the kind "not now", whatever their number: temporary credentials being
/// replaced, a request that arrived too slowly.
fn transient(status: StatusCode, text: &str) -> bool {
    status.is_client_error() && transient_text(text)
}

fn transient_text(text: &str) -> bool {
    [REQUEST_TIMEOUT, "ExpiredToken", "TokenRefreshRequired", "SlowDown", "status code: 408", "status code: 429"]
        .iter()
        .any(|code| text.contains(code))
}

/// S3's word, with status 400, for a body that did not arrive in time.
const REQUEST_TIMEOUT: &str = "RequestTimeout";

pub(crate) fn no_bucket(text: &str) -> bool {
    text.contains("NoSuchBucket")
}

/// Adds the remedy where there is a usual one.
fn explain(text: &str) -> String {
    let remedy = if no_bucket(text) {
        "the bucket does not exist: create it, or correct storage.bucket_name"
    } else if text.contains("RequestTimeTooSkewed") {
        "this machine's clock is off: set it"
    } else if text.contains("InvalidAccessKeyId") || text.contains("SignatureDoesNotMatch") {
        "the credentials are wrong for this store: check them, and storage.region"
    } else if text.contains("AccessDenied") || text.contains("status code: 403") {
        "the credentials lack the permission: reading, writing, listing and deleting objects are needed"
    } else if text.contains("169.254.169.254") || text.contains("metadata.google.internal") {
        "no credentials in the environment, in a profile or from the machine's metadata service: provide them"
    } else if text.contains("PermanentRedirect") || text.contains("incorrectly configured region") {
        "the bucket is in another region: correct storage.region"
    } else {
        return text.to_string();
    };
    format!("{remedy} ({text})")
}
