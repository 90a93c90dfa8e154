//! The daemon: start, threads, signals, stop.
//!
//! Three threads: the prober and the core under `SCHED_FIFO` if the configuration says so, and this one with everything
//! that serves people. Nobody in the first two ever waits for the third.

mod attach;
mod core;
mod group;
mod history;
mod links;
mod registry;
mod snapshot;

use std::{
    path::Path,
    process::ExitCode,
    sync::Arc,
    thread::JoinHandle,
};

use anyhow::{Context as _, Result, anyhow};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, oneshot},
};
use tracing::{error, info, warn};

pub use self::core::{Asked, Request};
pub use self::history::{EventRecord, History};

/// Priority of the core under `SCHED_FIFO`: below the prober, whose timing proves things.
const CORE_PRIORITY: u8 = 10;
/// Reports, requests that wait: when it is full, reports are noted and come later, requests wait.
const QUEUE: usize = 1024;
