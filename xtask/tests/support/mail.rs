//! A mail server that takes everything, in a namespace.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::{Context as _, Result};
use link_watcher_lab::netns::Namespace;

/// What it has taken. It goes with the test's process.
#[derive(Debug, Default)]
pub struct Mailbox(Mutex<Vec<String>>);

impl Mailbox {
    /// Begins to listen on an address of the namespace.
    pub fn open(namespace: &Namespace, address: &str) -> Result<Arc<Mailbox>> {
        let listener = namespace.run(|| TcpListener::bind(address))?.context("cannot listen for mail")?;
        let mailbox = Arc::new(Mailbox::default());
        let fills = Arc::clone(&mailbox);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // Whoever hangs up in the middle has sent nothing.
                let _ = fills.serve(&stream);
            }
        });
        Ok(mailbox)
    }

    /// A mail that contains this.
    pub fn find(&self, text: &str) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().find(|mail| mail.contains(text)).cloned()
    }

    /// RFC 5321 as far as a sender needs it.
    fn serve(&self, stream: &TcpStream) -> io::Result<()> {
        let mut answer = "220 mail.example.com";
        let mut mail = None::<String>;
        let mut lines = BufReader::new(stream).lines();
        loop {
            if !answer.is_empty() {
                let mut stream = stream;
                write!(stream, "{answer}\r\n")?;
            }
            let Some(line) = lines.next().transpose()? else { return Ok(()) };
            answer = match (&mut mail, line.as_str()) {
                (Some(text), ".") => {
                    let text = std::mem::take(text);
                    self.0.lock().unwrap_or_else(PoisonError::into_inner).push(text);
                    mail = None;
                    "250 taken"
                }
                (Some(text), line) => {
                    text.push_str(line);
                    text.push('\n');
                    ""
                }
                (None, "DATA") => {
                    mail = Some(String::new());
                    "354 go ahead"
                }
                (None, "QUIT") => "221 bye",
                (None, _) => "250 fine",
            };
        }
    }
}
