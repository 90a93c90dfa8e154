//! Real requests over the loopback interface.
#![allow(clippy::unwrap_used)]

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{RootCertStore, ServerConfig, crypto::ring},
};

use super::*;

const DEADLINE: Duration = Duration::from_secs(20);

fn way() -> Way {
    Way { interface: "lo".to_owned(), source: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)), mark: 0 }
}

/// A server for one request, which it gives back; where it listens.
async fn server(reply: Vec<u8>, tls: Option<TlsAcceptor>) -> (SocketAddr, tokio::task::JoinHandle<io::Result<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        let (stream, _) = listener.accept().await?;
        match tls {
            None => serve(stream, &reply).await,
            Some(tls) => serve(tls.accept(stream).await?, &reply).await,
        }
    });
    (address, task)
}

async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, reply: &[u8]) -> io::Result<String> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        request.push(stream.read_u8().await?);
    }
    // Who has seen enough hangs up.
    let _ = stream.write_all(reply).await;
    let _ = stream.shutdown().await;
    Ok(String::from_utf8(request).unwrap())
}

fn target(address: SocketAddr, tls: bool, host: &str) -> HttpTarget {
    HttpTarget { tls, host: host.to_owned(), address, path: "/check?x=1".to_owned() }
}

async fn ask(target: &HttpTarget, body: Option<&str>, tls: &Tls) -> Result<Duration, Failure> {
    let expected = Expected { status: &(200..=299), body };
    tokio::time::timeout(DEADLINE, probe(&way(), target, expected, tls)).await.expect("it ends")
}

fn reply(status: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

fn why(result: Result<Duration, Failure>) -> String {
    match result.unwrap_err() {
        Failure::Unanswered(why) | Failure::Unsent(why) => why,
    }
}

#[tokio::test]
async fn a_good_status_is_an_answer() {
    let (address, served) = server(reply("204 No Content", ""), None).await;
    ask(&target(address, false, "check.example.com"), None, &Tls::default()).await.unwrap();
    let request = served.await.unwrap().unwrap();
    assert!(request.starts_with("GET /check?x=1 HTTP/1.1\r\n"), "{request}");
    assert!(request.contains(&format!("host: check.example.com:{}\r\n", address.port())), "{request}");
}

#[tokio::test]
async fn another_status_is_none() {
    let (address, _served) = server(reply("302 Found", ""), None).await;
    let why = why(ask(&target(address, false, "check.example.com"), None, &Tls::default()).await);
    assert_eq!(why, "status 302 Found, expected 200 to 299");
}

#[tokio::test]
async fn the_body_must_hold_the_text() {
    let far = format!("{}needle", "x".repeat(MAX_BODY));
    let near = format!("{}needle", "x".repeat(MAX_BODY - 6));
    for (body, good) in [("a needle here", true), ("nothing", false), ("", false), (&near, true), (&far, false)] {
        let (address, _served) = server(reply("200 OK", body), None).await;
        let result = ask(&target(address, false, "h"), Some("needle"), &Tls::default()).await;
        assert_eq!(result.is_ok(), good, "{} bytes: {result:?}", body.len());
    }
    // In pieces, the text across two of them.
    let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\na nee\r\n4\r\ndle!\r\n0\r\n\r\n".to_vec();
    let (address, _served) = server(chunked, None).await;
    ask(&target(address, false, "h"), Some("needle"), &Tls::default()).await.unwrap();
}

#[tokio::test]
async fn what_is_not_http_is_none() {
    for garbage in [b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(), Vec::new(), vec![b'H'; 10 * MAX_BUFFER]] {
        let (address, _served) = server(garbage, None).await;
        assert!(ask(&target(address, false, "h"), None, &Tls::default()).await.is_err());
    }
    let header = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(4 * MAX_BUFFER)).into_bytes();
    let (address, _served) = server(header, None).await;
    assert!(ask(&target(address, false, "h"), None, &Tls::default()).await.is_err(), "a header without end");
}

#[tokio::test]
async fn https_wants_a_trusted_certificate_for_the_host() {
    let made = rcgen::generate_simple_self_signed(["check.example.com".to_owned()]).unwrap();
    let key = made.signing_key.serialize_der().try_into().unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let trusting = Tls::with_roots(roots);
    let stranger = rcgen::generate_simple_self_signed(["check.example.com".to_owned()]).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(stranger.cert.der().clone()).unwrap();
    let distrusting = Tls::with_roots(roots);
    for (host, tls, good) in [
        ("check.example.com", &trusting, true),
        ("other.example.com", &trusting, false),
        ("check.example.com", &distrusting, false),
    ] {
        let (address, _served) = server(reply("200 OK", "fine"), Some(acceptor.clone())).await;
        let result = ask(&target(address, true, host), Some("fine"), tls).await;
        assert_eq!(result.is_ok(), good, "{host}: {result:?}");
    }
}

#[tokio::test]
async fn nobody_there_is_told() {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let why = why(ask(&target(closed, false, "h"), None, &Tls::default()).await);
    assert_eq!(why, "connecting: the server refuses");
}
