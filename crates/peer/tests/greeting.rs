//! Who is let in and who is not, and what both ends are told.

mod support;

use bytes::Bytes;
use netsy_api::peer::{
    CallRequest, CallResponse, Forward, Hello, Refusal, SessionFrame, Welcome, call_request, refusal, session_frame,
};
use netsy_peer::{DialError, Direction, Identity, PeerEvent, VERSION_MAX, Versions};
use rcgen::ExtendedKeyUsagePurpose;
use support::pki::{Ca, Leaf};
use support::raw::{RawClient, framed, framed_bytes, hello, hello_frame};
use support::{CLUSTER, PATIENCE, Setup, TestNode, node_id, request};
use tempfile::TempDir;

async fn refused(node: &TestNode, hello: Hello) -> Refusal {
    let client = RawClient::connect(node.peers.addr()).await;
    let (frame, _send, mut body) = client.session(framed(&hello_frame(hello))).await.expect("an answer");
    let Some(session_frame::Kind::Refusal(refusal)) = frame.kind else { panic!("{frame:?}") };
    // Nothing follows, and the connection ends.
    let end = tokio::time::timeout(PATIENCE, body.data()).await.expect("it ends");
    assert!(!matches!(end, Some(Ok(data)) if !data.is_empty()));
    refusal
}

#[tokio::test]
async fn a_sound_hello_is_welcomed() {
    let node = Setup::new("b").start().await;
    let client = RawClient::connect(node.peers.addr()).await;
    let mut later = hello("a", "b");
    // A newer program that still speaks what this one does.
    later.version_max = 99;
    let (frame, _send, _body) = client.session(framed(&hello_frame(later))).await.expect("an answer");
    let Some(session_frame::Kind::Welcome(welcome)) = frame.kind else { panic!("{frame:?}") };
    assert_eq!((welcome.version, welcome.node_id.as_str()), (VERSION_MAX, "b"));
    assert_eq!((welcome.incarnation.len(), welcome.session.len()), (16, 16));
    let remote = node.up(Direction::Incoming).await;
    assert_eq!((remote.node_id.as_str(), remote.software.as_str()), ("a", "by hand"));
}

#[tokio::test]
async fn a_version_that_is_not_spoken_is_refused_naming_both() {
    let node = Setup::new("b").start().await;
    for (min, max) in [(2, 3), (0, 0), (7, 2)] {
        let mut other = hello("a", "b");
        (other.version_min, other.version_max) = (min, max);
        // What else it says may mean anything in its version.
        other.cluster_id = "\u{1f980}".into();
        let refusal = refused(&node, other).await;
        assert_eq!(refusal.kind(), refusal::Kind::Version);
        assert_eq!(Versions { min: refusal.version_min, max: refusal.version_max }, Versions::OWN);
        let theirs = Versions { min, max };
        for part in ["b runs netsy", &format!("speaks peer protocol {}", Versions::OWN), &theirs.to_string()] {
            assert!(refusal.text.contains(part), "{part:?} is not in {:?}", refusal.text);
        }
    }
}

#[tokio::test]
async fn who_is_not_of_this_cluster_or_not_whom_it_says_is_refused() {
    let node = Setup::new("b").start().await;
    let mut other = hello("a", "b");
    other.cluster_id = "other".into();
    let refusal = refused(&node, other).await;
    assert_eq!(refusal.kind(), refusal::Kind::Cluster, "{}", refusal.text);
    let refusal = refused(&node, hello("a", "c")).await;
    assert_eq!(refusal.kind(), refusal::Kind::Identity, "{}", refusal.text);
    let refusal = refused(&node, hello("b", "b")).await;
    assert_eq!(refusal.kind(), refusal::Kind::Identity, "{}", refusal.text);
    for spoil in [
        |h: &mut Hello| h.node_id = "No Name".into(),
        |h: &mut Hello| h.node_id = String::new(),
        |h: &mut Hello| h.incarnation = Bytes::from_static(b"short"),
        |h: &mut Hello| h.session = Bytes::new(),
    ] {
        let mut bad = hello("a", "b");
        spoil(&mut bad);
        let refusal = refused(&node, bad).await;
        assert_eq!(refusal.kind(), refusal::Kind::Malformed, "{}", refusal.text);
    }
    assert!(node.peers.connected().is_empty());
}

#[tokio::test]
async fn nothing_is_done_for_who_has_not_said_who_it_is() {
    let node = Setup::new("b").start().await;
    let client = RawClient::connect(node.peers.addr()).await;
    for path in ["Calls", "Replicate", "Nothing"] {
        let (response, _send) = client.open(path).await;
        assert!(response.await.is_err(), "{path}");
    }
    // Something else than a Hello first.
    let welcome = SessionFrame { kind: Some(session_frame::Kind::Welcome(Welcome::default())) };
    let (frame, ..) = client.session(framed(&welcome)).await.expect("an answer");
    assert!(matches!(frame.kind, Some(session_frame::Kind::Refusal(r)) if r.kind() == refusal::Kind::Malformed));
}

#[tokio::test]
async fn after_the_greeting_calls_are_answered_and_a_second_session_is_not() {
    let forward: support::ForwardFn =
        Box::new(|request| Box::pin(async move { netsy_peer::ForwardReply::Answer(request.body) }));
    let node = Setup { forward, ..Setup::new("b") }.start().await;
    let client = RawClient::connect(node.peers.addr()).await;
    let _session = client.session(framed(&hello_frame(hello("a", "b")))).await.expect("an answer");
    let (response, mut send) = client.open("Calls").await;
    let forward = Forward { path: "/s/m".into(), body: "x".into(), timeout_us: u64::MAX, ..Forward::default() };
    let call = CallRequest { id: 5, kind: Some(call_request::Kind::Forward(forward)) };
    send.send_data(framed(&call), false).expect("open");
    let answer: CallResponse = support::raw::read(&mut response.await.expect("open").into_body()).await.expect("one");
    assert_eq!(answer.id, 5);
    for path in ["Session", "Calls"] {
        let (response, _send) = client.open(path).await;
        assert!(response.await.is_err(), "a second {path}");
    }
    assert_eq!(node.peers.connected().len(), 1);
}

#[tokio::test]
async fn bytes_that_are_no_protocol_end_their_connection_and_nothing_else() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let node = Setup::new("b").start().await;
    let other = Setup::new("a").start().await;
    other.calls(&[&node]);
    other.up(Direction::Outgoing).await;
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    let mut spoilt: Vec<Vec<u8>> =
        vec![b"GET / HTTP/1.1\r\n\r\n".to_vec(), vec![0; 1000], vec![0xff; 1000], b"\x16\x03\x01\x02\x00".to_vec()];
    for seed in 0..200u64 {
        let mut bytes = preface.clone();
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        for _ in 0..100 + seed * 7 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            bytes.push(state as u8);
        }
        spoilt.push(bytes);
    }
    for bytes in spoilt {
        let mut tcp = tokio::net::TcpStream::connect(node.peers.addr()).await.expect("it listens");
        // An error means that it was thrown out before it had said everything.
        let _ = tcp.write_all(&bytes).await;
        let _ = tcp.shutdown().await;
        let mut answer = vec![];
        let _ = tokio::time::timeout(PATIENCE, tcp.read_to_end(&mut answer)).await.expect("it is thrown out");
    }
    other.peers.send_engine(&node.id, Bytes::from_static(b"still here")).expect("room");
    assert_eq!(node.message().await.1, "still here");
}

#[tokio::test]
async fn messages_that_are_none_end_their_connection_and_nothing_else() {
    let node = Setup::new("b").start().await;
    let spoilt = [
        framed_bytes(&[0xff; 40]),
        framed_bytes(b""),
        Bytes::from_static(b"\x01\x00\x00\x00\x01x"),
        Bytes::from_static(b"\x00\xff\xff\xff\xff"),
        Bytes::from_static(b"\x07"),
    ];
    for path in ["Session", "Calls", "Replicate"] {
        for bytes in &spoilt {
            let client = RawClient::connect(node.peers.addr()).await;
            let opened = client.session(framed(&hello_frame(hello("a", "b")))).await;
            let (_, mut session, session_body) = opened.expect("an answer");
            let mut body = match path {
                "Session" => {
                    session.send_data(bytes.clone(), true).expect("open");
                    session_body
                }
                _ => {
                    let (response, mut send) = client.open(path).await;
                    send.send_data(bytes.clone(), true).expect("open");
                    match response.await {
                        Ok(response) => response.into_body(),
                        Err(_) => continue,
                    }
                }
            };
            let end = async { while let Some(Ok(_)) = body.data().await {} };
            tokio::time::timeout(PATIENCE, end).await.unwrap_or_else(|_| panic!("{path} with {bytes:?}"));
        }
    }
    let client = RawClient::connect(node.peers.addr()).await;
    let (frame, ..) = client.session(framed(&hello_frame(hello("a", "b")))).await.expect("an answer");
    assert!(matches!(frame.kind, Some(session_frame::Kind::Welcome(_))));
}

async fn unreachable(node: &TestNode) -> DialError {
    node.event(|event| match event {
        PeerEvent::Unreachable { error, .. } => Some(error.clone()),
        _ => None,
    })
    .await
}

/// Answers every session with `answer`.
async fn impostor(answer: SessionFrame) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address").to_string();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let answer = framed(&answer);
            tokio::spawn(async move {
                let mut h2 = h2::server::handshake(tcp).await.expect("HTTP/2");
                let mut open = vec![];
                while let Some(Ok((_, mut respond))) = h2.accept().await {
                    let mut send = respond.send_response(http::Response::new(()), false).expect("open");
                    send.send_data(answer.clone(), false).expect("open");
                    open.push(send);
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn whoever_answers_with_another_version_or_name_is_not_talked_to() {
    let sound = Welcome {
        version: 1,
        node_id: "b".into(),
        incarnation: vec![1; 16].into(),
        session: vec![2; 16].into(),
        software: "netsy 9".into(),
    };
    let welcome = |spoil: fn(&mut Welcome)| {
        let mut welcome = sound.clone();
        spoil(&mut welcome);
        SessionFrame { kind: Some(session_frame::Kind::Welcome(welcome)) }
    };
    let refusal = Refusal {
        kind: refusal::Kind::Version.into(),
        text: "no".into(),
        version_min: 4,
        version_max: 6,
        software: "netsy 9".into(),
    };
    let node = Setup::new("a").start().await;
    let dial = async |answer| {
        node.peers.set_addresses([(node_id("b"), impostor(answer).await)]);
        let error = unreachable(&node).await;
        node.peers.set_addresses([]);
        error
    };
    let error = dial(SessionFrame { kind: Some(session_frame::Kind::Refusal(refusal)) }).await;
    let text = error.to_string();
    assert!(matches!(error, DialError::Version { theirs: Versions { min: 4, max: 6 }, ours: Versions::OWN, .. }));
    for part in ["node b", "netsy 9", "peer protocol 4 to 6", "this node 1"] {
        assert!(text.contains(part), "{part:?} is not in {text:?}");
    }
    let error = dial(welcome(|w| w.version = 2)).await;
    assert!(matches!(error, DialError::Version { .. }), "{error}");
    let error = dial(welcome(|w| w.node_id = "c".into())).await;
    assert!(matches!(&error, DialError::Refused { text, .. } if text.contains("not b")), "{error}");
    let error = dial(welcome(|w| w.session = Bytes::new())).await;
    assert!(matches!(error, DialError::Greeting { .. }), "{error}");
    let error = dial(SessionFrame { kind: None }).await;
    assert!(matches!(error, DialError::Greeting { .. }), "{error}");
    let error = dial(hello_frame(hello("b", "a"))).await;
    assert!(matches!(error, DialError::Greeting { .. }), "{error}");
    assert!(node.peers.connected().is_empty());
}

#[tokio::test]
async fn an_address_that_was_anothers_and_a_name_that_is_taken_are_told() {
    let a = Setup::new("a").start().await;
    let b = Setup::new("b").start().await;
    a.peers.set_addresses([(node_id("c"), b.peers.addr().to_string())]);
    let error = unreachable(&a).await;
    assert!(matches!(&error, DialError::Refused { text, .. } if text.contains("looked for \"c\" here")), "{error}");
    let other = Setup { cluster: "other", ..Setup::new("d") }.start().await;
    other.calls(&[&b]);
    let error = unreachable(&other).await;
    assert!(matches!(&error, DialError::Refused { text, .. } if text.contains("cluster")), "{error}");
    a.peers.set_addresses([(node_id("e"), "nowhere.invalid:1".into())]);
    a.event(|event| match event {
        PeerEvent::Unreachable { error: DialError::Resolve { .. } | DialError::Connect { .. }, .. } => Some(()),
        _ => None,
    })
    .await;
}

/// The node's log thread is the first to hear of some nodes.
#[tokio::test]
async fn addresses_may_come_from_any_thread() {
    let a = Setup::new("a").start().await;
    let b = Setup::new("b").start().await;
    let (peers, address) = (a.peers.clone(), b.peers.addr().to_string());
    let told = std::thread::spawn(move || peers.set_addresses([(node_id("b"), address)]));
    tokio::task::spawn_blocking(move || told.join()).await.expect("waited").expect("no panic");
    a.event(|event| match event {
        PeerEvent::Up { remote, .. } if remote.node_id == node_id("b") => Some(()),
        _ => None,
    })
    .await;
}

#[tokio::test]
async fn a_stopping_node_refuses_kindly() {
    let a = Setup::new("a").start().await;
    let b = Setup::new("b").start().await;
    a.calls(&[&b]);
    a.up(Direction::Outgoing).await;
    b.peers.stop("over").await;
    b.peers.stop("twice is once").await;
    let outcome = a.peer(&b).forward(request("/s/m", b"")).await;
    assert!(outcome.is_err());
}

/// A node whose certificates may be anything.
struct Certified {
    ca: Ca,
    dir: TempDir,
}

impl Certified {
    fn new() -> Self {
        Self { ca: Ca::new(), dir: TempDir::new().expect("a folder") }
    }

    fn setup(&self, id: &'static str) -> Setup {
        Setup { tls: Some(self.ca.node(self.dir.path(), CLUSTER, id)), ..Setup::new(id) }
    }
}

/// TLS settings of someone who shows `leaf`, takes any server, and does not check itself.
mod any {
    use super::*;
    use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
    use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
    use std::sync::Arc;

    #[derive(Debug)]
    struct Anyone;

    impl ServerCertVerifier for Anyone {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
        }
    }

    pub fn config(shown: Option<(String, String)>) -> ClientConfig {
        let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anyone));
        let mut config = match shown {
            None => builder.with_no_client_auth(),
            Some((cert, key)) => builder
                .with_client_auth_cert(
                    vec![CertificateDer::from_pem_slice(cert.as_bytes()).expect("a certificate")],
                    PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("a key"),
                )
                .expect("a pair"),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        config
    }

    /// Whether a node answers a sound Hello in the name of `node` from someone who shows this.
    pub async fn answer(node: &TestNode, name: &str, shown: Option<(String, String)>) -> Result<SessionFrame, String> {
        let tcp = tokio::net::TcpStream::connect(node.peers.addr()).await.expect("it listens");
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config(shown)));
        let name_shown = ServerName::try_from("localhost").expect("a name");
        let tls = connector.connect(name_shown, tcp).await.map_err(|e| e.to_string())?;
        let (requests, connection) = h2::client::handshake(tls).await.map_err(|e| e.to_string())?;
        tokio::spawn(connection);
        let client = RawClient { requests };
        let first = framed(&hello_frame(hello(name, node.id.as_str())));
        client.session(first).await.map(|(frame, ..)| frame).map_err(|e| e.to_string())
    }
}

#[tokio::test]
async fn with_tls_only_nodes_of_this_cluster_get_in_and_only_under_their_own_name() {
    let certified = Certified::new();
    let node = certified.setup("b").start().await;
    let sound = Leaf::of("netsy://test/peer/a");
    let frame = any::answer(&node, "a", Some(certified.ca.issue(&sound))).await.expect("an answer");
    assert!(matches!(frame.kind, Some(session_frame::Kind::Welcome(_))), "{frame:?}");
    // Another's name.
    let frame = any::answer(&node, "c", Some(certified.ca.issue(&sound))).await.expect("an answer");
    match frame.kind {
        Some(session_frame::Kind::Refusal(refusal)) => {
            assert_eq!(refusal.kind(), refusal::Kind::Identity);
            assert!(refusal.text.contains("netsy://test/peer/a"), "{}", refusal.text);
        }
        other => panic!("{other:?}"),
    }
    let stranger = Ca::new();
    let shown =
        [
            ("no certificate", None),
            ("another CA", Some(stranger.issue(&sound))),
            ("another cluster", Some(certified.ca.issue(&Leaf::of("netsy://other/peer/a")))),
            ("another role", Some(certified.ca.issue(&Leaf::of("netsy://test/client/a")))),
            ("an operator", Some(certified.ca.issue(&Leaf::of("netsy://test/operator/a")))),
            ("no identity", Some(certified.ca.issue(&Leaf { uris: vec![], ..Leaf::of("") }))),
            ("another URI", Some(certified.ca.issue(&Leaf::of("https://test/peer/a")))),
            (
                "two identities",
                Some(certified.ca.issue(&Leaf {
                    uris: vec!["netsy://test/peer/a".into(), "netsy://test/peer/c".into()],
                    ..Leaf::of("")
                })),
            ),
            ("expired", Some(certified.ca.issue(&Leaf { expired: true, ..Leaf::of("netsy://test/peer/a") }))),
            (
                "not for clients",
                Some(certified.ca.issue(&Leaf {
                    usages: vec![ExtendedKeyUsagePurpose::ServerAuth],
                    ..Leaf::of("netsy://test/peer/a")
                })),
            ),
        ];
    for (what, shown) in shown {
        assert!(any::answer(&node, "a", shown).await.is_err(), "{what}");
    }
    // Without TLS at all.
    let tcp = tokio::net::TcpStream::connect(node.peers.addr()).await.expect("it listens");
    let (requests, connection) = h2::client::handshake(tcp).await.expect("nothing is read yet");
    tokio::spawn(connection);
    let first = framed(&hello_frame(hello("a", "b")));
    assert!(RawClient { requests }.session(first).await.is_err());
    assert_eq!(node.peers.connected().len(), 0, "the sound one has closed its connection by now");
}

#[tokio::test]
async fn with_tls_only_the_node_that_was_looked_for_is_talked_to() {
    let certified = Certified::new();
    let a = certified.setup("a").start().await;
    let c = certified.setup("c").start().await;
    // Another node at the address.
    a.peers.set_addresses([(node_id("b"), c.peers.addr().to_string())]);
    let error = unreachable(&a).await;
    assert!(matches!(&error, DialError::Tls { error, .. } if error.contains("netsy://test/peer/c")), "{error}");
    a.peers.set_addresses([]);
    // A node of the same name with certificates of another CA.
    let stranger = Certified::new();
    let b = stranger.setup("b").start().await;
    a.calls(&[&b]);
    let error = unreachable(&a).await;
    assert!(matches!(&error, DialError::Tls { error, .. } if error.contains("UnknownIssuer")), "{error}");
    a.peers.set_addresses([]);
    // One without TLS.
    let b = Setup::new("b").start().await;
    a.calls(&[&b]);
    let error = unreachable(&a).await;
    assert!(matches!(&error, DialError::Tls { .. } | DialError::Greeting { .. }), "{error}");
    assert!(a.peers.connected().is_empty());
    let own = Identity::peer(CLUSTER, &a.id);
    assert_eq!(own.to_string(), "netsy://test/peer/a");
}
