//! Where the log goes: the journal or syslog, one datagram an entry, or standard error.
//!
//! ```text
//! any thread ── bounded queue ── lw-log ── the journal | syslog | standard error
//! ```
//!
//! Nobody waits for the log: what finds the queue full is lost, and how much is said in the next entry. A library for the
//! journal does not do that: it writes where the entry is made, and waits for a journal that does not read.

mod entry;
mod sink;
#[cfg(test)]
mod tests;

use std::{
    env,
    io::{self, IsTerminal as _, Write as _},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc::{Receiver, Sender, SyncSender, TrySendError, channel, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use sha2::{Digest as _, Sha256};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    layer::{Context, SubscriberExt as _},
    util::SubscriberInitExt as _,
};

use self::{
    entry::Entry,
    sink::{Format, Sink},
};
use crate::config::LogTarget;

/// Entries that wait to be written; those that come while it is full are lost.
const QUEUE: usize = 1024;
/// How long the end of a program waits for what is still to be written, and how often it looks for room.
const FLUSH_LIMIT: Duration = Duration::from_secs(1);
const FLUSH_PAUSE: Duration = Duration::from_millis(5);
/// Where journald takes entries with fields: systemd's JOURNAL_NATIVE_PROTOCOL.
const JOURNAL: &str = "/run/systemd/journal/socket";
/// Where syslog(3) writes to.
const SYSLOG: &str = "/dev/log";

/// Begins logging; what it returns waits at its end until everything is written. `LINK_WATCHER_LOG` filters, as
/// `tracing_subscriber` has it; else what is info or worse is logged.
pub(crate) fn start(target: LogTarget) -> Option<Flush> {
    let filter = EnvFilter::try_from_env("LINK_WATCHER_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let (mut sink, problem) = choose(target, Path::new(JOURNAL), Path::new(SYSLOG));
    let (layer, flush) = spawn(move |entry| sink.write(entry)).ok()?;
    // A second daemon in one process, as in tests, keeps the first one's log.
    Registry::default().with(filter).with(layer).try_init().ok()?;
    if let Some(problem) = problem {
        tracing::warn!("{problem}");
    }
    Some(flush)
}

/// Where it goes, and why not where it was to go.
fn choose(target: LogTarget, journal: &Path, syslog: &Path) -> (Sink, Option<String>) {
    let in_journal = stderr_is_journal();
    let wanted = match target {
        LogTarget::Auto if in_journal => Some((journal, Format::Journal)),
        LogTarget::Syslog => Some((syslog, Format::Syslog)),
        LogTarget::Auto | LogTarget::Stderr => None,
    };
    let problem = match wanted.map(|(path, format)| (path, Sink::datagrams(path, format))) {
        Some((_, Ok(sink))) => return (sink, None),
        Some((path, Err(error))) => {
            Some(format!("the log goes to standard error, because {} cannot be used: {error}", path.display()))
        }
        None => None,
    };
    let coloured = io::stderr().is_terminal() && env::var_os("NO_COLOR").is_none();
    (Sink::Stderr { coloured, in_journal }, problem)
}

/// Whether standard error is a stream to journald: `JOURNAL_STREAM` of systemd.exec(5) names its device and inode.
fn stderr_is_journal() -> bool {
    let named = env::var("JOURNAL_STREAM").ok();
    let named = named.as_deref().and_then(|stream| stream.split_once(':'));
    let is = rustix::fs::fstat(io::stderr());
    matches!((named, is), (Some((device, inode)), Ok(is))
        if is.st_dev.to_string() == device && is.st_ino.to_string() == inode)
}

/// A complaint for standard error, where that is the journal with its priority (sd-daemon(3)).
pub(crate) fn complaint(text: &str) -> String {
    if stderr_is_journal() { sink::with_priority(Level::ERROR, text) } else { text.to_owned() }
}

/// A line of a command on standard error. Where nobody can be told, such as on a terminal that is gone, the command goes on;
/// `eprintln` would panic.
pub(crate) fn say(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// `MESSAGE_ID` of a kind of event, which journald wants as 128 random bits: from its name, so that each has one, and the
/// same in every version.
pub(crate) fn message_id(event: &str) -> String {
    let digest = Sha256::digest(format!("link-watcher event {event}"));
    digest[..16].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Starts the thread that writes, by calling `sink`.
fn spawn(sink: impl FnMut(&Entry) + Send + 'static) -> io::Result<(Queue, Flush)> {
    let (entries, queued) = sync_channel(QUEUE);
    let lost = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&lost);
    thread::Builder::new().name("lw-log".to_owned()).spawn(move || write(&queued, &counted, sink))?;
    Ok((Queue { entries: entries.clone(), lost }, Flush(entries)))
}

/// What the thread that writes is given.
#[derive(Debug)]
enum Item {
    Entry(Entry),
    /// Everything before it is written.
    Written(Sender<()>),
}

/// Writes until nobody logs any more.
fn write(queued: &Receiver<Item>, lost: &AtomicU64, mut sink: impl FnMut(&Entry)) {
    for item in queued {
        match item {
            Item::Entry(entry) => {
                sink(&entry);
                let lost = lost.swap(0, Relaxed);
                if lost > 0 {
                    sink(&Entry::new(Level::WARN, format!("{lost} entries of this log came too fast, and are lost")));
                }
            }
            // Whoever waited has given up: that is fine.
            Item::Written(done) => drop(done.send(())),
        }
    }
}

/// Takes entries from every thread.
#[derive(Debug)]
struct Queue {
    entries: SyncSender<Item>,
    lost: Arc<AtomicU64>,
}

impl<S: Subscriber> Layer<S> for Queue {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if self.entries.try_send(Item::Entry(Entry::of(event))).is_err() {
            self.lost.fetch_add(1, Relaxed);
        }
    }
}

/// At its end everything is written, or [`FLUSH_LIMIT`] is over.
#[derive(Debug)]
pub(crate) struct Flush(SyncSender<Item>);

impl Drop for Flush {
    fn drop(&mut self) {
        let until = Instant::now() + FLUSH_LIMIT;
        let (done, written) = channel();
        let mut item = Item::Written(done);
        while let Err(TrySendError::Full(back)) = self.0.try_send(item) {
            if Instant::now() >= until {
                return;
            }
            item = back;
            thread::sleep(FLUSH_PAUSE);
        }
        // Where the time is over the log is stuck, and nobody can be told.
        let _ = written.recv_timeout(until.saturating_duration_since(Instant::now()));
    }
}
