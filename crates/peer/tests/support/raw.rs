//! The protocol spoken by hand, for what no node would say.

use bytes::{BufMut, Bytes, BytesMut};
use h2::RecvStream;
use netsy_api::peer::{Hello, SessionFrame, session_frame};
use prost::Message;
use std::net::SocketAddr;
use tokio::net::TcpStream;

pub fn framed<M: Message>(message: &M) -> Bytes {
    framed_bytes(&message.encode_to_vec())
}

pub fn framed_bytes(bytes: &[u8]) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u8(0);
    out.put_u32(bytes.len() as u32);
    out.extend_from_slice(bytes);
    out.freeze()
}

/// A Hello as a sound node says it.
pub fn hello(from: &str, to: &str) -> Hello {
    Hello {
        version_min: 1,
        version_max: 1,
        cluster_id: super::CLUSTER.to_owned(),
        node_id: from.to_owned(),
        incarnation: vec![1; 16].into(),
        session: vec![2; 16].into(),
        to_node_id: to.to_owned(),
        software: "by hand".to_owned(),
    }
}

pub fn hello_frame(hello: Hello) -> SessionFrame {
    SessionFrame { kind: Some(session_frame::Kind::Hello(hello)) }
}

/// A connection on which calls can be opened by hand.
pub struct RawClient {
    pub requests: h2::client::SendRequest<Bytes>,
}

impl RawClient {
    pub async fn connect(addr: SocketAddr) -> Self {
        let tcp = TcpStream::connect(addr).await.expect("it listens");
        let (requests, connection) = h2::client::handshake(tcp).await.expect("HTTP/2");
        tokio::spawn(connection);
        Self { requests }
    }

    pub async fn open(&self, path: &str) -> (h2::client::ResponseFuture, h2::SendStream<Bytes>) {
        let request = http::Request::post(format!("http://netsy/netsy.peer.Peer/{path}"))
            .header("content-type", "application/grpc")
            .body(())
            .expect("valid");
        let mut requests = self.requests.clone().ready().await.expect("open");
        requests.send_request(request, false).expect("open")
    }

    /// Opens the session with `first` and returns the first answer, and what else there is of the session.
    pub async fn session(&self, first: Bytes) -> Result<(SessionFrame, h2::SendStream<Bytes>, RecvStream), h2::Error> {
        let (response, mut send) = self.open("Session").await;
        send.send_data(first, false)?;
        let mut body = response.await?.into_body();
        let frame = read(&mut body).await?;
        Ok((frame, send, body))
    }
}

/// The next message of a stream.
pub async fn read<M: Message + Default>(body: &mut RecvStream) -> Result<M, h2::Error> {
    let mut bytes = BytesMut::new();
    loop {
        if bytes.len() >= 5 {
            let length = u32::from_be_bytes([bytes[1], bytes[2], bytes[3], bytes[4]]) as usize;
            if bytes.len() >= 5 + length {
                return Ok(M::decode(&bytes[5..5 + length]).expect("a valid message"));
            }
        }
        let data = body.data().await.expect("the stream goes on")?;
        body.flow_control().release_capacity(data.len())?;
        bytes.extend_from_slice(&data);
    }
}
