//! A terminal: a program runs in it, somebody types, and what is on its screen can be read.

use std::fs::File;
use std::io::{Read, Write};
use std::num::NonZeroU16;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Termios, Winsize, tcgetattr, tcsetwinsize};

use super::lock;

/// How long whatever is waited for may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// A terminal (xterm, as far as `vt100` is one) with a program in it, which is killed at the latest when this is dropped.
#[derive(Debug)]
pub struct Terminal {
    /// The keyboard, and what stops the screen when it is dropped. Nothing once it is hung up.
    front: Option<(File, UnixStream)>,
    /// The program's end.
    line: OwnedFd,
    /// As they were before any program.
    settings: Termios,
    screen: Arc<Screen>,
    program: Option<Child>,
}

/// What is on the screen, and who waits for it to change.
struct Screen {
    parser: Mutex<vt100::Parser>,
    changed: Condvar,
}

impl std::fmt::Debug for Screen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&lock(&self.parser).screen().contents())
    }
}

impl Terminal {
    /// Switches a terminal on.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open(columns: u16, lines: u16) -> Result<Terminal> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags).context("cannot open a pseudo-terminal")?;
        grantpt(&master).and_then(|()| unlockpt(&master)).context("cannot unlock a pseudo-terminal")?;
        let line = ioctl_tiocgptpeer(&master, flags).context("cannot open a pseudo-terminal's other end")?;
        let settings = tcgetattr(&line).context("cannot read a terminal's settings")?;
        let (height, width) = size(columns, lines)?;
        let parser = Mutex::new(vt100::Parser::new(height, width, 0));
        let screen = Arc::new(Screen { parser, changed: Condvar::new() });
        let keyboard = File::from(master);
        let output = keyboard.try_clone().context("cannot share a pseudo-terminal")?;
        let (stop, stopped) = UnixStream::pair().context("cannot make a pair of sockets")?;
        let seen = Arc::clone(&screen);
        std::thread::spawn(move || watch(output, &stopped, &seen));
        let mut terminal = Terminal { front: Some((keyboard, stop)), line, settings, screen, program: None };
        terminal.resize(columns, lines)?;
        Ok(terminal)
    }

    /// Runs a program in it; `spawn` starts it, in a namespace if need be.
    ///
    /// # Errors
    /// Where it cannot be started.
    pub fn run(&mut self, command: &mut Command, spawn: impl FnOnce(&mut Command) -> Result<Child>) -> Result<()> {
        let end = || self.line.try_clone().context("cannot share a pseudo-terminal");
        command.stdin(end()?).stdout(end()?).stderr(end()?).env("TERM", "xterm-256color");
        self.program = Some(spawn(command)?);
        Ok(())
    }

    /// Another size; the program is told.
    ///
    /// # Errors
    /// The kernel's.
    pub fn resize(&mut self, columns: u16, lines: u16) -> Result<()> {
        let window = Winsize { ws_row: lines, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&self.line, window).context("cannot set a terminal's size")?;
        let (height, width) = size(columns, lines)?;
        lock(&self.screen.parser).screen_mut().set_size(height, width);
        // It is nobody's controlling terminal: the kernel does not know whom to tell.
        if self.program.is_some() { self.signal(Signal::SIGWINCH) } else { Ok(()) }
    }

    /// Types.
    ///
    /// # Errors
    /// The kernel's, and after [`Terminal::hang_up`].
    pub fn type_in(&mut self, keys: &str) -> Result<()> {
        let (keyboard, _) = self.front.as_mut().context("the terminal was hung up")?;
        keyboard.write_all(keys.as_bytes()).context("cannot type")
    }

    /// Goes away with keyboard and screen, as a connection that breaks.
    pub fn hang_up(&mut self) {
        self.front = None;
    }

    /// What is on the screen.
    pub fn text(&self) -> String {
        lock(&self.screen.parser).screen().contents()
    }

    /// Whether the alternate screen is shown, and whether the cursor is hidden.
    pub fn modes(&self) -> (bool, bool) {
        let parser = lock(&self.screen.parser);
        (parser.screen().alternate_screen(), parser.screen().hide_cursor())
    }

    /// Whether anything on the screen has a colour.
    pub fn is_coloured(&self) -> bool {
        let parser = lock(&self.screen.parser);
        let screen = parser.screen();
        let (lines, columns) = screen.size();
        let (lines, columns) = (lines.get(), columns.get());
        let plain = vt100::Color::Default;
        let mut cells = (0..lines).flat_map(|line| (0..columns).map(move |column| (line, column)));
        cells.any(|(line, column)| {
            screen.cell(line, column).is_some_and(|cell| cell.fgcolor() != plain || cell.bgcolor() != plain)
        })
    }

    /// Waits until the screen's text is as wanted.
    ///
    /// # Errors
    /// When it is not in time; the message has the screen.
    pub fn wait_for(&self, what: &str, wanted: impl Fn(&str) -> bool) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let mut parser = lock(&self.screen.parser);
        loop {
            let text = parser.screen().contents();
            if wanted(&text) {
                return Ok(());
            }
            let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                bail!("waited {PATIENCE:?} in vain for {what} on the screen, which has:\n{text}");
            };
            let woken = self.screen.changed.wait_timeout(parser, left);
            parser = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits until this text is on the screen.
    ///
    /// # Errors
    /// As [`Terminal::wait_for`].
    pub fn wait_text(&self, text: &str) -> Result<()> {
        self.wait_for(&format!("\"{text}\""), |screen| screen.contains(text))
    }

    /// Sends the program a signal.
    ///
    /// # Errors
    /// Where none runs.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let program = self.program.as_ref().context("no program runs in the terminal")?;
        kill(Pid::from_raw(program.id() as i32), signal).with_context(|| format!("cannot send {signal}"))
    }

    /// Waits until the program has ended.
    ///
    /// # Errors
    /// When it has not in time; the message has the screen.
    pub fn wait_end(&mut self) -> Result<ExitStatus> {
        let program = self.program.as_mut().context("no program runs in the terminal")?;
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(status) = program.try_wait().context("cannot wait for a program")? {
                self.program = None;
                return Ok(status);
            }
            std::thread::sleep(super::POLL_INTERVAL);
        }
        bail!("the program has not ended after {PATIENCE:?}; the screen has:\n{}", self.text());
    }

    /// Whether the terminal is as it was before any program: its settings, its screen, its cursor.
    ///
    /// # Errors
    /// What is not.
    pub fn check_restored(&self) -> Result<()> {
        let now = tcgetattr(&self.line).context("cannot read a terminal's settings")?;
        // The type has no equality of its own; its text has every field.
        let (now, before) = (format!("{now:?}"), format!("{:?}", self.settings));
        if now != before {
            bail!("the terminal's settings were\n{before}\nand are\n{now}");
        }
        // What was written before the program's end may still be on its way.
        let deadline = Instant::now() + PATIENCE;
        let mut parser = lock(&self.screen.parser);
        loop {
            let modes = (parser.screen().alternate_screen(), parser.screen().hide_cursor());
            if modes == (false, false) {
                return Ok(());
            }
            let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                bail!("(alternate screen, hidden cursor) are still {modes:?}");
            };
            let woken = self.screen.changed.wait_timeout(parser, left);
            parser = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Some(mut program) = self.program.take() {
            let _ = program.kill();
            let _ = program.wait();
        }
    }
}

/// Lines and columns, of which there is one at least.
fn size(columns: u16, lines: u16) -> Result<(NonZeroU16, NonZeroU16)> {
    let some = |n| NonZeroU16::new(n).context("a terminal has a line and a column at least");
    Ok((some(lines)?, some(columns)?))
}

/// Shows what the program writes, until the other end of `stopped` goes.
fn watch(mut output: File, stopped: &UnixStream, screen: &Screen) {
    let mut bytes = [0; 4096];
    loop {
        let mut ready = [PollFd::new(&output, PollFlags::IN), PollFd::new(stopped, PollFlags::IN)];
        if poll(&mut ready, None).is_err() || !ready[1].revents().is_empty() {
            return;
        }
        let Ok(length @ 1..) = output.read(&mut bytes) else { return };
        lock(&screen.parser).process(&bytes[..length]);
        screen.changed.notify_all();
    }
}
