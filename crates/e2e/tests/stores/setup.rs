//! A netsy whose bucket is somewhere else.

use netsy_e2e::{Options, Server};
use netsy_fakestore::real::{KEY_ID, SECRET};
use netsy_fakestore::{BUCKET, Dialect};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const ARGS: &str = "server\n--config={config}\n--node-id=n1\n--data-dir={data}/node\n--bind-client={client}\n\
                    --bind-health={peer}\n--bind-peer=127.0.0.1:0\n--insecure-loopback-only\n";

/// A cluster's.
#[derive(Clone, Copy)]
pub struct Setting {
    /// Below which all objects are.
    pub prefix: &'static str,
    pub quorum: i32,
    pub snapshot_records: u32,
}

/// What the program is told of its credentials and nothing more, so that it asks no metadata service.
pub fn environment() -> Vec<(String, String)> {
    [
        ("AWS_ACCESS_KEY_ID", KEY_ID),
        ("AWS_SECRET_ACCESS_KEY", SECRET),
        ("AWS_REGION", "us-east-1"),
        ("AWS_EC2_METADATA_DISABLED", "true"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .to_vec()
}

/// A figure of `/metrics`.
pub async fn metric(server: &Server, name: &str) -> f64 {
    let mut socket = TcpStream::connect(server.address()).await.expect("connect");
    let request = "GET /metrics HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n";
    socket.write_all(request.as_bytes()).await.expect("ask");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.expect("an answer");
    let line = answer.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("{name} is not in {answer}")).trim().parse().expect("a number")
}

/// A server not started yet.
pub fn server(dialect: Dialect, endpoint: &str, setting: Setting) -> Server {
    let provider = match dialect {
        Dialect::S3 => "s3",
        Dialect::Gcs => "gcs",
    };
    let Setting { prefix, quorum, snapshot_records } = setting;
    let config = format!(
        r#"{{
"cluster_id": "stores",
"storage": {{ "provider": "{provider}", "bucket_name": "{BUCKET}", "key_prefix": "{prefix}",
"endpoint": "{endpoint}", "allow_http": true, "encryption": "none", "timeout": "5s" }},
"replication": {{ "quorum": {quorum}, "read_lease": "1s" }},
"snapshot": {{ "threshold_records": {snapshot_records}, "retention": "1s" }},
}}"#
    );
    Server::new(Options { template: Some((ARGS, config)), env: environment(), ..Options::default() })
}
