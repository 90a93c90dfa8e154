//! What comes from the daemon: three threads, each with a connection of its own. They block, and the screen does not.
//!
//! ```text
//!  lw-top-status  ── what is so, twice a second ──┐
//!  lw-top-events  ── what happens ────────────────┼──▶ inputs ──▶ screen
//!  lw-top-orders  ── answers ─────────────────────┘                  │
//!        ▲────────────────────────── orders ─────────────────────────┘
//! ```

use std::{
    io,
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread::{Builder, JoinHandle, sleep},
    time::Duration,
};

use super::{Input, picture::News};
use crate::control::{Change, Client, ClientError, Reply};

/// How often the status is asked for, and a daemon that has gone is looked for.
const INTERVAL: Duration = Duration::from_millis(500);

/// The threads, and the channels to them. They end with the process: an answer may take the daemon 25 s, and nobody who quits
/// waits for it.
#[derive(Debug)]
pub(super) struct Feed {
    orders: SyncSender<Change>,
    threads: [JoinHandle<()>; 3],
}

impl Feed {
    /// Begins to ask the daemon on this socket, and to send what comes.
    ///
    /// # Errors
    ///
    /// Where a thread cannot be started.
    pub(super) fn start(socket: &Path, inputs: &SyncSender<Input>) -> io::Result<Self> {
        let (orders, to_give) = sync_channel(1);
        let start = |name: &str, run: Box<dyn FnOnce(PathBuf, Screen) + Send>| {
            let (socket, sender) = (socket.to_owned(), Screen(inputs.clone()));
            Builder::new().name(name.to_owned()).spawn(move || run(socket, sender))
        };
        let threads = [
            start("lw-top-status", Box::new(status))?,
            start("lw-top-events", Box::new(events))?,
            start("lw-top-orders", Box::new(move |socket, screen| give(&socket, &screen, &to_give)))?,
        ];
        Ok(Self { orders, threads })
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

/// Whoever draws.
struct Screen(SyncSender<Input>);

impl Screen {
    /// Whether it is still there.
    fn tell(&self, news: News) -> bool {
        self.0.send(Input::News(news)).is_ok()
    }
}

fn connect(socket: &Path) -> Result<Client, ClientError> {
    Client::connect(socket).map(Client::quiet)
}

fn status(socket: PathBuf, screen: Screen) {
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
            Ok(snapshot) => screen.tell(News::Status(Box::new(snapshot))),
            Err(error) => screen.tell(News::NoAnswer(short(&error))),
        };
        if !told {
            return;
        }
        sleep(INTERVAL);
    }
}

/// The first line: the others say how to start a daemon.
fn short(error: &ClientError) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

fn events(socket: PathBuf, screen: Screen) {
    loop {
        let mut heard = true;
        // That it does not answer is said by whoever asks for the status.
        let _ = connect(&socket).and_then(|mut client| {
            client.events(true, |reply| {
                heard = match reply {
                    Reply::Event(record) => screen.tell(News::Event(Box::new(record))),
                    Reply::Lost(count) => screen.tell(News::Lost(count)),
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

fn give(socket: &Path, screen: &Screen, orders: &Receiver<Change>) {
    for change in orders {
        let answer = connect(socket).and_then(|mut client| client.change(change));
        if !screen.tell(News::Answer(answer.map_err(|error| error.to_string()))) {
            return;
        }
    }
}
