//! What is known of the daemon: all that is drawn comes from here.

use std::{collections::VecDeque, time::SystemTime};

use super::history::Histories;
use crate::{
    control::{EventRecord, HISTORY_LEN},
    status::{GroupSnapshot, LinkSnapshot, Snapshot},
};

/// What comes from the daemon, or does not.
#[derive(Debug)]
pub(super) enum News {
    /// What is so.
    Status(Box<Snapshot>),
    /// It does not answer: why.
    NoAnswer(String),
    /// What happened. After a new connection those that are known come again.
    Event(Box<EventRecord>),
    /// So many events came faster than they were read.
    Lost(u64),
    /// What it says to an order: what was done, or why not.
    Answer(Result<String, String>),
}

/// A line of the log of events.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Entry {
    /// An event.
    Event(Box<EventRecord>),
    /// So many events are missing here.
    Lost(u64),
}

/// What is known of the daemon.
#[derive(Clone, Debug)]
pub(super) struct Picture {
    /// What it said last, and when.
    pub(super) status: Option<(Snapshot, SystemTime)>,
    /// Why it does not answer now.
    pub(super) problem: Option<String>,
    /// What was measured.
    pub(super) histories: Histories,
    /// The newest last, at most [`HISTORY_LEN`].
    pub(super) log: VecDeque<Entry>,
    /// When this was so.
    pub(super) now: SystemTime,
}

impl Picture {
    /// Of a daemon that was not asked yet.
    pub(super) fn new(now: SystemTime) -> Self {
        Self { status: None, problem: None, histories: Histories::default(), log: VecDeque::new(), now }
    }

    /// Takes what comes, except for answers, which are of nobody's concern but the one who asked.
    pub(super) fn take(&mut self, news: News, now: SystemTime) {
        self.now = now;
        match news {
            News::Status(snapshot) => {
                self.histories.take(&snapshot);
                self.status = Some((*snapshot, now));
                self.problem = None;
            }
            News::NoAnswer(why) => self.problem = Some(why),
            News::Event(record) => self.log(Entry::Event(record)),
            News::Lost(count) => self.log(Entry::Lost(count)),
            News::Answer(_) => {}
        }
    }

    fn log(&mut self, entry: Entry) {
        if matches!(entry, Entry::Event(_)) && self.log.contains(&entry) {
            return;
        }
        if self.log.len() == HISTORY_LEN {
            self.log.pop_front();
        }
        self.log.push_back(entry);
    }

    /// Groups, in the order of the file.
    pub(super) fn groups(&self) -> &[GroupSnapshot] {
        self.status.as_ref().map_or(&[], |(snapshot, _)| &snapshot.groups)
    }

    /// Every link with its group, in the order in which they are drawn.
    pub(super) fn links(&self) -> impl Iterator<Item = (&GroupSnapshot, &LinkSnapshot)> {
        self.groups().iter().flat_map(|group| group.links.iter().map(move |link| (group, link)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(n: usize) -> News {
        News::Event(Box::new(EventRecord { why: n.to_string(), ..EventRecord::default() }))
    }

    #[test]
    fn the_log_is_bounded_and_has_nothing_twice() {
        let mut picture = Picture::new(SystemTime::UNIX_EPOCH);
        for n in 0..HISTORY_LEN + 3 {
            picture.take(event(n), SystemTime::UNIX_EPOCH);
        }
        assert_eq!(picture.log.len(), HISTORY_LEN);
        let before = picture.log.clone();
        // The daemon tells what it remembers to everybody who comes, also to those who come again.
        picture.take(event(HISTORY_LEN), SystemTime::UNIX_EPOCH);
        assert_eq!(picture.log, before);
    }
}
