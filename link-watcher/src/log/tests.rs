#![allow(clippy::unwrap_used)]

use std::{fs, os::unix::net::UnixDatagram, path::PathBuf, process};

use tempfile::TempDir;
use tracing::{debug, error, info, subscriber::with_default, warn};

use std::time::SystemTime;

use super::*;

/// A socket in the place of journald's or syslog's.
struct Reader {
    directory: TempDir,
    socket: UnixDatagram,
}

impl Reader {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(directory.path().join("socket")).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        Self { directory, socket }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("socket")
    }

    /// The next datagram.
    fn next(&self) -> String {
        let mut bytes = vec![0; 128 << 10];
        let length = self.socket.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    }
}

/// Logs through a queue of its own into this sink, and waits until all is written.
fn log(mut sink: Sink, said: impl FnOnce()) {
    let (layer, flush) = spawn(move |entry| sink.write(entry)).unwrap();
    with_default(Registry::default().with(layer), said);
    drop(flush);
}

#[test]
fn the_journal_gets_priorities_and_fields() {
    let reader = Reader::new();
    let link: Option<&str> = None;
    log(Sink::datagrams(&reader.path(), Format::Journal).unwrap(), || {
        warn!(
            message_id = message_id("link-down"),
            lw_group = "hq",
            lw_link = "optic",
            lw_event = "link-down",
            "hq {}",
            1
        );
        info!(lw_group = "hq", lw_link = link, "quiet");
        error!("two\nlines");
        debug!(answer = 42, "of a library");
    });
    let head = "SYSLOG_IDENTIFIER=link-watcher\nSYSLOG_FACILITY=3\n";
    let id = message_id("link-down");
    assert_eq!(
        reader.next(),
        format!("MESSAGE=hq 1\nPRIORITY=4\n{head}MESSAGE_ID={id}\nLW_GROUP=hq\nLW_LINK=optic\nLW_EVENT=link-down\n")
    );
    assert_eq!(
        reader.next(),
        format!("MESSAGE=quiet\nPRIORITY=6\n{head}LW_GROUP=hq\n"),
        "what is not there is left out"
    );
    assert_eq!(reader.next(), format!("MESSAGE\n\u{9}\0\0\0\0\0\0\0two\nlines\nPRIORITY=3\n{head}"), "one entry");
    assert_eq!(reader.next(), format!("MESSAGE=of a library answer=42\nPRIORITY=7\n{head}"));
}

#[test]
fn syslog_gets_one_line_each() {
    let reader = Reader::new();
    let pid = process::id();
    log(Sink::datagrams(&reader.path(), Format::Syslog).unwrap(), || {
        warn!(lw_group = "hq", "down");
        error!("two\nlines");
        info!("{}", "x".repeat(1 << 20));
    });
    assert_eq!(reader.next(), format!("<28>link-watcher[{pid}]: down"));
    assert_eq!(reader.next(), format!("<27>link-watcher[{pid}]: two lines"));
    let long = reader.next();
    assert!(long.starts_with("<30>") && long.ends_with("x ...") && long.len() < 8 << 10, "{}", long.len());
}

#[test]
fn entries_are_bounded_in_characters_that_stay_whole() {
    let reader = Reader::new();
    log(Sink::datagrams(&reader.path(), Format::Journal).unwrap(), || info!("{}", "\u{e4}".repeat(1 << 20)));
    let entry = reader.next();
    assert!(entry.len() < entry::MAX_TEXT_LEN + 256 && entry.contains("\u{e4} ...\n"), "{}", entry.len());
}

/// Whoever logs goes on while nobody reads; what did not find room is counted, and said.
#[test]
fn nobody_waits_for_a_reader() {
    let (open, gate) = channel::<()>();
    let (heard_in, heard) = channel();
    let sink = move |entry: &Entry| {
        // Until the other end is gone nothing is written.
        let _ = gate.recv();
        heard_in.send(entry.text.clone()).unwrap();
    };
    let (layer, flush) = spawn(sink).unwrap();
    let many = 2 * QUEUE;
    with_default(Registry::default().with(layer), || {
        // Were it to wait, it would wait for ever.
        (0..many).for_each(|i| info!("entry {i}"));
        drop(open);
    });
    drop(flush);
    let heard: Vec<String> = heard.iter().collect();
    let lost = heard.iter().find_map(|text| text.strip_suffix(" entries of this log came too fast, and are lost"));
    let lost: usize = lost.unwrap().parse().unwrap();
    assert!(heard.len() > QUEUE, "{}", heard.len());
    assert_eq!(heard.len() - 1 + lost, many);
}

#[test]
fn a_reader_that_is_away_or_restarted_stops_nothing() {
    let reader = Reader::new();
    let sink = Sink::datagrams(&reader.path(), Format::Syslog).unwrap();
    let again = reader.path();
    log(sink, || {
        fs::remove_file(&again).unwrap();
        info!("to standard error");
    });
    let nowhere = again.with_file_name("none");
    assert!(Sink::datagrams(&nowhere, Format::Syslog).is_err());
    let (sink, problem) = choose(LogTarget::Syslog, &nowhere, &nowhere);
    assert!(matches!(sink, Sink::Stderr { .. }));
    assert!(problem.unwrap().starts_with("the log goes to standard error, because "));
    // Without a journal at the other end of standard error nobody looks for one.
    let (sink, problem) = choose(LogTarget::Auto, &nowhere, &nowhere);
    assert!(matches!((sink, problem), (Sink::Stderr { in_journal: false, .. }, None)));
}

#[test]
fn lines_for_people_and_for_a_stream_to_the_journal() {
    let at = SystemTime::UNIX_EPOCH;
    let entry = Entry { at, ..Entry::new(Level::WARN, "one\ntwo".to_owned()) };
    assert_eq!(sink::for_stderr(&entry, false, false), "1970-01-01T00:00:00.000000Z  WARN one\ntwo\n");
    assert!(sink::for_stderr(&entry, true, false).contains("\x1b[33m WARN\x1b[0m one"));
    assert_eq!(sink::for_stderr(&entry, false, true), "<4>one\n<4>two\n");
}

/// Scripts and catalogues name them.
#[test]
fn message_ids_are_the_same_in_every_version() {
    assert_eq!(message_id("link-down").len(), 32);
    assert_ne!(message_id("link-down"), message_id("link-up"));
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/operation.md")).unwrap();
    let listed: Vec<_> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` | `"))
        .filter_map(|(event, rest)| Some((event, rest.get(..32)?)).filter(|(_, id)| !id.contains([' ', '`'])))
        .collect();
    assert!(listed.len() > 10, "{listed:?}");
    for (event, id) in listed {
        assert_eq!(id, message_id(event), "{event}");
    }
}
