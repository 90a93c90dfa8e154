//! What the kernel program tells of packets, by aya-log.

use std::{
    collections::BTreeSet,
    mem,
    sync::{Arc, Mutex, PoisonError},
};

use aya::Ebpf;
use aya_log::EbpfLogger;
use log::{Log, Metadata, Record};

use super::Error;
use crate::error::chain;

/// Lines of one reading; of the rest the number is told. The ring buffer of 128 KiB holds some 1,000.
pub const LINES_A_READING: usize = 20;

/// A link's slot and what became of a packet of it.
pub type PacketLine = (u32, String);

/// Reads what the programs tell.
pub struct PacketLog {
    logger: EbpfLogger<Arc<Lines>>,
    lines: Arc<Lines>,
}

/// What one reading has found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// The first of it.
    pub lines: Vec<PacketLine>,
    /// How many more there were.
    pub left_out: u64,
}

impl PacketLog {
    /// Of these slots alone, where they are named.
    pub(super) fn open(ebpf: &mut Ebpf, only: Option<BTreeSet<u32>>) -> Result<Self, Error> {
        let lines = Arc::new(Lines { only, ..Lines::default() });
        let opened = EbpfLogger::init_with_logger(ebpf, Arc::clone(&lines));
        opened
            .map(|logger| Self { logger, lines })
            .map_err(|error| Error::Object(format!("has no log: {}", chain(&error))))
    }

    /// What was told since the last reading, as far as it found room: while the buffer is full the programs tell nothing.
    pub fn read(&mut self) -> Reading {
        self.logger.flush();
        self.lines.take()
    }
}

/// Begins what is said of a packet that is not good.
pub const DROPPED: &str = "dropped: ";

/// Collects lines. What was dropped comes before what is good.
#[derive(Default)]
struct Lines {
    /// Of these slots; nothing: of all.
    only: Option<BTreeSet<u32>>,
    reading: Mutex<Reading>,
}

impl Lines {
    fn take(&self) -> Reading {
        mem::take(&mut *self.reading.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn add(&self, text: &str) {
        let mut reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        let line = text.split_once(' ').and_then(|(slot, what)| Some((slot.parse().ok()?, what.to_owned())));
        let Some((slot, what)) = line else {
            reading.left_out += 1;
            return;
        };
        if self.only.as_ref().is_some_and(|only| !only.contains(&slot)) {
            return;
        }
        if reading.lines.len() == LINES_A_READING {
            reading.left_out += 1;
            let good = reading.lines.iter().rposition(|(_, what)| !what.starts_with(DROPPED));
            let Some(good) = good.filter(|_| what.starts_with(DROPPED)) else { return };
            reading.lines.remove(good);
        }
        reading.lines.push((slot, what));
    }
}

impl Log for Lines {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        self.add(&record.args().to_string());
    }

    fn flush(&self) {}
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_first_lines_are_kept_and_the_rest_is_counted() {
        let lines = Lines::default();
        lines.add("7 dropped: forged");
        for _ in 0..100 {
            lines.add("8 echo taken in");
        }
        lines.add("nonsense");
        let reading = lines.take();
        assert_eq!(reading.lines[0], (7, "dropped: forged".to_owned()));
        assert_eq!((reading.lines.len(), reading.left_out), (LINES_A_READING, 82));
        assert_eq!(lines.take(), Reading::default());
    }

    #[test]
    fn what_was_dropped_is_told_before_what_is_good_and_only_of_the_links_asked_for() {
        let lines = Lines { only: Some([7, 8].into()), ..Lines::default() };
        for _ in 0..100 {
            lines.add("8 echo taken in");
        }
        lines.add("7 dropped: forged");
        lines.add("9 dropped: forged");
        let reading = lines.take();
        assert_eq!(reading.lines.last().unwrap(), &(7, "dropped: forged".to_owned()));
        assert_eq!((reading.lines.len(), reading.left_out), (LINES_A_READING, 81));
    }
}
