//! What waits at a listening socket that is about to close.
//!
//! The kernel greets connections by itself and queues them. Those that nobody has accepted when the socket closes are
//! reset, though their clients, for whom they are connected, may have sent requests already, and cannot know that
//! nobody has looked at them. So first no connection is begun any more, then those that are being greeted get the time
//! to come, and then all that wait are accepted (docs/decisions/0011).

use socket2::SockRef;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};

/// Time for connections that the kernel is greeting: a round trip. Who begins one in this time has to try again, which
/// clients' kernels do after a second: so it is short.
pub(super) const HALF_OPEN: Duration = Duration::from_millis(20);

/// The most connections that are taken from a queue: as many as the kernel's usual limit (net.core.somaxconn).
const QUEUE_MAX: usize = 4096;

/// From now on no connection is begun; those that the kernel has begun to greet still come. Where the system cannot do
/// that, some may begin, and be reset, between the last look into the queue and the end.
pub(super) fn begin_no_more(listener: &TcpListener) -> io::Result<()> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        use socket2::SockFilter;
        // Of a packet that asks to begin one, SYN is set and ACK is not, in the byte of the flags. It is dropped
        // without a word; all others pass.
        const FLAGS_AT: u32 = 13;
        const SYN: u32 = 0x02;
        const ACK: u32 = 0x10;
        const LOAD_BYTE: u16 = 0x30;
        const AND: u16 = 0x54;
        const JUMP_IF_EQUAL: u16 = 0x15;
        const RETURN: u16 = 0x06;
        SockRef::from(listener).attach_filter(&[
            SockFilter::new(LOAD_BYTE, 0, 0, FLAGS_AT),
            SockFilter::new(AND, 0, 0, SYN | ACK),
            SockFilter::new(JUMP_IF_EQUAL, 0, 1, SYN),
            SockFilter::new(RETURN, 0, 0, 0),
            SockFilter::new(RETURN, 0, 0, u32::MAX),
        ])?;
    }
    let _ = listener;
    Ok(())
}

/// Closes the socket, and gives the connections that waited.
pub(super) fn close(listener: TcpListener) -> io::Result<Vec<(TcpStream, SocketAddr)>> {
    // The runtime may not have heard of the last ones: the kernel is asked.
    let listener = listener.into_std()?;
    let mut waited = Vec::new();
    while waited.len() < QUEUE_MAX {
        match listener.accept() {
            Ok((socket, peer)) => {
                socket.set_nonblocking(true)?;
                waited.push((TcpStream::from_std(socket)?, peer));
            }
            Err(error) if super::listener::is_per_connection(&error) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => {
                tracing::warn!(%error, "connections that waited to be accepted are cut");
                break;
            }
        }
    }
    Ok(waited)
}
