//! What the kernel program says of packets (`kernel-log`), in the log.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use tracing::info;

use crate::{
    bpf::{PacketLog, Reading},
    realtime,
};

/// Between two readings: with the lines that one gives, 100 a second.
const PERIOD: Duration = Duration::from_millis(200);

/// What links are called, by slot.
#[derive(Clone, Default)]
pub(super) struct SlotNames(Arc<Mutex<BTreeMap<u32, String>>>);

impl SlotNames {
    pub(super) fn set(&self, slot: u32, name: String) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(slot, name);
    }

    pub(super) fn remove(&self, slot: u32) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&slot);
    }

    /// One line each.
    fn lines(&self, reading: Reading) -> Vec<String> {
        let names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let named = |(slot, what)| match names.get(&slot) {
            Some(name) => format!("{name}: {what}"),
            None => format!("slot {slot}: {what}"),
        };
        let mut lines: Vec<String> = reading.lines.into_iter().map(named).collect();
        if reading.left_out > 0 {
            lines.push(format!("{} more packets, which are not told one by one", reading.left_out));
        }
        lines
    }
}

/// Tells it for as long as this process runs, by a thread that has nothing else to do.
///
/// # Errors
///
/// Where there can be no thread.
pub(super) fn follow(mut log: PacketLog, names: SlotNames) -> io::Result<()> {
    let follow = move || {
        realtime::lower();
        loop {
            thread::sleep(PERIOD);
            for line in names.lines(log.read()) {
                info!("{line}");
            }
        }
    };
    thread::Builder::new().name("lw-packets".to_owned()).spawn(follow).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_have_their_names_and_what_is_left_out_is_counted() {
        let names = SlotNames::default();
        names.set(5, "optic on eth1".to_owned());
        let reading =
            Reading { lines: vec![(5, "dropped: forged".to_owned()), (6, "echo taken in".to_owned())], left_out: 812 };
        let expected = [
            "optic on eth1: dropped: forged",
            "slot 6: echo taken in",
            "812 more packets, which are not told one by one",
        ];
        assert_eq!(names.lines(reading), expected);
    }
}
