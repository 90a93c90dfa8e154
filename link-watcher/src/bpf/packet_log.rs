//! What the kernel program tells of packets, by aya-log.

use std::{
    mem,
    sync::{Arc, Mutex, PoisonError},
};

use aya::Ebpf;
use aya_log::EbpfLogger;
use log::{Log, Metadata, Record};

use super::Error;
use crate::error::chain;

/// Lines of one reading; of the rest the number is told. The ring buffer of 128 KiB holds some 1,000.
const LINES_A_READING: usize = 20;

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
    pub(super) fn open(ebpf: &mut Ebpf) -> Result<Self, Error> {
        let lines = Arc::<Lines>::default();
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

/// Collects lines.
#[derive(Default)]
struct Lines(Mutex<Reading>);

impl Lines {
    fn take(&self) -> Reading {
        mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn add(&self, text: &str) {
        let mut reading = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let line = text.split_once(' ').and_then(|(slot, what)| Some((slot.parse().ok()?, what.to_owned())));
        match line {
            Some(line) if reading.lines.len() < LINES_A_READING => reading.lines.push(line),
            _ => reading.left_out += 1,
        }
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
}
