//! What comes from the daemon: three threads, each with a connection of its own. They block, and the screen does not.
//!
//! ```text
//!  lw-top-status  ── what is so, twice a second ──┐
//!  lw-top-events  ── what happens ────────────────┼──▶ news ──▶ screen
//!  lw-top-orders  ── answers ─────────────────────┘                │
//!        ▲────────────────────────── orders ───────────────────────┘
//! ```

use std::{
    io,
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, SyncSender, TryIter, sync_channel},
    thread::{Builder, JoinHandle, sleep},
    time::Duration,
};

use super::picture::News;
use crate::control::{Change, Client, ClientError, Reply};

/// How often the status is asked for, and a daemon that has gone is looked for.
const INTERVAL: Duration = Duration::from_millis(500);
/// News that wait to be drawn. Whoever has more waits.
const NEWS_MAX: usize = 64;

/// The threads, and the channels to them. They end with the process: an answer may take the daemon 25 s, and nobody who quits
/// waits for it.
#[derive(Debug)]
pub(super) struct Feed {
    news: Receiver<News>,
    orders: SyncSender<Change>,
    threads: [JoinHandle<()>; 3],
}

impl Feed {
    /// Begins to ask the daemon on this socket.
    ///
    /// # Errors
    ///
    /// Where a thread cannot be started.
    pub(super) fn start(socket: &Path) -> io::Result<Self> {
        let (sender, news) = sync_channel(NEWS_MAX);
        let (orders, to_give) = sync_channel(1);
        let start = |name: &str, run: Box<dyn FnOnce(PathBuf, SyncSender<News>) + Send>| {
            let (socket, sender) = (socket.to_owned(), sender.clone());
            Builder::new().name(name.to_owned()).spawn(move || run(socket, sender))
        };
        let threads = [
            start("lw-top-status", Box::new(status))?,
            start("lw-top-events", Box::new(events))?,
            start("lw-top-orders", Box::new(move |socket, news| give(&socket, &news, &to_give)))?,
        ];
        Ok(Self { news, orders, threads })
    }

    /// What has come.
    pub(super) fn news(&self) -> TryIter<'_, News> {
        self.news.try_iter()
    }

    /// Gives the daemon an order, once the former one is answered.
    pub(super) fn order(&self, change: Change) {
        // The view has one at a time; that the thread has ended shows in `is_broken`.
        let _ = self.orders.try_send(change);
    }

    /// Whether a thread has ended, as none does by itself.
    pub(super) fn is_broken(&self) -> bool {
        self.threads.iter().any(JoinHandle::is_finished)
    }
}

fn connect(socket: &Path) -> Result<Client, ClientError> {
    Client::connect(socket).map(Client::quiet)
}

fn status(socket: PathBuf, news: SyncSender<News>) {
    let mut client = None;
    loop {
        let answer = match client.take() {
            Some(client) => Ok(client),
            None => connect(&socket),
        };
        let asked = answer.and_then(|mut connected: Client| {
            let snapshot = connected.status()?;
            client = Some(connected);
            Ok(snapshot)
        });
        let told = match asked {
            Ok(snapshot) => news.send(News::Status(Box::new(snapshot))),
            Err(error) => news.send(News::NoAnswer(short(&error))),
        };
        if told.is_err() {
            return;
        }
        sleep(INTERVAL);
    }
}

/// The first line: the others say how to start a daemon.
fn short(error: &ClientError) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

fn events(socket: PathBuf, news: SyncSender<News>) {
    loop {
        let mut heard = true;
        // That it does not answer is said by whoever asks for the status.
        let _ = connect(&socket).and_then(|mut client| {
            client.events(true, |reply| {
                heard = match reply {
                    Reply::Event(record) => news.send(News::Event(Box::new(record))).is_ok(),
                    Reply::Lost(count) => news.send(News::Lost(count)).is_ok(),
                    _ => true,
                };
                if heard { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            })
        });
        if !heard {
            return;
        }
        sleep(INTERVAL);
    }
}

fn give(socket: &Path, news: &SyncSender<News>, orders: &Receiver<Change>) {
    for change in orders {
        let answer = connect(socket).and_then(|mut client| client.change(change));
        if news.send(News::Answer(answer.map_err(|error| error.to_string()))).is_err() {
            return;
        }
    }
}
