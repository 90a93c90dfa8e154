//! What a killed daemon held, a moment longer.

use std::{
    thread,
    time::{Duration, Instant},
};

/// How long another's hold is not believed, in time. A daemon that is killed while it starts a program leaves a child
/// that shares its descriptors, locks and listening sockets among them, until it has become that program
/// (`O_CLOEXEC`, open(2)): normally microseconds, on a crowded machine some tens of milliseconds.
const LINGER: Duration = Duration::from_secs(1);

/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(20);

/// The outcome of `attempt`, made again for up to a second while it fails for something that is `held`.
///
/// # Errors
///
/// Those of the last attempt.
pub(crate) fn until_released<T, E>(
    mut attempt: impl FnMut() -> Result<T, E>,
    held: impl Fn(&E) -> bool,
) -> Result<T, E> {
    let end = Instant::now() + LINGER;
    loop {
        match attempt() {
            Err(error) if held(&error) && Instant::now() < end => thread::sleep(PAUSE),
            outcome => return outcome,
        }
    }
}
