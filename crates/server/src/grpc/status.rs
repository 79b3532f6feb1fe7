//! How a call ends: a gRPC code and a text that clients match by string.

use http::{HeaderMap, HeaderValue};
use std::borrow::Cow;
use std::fmt::Write as _;

/// gRPC's status codes, as they stand on the wire.
pub use tonic::Code;

/// The end of a call that did not go well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// What kind of failure.
    pub code: Code,
    /// What a client sees; etcd's exact texts where etcd has one.
    pub message: Cow<'static, str>,
}

impl Status {
    /// A status of any code.
    pub fn new(code: Code, message: impl Into<Cow<'static, str>>) -> Self {
        Self { code, message: message.into() }
    }

    /// Something broke inside the server.
    pub fn internal(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Code::Internal, message)
    }

    /// The call exists nowhere in this server.
    pub fn unimplemented(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Code::Unimplemented, message)
    }

    /// Writes `grpc-status` and `grpc-message` into `headers`.
    pub(crate) fn write_to(&self, headers: &mut HeaderMap) {
        headers.insert("grpc-status", code_value(self.code));
        if !self.message.is_empty() {
            headers.insert("grpc-message", percent_encoded(&self.message));
        }
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", code_name(self.code), self.message)
    }
}

impl std::error::Error for Status {}

impl From<tonic::Status> for Status {
    fn from(status: tonic::Status) -> Self {
        Self::new(status.code(), status.message().to_owned())
    }
}

/// The header value of a code, without allocating.
pub(crate) fn code_value(code: Code) -> HeaderValue {
    const TEXTS: [&str; 17] =
        ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15", "16"];
    HeaderValue::from_static(TEXTS.get(code as usize).copied().unwrap_or("2"))
}

/// The name that metrics and health texts use.
pub(crate) fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "Canceled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}

/// gRPC's encoding of a message for a header: everything but printable ASCII, and the percent sign
/// itself, as %XX.
fn percent_encoded(text: &str) -> HeaderValue {
    let plain = |b: u8| (b' '..=b'~').contains(&b) && b != b'%';
    let mut out = String::with_capacity(text.len());
    for &b in text.as_bytes() {
        if plain(b) {
            out.push(b as char);
        } else {
            // Writing into a String cannot fail.
            let _ = write!(out, "%{b:02X}");
        }
    }
    HeaderValue::from_str(&out).unwrap_or_else(|_| HeaderValue::from_static("unprintable message"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_percent_encoded() {
        assert_eq!(percent_encoded("a b%c\n\u{e9}"), "a b%25c%0A%C3%A9");
        assert_eq!(percent_encoded("etcdserver: no leader"), "etcdserver: no leader");
    }

    #[test]
    fn codes_have_their_numbers() {
        assert_eq!(code_value(Code::Ok), "0");
        assert_eq!(code_value(Code::Unauthenticated), "16");
    }
}
