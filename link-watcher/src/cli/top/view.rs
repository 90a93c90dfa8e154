//! What is looked at, and what keys do with it. Pure: it is fed with [`News`] and keys, and says what is to be done.

use std::time::SystemTime;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::{
    orders::{self, Question},
    picture::{News, Picture},
};
use crate::{
    control::Change,
    status::{GroupSnapshot, LinkSnapshot},
};

/// Smallest terminal, columns.
pub(super) const COLUMNS_MIN: u16 = 80;
/// Smallest terminal, lines.
pub(super) const LINES_MIN: u16 = 24;
/// Lines that a page of events has.
const PAGE: usize = 5;

/// Whether everything has its place on so many columns and lines.
pub(super) const fn is_large_enough((columns, lines): (u16, u16)) -> bool {
    columns >= COLUMNS_MIN && lines >= LINES_MIN
}

/// What is to be done after a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Give the daemon this order; its answer comes as [`News::Answer`].
    Order(Change),
    /// End.
    Quit,
}

/// What lies over the picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Overlay {
    /// What the keys do.
    Help,
    /// Whether to do it.
    Question(Question),
}

/// A line for whoever sits there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Message {
    /// It was done.
    pub(super) good: bool,
    /// What.
    pub(super) text: String,
}

/// What is looked at.
#[derive(Debug)]
pub(super) struct View {
    live: Picture,
    /// While paused: what was so then.
    held: Option<Picture>,
    /// Group and link; the first one until somebody chooses.
    selected: Option<(String, String)>,
    overlay: Option<Overlay>,
    message: Option<Message>,
    /// An order waits for its answer.
    waits: bool,
    /// Events that are newer than the lowest one in sight.
    events_back: usize,
    /// Columns and lines that were drawn on.
    size: (u16, u16),
    coloured: bool,
}

impl View {
    /// Of a daemon that was not asked yet.
    pub(super) fn new(coloured: bool, now: SystemTime) -> Self {
        Self {
            live: Picture::new(now),
            held: None,
            selected: None,
            overlay: None,
            message: None,
            waits: false,
            events_back: 0,
            size: (0, 0),
            coloured,
        }
    }

    /// Takes what comes from the daemon.
    pub(super) fn take(&mut self, news: News, now: SystemTime) {
        if let News::Answer(answer) = news {
            self.waits = false;
            let (good, text) = match answer {
                Ok(text) => (true, text),
                Err(text) => (false, text),
            };
            self.message = Some(Message { good, text });
            return;
        }
        self.live.take(news, now);
    }

    /// It was drawn on so many columns and lines.
    pub(super) fn resize(&mut self, size: (u16, u16)) {
        self.size = size;
    }

    /// Does what a key is for.
    pub(super) fn press(&mut self, key: KeyEvent) -> Option<Action> {
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return (key.code == KeyCode::Char('c')).then_some(Action::Quit);
        }
        // What cannot be seen is not ordered.
        if !is_large_enough(self.size) {
            return (key.code == KeyCode::Char('q')).then_some(Action::Quit);
        }
        match self.overlay.take() {
            Some(Overlay::Question(question)) if key.code == KeyCode::Char('y') => return self.order(question.change),
            Some(Overlay::Question(_)) => {
                self.message = Some(Message { good: true, text: "nothing was ordered".to_owned() });
                return None;
            }
            // Whatever key it is: it closes the help.
            Some(Overlay::Help) if key.code != KeyCode::Char('q') => return None,
            Some(Overlay::Help) | None => {}
        }
        self.message = None;
        match key.code {
            KeyCode::Char('q') => return Some(Action::Quit),
            KeyCode::Char('?' | 'h') => self.overlay = Some(Overlay::Help),
            KeyCode::Char('p') => self.held = if self.held.is_some() { None } else { Some(self.live.clone()) },
            KeyCode::Up | KeyCode::Char('k') => self.select(|at, _| at.saturating_sub(1)),
            KeyCode::Down | KeyCode::Char('j') => self.select(|at, last| last.min(at + 1)),
            KeyCode::Home | KeyCode::Char('g') => self.select(|_, _| 0),
            KeyCode::End | KeyCode::Char('G') => self.select(|_, last| last),
            KeyCode::PageUp => {
                let last = self.picture().log.len().saturating_sub(1);
                self.events_back = last.min(self.events_back + PAGE);
            }
            KeyCode::PageDown => self.events_back = self.events_back.saturating_sub(PAGE),
            KeyCode::Char(key) => return self.command(key),
            _ => {}
        }
        None
    }

    /// Orders of the selected link or its group. What may cut traffic is asked first.
    fn command(&mut self, key: char) -> Option<Action> {
        if !matches!(key, 's' | 'a' | 'd' | 'u' | 'f') {
            return None;
        }
        if self.live.problem.is_some() {
            return self.refuse("no daemon answers: nothing can be ordered");
        }
        if self.waits {
            return self.refuse("the daemon has not answered the last order yet");
        }
        // As it is now, also while the picture is held.
        let Some((group, link)) = self.of_selected(&self.live) else {
            return self.refuse("there is no such link any more");
        };
        let question = match key {
            's' => orders::switch(group, link),
            'd' => orders::drain(group, link),
            'f' if group.failover => orders::failover_off(group),
            'f' => {
                let change = Change::Failover { group: Some(group.name.clone()), on: true };
                return self.order(change);
            }
            'a' => {
                let change = Change::Switch { group: group.name.clone(), link: None, force: false };
                return self.order(change);
            }
            _ => {
                let change = Change::Undrain { group: group.name.clone(), link: link.name.clone() };
                return self.order(change);
            }
        };
        self.overlay = Some(Overlay::Question(question));
        None
    }

    fn order(&mut self, change: Change) -> Option<Action> {
        self.waits = true;
        self.message = Some(Message { good: true, text: "ordered; the daemon has not answered yet".to_owned() });
        Some(Action::Order(change))
    }

    fn refuse(&mut self, why: &str) -> Option<Action> {
        self.message = Some(Message { good: false, text: why.to_owned() });
        None
    }

    /// Selects another link, given where it is now and where the last one is.
    fn select(&mut self, to: impl Fn(usize, usize) -> usize) {
        let picture = self.picture();
        let last = picture.links().count().saturating_sub(1);
        let link = picture.links().nth(to(self.selected_at().unwrap_or_default(), last));
        let chosen = link.map(|(group, link)| (group.name.clone(), link.name.clone()));
        self.selected = chosen;
    }

    fn of_selected<'a>(&self, picture: &'a Picture) -> Option<(&'a GroupSnapshot, &'a LinkSnapshot)> {
        match &self.selected {
            Some((of, name)) => picture.links().find(|(group, link)| group.name == *of && link.name == *name),
            // Nobody chose yet: what is marked on the screen.
            None => {
                let (shown, marked) = self.picture().links().next()?;
                picture.links().find(|(group, link)| group.name == shown.name && link.name == marked.name)
            }
        }
    }

    /// Which of the links is selected, counted over all groups; none where that link is gone.
    pub(super) fn selected_at(&self) -> Option<usize> {
        let Some((of, name)) = &self.selected else { return Some(0) };
        self.picture().links().position(|(group, link)| group.name == *of && link.name == *name)
    }

    /// What is shown.
    pub(super) fn picture(&self) -> &Picture {
        self.held.as_ref().unwrap_or(&self.live)
    }

    /// Why the daemon does not answer, also while the picture is held.
    pub(super) fn problem(&self) -> Option<&str> {
        self.live.problem.as_deref()
    }

    /// Whether the picture is held.
    pub(super) const fn is_paused(&self) -> bool {
        self.held.is_some()
    }

    /// Events that are newer than the lowest one in sight.
    pub(super) const fn events_back(&self) -> usize {
        self.events_back
    }

    /// What lies over the picture.
    pub(super) const fn overlay(&self) -> Option<&Overlay> {
        self.overlay.as_ref()
    }

    /// The line for whoever sits there.
    pub(super) const fn message(&self) -> Option<&Message> {
        self.message.as_ref()
    }

    /// Whether colours are wanted.
    pub(super) const fn is_coloured(&self) -> bool {
        self.coloured
    }
}
