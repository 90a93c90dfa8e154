//! Where the benchmarks run, and how all of it goes away, whenever that is.

use std::{
    fs,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context as _, Result};
use link_watcher_lab::Lab;
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
};

/// What a shell says of a program that Ctrl-C has ended.
const INTERRUPTED: i32 = 130;

/// The running lab and the pins of the kernel program under test.
pub(crate) struct Rig {
    lab: Arc<Mutex<Option<Lab>>>,
    /// Free directory for pins.
    pub(crate) pins: PathBuf,
    /// The daemon.
    pub(crate) daemon: PathBuf,
}

impl Rig {
    /// From here on a signal removes everything and ends the process.
    pub(crate) fn new() -> Result<Self> {
        let pins = PathBuf::from(format!("/sys/fs/bpf/link-watcher/bench-{}", std::process::id()));
        let lab: Arc<Mutex<Option<Lab>>> = Arc::default();
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).context("cannot handle signals")?;
        let (its_lab, its_pins) = (Arc::clone(&lab), pins.clone());
        std::thread::spawn(move || {
            if signals.forever().next().is_some() {
                if let Some(lab) = its_lab.lock().unwrap_or_else(PoisonError::into_inner).take() {
                    lab.close();
                }
                let _ = fs::remove_dir_all(its_pins); // It need not be there.
                std::process::exit(INTERRUPTED);
            }
        });
        Ok(Self { lab, pins, daemon: std::env::current_exe()?.with_file_name("link-watcher") })
    }

    /// An empty lab; the one before is removed.
    pub(crate) fn lab(&self) -> Result<Lab> {
        let lab = Lab::new()?;
        let before = self.lab.lock().unwrap_or_else(PoisonError::into_inner).replace(lab.clone());
        if let Some(before) = before {
            before.close();
        }
        Ok(lab)
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if let Some(lab) = self.lab.lock().unwrap_or_else(PoisonError::into_inner).take() {
            lab.close();
        }
    }
}
