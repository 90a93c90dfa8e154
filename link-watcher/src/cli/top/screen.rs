//! The terminal: in raw mode on its alternate screen, and as it was before whatever ends that.

use std::{
    io,
    mem::ManuallyDrop,
    sync::mpsc::SyncSender,
    thread::{Builder, JoinHandle},
};

use ratatui::{DefaultTerminal, crossterm::event};

use super::{Input, draw::draw, view::View};

/// The terminal while it is ours. When dropped it is as before; a panic restores it before it says anything, so that its
/// words are not on the screen that goes.
#[derive(Debug)]
pub(super) struct Screen {
    /// Never dropped: it complains on stderr where the cursor cannot be shown, and panics where that has gone with the terminal.
    terminal: ManuallyDrop<DefaultTerminal>,
}

impl Screen {
    /// Takes the terminal.
    ///
    /// # Errors
    ///
    /// The terminal's; it is as before then.
    pub(super) fn enter() -> io::Result<Self> {
        match ratatui::try_init() {
            Ok(terminal) => Ok(Self { terminal: ManuallyDrop::new(terminal) }),
            Err(error) => {
                let _ = ratatui::try_restore();
                Err(error)
            }
        }
    }

    /// Columns and lines.
    ///
    /// # Errors
    ///
    /// The terminal's.
    pub(super) fn size(&self) -> io::Result<(u16, u16)> {
        self.terminal.size().map(|size| (size.width, size.height))
    }

    /// Draws what has changed.
    ///
    /// # Errors
    ///
    /// The terminal's.
    pub(super) fn draw(&mut self, view: &View) -> io::Result<()> {
        self.terminal.draw(|frame| draw(view, frame.area(), frame.buffer_mut())).map(drop)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = self.terminal.show_cursor();
        let _ = ratatui::try_restore();
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
