//! Real requests over the loopback interface.
#![allow(clippy::unwrap_used)]

use std::{fs, os::unix::fs::PermissionsExt, sync::Arc};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    task::JoinHandle,
};

use super::*;
use crate::{
    config::{Means, NotifyConfig, SecretFile, Template},
    control::EventRecord,
    notify::outbox::Batch,
};

/// What a server does with a request.
#[derive(Clone, Copy)]
enum Server {
    Answers(&'static str),
    Stalls,
}

/// A server for one request, which it gives back; its URL.
async fn server(does: Server) -> (Url, JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook?key=secret", listener.local_addr().unwrap()).parse().unwrap();
    let task = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = Vec::new();
        loop {
            request.push(stream.read_u8().await.unwrap());
            let text = String::from_utf8_lossy(&request).to_lowercase();
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            let length = head.split("content-length: ").nth(1).unwrap().lines().next().unwrap();
            if body.len() >= length.parse().unwrap() {
                break;
            }
        }
        match does {
            Server::Answers(answer) => stream.write_all(answer.as_bytes()).await.unwrap(),
            // Until whoever asked hangs up.
            Server::Stalls => drop(stream.read_u8().await),
        }
        String::from_utf8(request).unwrap()
    });
    (url, task)
}

fn notifier(url: Url, secret: Option<SecretFile>) -> NotifyConfig {
    let means = Means::Webhook(WebhookConfig { url, template: Template::Json, secret });
    NotifyConfig { name: "chat".to_owned(), on: Vec::new(), min_interval: Duration::ZERO, means }
}

fn message() -> Message {
    let event = EventRecord { group: "hq".to_owned(), what: "link-down".to_owned(), ..EventRecord::default() };
    Message::new(Batch { events: vec![Arc::new(event)], omitted: 0 }, None, "r1")
}

async fn sent_to(url: Url, secret: Option<SecretFile>) -> Result<String, DeliveryError> {
    let delivery = Delivery { limit: Duration::from_millis(500), ..Delivery::new() };
    delivery.send(&notifier(url, secret), &message()).await
}

#[tokio::test]
async fn a_body_is_posted_and_signed() {
    let desk = tempfile::tempdir().unwrap();
    let path = desk.path().join("hook.key");
    fs::write(&path, "a shared secret\n").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let (url, served) = server(Server::Answers("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine")).await;
    let address = url.authority().to_owned();
    let answer = sent_to(url, Some(SecretFile::Path(path))).await.unwrap();
    assert_eq!(answer, format!("http://{address} answered 200 OK: fine"), "nothing of the path is shown");
    let request = served.await.unwrap();
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with(&format!("POST /hook?key=secret HTTP/1.1\r\nhost: {address}\r\n")), "{head}");
    assert!(head.contains("content-type: application/json\r\n"), "{head}");
    assert!(
        head.contains(&format!(
            "x-link-watcher-signature: sha256={}\r\n",
            signature(b"a shared secret", body.as_bytes())
        ))
    );
    assert!(body.starts_with('{') && body.contains("\"what\":\"link-down\""), "{body}");
}

#[test]
fn the_signature_is_that_of_the_rfc() {
    // RFC 4231, section 4.3.
    assert_eq!(
        signature(b"Jefe", b"what do ya want for nothing?"),
        "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
    );
}

#[tokio::test]
async fn answers_that_are_none() {
    for (answer, refused, words) in [
        ("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 5\r\n\r\nlater", false, "503 Service Unavailable: later"),
        ("HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n\r\n", false, "429 Too Many Requests"),
        ("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", true, "404 Not Found"),
        (
            "HTTP/1.1 302 Found\r\nLocation: http://192.0.2.1/x\r\nContent-Length: 0\r\n\r\n",
            true,
            "302 Found: it is elsewhere (http://192.0.2.1/x), and no redirection is followed; correct `url`",
        ),
        ("SSH-2.0-OpenSSH_9.2\r\n", false, ": HTTP: invalid HTTP version parsed"),
    ] {
        let (url, served) = server(Server::Answers(answer)).await;
        let error = sent_to(url, None).await.unwrap_err();
        assert!(error.to_string().ends_with(words), "{error}");
        assert_eq!(error.refused, refused, "{error}");
        served.await.unwrap();
    }
}

#[tokio::test]
async fn one_that_stalls_is_left() {
    let (url, served) = server(Server::Stalls).await;
    let error = sent_to(url, None).await.unwrap_err();
    assert_eq!((error.to_string().as_str(), error.refused), ("no answer within 0.5 s", false));
    served.await.unwrap();
}

#[tokio::test]
async fn nobody_there_and_no_secret() {
    let (url, served) = server(Server::Stalls).await;
    served.abort();
    let _ = served.await;
    let error = sent_to(url.clone(), None).await.unwrap_err();
    assert!(error.to_string().contains("Connection refused") && !error.to_string().contains("secret"), "{error}");
    let error = sent_to(url, Some(SecretFile::Path("/nowhere/hook.key".into()))).await.unwrap_err();
    assert!(error.to_string().starts_with("secret file /nowhere/hook.key does not exist; write the secret"), "{error}");
}
