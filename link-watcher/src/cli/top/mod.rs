//! `top`: the status as a full screen that is alive, with keys for what commands do.
//!
//! * Pure: [`view`] has what is looked at and what keys do, [`picture`] what is known, [`history`] the past of each link,
//!   [`orders`] what is asked before traffic may be cut, [`draw`] and [`links`] the lines, [`text`] how foreign text is shown.
//! * Thin: [`feed`] has the connections to the daemon, [`screen`] the terminal, and this file the loop between them.

mod draw;
mod feed;
mod history;
mod links;
mod orders;
mod picture;
mod screen;
#[cfg(test)]
mod tests;
mod text;
mod view;

use std::{
    io::{self, IsTerminal, stdin, stdout},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use ratatui::crossterm::event::{self, Event, KeyEventKind};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};

use self::{
    feed::Feed,
    screen::Screen,
    view::{Action, View},
};
use super::{Exit, Failure, Style};
use crate::control::{Client, ClientError};

/// How long news of the daemon and signals may wait until they are looked at. A key waits for nothing.
const TICK: Duration = Duration::from_millis(100);

/// Shows the daemon on this socket until somebody quits.
pub(super) fn run(socket: &Path) -> Result<(), Failure> {
    if !stdin().is_terminal() || !stdout().is_terminal() {
        return Err(Failure::new(
            Exit::Usage,
            "link-watcher: top needs a terminal for its keys and its screen; `link-watcher status --watch` needs none",
        ));
    }
    // A daemon that is not there may come; a privilege does not.
    if let Err(error @ ClientError::Denied(_)) = Client::connect(socket) {
        return Err(error.into());
    }
    play(socket).map_err(|error| Failure::new(Exit::Failed, format!("link-watcher: the terminal: {error}")))
}

fn play(socket: &Path) -> io::Result<()> {
    let ended = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT, SIGQUIT, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&ended))?;
    }
    let feed = Feed::start(socket)?;
    let mut screen = Screen::enter()?;
    let mut view = View::new(Style::for_stdout().is_coloured(), screen.size()?, SystemTime::now());
    let mut changed = true;
    while !ended.load(Ordering::Relaxed) {
        for news in feed.news() {
            view.take(news, SystemTime::now());
            changed = true;
        }
        if feed.is_broken() {
            return Err(io::Error::other("a thread that asks the daemon has ended: this is a fault of link-watcher"));
        }
        if changed {
            screen.draw(&view)?;
        }
        changed = event::poll(TICK)?;
        if !changed {
            continue;
        }
        match event::read()? {
            Event::Resize(columns, lines) => view.resize((columns, lines)),
            Event::Key(key) if key.kind != KeyEventKind::Release => match view.press(key) {
                Some(Action::Quit) => return Ok(()),
                Some(Action::Order(change)) => feed.order(change),
                None => {}
            },
            _ => {}
        }
    }
    Ok(())
}
