//! Standard output: written to in one place, coloured only for people.

use std::io::{self, IsTerminal, Write};

use serde::Serialize;

use super::{Exit, Failure};
use crate::{config::Diagnostic, log};

/// Writes to standard output at once. That nobody reads it any more, as with `| head`, is no failure worth words.
pub(super) fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Failure::new(Exit::Failed, "")),
        Err(error) => Err(Failure::new(Exit::Failed, format!("link-watcher: cannot write: {error}"))),
        Ok(()) => Ok(()),
    }
}

/// A value as a JSON document for people to read.
pub(super) fn document<T: Serialize>(value: &T) -> Result<String, Failure> {
    text(serde_json::to_string_pretty(value))
}

/// A value as JSON on one line.
pub(super) fn line<T: Serialize>(value: &T) -> Result<String, Failure> {
    text(serde_json::to_string(value))
}

fn text(json: serde_json::Result<String>) -> Result<String, Failure> {
    json.map(|text| text + "\n").map_err(|error| Failure::new(Exit::Failed, format!("link-watcher: {error}")))
}

/// Writes warnings to standard error, each with an empty line behind it.
pub(super) fn say_all(warnings: &[Diagnostic]) {
    for warning in warnings {
        log::say(&format!("{warning}\n"));
    }
}

/// Colours, or none.
#[derive(Clone, Copy, Debug, Default)]
pub struct Style {
    coloured: bool,
}

impl Style {
    /// For standard output: coloured if it is a terminal and `NO_COLOR` (no-color.org) is not set.
    pub(super) fn for_stdout() -> Self {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { coloured: io::stdout().is_terminal() && !refused }
    }

    /// Whether there are colours.
    pub(super) const fn is_coloured(self) -> bool {
        self.coloured
    }

    pub(super) fn good(self, text: &str) -> String {
        self.paint("32", text)
    }

    pub(super) fn bad(self, text: &str) -> String {
        self.paint("31", text)
    }

    pub(super) fn warning(self, text: &str) -> String {
        self.paint("33", text)
    }

    pub(super) fn strong(self, text: &str) -> String {
        self.paint("1", text)
    }

    /// SGR codes of ECMA-48, section 8.3.117.
    fn paint(self, code: &str, text: &str) -> String {
        if self.coloured { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}
