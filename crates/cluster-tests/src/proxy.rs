//! Between the nodes and the object store: passes bytes on, or does not.

use anyhow::{Context, Result};
use parking_lot::Mutex;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Bytes of one read.
const BUFFER: usize = 64 << 10;

/// What it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Nothing to be seen.
    Pass,
    /// Connections are closed, old ones and new ones.
    Refuse,
    /// Nothing gets through, and nobody is told.
    Hang,
    /// Each piece of an answer comes so much later.
    Slow(Duration),
    /// So many of 100 connections are answered with 503 and closed.
    Fail { percent: u64 },
}

/// A running proxy; it ends when dropped.
pub struct Proxy {
    mode: watch::Sender<Mode>,
    accepting: tokio::task::JoinHandle<()>,
}

impl Proxy {
    /// Listens at `at` for what is behind.
    pub async fn start(at: SocketAddr, behind: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind(at).await.with_context(|| format!("listen at {at}"))?;
        let (mode, told) = watch::channel(Mode::Pass);
        let count = Arc::new(AtomicU64::new(0));
        let accepting = tokio::spawn(async move {
            let connections = Mutex::new(tokio::task::JoinSet::new());
            loop {
                let Ok((client, _)) = listener.accept().await else { continue };
                let (mut told, count) = (told.clone(), Arc::clone(&count));
                let mut connections = connections.lock();
                connections.spawn(async move {
                    // How a connection ended is the business of its ends.
                    let _ = serve(client, behind, &mut told, &count).await;
                });
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self { mode, accepting })
    }

    /// Changes what it does; connections that are there are closed where that is how the new mode begins.
    pub fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn serve(
    mut client: TcpStream,
    behind: SocketAddr,
    told: &mut watch::Receiver<Mode>,
    count: &AtomicU64,
) -> Result<()> {
    let mode = *told.borrow_and_update();
    match mode {
        Mode::Refuse => return Ok(()),
        Mode::Fail { percent } if count.fetch_add(37, Ordering::Relaxed) % 100 < percent => {
            let mut head = vec![0; BUFFER];
            let _ = client.read(&mut head).await?;
            let answer = b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
            return Ok(client.write_all(answer).await?);
        }
        _ => {}
    }
    // Small answers must not wait for acknowledgements.
    client.set_nodelay(true)?;
    while *told.borrow_and_update() == Mode::Hang {
        told.changed().await?;
    }
    let server = TcpStream::connect(behind).await?;
    server.set_nodelay(true)?;
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let mut told_there = told.clone();
    let there = async {
        let mut buffer = vec![0; BUFFER];
        loop {
            let length = from_client.read(&mut buffer).await?;
            while *told_there.borrow_and_update() == Mode::Hang {
                told_there.changed().await?;
            }
            if length == 0 {
                return anyhow::Ok(());
            }
            to_server.write_all(&buffer[..length]).await?;
        }
    };
    let mut told_back = told.clone();
    let back = async {
        let mut buffer = vec![0; BUFFER];
        loop {
            let length = from_server.read(&mut buffer).await?;
            while *told_back.borrow_and_update() == Mode::Hang {
                told_back.changed().await?;
            }
            let mode = *told_back.borrow();
            if let Mode::Slow(delay) = mode {
                tokio::time::sleep(delay).await;
            }
            if length == 0 {
                return anyhow::Ok(());
            }
            to_client.write_all(&buffer[..length]).await?;
        }
    };
    let ended = async {
        loop {
            told.changed().await?;
            if matches!(*told.borrow_and_update(), Mode::Refuse | Mode::Fail { .. }) {
                return anyhow::Ok(());
            }
        }
    };
    tokio::select! {
        done = there => done,
        done = back => done,
        done = ended => done,
    }
}
