//! One signed request (AWS Signature Version 4), for what a server tells nobody without a signature.

use crate::real::{KEY_ID, SECRET};
use ring::{digest, hmac};
use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;
use time::OffsetDateTime;

/// Gets an object: status and body; `None`: nobody answers.
pub fn get(server: SocketAddr, bucket: &str, key: &str) -> Option<(u16, String)> {
    let now = OffsetDateTime::now_utc();
    let day = format!("{:04}{:02}{:02}", now.year(), u8::from(now.month()), now.day());
    let date = format!("{day}T{:02}{:02}{:02}Z", now.hour(), now.minute(), now.second());
    let scope = format!("{day}/us-east-1/s3/aws4_request");
    let signed = "host;x-amz-content-sha256;x-amz-date";
    let asked = format!(
        "GET\n/{bucket}/{key}\n\nhost:{server}\nx-amz-content-sha256:UNSIGNED-PAYLOAD\nx-amz-date:{date}\n\n{signed}\n\
         UNSIGNED-PAYLOAD"
    );
    let text = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{}", hex(digest::digest(&digest::SHA256, asked.as_bytes())));
    let mut secret = format!("AWS4{SECRET}").into_bytes();
    for part in scope.split('/') {
        secret = sign(&secret, part).as_ref().to_vec();
    }
    let head = format!(
        "GET /{bucket}/{key} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\nx-amz-date: {date}\r\n\
         x-amz-content-sha256: UNSIGNED-PAYLOAD\r\nAuthorization: AWS4-HMAC-SHA256 Credential={KEY_ID}/{scope}, \
         SignedHeaders={signed}, Signature={}\r\n\r\n",
        hex(sign(&secret, &text))
    );
    let mut socket = TcpStream::connect(server).ok()?;
    socket.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    socket.write_all(head.as_bytes()).ok()?;
    let mut answer = vec![];
    socket.read_to_end(&mut answer).ok()?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    Some((answer.split(' ').nth(1)?.parse().ok()?, answer))
}

/// Whether there is such a bucket.
pub fn has_bucket(server: SocketAddr, bucket: &str) -> bool {
    // Without a signature SeaweedFS forbids buckets that are not there, too.
    get(server, bucket, "none").is_some_and(|(status, body)| status == 200 || body.contains("NoSuchKey"))
}

fn sign(secret: &[u8], text: &str) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), text.as_bytes())
}

fn hex(bytes: impl AsRef<[u8]>) -> String {
    bytes.as_ref().iter().fold(String::new(), |mut out, byte| {
        // Writing into a String cannot fail.
        let _ = write!(out, "{byte:02x}");
        out
    })
}
