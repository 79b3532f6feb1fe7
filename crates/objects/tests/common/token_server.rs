//! A token or metadata service on loopback: answers by path, and notes what it was asked.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;

use parking_lot::Mutex;

/// A request's line and body.
pub type Asked = Vec<(String, String)>;

pub struct TokenServer {
    pub endpoint: String,
    asked: Arc<Mutex<Asked>>,
}

impl TokenServer {
    /// `answer` is given the request line and the body, and gives content type and body, or
    /// nothing for 404. Its thread ends with the test program.
    pub fn start(answer: impl Fn(&str, &str) -> Option<(&'static str, String)> + Send + 'static) -> TokenServer {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let asked: Arc<Mutex<Asked>> = Arc::default();
        let noted = Arc::clone(&asked);
        std::thread::spawn(move || {
            for socket in listener.incoming() {
                let Some((line, body, socket)) = socket.ok().and_then(read) else { continue };
                reply(socket, answer(&line, &body));
                noted.lock().push((line, body));
            }
        });
        TokenServer { endpoint, asked }
    }

    pub fn asked(&self) -> Asked {
        self.asked.lock().clone()
    }
}

fn read(socket: TcpStream) -> Option<(String, String, TcpStream)> {
    let mut reader = BufReader::new(socket);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut length = 0;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        if header.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = header.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().ok()?;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some((line.trim().to_string(), String::from_utf8_lossy(&body).into_owned(), reader.into_inner()))
}

fn reply(mut socket: TcpStream, answer: Option<(&str, String)>) {
    let (status, kind, body) = match answer {
        Some((kind, body)) => ("200 OK", kind, body),
        None => ("404 Not Found", "text/plain", String::new()),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    // A client that left is its own business.
    let _ = socket.write_all(head.as_bytes());
}
