//! A command's end of the control socket. It blocks: a command has nothing else to do.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    ops::ControlFlow,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use socket2::{Domain, SockAddr, Socket, Type};

use super::{Change, Knowledge, Question, Reply, Request, TraceRequest};
use crate::{
    log,
    statistics::{Day, DayRecord, MAX_DAYS},
    status::Snapshot,
};

/// How long the daemon may take to accept a connection or a request.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// After this somebody at a terminal wants to know what is waited for.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long it may take to answer: longer than the server waits for its core, so that its complaint arrives.
const ANSWER_LIMIT: Duration = Duration::from_secs(25);
/// Longest line of an answer, bytes: a status of some thousand links.
const MAX_REPLY_LEN: u64 = 64 << 20;

/// Why a command got no answer, or not the one it wanted.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error(
        "no daemon answers on {}: {error}\nIs it running? `systemctl status link-watcher` says. Does it use another \
         socket? `--socket PATH` or `--config PATH` says which",
        path.display()
    )]
    NoDaemon {
        /// The socket's path.
        path: PathBuf,
        /// What the kernel said.
        error: io::Error,
    },
    /// We may not use the socket.
    #[error(
        "{} is for root only: run this with sudo, or ask root to name a group of yours as `[daemon] control-group`",
        .0.display()
    )]
    Denied(PathBuf),
    /// We may ask, and order nothing.
    #[error("{0}")]
    NotAllowed(String),
    /// There is a daemon, but its core does not answer.
    #[error("{0}")]
    Unavailable(String),
    /// The daemon refuses.
    #[error("{0}")]
    Refused(String),
    /// Its answer is no answer of this version.
    #[error("the daemon on {} answers in a way that this version does not understand ({problem}): restart it after an \
             upgrade", path.display())]
    Language {
        /// The socket's path.
        path: PathBuf,
        /// What was not understood.
        problem: String,
    },
}

/// A connection to a daemon.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    stream: BufReader<UnixStream>,
    /// An answer is due: what is said of waiting for it is no nuisance.
    impatient: bool,
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    ///
    /// Where nobody answers, or we may not.
    pub fn connect(path: &Path) -> Result<Self, ClientError> {
        let connect = || {
            let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
            socket.set_write_timeout(Some(CONNECT_LIMIT))?;
            socket.set_read_timeout(Some(ANSWER_LIMIT))?;
            socket.connect(&SockAddr::unix(path)?)?;
            Ok(UnixStream::from(socket))
        };
        match connect() {
            Ok(stream) => Ok(Self { path: path.to_owned(), stream: BufReader::new(stream), impatient: true }),
            Err(error) => Err(no_daemon(path, error)),
        }
    }

    /// Says nothing of an answer that takes long: for those who have a screen of their own to say it on.
    #[must_use]
    pub fn quiet(mut self) -> Self {
        self.impatient = false;
        self
    }

    /// What is so.
    ///
    /// # Errors
    ///
    /// Where no answer comes, or none that we understand.
    pub fn status(&mut self) -> Result<Snapshot, ClientError> {
        self.send(&Request::Status)?;
        match self.receive()? {
            Reply::Status(snapshot) => Ok(snapshot),
            other => Err(self.unexpected(other)),
        }
    }

    /// What would be, or is meant.
    ///
    /// # Errors
    ///
    /// As [`Client::change`].
    pub fn ask(&mut self, question: Question) -> Result<Knowledge, ClientError> {
        self.send(&Request::Ask(question))?;
        match self.receive()? {
            Reply::Known(known) => Ok(known),
            other => Err(self.unexpected(other)),
        }
    }

    /// Has something changed; returns what the daemon says about it.
    ///
    /// # Errors
    ///
    /// Where it refuses, no answer comes, or none that we understand.
    pub fn change(&mut self, change: Change) -> Result<String, ClientError> {
        self.order(change, None)
    }

    /// Has something changed, and says why.
    ///
    /// # Errors
    ///
    /// As [`Client::change`].
    pub fn order(&mut self, change: Change, reason: Option<String>) -> Result<String, ClientError> {
        let sudo_user = std::env::var("SUDO_USER").ok();
        self.send(&Request::Change { change, reason, sudo_user })?;
        match self.receive()? {
            Reply::Done(said) => Ok(said),
            other => Err(self.unexpected(other)),
        }
    }

    /// Hands over what happened, and with `follow` what happens, until `take` breaks off: [`Reply::Event`] and
    /// [`Reply::Lost`].
    ///
    /// # Errors
    ///
    /// Where no answer comes, or none that we understand; with `follow`, when the daemon ends.
    pub fn events(&mut self, follow: bool, mut take: impl FnMut(Reply) -> ControlFlow<()>) -> Result<(), ClientError> {
        self.send(&Request::Events { follow })?;
        if follow {
            // Nothing may happen for days.
            self.impatient = false;
            self.stream.get_ref().set_read_timeout(None).map_err(|error| no_daemon(&self.path, error))?;
        }
        loop {
            match self.receive()? {
                Reply::End => return Ok(()),
                reply @ (Reply::Event(_) | Reply::Lost(_)) => {
                    if take(reply).is_break() {
                        return Ok(());
                    }
                }
                other => return Err(self.unexpected(other)),
            }
        }
    }

    /// Hands over what the kernel program thinks of each packet, until that is over or `take` breaks off: [`Reply::Tracing`],
    /// [`Reply::Packet`] and [`Reply::LeftOut`].
    ///
    /// # Errors
    ///
    /// Where it is refused, no answer comes, or none that we understand; when the daemon ends.
    pub fn trace(
        &mut self,
        trace: TraceRequest,
        mut take: impl FnMut(Reply) -> ControlFlow<()>,
    ) -> Result<(), ClientError> {
        self.send(&Request::TracePackets { trace, sudo_user: std::env::var("SUDO_USER").ok() })?;
        loop {
            match self.receive()? {
                Reply::End => return Ok(()),
                reply @ (Reply::Tracing(_) | Reply::Packet(_) | Reply::LeftOut(_)) => {
                    if take(reply).is_break() {
                        return Ok(());
                    }
                    // No packet may come for minutes.
                    self.impatient = false;
                    self.stream.get_ref().set_read_timeout(None).map_err(|error| no_daemon(&self.path, error))?;
                }
                other => return Err(self.unexpected(other)),
            }
        }
    }

    /// How links were on each day from this one on, as far as it is known.
    ///
    /// # Errors
    ///
    /// Where no answer comes, or none that we understand.
    pub fn days(&mut self, since: Day) -> Result<Vec<(Day, DayRecord)>, ClientError> {
        self.send(&Request::Days { since })?;
        let mut days = Vec::new();
        loop {
            match self.receive()? {
                Reply::End => return Ok(days),
                Reply::Day(day, record) if days.len() < MAX_DAYS + 1 => days.push((day, record)),
                other => return Err(self.unexpected(other)),
            }
        }
    }

    fn send(&mut self, request: &Request) -> Result<(), ClientError> {
        let line = serde_json::to_string(request).map_err(|error| self.language(error))?;
        let sent = self.stream.get_mut().write_all(format!("{line}\n").as_bytes());
        // A server that turns us away closes its end first; what it said is still to be read.
        match sent {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(no_daemon(&self.path, error)),
            _ => Ok(()),
        }
    }

    fn receive(&mut self) -> Result<Reply, ClientError> {
        let mut line = String::new();
        if self.impatient {
            self.wait_for_answer()?;
        }
        let length = (&mut self.stream)
            .take(MAX_REPLY_LEN)
            .read_line(&mut line)
            .map_err(|error| no_daemon(&self.path, error))?;
        if length == 0 {
            return Err(no_daemon(&self.path, io::Error::other("it ended the connection")));
        }
        serde_json::from_str(&line).map_err(|error| self.language(error))
    }

    /// Waits until the answer begins, and says what it waits for where that takes long.
    fn wait_for_answer(&mut self) -> Result<(), ClientError> {
        let timeout = |stream: &UnixStream, limit| stream.set_read_timeout(Some(limit));
        let begun = timeout(self.stream.get_ref(), PATIENCE).and_then(|()| self.stream.fill_buf().map(drop));
        let begun = timeout(self.stream.get_ref(), ANSWER_LIMIT).and(begun);
        match begun {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                log::say(&format!(
                    "link-watcher: waiting for the daemon on {}, which has not answered for {} s (at most {} s)",
                    self.path.display(),
                    PATIENCE.as_secs(),
                    ANSWER_LIMIT.as_secs()
                ));
                Ok(())
            }
            begun => begun.map_err(|error| no_daemon(&self.path, error)),
        }
    }

    fn unexpected(&self, reply: Reply) -> ClientError {
        match reply {
            Reply::Refused(why) => ClientError::Refused(why),
            Reply::Denied(why) => ClientError::NotAllowed(why),
            Reply::Unavailable(why) => ClientError::Unavailable(why),
            other => self.language(format!("{other:?}").split(['(', ' ']).next().unwrap_or_default()),
        }
    }

    fn language(&self, problem: impl ToString) -> ClientError {
        ClientError::Language { path: self.path.clone(), problem: problem.to_string() }
    }
}

fn no_daemon(path: &Path, error: io::Error) -> ClientError {
    match error.kind() {
        io::ErrorKind::PermissionDenied => ClientError::Denied(path.to_owned()),
        // The kernel's word for a timeout of a socket.
        io::ErrorKind::WouldBlock => {
            ClientError::NoDaemon { path: path.to_owned(), error: io::Error::other("no answer in time") }
        }
        _ => ClientError::NoDaemon { path: path.to_owned(), error },
    }
}
