//! Writes entries, in the words of whoever reads them.

use std::{
    io::{self, Write as _},
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    process,
    time::Duration,
};

use tracing::Level;

use super::entry::{Entry, shorten};

/// Who we are.
const IDENTIFIER: &str = "link-watcher";
/// `LOG_DAEMON` of syslog(3).
const FACILITY: u8 = 3;
/// Longest text for syslog, bytes: what its daemons take by default.
const MAX_SYSLOG_LEN: usize = 7 << 10;
/// How long a datagram waits for room at its reader's.
const SEND_LIMIT: Duration = Duration::from_secs(1);

/// Where entries go.
#[derive(Debug)]
pub(super) enum Sink {
    /// A datagram an entry; standard error while nobody takes them.
    Datagrams { socket: UnixDatagram, path: PathBuf, format: Format },
    /// Lines.
    Stderr { coloured: bool, in_journal: bool },
}

/// How an entry is written into a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// With fields: systemd's JOURNAL_NATIVE_PROTOCOL.
    Journal,
    /// RFC 3164, section 4.1, without the time: every reader of the socket has its own (section 4.3.2), and needs no time zone
    /// for it.
    Syslog,
}

impl Sink {
    /// Somebody has to be there now; who is restarted later is found again.
    pub(super) fn datagrams(path: &Path, format: Format) -> io::Result<Self> {
        UnixDatagram::unbound()?.connect(path)?;
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(SEND_LIMIT))?;
        Ok(Self::Datagrams { socket, path: path.to_owned(), format })
    }

    pub(super) fn write(&mut self, entry: &Entry) {
        let (coloured, in_journal) = match self {
            Self::Datagrams { socket, path, format } => {
                let bytes = match format {
                    Format::Journal => for_journal(entry),
                    Format::Syslog => for_syslog(entry),
                };
                if socket.send_to(&bytes, path).is_ok() {
                    return;
                }
                (false, *format == Format::Journal)
            }
            Self::Stderr { coloured, in_journal } => (*coloured, *in_journal),
        };
        // There is nowhere left to say that this has failed.
        let _ = io::stderr().write_all(for_stderr(entry, coloured, in_journal).as_bytes());
    }
}

/// A line, with its time but for the journal, which has its own.
pub(super) fn for_stderr(entry: &Entry, coloured: bool, in_journal: bool) -> String {
    let Entry { at, level, text, .. } = entry;
    if in_journal {
        return with_priority(*level, text) + "\n";
    }
    let time = humantime::format_rfc3339_micros(*at);
    // SGR codes of ECMA-48, section 8.3.117.
    let colour = match *level {
        Level::ERROR => "31",
        Level::WARN => "33",
        Level::INFO => "32",
        Level::DEBUG | Level::TRACE => "34",
    };
    if coloured {
        format!("\x1b[2m{time}\x1b[0m \x1b[{colour}m{level:>5}\x1b[0m {text}\n")
    } else {
        format!("{time} {level:>5} {text}\n")
    }
}

/// Each line with its priority, as journald reads a stream (sd-daemon(3)).
pub(super) fn with_priority(level: Level, text: &str) -> String {
    let severity = severity(level);
    text.lines().map(|line| format!("<{severity}>{line}")).collect::<Vec<_>>().join("\n")
}

fn for_journal(entry: &Entry) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut field = |name: &str, value: &str| {
        bytes.extend_from_slice(name.as_bytes());
        if value.contains('\n') {
            bytes.push(b'\n');
            bytes.extend_from_slice(&(value.len() as u64).to_le_bytes());
        } else {
            bytes.push(b'=');
        }
        bytes.extend_from_slice(value.as_bytes());
        bytes.push(b'\n');
    };
    field("MESSAGE", &entry.text);
    field("PRIORITY", &severity(entry.level).to_string());
    field("SYSLOG_IDENTIFIER", IDENTIFIER);
    field("SYSLOG_FACILITY", &FACILITY.to_string());
    for (name, value) in &entry.fields {
        field(name, value);
    }
    bytes
}

fn for_syslog(entry: &Entry) -> Vec<u8> {
    let priority = FACILITY << 3 | severity(entry.level);
    // A line break would begin an entry without a head.
    let mut text = entry.text.replace('\n', " ");
    shorten(&mut text, MAX_SYSLOG_LEN);
    format!("<{priority}>{IDENTIFIER}[{}]: {text}", process::id()).into_bytes()
}

/// `LOG_ERR` to `LOG_DEBUG` of syslog(3).
fn severity(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}
