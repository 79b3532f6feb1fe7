//! Connections that are not greeted yet, or not closed yet, when a drain begins: no request on them is lost. A client
//! is answered, or told by a GOAWAY that its request was not looked at, which it sends elsewhere then.

use super::*;
use crate::transport::listener::Accepted;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Semaphore;

/// Greets nobody until it is let.
#[derive(Clone)]
struct Gate {
    /// Connections that wait at it.
    came: Arc<Semaphore>,
    opens: Arc<Semaphore>,
}

impl Acceptor for Gate {
    type Stream = TcpStream;
    const IDENTIFIES: bool = false;

    async fn accept(&self, socket: TcpStream) -> io::Result<Accepted<TcpStream>> {
        self.came.add_permits(1);
        self.opens.acquire().await.unwrap().forget();
        Ok(Accepted { stream: socket, identity: None })
    }
}

/// A client's socket whose first bytes were sent already.
struct Begun {
    socket: TcpStream,
    sent: usize,
}

impl AsyncRead for Begun {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, buf)
    }
}

impl AsyncWrite for Begun {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.sent > 0 {
            let skipped = self.sent.min(bytes.len());
            self.sent -= skipped;
            return Poll::Ready(Ok(skipped));
        }
        Pin::new(&mut self.socket).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

/// Sends a put and waits for what becomes of it: answered, or left alone by a graceful GOAWAY. Anything else would be a
/// failed request. The connection must end well, too.
async fn put_is_safe(socket: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
    let (mut h2, connection) = h2::client::handshake(socket).await.unwrap();
    let ended = tokio::spawn(connection);
    let (answer, mut send) = h2.send_request(grpc_request("/etcdserverpb.KV/Put"), false).unwrap();
    drop(h2);
    // Refused where the answer is an error already.
    let _ = send.send_data(Bytes::from_static(b"\0\0\0\0\x03\x0a\x01k"), true);
    match answer.await {
        Ok(answer) => {
            let mut body = answer.into_body();
            while let Some(data) = body.data().await {
                data.unwrap();
            }
            assert_eq!(body.trailers().await.unwrap().unwrap().get("grpc-status").unwrap(), "0");
        }
        Err(error) => assert!(
            error.is_go_away() && error.is_remote() && error.reason() == Some(h2::Reason::NO_ERROR),
            "a request failed: {error:?}"
        ),
    }
    ended.await.unwrap().unwrap();
}

/// Begins the drain, and waits until a connection that does nothing has been told, as then all have.
async fn drain(server: &Running, witness: TcpStream) {
    let (_send, connection): (h2::client::SendRequest<Bytes>, _) = h2::client::handshake(witness).await.unwrap();
    server.drain.send_replace(true);
    connection.await.unwrap();
}

/// Greetings take as long as the test does.
fn patient() -> ConnectionLimits {
    ConnectionLimits { greeting_timeout_draining: Duration::from_secs(60), ..ConnectionLimits::default() }
}

/// Bytes that came from clients.
fn received(server: &Running) -> u64 {
    let families = server.metrics.registry().gather();
    let family = families.iter().find(|family| family.name() == "etcd_network_client_grpc_received_bytes_total");
    family.unwrap().get_metric()[0].get_counter().get_value() as u64
}

async fn over(server: Running) {
    tokio::time::timeout(Duration::from_secs(10), server.task).await.unwrap().unwrap();
}

#[tokio::test]
async fn who_waits_to_be_accepted_is_served() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    // The kernel has greeted them, nobody has accepted them, and the drain has begun.
    let mut sockets = Vec::new();
    for _ in 0..20 {
        sockets.push(TcpStream::connect(addr).await.unwrap());
    }
    let server = start_on(listener, Plain, ConnectionLimits::default(), 100);
    server.drain.send_replace(true);
    futures::future::join_all(sockets.into_iter().map(put_is_safe)).await;
    over(server).await;
}

#[tokio::test]
async fn who_is_being_greeted_is_served() {
    let gate = Gate { came: Arc::new(Semaphore::new(0)), opens: Arc::new(Semaphore::new(0)) };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = start_on(listener, gate.clone(), patient(), 100);
    let witness = TcpStream::connect(server.addr).await.unwrap();
    gate.came.acquire().await.unwrap().forget();
    gate.opens.add_permits(1);
    let socket = TcpStream::connect(server.addr).await.unwrap();
    gate.came.acquire().await.unwrap().forget();
    drain(&server, witness).await;
    gate.opens.add_permits(1);
    put_is_safe(socket).await;
    over(server).await;
}

#[tokio::test]
async fn who_has_said_half_of_its_greeting_is_served() {
    let server = start_with(patient(), 100).await;
    let mut socket = TcpStream::connect(server.addr).await.unwrap();
    socket.write_all(b"PRI * HT").await.unwrap();
    while received(&server) == 0 {
        tokio::task::yield_now().await;
    }
    let witness = TcpStream::connect(server.addr).await.unwrap();
    drain(&server, witness).await;
    put_is_safe(Begun { socket, sent: 8 }).await;
    over(server).await;
}

/// Reads a frame: its type and its last stream or its opaque bytes.
async fn frame(socket: &mut TcpStream) -> io::Result<(u8, Vec<u8>)> {
    let mut head = [0; 9];
    socket.read_exact(&mut head).await?;
    let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
    socket.read_exact(&mut payload).await?;
    Ok((head[3], payload))
}

#[tokio::test]
async fn a_request_after_the_last_word_does_not_reset_the_connection() {
    let server = start().await;
    let mut socket = TcpStream::connect(server.addr).await.unwrap();
    socket.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    while frame(&mut socket).await.unwrap().0 != 4 {}
    server.drain.send_replace(true);
    let mut goaways = Vec::new();
    // As a client does that has queued a request before it read of the drain: the answer to the ping goes first.
    loop {
        match frame(&mut socket).await {
            Ok((6, opaque)) => {
                socket.write_all(b"\0\0\x08\x06\x01\0\0\0\0").await.unwrap();
                socket.write_all(&opaque).await.unwrap();
            }
            Ok((7, last)) => goaways.push(u32::from_be_bytes([last[0], last[1], last[2], last[3]])),
            Ok(_) => {}
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{error}");
                break;
            }
        }
    }
    assert_eq!(goaways, [i32::MAX as u32, 0]);
    // A reset may take with it what the client has not read, this very GOAWAY, or make its next write fail.
    for _ in 0..3 {
        socket.write_all(b"\0\0\x03\x01\x05\0\0\0\x01\x83\x86\x84").await.unwrap();
        tokio::task::yield_now().await;
    }
    assert_eq!(socket.read(&mut [0; 8]).await.unwrap(), 0);
    drop(socket);
    over(server).await;
}
