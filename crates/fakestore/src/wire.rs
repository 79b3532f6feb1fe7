//! Requests as the two dialects spell them, and the XML of their answers.

use std::collections::HashMap;

use http::{HeaderMap, Method, Uri};

use crate::fault::Op;
use crate::objects::{Condition, Stored};

/// A request understood.
#[derive(Debug)]
pub(crate) struct Call {
    pub op: Op,
    pub bucket: String,
    /// Of a listing: its prefix.
    pub key: String,
    pub query: HashMap<String, String>,
}

/// `None` if it is nothing that this server has.
pub(crate) fn understand(method: &Method, uri: &Uri) -> Option<Call> {
    let query: HashMap<String, String> = uri
        .query()
        .unwrap_or_default()
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(&name.replace('+', " ")), decode(&value.replace('+', " ")))
        })
        .collect();
    let path = uri.path().trim_start_matches('/');
    let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
    // Google's client writes the slashes of a key as %2F.
    let (bucket, key) = (decode(bucket), decode(key));
    let upload = query.contains_key("uploadId");
    let op = match *method {
        _ if bucket.is_empty() => return None,
        Method::GET if key.is_empty() => Op::List,
        _ if key.is_empty() => return None,
        Method::GET | Method::HEAD => Op::Get,
        Method::PUT | Method::DELETE if upload => Op::Part,
        Method::PUT => Op::Put,
        Method::DELETE => Op::Delete,
        Method::POST if query.contains_key("uploads") => Op::Part,
        Method::POST if upload => Op::Complete,
        _ => return None,
    };
    let key = if op == Op::List { query.get("prefix").cloned().unwrap_or_default() } else { key };
    Some(Call { op, bucket, key, query })
}

/// The condition of a write; an unreadable one fails like one that does not hold.
pub(crate) fn condition(headers: &HeaderMap) -> Condition {
    let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).map(str::to_string);
    if let Some(generation) = text("x-goog-if-generation-match") {
        return Condition::Generation(generation.parse().unwrap_or(u64::MAX));
    }
    if text("if-none-match").is_some() {
        return Condition::Absent;
    }
    match text("if-match") {
        Some(tag) => Condition::ETag(tag),
        None => Condition::None,
    }
}

/// `bytes=a-b`, `bytes=a-`, `bytes=-n` against an object of `size` bytes. `Err`: 416.
pub(crate) fn range(headers: &HeaderMap, size: usize) -> Result<Option<(usize, usize)>, ()> {
    let Some(spec) = headers.get("range").and_then(|v| v.to_str().ok()).and_then(|v| v.strip_prefix("bytes=")) else {
        return Ok(None);
    };
    let (from, to) = spec.split_once('-').ok_or(())?;
    let (from, to) = match (from.parse::<usize>(), to.parse::<usize>()) {
        (Ok(from), Ok(to)) => (from, to.saturating_add(1).min(size)),
        (Ok(from), Err(_)) => (from, size),
        (Err(_), Ok(last)) => (size.saturating_sub(last), size),
        _ => return Err(()),
    };
    if from >= size || from >= to { Err(()) } else { Ok(Some((from, to))) }
}

pub(crate) fn listing(bucket: &str, page: &[(String, Stored)], more: bool) -> String {
    let mut xml =
        format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?><ListBucketResult><Name>{}</Name>", escape(bucket));
    for (key, object) in page {
        xml.push_str(&format!(
            "<Contents><Key>{}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>{}</ETag><Size>{}</Size></Contents>",
            escape(key),
            escape(&object.e_tag),
            object.bytes.len()
        ));
    }
    xml.push_str(&format!("<KeyCount>{}</KeyCount><IsTruncated>{more}</IsTruncated>", page.len()));
    if more && let Some((last, _)) = page.last() {
        xml.push_str(&format!("<NextContinuationToken>after:{}</NextContinuationToken>", escape(last)));
    }
    xml.push_str("</ListBucketResult>");
    xml
}

pub(crate) fn upload_started(bucket: &str, key: &str, id: &str) -> String {
    format!(
        "<InitiateMultipartUploadResult><Bucket>{}</Bucket><Key>{}</Key><UploadId>{id}</UploadId></InitiateMultipartUploadResult>",
        escape(bucket),
        escape(key)
    )
}

pub(crate) fn upload_completed(key: &str, e_tag: &str) -> String {
    format!(
        "<CompleteMultipartUploadResult><Key>{}</Key><ETag>{}</ETag></CompleteMultipartUploadResult>",
        escape(key),
        escape(e_tag)
    )
}

pub(crate) fn error(code: &str) -> String {
    format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>{code}</Code><Message>fake</Message></Error>")
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = (bytes[at] == b'%')
            .then(|| text.get(at + 1..at + 3))
            .flatten()
            .and_then(|h| u8::from_str_radix(h, 16).ok());
        match hex {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}
