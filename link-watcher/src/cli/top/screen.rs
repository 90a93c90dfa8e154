//! The terminal: in raw mode on its alternate screen, and as it was before whatever ends that.

use std::{
    io::{self, Stdout, stdout},
    mem::ManuallyDrop,
    panic,
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc::SyncSender,
    },
    thread::{Builder, JoinHandle},
};

use ratatui::{
    Terminal,
    backend::CrosstermBackend,
    crossterm::{
        cursor::{Hide, Show},
        event, execute,
        terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode},
    },
};

use super::{Input, draw::draw, view::View};

/// Whether the terminal is ours. To leave the alternate screen twice would bring the cursor back over what was said since.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// The terminal while it is ours. When dropped it is as before; a panic in any thread restores it before it says anything,
/// so that its words are not on the screen that goes.
#[derive(Debug)]
pub(super) struct Screen {
    /// Never dropped: it complains on stderr where the cursor cannot be shown, and panics where that has gone with the terminal.
    terminal: ManuallyDrop<Terminal<CrosstermBackend<Stdout>>>,
}

impl Screen {
    /// Takes the terminal.
    ///
    /// # Errors
    ///
    /// The terminal's; it is as before then.
    pub(super) fn enter() -> io::Result<Self> {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            restore();
            before(panic);
        }));
        TAKEN.store(true, Ordering::SeqCst);
        let entered = enable_raw_mode()
            .and_then(|()| execute!(stdout(), EnterAlternateScreen, Hide))
            .and_then(|()| Terminal::new(CrosstermBackend::new(stdout())));
        match entered {
            Ok(terminal) => Ok(Self { terminal: ManuallyDrop::new(terminal) }),
            Err(error) => {
                restore();
                Err(error)
            }
        }
    }

    /// Draws what has changed, and returns on how many columns and lines.
    ///
    /// # Errors
    ///
    /// The terminal's, and where a panic in another thread has given it back.
    pub(super) fn draw(&mut self, view: &View) -> io::Result<(u16, u16)> {
        if !TAKEN.load(Ordering::SeqCst) {
            return Err(io::Error::other("a thread of top has failed"));
        }
        let drawn = self.terminal.draw(|frame| draw(view, frame.area(), frame.buffer_mut()))?;
        Ok((drawn.area.width, drawn.area.height))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        restore();
    }
}

/// Gives the terminal back, if that was not done yet. Where it fails there is nobody to say it to.
fn restore() {
    if TAKEN.swap(false, Ordering::SeqCst) {
        let _ = execute!(stdout(), LeaveAlternateScreen, Show);
        let _ = disable_raw_mode();
    }
}

/// Begins to send what comes from the keyboard, in a thread of its own: crossterm's reader never returns once the terminal is
/// hung up. The thread ends when the keyboard cannot be read, and with the process.
///
/// # Errors
///
/// Where the thread cannot be started.
pub(super) fn keyboard(inputs: SyncSender<Input>) -> io::Result<JoinHandle<()>> {
    let read = move || {
        while let Ok(event) = event::read() {
            if inputs.send(Input::Terminal(event)).is_err() {
                return;
            }
        }
    };
    Builder::new().name("lw-top-keys".to_owned()).spawn(read)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use link_watcher_lab::terminal::Terminal;
    use link_watcher_programs::own;

    use super::*;

    /// Set for the run of this test that panics.
    const PANICS: &str = "LINK_WATCHER_TEST_PANICS";

    #[test]
    fn a_panic_leaves_the_terminal_as_it_was_and_its_words_on_it() {
        if std::env::var_os(PANICS).is_some() {
            let _screen = Screen::enter().unwrap();
            panic!("the screen was ours");
        }
        let mut terminal = Terminal::open(80, 24).unwrap();
        let name = "cli::top::screen::tests::a_panic_leaves_the_terminal_as_it_was_and_its_words_on_it";
        let mut again = own(std::env::current_exe().unwrap());
        again.args(["--exact", "--nocapture", name]).env(PANICS, "1").env("RUST_BACKTRACE", "0");
        terminal.run(&mut again, |command| Ok(command.spawn()?)).unwrap();
        assert!(!terminal.wait_end().unwrap().success());
        terminal.check_restored().unwrap();
        terminal.wait_text("the screen was ours").unwrap();
    }
}
