//! `notify-test` as it is typed, against servers on the loopback interface: what they get, and what is said of it.
#![allow(clippy::unwrap_used)]

mod support;

use std::{
    fs, io,
    net::SocketAddr,
    process::{Output, Stdio},
    sync::{Arc, Mutex},
    thread,
};

use link_watcher_programs::own;
use support::Desk;
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufStream},
    net::TcpListener,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, crypto::ring},
};

/// How a mail server keeps connections private.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Privacy {
    None,
    StartTls,
    Implicit,
}

/// A mail server with a certificate for `localhost`, and what it has heard.
struct MailServer {
    address: SocketAddr,
    heard: Arc<Mutex<String>>,
    certificate: String,
}

impl MailServer {
    fn start(privacy: Privacy) -> Self {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = made.signing_key.serialize_der().try_into().unwrap();
        let tls = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let tls = TlsAcceptor::from(Arc::new(tls));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let heard = Arc::new(Mutex::new(String::new()));
        let hears = Arc::clone(&heard);
        // Ends with the test's process.
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener).unwrap();
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    // A client that does not trust us hangs up: that is what some tests are about.
                    let _ = serve(stream, privacy, &tls, &hears).await;
                }
            });
        });
        Self { address, heard, certificate: made.cert.pem() }
    }

    fn heard(&self) -> String {
        self.heard.lock().unwrap().clone()
    }
}

async fn serve(
    stream: tokio::net::TcpStream,
    privacy: Privacy,
    tls: &TlsAcceptor,
    heard: &Mutex<String>,
) -> io::Result<()> {
    let mut stream = BufStream::new(stream);
    if privacy == Privacy::Implicit {
        return session(&mut BufStream::new(tls.accept(stream.into_inner()).await?), true, false, heard)
            .await
            .map(drop);
    }
    if session(&mut stream, true, privacy == Privacy::StartTls, heard).await? {
        heard.lock().unwrap().push_str("(TLS)\n");
        session(&mut BufStream::new(tls.accept(stream.into_inner()).await?), false, false, heard).await?;
    }
    Ok(())
}

/// A session; true where it is to go on under TLS.
async fn session<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut BufStream<S>,
    greets: bool,
    starttls: bool,
    heard: &Mutex<String>,
) -> io::Result<bool> {
    let mut answer = if greets { "220 mail.example.com\r\n" } else { "" };
    let mut in_mail = false;
    loop {
        stream.write_all(answer.as_bytes()).await?;
        stream.flush().await?;
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(false);
        }
        heard.lock().unwrap().push_str(&line.replace("\r\n", "\n"));
        answer = match line.trim_end() {
            "." => {
                in_mail = false;
                "250 2.0.0 queued as 4711\r\n"
            }
            _ if in_mail => "",
            "DATA" => {
                in_mail = true;
                "354 go ahead\r\n"
            }
            "STARTTLS" => {
                stream.write_all(b"220 go ahead\r\n").await?;
                stream.flush().await?;
                return Ok(true);
            }
            "QUIT" => "221 bye\r\n",
            line if line.starts_with("EHLO") && starttls => "250-mail.example.com\r\n250 STARTTLS\r\n",
            line if line.starts_with("EHLO") => "250-mail.example.com\r\n250 AUTH PLAIN\r\n",
            line if line.starts_with("AUTH PLAIN AHVzZXIAaHVudGVyMg==") => "235 welcome\r\n",
            line if line.starts_with("AUTH") => "535 5.7.8 wrong password\r\n",
            line if line.contains("<nobody@") => "550 5.1.1 no such user\r\n",
            _ => "250 fine\r\n",
        };
    }
}

/// A desk with a configuration that has this section behind a good peer, and what `notify-test` says of it.
fn notify_test(desk: &Desk, section: &str, further: &[&str]) -> Output {
    let peer = "[[peer]]\nname = \"hq\"\nrole = \"client\"\nkey-files = [\"hq.key\"]\nroutes = [\"203.0.113.0/24\"]\n\
                [[peer.link]]\nname = \"a\"\ninterface = \"lo\"\nremote = \"127.0.0.2\"\n";
    let path = desk.write("c.toml", &format!("{peer}{section}"));
    let mut command = own(env!("CARGO_BIN_EXE_link-watcher"));
    command.args(["notify-test", "--config", path.to_str().unwrap()]).args(further).stdin(Stdio::null());
    command.env("SSL_CERT_FILE", desk.path("roots.pem")).output().unwrap()
}

fn said(output: &Output) -> (i32, String) {
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.code().unwrap(), text)
}

fn email(name: &str, smtp: &str, lines: &str) -> String {
    format!(
        "[[notify]]\nkind = \"email\"\nname = \"{name}\"\nfrom = \"Router <r@example.com>\"\nto = [\"n@example.com\", \"m@example.com\"]\n\
         smtp = \"{smtp}\"\n{lines}\n"
    )
}

#[test]
fn a_mail_without_tls_to_this_machine() {
    let (desk, server) = (Desk::new(), MailServer::start(Privacy::None));
    let (code, text) = said(&notify_test(&desk, &email("admin", &format!("smtp://{}", server.address), ""), &[]));
    assert_eq!(
        (code, text),
        (0, format!("admin (email): taken: {} answered 250 2.0.0 queued as 4711\n", server.address))
    );
    let heard = server.heard();
    for line in [
        "MAIL FROM:<r@example.com>\n",
        "RCPT TO:<n@example.com>\n",
        "RCPT TO:<m@example.com>\n",
        "\nFrom: Router <r@example.com>\n",
        "\nTo: n@example.com, m@example.com\n",
        "\nSubject: [link-watcher ",
        "\nAuto-Submitted: auto-generated\n",
        "\nDate: ",
        ".link-watcher@example.com>\n",
        "This is a test of the notifier admin of link-watcher",
    ] {
        assert!(heard.contains(line), "{line:?} is missing in {heard}");
    }
}

#[test]
fn starttls_with_a_password() {
    let (desk, server) = (Desk::new(), MailServer::start(Privacy::StartTls));
    desk.write_key("password", 0o600, "hunter2\n");
    desk.write("roots.pem", &server.certificate);
    let lines = "tls = \"required\"\npassword-file = \"password\"";
    let section = email("admin", &format!("smtp://user@localhost:{}", server.address.port()), lines);
    let (code, text) = said(&notify_test(&desk, &section, &[]));
    assert_eq!(code, 0, "{text}\n{}", server.heard());
    let heard = server.heard();
    let (before, after) = heard.split_once("STARTTLS\n(TLS)\n").unwrap();
    assert!(!before.contains("AUTH") && after.contains("AUTH PLAIN AHVzZXIAaHVudGVyMg==\n"), "{heard}");
    assert!(after.contains("DATA\n"), "{heard}");
    // Somebody else's certificate: nothing is told to such a server.
    desk.write("roots.pem", &rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap().cert.pem());
    let (code, text) = said(&notify_test(&desk, &section, &[]));
    assert!(code == 1 && text.contains("FAILED") && text.contains("certificate"), "{text}");
    assert_eq!(server.heard().matches("AUTH").count(), 1);
}

#[test]
fn a_server_without_starttls_gets_nothing_where_it_is_required() {
    let (desk, server) = (Desk::new(), MailServer::start(Privacy::None));
    let section = email("admin", &format!("smtp://{}", server.address), "tls = \"required\"");
    desk.write("roots.pem", &server.certificate);
    let (code, text) = said(&notify_test(&desk, &section, &[]));
    assert!(code == 1 && text.contains("FAILED"), "{text}");
    assert!(!server.heard().contains("MAIL"), "{}", server.heard());
}

#[test]
fn smtps() {
    let (desk, server) = (Desk::new(), MailServer::start(Privacy::Implicit));
    desk.write("roots.pem", &server.certificate);
    desk.write_key("password", 0o600, "wrong");
    let (port, lines) = (server.address.port(), "password-file = \"password\"");
    let (code, text) = said(&notify_test(&desk, &email("a", &format!("smtps://localhost:{port}"), ""), &[]));
    assert_eq!(code, 0, "{text}");
    let (code, text) = said(&notify_test(&desk, &email("a", &format!("smtps://user@localhost:{port}"), lines), &[]));
    assert!(code == 1 && text.contains("535") && text.contains("wrong password"), "{text}");
    assert!(!text.contains("hunter2"));
}

#[test]
fn each_notifier_is_tried_and_one_failure_is_one() {
    let (desk, server) = (Desk::new(), MailServer::start(Privacy::None));
    let out = desk.path("out");
    desk.write_key("page", 0o755, &format!("#!/bin/sh\necho \"$LW_EVENT $*\" > {}\n", out.display()));
    let refused = email("refused", &format!("smtp://{}", server.address), "").replace("n@", "nobody@");
    let exec =
        format!("[[notify]]\nkind = \"exec\"\nname = \"pager\"\ncommand = [\"{}\"]\n", desk.path("page").display());
    let hook = "[[notify]]\nkind = \"webhook\"\nname = \"hook\"\nurl = \"http://127.0.0.1:9/secret\"\n";
    let sections = format!("{refused}{exec}{hook}");
    let (code, text) = said(&notify_test(&desk, &sections, &[]));
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!((code, lines.len()), (1, 3), "{text}");
    assert!(lines[0].starts_with("refused (email): FAILED") && lines[0].contains("no such user"), "{text}");
    assert!(lines[1].starts_with("pager (exec): taken: ") && lines[1].ends_with("ended with status 0"), "{text}");
    assert!(lines[2].starts_with("hook (webhook): FAILED: http://127.0.0.1:9: "), "{text}");
    assert!(!text.contains("secret"));
    assert_eq!(fs::read_to_string(&out).unwrap(), "test test\n");
    // One by its name.
    assert_eq!(said(&notify_test(&desk, &sections, &["pager"])).0, 0);
    let unknown = said(&notify_test(&desk, &sections, &["peger"]));
    assert_eq!(unknown, (1, "link-watcher: no notifier is called peger; there is refused, pager, hook\n".to_owned()));
    let (code, text) = said(&notify_test(&desk, "", &[]));
    assert!(code == 1 && text.contains("has no [[notify]]"), "{text}");
}
