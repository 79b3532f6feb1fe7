//! How operators' commands talk to a running node: one gRPC call over its client port.

use anyhow::{Context, anyhow, bail, ensure};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use clap::Args;
use netsy_api::operator::{ClusterView, LogEnd};
use netsy_peer::tls::OperatorTls;
use prost::Message;
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// A connection that is not up by then is given up.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// The longest answer of a node: more is none.
const ANSWER_BYTES_MAX: usize = 16 << 20;
/// Length and flag before a message of gRPC's.
const PREFIX_BYTES: usize = 5;

/// Which node is asked, and who asks.
#[derive(Args, Clone, Debug)]
pub struct NodeArgs {
    /// Client addresses of nodes, as for etcdctl: the first that answers is asked.
    #[arg(long, env = "NETSY_ENDPOINTS", default_value = "127.0.0.1:2379", value_delimiter = ',', value_name = "URL")]
    endpoints: Vec<String>,
    /// The CA that signed the nodes' certificates, in PEM.
    #[arg(long, value_name = "FILE", requires = "cert")]
    cacert: Option<PathBuf>,
    /// An operator's or a node's certificate, in PEM; to look only, a client's will do.
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// Its key.
    #[arg(long, value_name = "FILE", requires = "cacert")]
    key: Option<PathBuf>,
}

impl NodeArgs {
    /// A node of this machine, without TLS.
    pub fn at(client: SocketAddr) -> Self {
        Self { endpoints: vec![client.to_string()], cacert: None, cert: None, key: None }
    }

    /// Asks the first node that can be connected to. A question that was put is not put to another.
    pub fn ask<Answer: Message + Default>(&self, method: &str, question: &impl Message) -> anyhow::Result<Answer> {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting the runtime")?;
        runtime.block_on(self.ask_async(method, question))
    }

    /// The same within a runtime.
    pub async fn ask_async<Answer: Message + Default>(
        &self,
        method: &str,
        question: &impl Message,
    ) -> anyhow::Result<Answer> {
        let answer = self.call(method, &question.encode_to_vec()).await?;
        Answer::decode(answer).map_err(|e| anyhow!("the node's answer cannot be read, is it of another release? {e}"))
    }

    /// The same options for a command that is to be run next.
    pub fn as_options(&self) -> String {
        let mut out = format!("--endpoints {}", self.endpoints.join(","));
        for (name, path) in [("--cacert", &self.cacert), ("--cert", &self.cert), ("--key", &self.key)] {
            if let Some(path) = path {
                out.push_str(&format!(" {name} {}", path.display()));
            }
        }
        out
    }

    async fn call(&self, method: &str, body: &[u8]) -> anyhow::Result<Bytes> {
        let tls = match (&self.cacert, &self.cert, &self.key) {
            (Some(ca), Some(cert), Some(key)) => {
                Some(OperatorTls::load(ca, cert, key).map_err(|e| anyhow!("TLS: {e}"))?)
            }
            _ => None,
        };
        let mut problems = vec![];
        for endpoint in &self.endpoints {
            let (scheme, address) =
                endpoint.split_once("://").unwrap_or((if tls.is_some() { "https" } else { "http" }, endpoint));
            let address = address.trim_end_matches('/');
            let secure = match scheme {
                "https" => true,
                "http" => false,
                other => bail!("endpoint {endpoint}: {other} is neither http nor https"),
            };
            ensure!(!secure || tls.is_some(), "endpoint {endpoint}: https needs --cacert, --cert and --key");
            let tcp = match tokio::time::timeout(CONNECT_MAX, TcpStream::connect(address)).await {
                Ok(Ok(tcp)) => tcp,
                Ok(Err(error)) => {
                    problems.push(format!("{endpoint}: {error}"));
                    continue;
                }
                Err(_) => {
                    problems.push(format!("{endpoint}: no connection within {CONNECT_MAX:?}"));
                    continue;
                }
            };
            let asked = match tls.as_ref().filter(|_| secure) {
                Some(tls) => {
                    let stream = tls.connect(tcp).await.with_context(|| format!("{endpoint}: TLS"))?;
                    unary(stream, scheme, address, method, body).await
                }
                None => unary(tcp, scheme, address, method, body).await,
            };
            return asked.with_context(|| format!("node at {endpoint}"));
        }
        bail!("no node answers: {}; name one that runs with --endpoints", problems.join("; "))
    }
}

/// One call over one connection.
async fn unary<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    scheme: &str,
    authority: &str,
    method: &str,
    body: &[u8],
) -> anyhow::Result<Bytes> {
    let greeting = tokio::time::timeout(CONNECT_MAX, h2::client::handshake(stream)).await;
    let (send, connection) = greeting.context("no HTTP/2 greeting in time")?.context("is it a node's client port?")?;
    let connection = tokio::spawn(connection);
    let request = http::Request::post(format!("{scheme}://{authority}/netsy.operator.Operator/{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .context("the endpoint is no address")?;
    let mut framed = BytesMut::with_capacity(PREFIX_BYTES + body.len());
    framed.put_u8(0);
    framed.put_u32(u32::try_from(body.len()).context("the question is too long")?);
    framed.put_slice(body);
    let (response, mut out) = send.ready().await?.send_request(request, false)?;
    out.send_data(framed.freeze(), true)?;
    let response = response.await?;
    ensure!(response.status().is_success(), "it answered {}: is it a node's client port?", response.status());
    let (head, mut data) = response.into_parts();
    let mut answer = BytesMut::new();
    while let Some(piece) = data.data().await {
        let piece = piece?;
        ensure!(answer.len() + piece.len() <= ANSWER_BYTES_MAX, "its answer is longer than {ANSWER_BYTES_MAX} bytes");
        answer.extend_from_slice(&piece);
        data.flow_control().release_capacity(piece.len())?;
    }
    let trailers = data.trailers().await?;
    // A refusal comes as headers alone.
    let headers = trailers.as_ref().unwrap_or(&head.headers);
    let text = |name: &str| headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    match text("grpc-status").as_deref() {
        Some("0") => {}
        Some(code) => {
            let message = unescaped(&text("grpc-message").unwrap_or_default());
            let message = message.strip_prefix("netsy: ").map(str::to_owned).unwrap_or(message);
            bail!("{}", if message.is_empty() { format!("refused with code {code}") } else { message });
        }
        None => bail!("it did not say how the call ended"),
    }
    connection.abort();
    ensure!(answer.len() >= PREFIX_BYTES, "its answer is empty");
    answer.advance(PREFIX_BYTES);
    Ok(answer.freeze())
}

/// `grpc-message` is percent-encoded.
fn unescaped(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let code = (byte == b'%').then(|| text.get(at + 1..at + 3)).flatten();
        match code.and_then(|code| u8::from_str_radix(code, 16).ok()) {
            Some(code) => {
                out.push(code);
                at += 3;
            }
            None => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// A time as people read it, in UTC.
pub fn moment(time_ms: i64) -> String {
    let at = time::OffsetDateTime::from_unix_timestamp_nanos(i128::from(time_ms) * 1_000_000);
    match at {
        Ok(at) => format!(
            "{:04}-{:02}-{:02} {:02}:{:02}:{:02}.{:03} UTC",
            at.year(),
            u8::from(at.month()),
            at.day(),
            at.hour(),
            at.minute(),
            at.second(),
            at.millisecond()
        ),
        Err(_) => format!("{time_ms} ms after 1970"),
    }
}

/// An end of a log as people read it.
pub fn log_end(end: &LogEnd) -> String {
    let mut out = format!("entry {}", end.index);
    if end.revision != 0 {
        out.push_str(&format!(", revision {}", end.revision));
    }
    if end.time_ms != 0 {
        out.push_str(&format!(", made at {}", moment(end.time_ms)));
    }
    out
}

/// The first digits of a database's token tell it from others.
pub fn short(database: &str) -> &str {
    database.get(..8).unwrap_or(database)
}

/// Prints; who has seen enough of it ends nothing.
pub fn say(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error).context("writing the output"),
        _ => Ok(()),
    }
}

/// The cluster in a few lines.
pub fn described(view: &ClusterView) -> String {
    let or = |text: &str, none: &str| if text.is_empty() { none.to_string() } else { text.to_string() };
    let mut out = format!(
        "cluster {}, term {}, as {} sees it: Primary {}, Elector {}\nquorum {}, copies_min {}: {}\n",
        view.cluster_id,
        view.term,
        view.seen_by,
        or(&view.primary, "none"),
        or(&view.elector, "none"),
        view.quorum,
        view.copies_min,
        or(&view.survives, "not known yet")
    );
    if !view.quorum_lost.is_empty() {
        out.push_str(&format!("\n{}\n", view.quorum_lost));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_unescaped() {
        assert_eq!(unescaped("a%20b%3A%25c"), "a b:%c");
        assert_eq!(unescaped("100% or %zz or %e"), "100% or %zz or %e");
        assert_eq!(unescaped("%E2%80%A6"), "…");
        assert_eq!(unescaped("é%"), "é%");
    }

    #[test]
    fn moments_are_told_in_utc() {
        assert_eq!(moment(0), "1970-01-01 00:00:00.000 UTC");
        assert_eq!(moment(1_764_077_696_123), "2025-11-25 13:34:56.123 UTC");
        assert_eq!(moment(i64::MAX), format!("{} ms after 1970", i64::MAX));
    }
}
