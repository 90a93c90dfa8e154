//! `top`: the status as a full screen that is alive, with keys for what commands do.
//!
//! * Pure: [`view`] has what is looked at and what keys do, [`picture`] what is known, [`history`] the past of each link,
//!   [`orders`] what is asked before traffic may be cut, [`draw`] and [`links`] the lines, [`text`] how foreign text is shown.
//! * Thin: [`feed`] has the connections to the daemon, [`screen`] the terminal and its keyboard, and this file the loop between them.

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
    iter,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::sync_channel,
    },
    time::{Duration, SystemTime},
};

use libc::EIO;
use ratatui::crossterm::event::{Event, KeyEventKind};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};

use self::{
    feed::Feed,
    picture::News,
    screen::Screen,
    view::{Action, View},
};
use super::{Exit, Failure, Style};
use crate::control::{Client, ClientError};

/// How long a signal may wait until it is looked at. Keys and news wait for nothing.
const TICK: Duration = Duration::from_millis(100);
/// Inputs that wait to be drawn. Whoever has more waits.
const INPUTS_MAX: usize = 64;

/// What the screen changes by.
enum Input {
    News(News),
    Terminal(Event),
}

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
    play(socket).map_err(|error| match error.raw_os_error() {
        // It was hung up: there is nobody to say it to, and nothing to say it on.
        Some(EIO) => Failure::new(Exit::Failed, ""),
        _ => Failure::new(Exit::Failed, format!("link-watcher: the terminal: {error}")),
    })
}

fn play(socket: &Path) -> io::Result<()> {
    let ended = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT, SIGQUIT, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&ended))?;
    }
    let (sender, inputs) = sync_channel(INPUTS_MAX);
    let feed = Feed::start(socket, &sender)?;
    let mut screen = Screen::enter()?;
    let keyboard = screen::keyboard(sender)?;
    let mut view = View::new(Style::for_stdout().is_coloured(), SystemTime::now());
    view.resize(screen.draw(&view)?);
    while !ended.load(Ordering::Relaxed) {
        let Ok(first) = inputs.recv_timeout(TICK) else {
            if feed.is_broken() || keyboard.is_finished() {
                return Err(io::Error::other("the keyboard cannot be read any more, or a thread of top has failed"));
            }
            continue;
        };
        // All that has come meanwhile is drawn at once.
        for input in iter::once(first).chain(inputs.try_iter().take(INPUTS_MAX)) {
            match take(&mut view, input) {
                Some(Action::Quit) => return Ok(()),
                Some(Action::Order(change)) => feed.order(change),
                None => {}
            }
        }
        view.resize(screen.draw(&view)?);
    }
    Ok(())
}

fn take(view: &mut View, input: Input) -> Option<Action> {
    match input {
        Input::News(news) => view.take(news, SystemTime::now()),
        Input::Terminal(Event::Key(key)) if key.kind != KeyEventKind::Release => return view.press(key),
        // Another size is seen when it is drawn.
        Input::Terminal(_) => {}
    }
    None
}
